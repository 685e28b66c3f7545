"""Files and folders that commands read and write: refused before the work where they cannot be, held until they are."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from encore_core.errors import InputError
from encore_core.export.folder import check_output_folder, check_writable
from encore_core.runs.store import RunStore
from encore_core.storage import data_folder


def check_folder(folder: Path, *others: Path | None) -> None:
    """Refuse an output folder that cannot be written.

    Args:
        folder: where it is to be.
        others: files that the command writes, too.

    Raises:
        InputError: when it is not empty, is the current folder, would hold one of the others, or cannot be written to.
    """
    check_output_folder(folder)
    if folder.resolve() == Path.cwd():
        # It is written elsewhere and moved into place, so the terminal would be left in a folder that is gone.
        raise InputError(f"The output folder {folder} is the current one; give another, or go out of it.")
    for file in others:
        if file is not None and file.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{file} is in the output folder {folder}, which is for the model alone; give another place."
            )


def check_file(path: Path, what: str = "edit file") -> None:
    """Refuse a file that cannot be written, or is there already.

    Args:
        path: where it is to be.
        what: it is called.

    Raises:
        InputError: saying why.
    """
    if path.is_dir():
        raise InputError(f"The {what} {path} is a folder; give the name of a file.")
    if path.exists():
        raise InputError(f"The {what} {path} exists; give a new name.")
    if not path.parent.is_dir():
        raise InputError(f"The {what} {path} cannot be written: the folder {path.parent} does not exist.")
    check_writable(path)


def store_of(options: argparse.Namespace) -> RunStore:
    """The store to look into. One that --store names must be there: a mistyped name would be made, and be empty.

    Raises:
        InputError: when it is not.
    """
    if options.store is not None and not (options.store / "runs.sqlite").is_file():
        raise InputError(f"--store {options.store} holds no runs; give a folder that encore run --store has named.")
    return RunStore(options.store)


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keep other commands of this machine from writing the same output folder.

    Raises:
        InputError: when another one is about to.
    """
    if folder is None:
        yield
        return
    locks = data_folder() / "outputs"
    locks.mkdir(exist_ok=True)
    name = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"Another command is about to write the output folder {folder}; give another.") from error
    try:
        yield
    finally:
        lock.release()
