"""Where the program keeps its files, and how a file is written completely or not at all.

Whatever prevents writing a file (a full disk, a read-only folder) is raised as `WriteError`: one line with the place,
the reason and the free space there.

The data folder is `$ENCORE_HOME`, by default `~/.encore-studio`. Among other folders it has `models/` (the converted
embedded model), `statistics/` (second moments of keys, see `stored_statistics`) and `texts/` (text for them).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from encore_core.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OF_WRITING = (*NO_ROOM, *NOT_ALLOWED, errno.EFBIG, errno.EIO)
"""Errors that, if they name no file, are taken to be about the file being written."""


class WriteError(InputError, OSError):
    """A file or folder that cannot be written. No partial content is left under its name.

    It is an OSError, too, for callers that can do without the file: `errno` and `strerror` say why.
    """

    def __str__(self) -> str:
        return self.args[0]


def data_folder() -> Path:
    """The folder for everything the program stores, absolute; made when it is missing.

    Raises:
        InputError: when the folder cannot be made or written to.
    """
    try:
        folder = Path(os.environ.get("ENCORE_HOME") or Path.home() / ".encore-studio").expanduser()
    except RuntimeError as error:  # the home of a user whom the system does not know
        raise InputError(f"The data folder cannot be located ({error}); set ENCORE_HOME to a folder.") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The data folder {folder} cannot be made ({reason}); set ENCORE_HOME to a folder you can write to."
        ) from error
    return folder.absolute()  # a process that gets it may work in another folder


# os.path, because pathlib raises for a text that is too long for a name, or names an unknown user's home.
def named_path(name: str) -> Path:
    """The path that a user's text names, with `~` expanded. It need not exist; no text raises an error."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def is_folder(name: str) -> bool:
    """Whether a user's text names a folder; texts that cannot be names do not."""
    return os.path.isdir(os.path.expanduser(name))  # noqa: PTH111, PTH112


def is_file(name: str) -> bool:
    """Whether a user's text names a file; as `is_folder`."""
    return os.path.isfile(os.path.expanduser(name))  # noqa: PTH111, PTH113


def absolute_folder(name: str) -> str:
    """The absolute path of a folder; a name of no folder is returned unchanged."""
    return str(named_path(name).absolute()) if is_folder(name) else name


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder under a temporary name and move it into place if no error occurs.

    A reader sees the old content or the new, never half of it; a crash leaves at most a hidden folder `.part`, or
    `.old` for a folder, beside it.

    Args:
        path: the final place. A folder there is replaced, too; folders above it are made.

    Yields:
        the temporary path, on the same file system (so that the move is one rename). It has a folder to itself, because
        libraries such as safetensors write other files beside it, which a killed process leaves behind.

    Raises:
        WriteError: when it cannot be written, in the `with` block or here; what was there is as it was.
    """
    path = path.absolute()  # "." has no name
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Every write has its own name, because threads may write the same file.
    name = f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder, aside = path.with_name(f"{name}.part"), path.with_name(f"{name}.old")
    temporary = folder / path.name
    try:
        with writing(path, folder):
            folder.mkdir()
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
        remove(folder)
        remove(aside)


@contextmanager
def writing(path: Path, under: Path | None = None) -> Iterator[None]:
    """Turn errors of writing a file in the `with` block into one clear line.

    Libraries written in Rust (safetensors, tokenizers) raise their own errors, with the system's error number in the
    text; these are handled, too. Other errors, and those about other files, pass through.

    Args:
        path: what is written, for the message.
        under: the name under which it is written, if different.

    Raises:
        WriteError: when it cannot be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number, named = _number_of(error), _named_by(error)
        ours = any(_is_in(name, place) for name in named for place in (path, under or path))
        if number is None or not (ours if named else number in _OF_WRITING):
            raise
        raise _write_error(path, number) from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file (UTF-8), completely or not at all; the file and folders above it are made.

    Raises:
        WriteError: when it cannot be written; the file is as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            before = stream.seek(0, os.SEEK_END)
            content = memoryview(f"{line}\n".encode())
            try:
                # A disk with room for a part of it accepts that, and refuses the rest at the next call.
                while content:
                    content = content[stream.write(content) :]
            except OSError:
                stream.truncate(before)
                raise


def _number_of(error: Exception) -> int | None:
    """The system's error number, `errno`; None for errors of another kind."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _named_by(error: Exception) -> list[Path]:
    """The files that an error names."""
    names = (getattr(error, "filename", None), getattr(error, "filename2", None))
    return [Path(os.fsdecode(name)) for name in names if isinstance(name, str | bytes | os.PathLike)]


def _is_in(name: Path, place: Path) -> bool:
    """Whether a path is a place, is in it, or is a folder above it."""
    name, place = name.absolute(), place.absolute()
    return name.is_relative_to(place) or place.is_relative_to(name)


def _write_error(path: Path, number: int) -> WriteError:
    if number in NO_ROOM:
        remedy = "free some space, or choose another place"
    elif number in NOT_ALLOWED:
        remedy = "choose a place that you can write to"
    elif number == errno.EFBIG:
        remedy = "choose a place that takes files of this size"
    else:
        remedy = "choose another place"
    error = WriteError(f"{path} cannot be written: {os.strerror(number)}{_free_at(path)}; {remedy}.")
    error.errno, error.strerror = number, os.strerror(number)
    return error


def _free_at(path: Path) -> str:
    """The free space where something was to be written, in brackets; "" if it cannot be found out."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return ""
    return f" ({gigabytes(free)} free)"


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, as far as possible."""
    # What cannot be removed was never written, or is hidden; the error on its way says why.
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def gigabytes(n_bytes: float) -> str:
    """A size for people: "14.5 GB"; below 0.1 GB "23 MB"."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{max(n_bytes / 1e6, 0.1):.2g} MB"
