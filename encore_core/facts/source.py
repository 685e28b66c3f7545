"""From a path, an upload or a stream to text: size, encoding, and files of other kinds."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import IO

from encore_core.errors import quoted
from encore_core.facts.texts import FactError, name_of
from encore_core.resources import ASSETS

MAX_BYTES = 20 * 1000 * 1000
"""Largest file that is read unless the caller allows more."""
BUNDLED = ASSETS / "facts" / "bundled.jsonl"
LONG = ASSETS / "facts" / "long.jsonl.gz"
SETS = {"bundled": BUNDLED, "long": LONG}
"""Sets of facts that come with the program, by the name that users give."""


_MARKS = (
    # the longer ones first, because UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old kind (.xls)", "save it as CSV UTF-8 in Excel"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"),
    (b"PAR1", "a Parquet file", "write it as JSON lines, for example with pandas' to_json"),
    (b"ARROW1", "an Arrow file", "write it as JSON lines, for example with pandas' to_json"),
    (b"%PDF", "a PDF", "give JSON or CSV"),
)


def read_source(source: str | Path | IO[str] | IO[bytes], most: int | None = None) -> tuple[str, str]:
    """The name and the text of a source of facts, see `reading.read_facts`.

    Args:
        source: a path, `"bundled"` or an open stream.
        most: bytes that it may have; None for `MAX_BYTES`.

    Raises:
        FactError: when it cannot be read, is too large or is not text.
    """
    if isinstance(source, str) and source in SETS:
        name, data = name_of(SETS[source]), _read_path(SETS[source], most)
        if SETS[source].suffix == ".gz":
            data = _unpacked(name, data)
    elif isinstance(source, (str, Path)):
        name, data = name_of(source), _read_path(Path(source), most)
    elif hasattr(source, "read"):
        name = name_of(getattr(source, "name", None) or "the upload")
        data = _read_stream(source, name, most)
    else:
        raise FactError(f"facts cannot be read from {quoted(source)}: give a path, 'bundled', 'long' or an open file")
    if isinstance(data, bytes):
        check_size(name, len(data), at_least=True, most=most)
        data = decoded(name, data)
    return name, data


def _unpacked(name: str, data: bytes) -> bytes:
    """The content of a packed set of our own; files of users are not unpacked, whatever their size would be."""
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FactError(f"{name}: cannot be unpacked ({error}): install the program again") from error


def _read_path(path: Path, most: int | None) -> bytes:
    """The bytes of a file, whose size is checked before it is read."""
    name = name_of(path)
    try:
        if path.is_dir():
            raise FactError(f"{name}: is a folder: give a file of facts (.json, .jsonl or .csv)")
        check_size(name, path.stat().st_size, most=most)
        with path.open("rb") as stream:
            return stream.read((most or MAX_BYTES) + 1)  # a pipe has no size beforehand, and a file may grow
    except FileNotFoundError as error:
        raise FactError(f"{name}: there is no such file: check the path, or use 'bundled' or 'long'") from error
    except (OSError, ValueError) as error:
        if isinstance(error, FactError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FactError(f"{name}: cannot be read ({reason}): give a readable file") from error


def _read_stream(source: IO[str] | IO[bytes], name: str, most: int | None) -> str | bytes:
    """The content of an open stream; the size of an upload is checked before it is read."""
    size = getattr(source, "size", None)
    if isinstance(size, int):
        check_size(name, size, most=most)
    try:
        return source.read((most or MAX_BYTES) + 1)
    except UnicodeDecodeError as error:
        raise FactError(f"{name}: is not UTF-8 text: open it with encoding='utf-8', or as bytes") from error
    except OSError as error:
        raise FactError(f"{name}: cannot be read ({error.strerror or error}): give a readable file") from error


def check_size(name: str, size: int, at_least: bool = False, most: int | None = None) -> None:
    """Refuse files that are too large.

    Args:
        name: of the file.
        size: in bytes.
        at_least: whether the file may be longer than `size`, because reading stopped there.
        most: bytes that it may have; None for `MAX_BYTES`.

    Raises:
        FactError: when it is larger.
    """
    most = most or MAX_BYTES
    if size > most:
        more = "more than " if at_least else ""
        size_mb = most / 1e6 if at_least else size / 1e6
        raise FactError(
            f"{name}: the file has {more}{size_mb:.1f} MB and the limit is {most / 1e6:.0f} MB: "
            "split it into smaller files"
        )


def decoded(name: str, data: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        FactError: when it is not text, or has another encoding.
    """
    _refuse_other_files(name, data)
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in data[:1000]:
        raise FactError(
            f"{name}: is not text, or UTF-16 without a byte order mark (it has zero bytes): "
            "save it with the encoding UTF-8"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise FactError(
                f"{name}: is not whole {encoding.upper()} text ({error.reason} at position {error.start}): "
                "save it with the encoding UTF-8"
            ) from error
        raise FactError(
            f"{name}: is not UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start}): "
            "save it with the encoding UTF-8"
        ) from error


def _refuse_other_files(name: str, data: bytes) -> None:
    """Refuse files of other kinds that people take for tables, naming the kind."""
    if data.startswith(b"PK\x03\x04"):
        if b"xl/" in data:
            raise FactError(f"{name}: is an Excel workbook, not text: save it as CSV UTF-8 in Excel")
        if b"opendocument.spreadsheet" in data[:200]:
            raise FactError(f"{name}: is an OpenDocument spreadsheet, not text: save it as CSV with UTF-8")
        raise FactError(f"{name}: is a ZIP archive, not text: unpack it")
    for mark, what, remedy in _OTHER_FILES:
        if data.startswith(mark):
            raise FactError(f"{name}: is {what}, not text: {remedy}")


def refuse_stand_ins(name: str, text: str) -> None:
    """Refuse what a download may leave in place of a file: a Git LFS pointer, a web page.

    Raises:
        FactError: saying what to fetch instead.
    """
    start = text.lstrip()[:200]
    if start.startswith("version https://git-lfs.github.com/spec/"):
        raise FactError(
            f"{name}: is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`, "
            "or download it from the repository's page"
        )
    if start.lower().startswith(("<!doctype html", "<html")):
        raise FactError(f"{name}: is a web page, not a file of facts: download the file itself (on GitHub: Raw)")
