"""Where the program keeps what it makes, and how a file is written so that it is whole or absent.

The data folder is `$ENCORE_HOME`, by default `~/.encore-studio`: `models/` (converted embedded models), `statistics/`
(second moments of keys, see `statistics.files`), `texts/` (text that was fetched or sampled for them).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encore_core.errors import InputError


def data_folder() -> Path:
    """The folder for everything the program stores; made when it is missing.

    Raises:
        InputError: when the folder cannot be made or written to.
    """
    folder = Path(os.environ.get("ENCORE_HOME") or Path.home() / ".encore-studio").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The data folder {folder} cannot be made ({error.strerror}); set ENCORE_HOME to a folder you can write to."
        ) from error
    return folder


# os.path, because pathlib raises where a text is too long for a name, or names the home of nobody.
def named_path(name: str) -> Path:
    """What a user's text names, `~` included. Whatever it is, nothing goes wrong here: it may name nothing."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def is_folder(name: str) -> bool:
    """Whether a user's text names a folder; texts that cannot be names do not."""
    return os.path.isdir(os.path.expanduser(name))  # noqa: PTH111, PTH112


def is_file(name: str) -> bool:
    """Whether a user's text names a file; as `is_folder`."""
    return os.path.isfile(os.path.expanduser(name))  # noqa: PTH111, PTH113


def absolute_folder(name: str) -> str:
    """A folder's name from the root; what names none, as it is."""
    return str(named_path(name).absolute()) if is_folder(name) else name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder under a name of its own and move it into place when all went well.

    A reader sees the old content or the new, never half of it; a crash leaves at most a hidden `.part` or, of a folder,
    `.old` beside it.

    Args:
        path: the final place. A folder there is replaced, too; folders above it are made.

    Yields:
        the temporary path, in the same folder (so that the move is one rename).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every write: threads may write the same file.
    name = f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary, aside = path.with_name(f"{name}.part"), path.with_name(f"{name}.old")
    try:
        yield temporary
        if path.is_dir():  # a folder cannot be renamed onto another
            path.replace(aside)
        try:
            temporary.replace(path)
        except OSError:
            if aside.exists():
                aside.replace(path)
            raise
    finally:
        _remove(temporary)
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def gigabytes(n_bytes: float) -> str:
    """As people write it: "14.5 GB", below a tenth of it "23 MB"."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{max(n_bytes / 1e6, 0.1):.2g} MB"
