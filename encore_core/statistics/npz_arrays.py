"""The arrays of an `.npz` file that a stranger made: none is read before its header has been looked at, none unpickled.

A few bytes can announce a terabyte, and a pickle can run code.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

from encore_core.errors import quoted


@dataclass(frozen=True)
class Entry:
    """An array of the archive, with only its header read."""

    archive: zipfile.ZipFile
    name: str
    shape: tuple[int, ...]
    in_columns: bool
    dtype: np.dtype

    def values(self) -> np.ndarray:
        """The array, in this machine's byte order.

        Raises:
            ValueError: when there are fewer or more bytes than the header says. A damaged archive may raise others.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        with self.archive.open(self.name) as stream:
            _header(stream)
            data = stream.read(size)
            if len(data) < size or stream.read(1):
                raise ValueError(f"{self.name} does not have as many bytes as its header says")
        array = np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.in_columns else "C")
        return array.astype(self.dtype.newbyteorder("="), copy=False)


class Arrays:
    """The arrays of an archive, by their names without ".npy"."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._files: Mapping[str, str] = {name.removesuffix(".npy"): name for name in archive.namelist()}

    def find(self, *names: str) -> Entry | None:
        """The header of the first array there is of these names; None when there is none.

        Raises:
            ValueError: when it holds Python objects, or its header cannot be read.
        """
        file = next((self._files[name] for name in names if name in self._files), None)
        if file is None:
            return None
        with self._archive.open(file) as stream:
            shape, in_columns, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, and unpickling them could run code")
        return Entry(self._archive, file, shape, in_columns, dtype)

    def listed(self) -> str:
        """The names, for a message: the first ones, each on one line and not too long."""
        plain = [name if name.isprintable() and len(name) <= 60 else quoted(name) for name in sorted(self._files)]
        more = f" and {len(plain) - 8:,} more" if len(plain) > 8 else ""
        return f"{', '.join(plain[:8])}{more}" if plain else "nothing"


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape of an array, whether it is in column order, and its type; the stream is then at the array's first byte."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of .npy is not for plain numbers")
    return readers[version](stream)
