"""The state of a run on disk: written whole or not at all, checked before it is used.

A state file is a safetensors file: the session's tensors, and its other values as JSON in the file's metadata. It is
forced to the disk under its final name before the store's cursor moves to it, so that the cursor always points to an
existing state, even after a power cut. Its digest is in the store, so that a damaged state is detected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from encore_core import processes
from encore_core.editing.edited_matrices import weights_digest
from encore_core.editing.session import EditSession
from encore_core.editing.session_state import SessionState
from encore_core.errors import InputError
from encore_core.runs.rows import SavedState
from encore_core.storage import NO_ROOM, WriteError, remove, replacing, writing

log = logging.getLogger(__name__)

EDITED_FILE = "edited.safetensors"
"""The edited matrices of a run that is done."""


class DiskFull(InputError):
    """A run's file cannot be written because there is no room."""


def save_state(folder: Path, edits: int, session: EditSession) -> SavedState:
    """Write a session's state.

    Args:
        folder: of the run.
        edits: facts handled so far.
        session: what to save.

    Raises:
        DiskFull: when there is no room; what is in the folder is as it was.
        InputError: when it cannot be written for another reason.
    """
    state = session.state()
    name = f"state-{edits:07d}.safetensors"
    tensors = {key: tensor.cpu() for key, tensor in state.tensors.items()}
    return SavedState(edits, name, _write(folder / name, tensors, {"session": json.dumps(state.values)}))


def load_state(folder: Path, saved: Sequence[SavedState], session: EditSession) -> int:
    """Restore a session from the newest saved state that is intact.

    Args:
        folder: of the run.
        saved: its states, the newest first.
        session: restored to the state.

    Returns:
        after how many edits the state was saved.

    Raises:
        InputError: when none of them can be used.
    """
    problems: list[str] = []
    for state in saved:
        path = folder / state.file
        try:
            if _digest(path) != state.digest:
                raise InputError("its content has changed since it was written")
            with safe_open(path, "pt") as file:
                values = json.loads(file.metadata()["session"])
                session.restore(SessionState({key: file.get_tensor(key) for key in file.keys()}, values))  # noqa: SIM118
        except (OSError, SafetensorError, InputError, KeyError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"{state.file}: {reason}")
            log.warning("The state after %d edits cannot be used (%s).", state.edits, reason)
        else:
            return state.edits
    raise InputError(
        f"No saved state of the run can be used ({'; '.join(problems)}); put the files back into {folder}, or start a "
        "new run."
    )


def save_matrices(folder: Path, matrices: Mapping[int, torch.Tensor]) -> str:
    """Write the edited matrices of a run that is done. Returns the digest of their content, see `weights_digest`.

    Raises:
        DiskFull, InputError: as `save_state`.
    """
    tensors = {f"matrix.{layer}": matrix.cpu().contiguous() for layer, matrix in matrices.items()}
    _write(folder / EDITED_FILE, tensors, {"format": "pt"})
    return weights_digest(matrices)


def adopt_state(source: Path, folder: Path, state: SavedState, move: bool = False) -> bool:
    """Bring a saved state from another folder into a run's own, forced to the disk before anything points to it.

    Args:
        source: folder in which the state's file is.
        folder: of the run.
        state: its name and digest.
        move: rename the file, which must then be on the same file system; else it is copied.

    Returns:
        whether the file is there and intact; nothing is done when it is not.

    Raises:
        DiskFull, InputError: as `save_state`.
    """
    try:
        if _digest(source / state.file) != state.digest:
            return False
    except OSError:
        return False
    _adopt(source / state.file, folder / state.file, move)
    return True


def adopt_matrices(source: Path, folder: Path, digest: str, move: bool = False) -> bool:
    """Bring the edited matrices of a run that is done from another folder into the run's own.

    Args:
        source, folder, move: as for `adopt_state`.
        digest: of the matrices, see `weights_digest`.

    Returns:
        whether they are there and have this digest; nothing is done when not.

    Raises:
        DiskFull, InputError: as `save_state`.
    """
    try:
        with safe_open(source / EDITED_FILE, "pt") as file:
            names = [key for key in file.keys() if key.startswith("matrix.")]  # noqa: SIM118
            found = weights_digest({int(key.partition(".")[2]): file.get_tensor(key) for key in names})
    except (OSError, SafetensorError):
        return False
    if found != digest:
        return False
    _adopt(source / EDITED_FILE, folder / EDITED_FILE, move)
    return True


def load_matrices(folder: Path, saved: Sequence[SavedState]) -> tuple[dict[int, torch.Tensor], int | None]:
    """The edited matrices of a run as last saved.

    Args:
        folder: of the run.
        saved: its states, the newest first; not needed when the run is done.

    Returns:
        per layer the matrix as the family stores it, on the CPU; and after how many edits, None for a run that is done.

    Raises:
        InputError: when nothing was saved yet, or it cannot be read.
    """
    done = folder / EDITED_FILE
    for path, edits in [(done, None)] if done.is_file() else [(folder / state.file, state.edits) for state in saved]:
        try:
            with safe_open(path, "pt") as file:
                names = [key for key in file.keys() if key.startswith("matrix.")]  # noqa: SIM118
                return {int(key.partition(".")[2]): file.get_tensor(key) for key in names}, edits
        except (OSError, SafetensorError) as error:
            log.warning("%s cannot be read (%s).", path, error)
    raise InputError(f"No edited matrices in {folder} can be read; let the run reach a checkpoint first.")


def remove_others(folder: Path, keep: Sequence[str]) -> None:
    """Remove files that nothing needs: older states, those to which the cursor was never moved, and the remains of a
    process killed in the middle of a write (".tmp…" is safetensors' own)."""
    for path in folder.glob("state-*.safetensors"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
    for path in [*folder.glob(".*.part"), *folder.glob(".tmp*")]:
        remove(path)


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Write a safetensors file, force it to the disk, and give the SHA-256 of its bytes."""
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata)
            digest = _digest(part)
            _force_to_disk(part)
        with writing(path):
            _force_to_disk(path.parent)
    except WriteError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(
                f"The disk of {path.parent} is full, so the run's state cannot be saved; free some space and resume."
            ) from error
        raise InputError(f"The run's state cannot be saved: {error}") from error
    return digest


def _adopt(source: Path, target: Path, move: bool) -> None:
    try:
        if move:
            _force_to_disk(source)
            with writing(target):
                source.replace(target)
        else:
            with replacing(target) as part:
                shutil.copyfile(source, part)
                _force_to_disk(part)
        with writing(target):
            _force_to_disk(target.parent)
    except WriteError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(f"The disk of {target.parent} is full, so a run's state cannot be taken in.") from error
        raise InputError(f"The run's state cannot be taken in: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _force_to_disk(path: Path) -> None:
    """fsync of a file or a folder."""
    if processes.ON_WINDOWS and path.is_dir():  # folders cannot be opened there
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if processes.ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no fsync for folders, and then nothing can be done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
