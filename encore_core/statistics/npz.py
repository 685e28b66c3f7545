"""Statistics in the format published with MEMIT-style code: `.npz` files of one layer each.

    transformer.h.13.mlp.c_proj_float32_mom2_100000.npz
        mom2.mom2          (d_mlp, d_mlp), the sum of k kᵀ
        mom2.count         how many tokens it is the sum of
        mom2.constructor   which class wrote it; ignored
        sample_size        how many documents; ignored

The names may lack the "mom2." prefix. Without a count, the matrix must already be a mean. Nothing is unpickled, and no
array is read before its header shows that it has the right size, because a few bytes can announce a terabyte.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from encore_core.editing import stored_statistics
from encore_core.errors import InputError, first_line, quoted
from encore_core.models.editable import EditableModel

ASYMMETRY = 1e-3
"""Largest |A − Aᵀ|, relative to the largest entry, that rounding of sums in float32 can cause."""

MOST_TOKENS = 10**15
"""Limit of a count, because it becomes part of a file's name; no text has more tokens."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        file: where it is kept now.
        layer: the block.
        tokens: how many tokens it is made from; 0 when the file does not say.
    """

    file: Path
    layer: int
    tokens: int


def layer_in_name(file: Path) -> int | None:
    """The block of a file of statistics, from the module's name in the file's name; None if it has none."""
    match = re.search(r"\.(?:h|layers|blocks)\.(\d+)\.", file.name)
    return int(match[1]) if match else None


def import_npz(lm: EditableModel, file: Path, layer: int | None = None) -> Imported:
    """Import the statistics of a layer, and let edits of this model use them.

    The file can only be checked to fit the model, not to come from it.

    Args:
        lm: the model that they belong to.
        file: an .npz file, see the module.
        layer: the block; read from the file's name by default.

    Raises:
        InputError: when the file cannot be read without pickle, or holds no second moment, or one that has another
            size, is not symmetric, is not finite as float32, or cannot be an E[k kᵀ]; for a count that is not a number
            of tokens; and for a layer that the model does not have.
    """
    layer = layer_in_name(file) if layer is None else layer
    if layer is None:
        raise InputError(f"The name of {file} does not say which layer it is for; give --layer.")
    if not 0 <= layer < lm.n_layers:
        raise InputError(f"Layer {layer} is not between 0 and {lm.n_layers - 1}, the last of {quoted(lm.name)}.")
    moment, tokens = _read(file, lm.d_mlp)
    C0 = _mean(moment, tokens, file)
    digest = hashlib.sha256(C0.numpy().tobytes()).hexdigest()[:12]
    place = stored_statistics.file_of(lm.texts_key, layer, digest, tokens)
    stored_statistics.save(place, C0, f"imported {file.name}", tokens)
    stored_statistics.note_model(lm.texts_key, lm.name)
    stored_statistics.choose(lm.texts_key, {layer: place})
    return Imported(place, layer, tokens)


def _read(file: Path, d_mlp: int) -> tuple[np.ndarray, int]:
    """The second moment, (d_mlp, d_mlp) of floating-point numbers, and how many tokens it is the sum of.

    Raises:
        InputError: when the file cannot be read, or its arrays are of another kind.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(6) == np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is a single array")
            with zipfile.ZipFile(stream) as archive:
                entries = {name.removesuffix(".npy"): name for name in archive.namelist()}
                moment = _entry(archive, entries, "mom2")
                if moment is None:
                    raise InputError(f"{file} holds no second moment (mom2.mom2); it has {_named(entries)}.")
                _check_moment(moment, d_mlp, file)
                count = _entry(archive, entries, "count")
                return moment.values(), 0 if count is None else _count(count, file)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}.") from error
    # For damaged files zipfile, its decompressors and numpy's header parser raise errors without a common base class.
    except Exception as error:
        raise InputError(f"{file} cannot be read as .npz ({first_line(error)}); give one in MEMIT's format.") from error


def _named(entries: Mapping[str, str]) -> str:
    """Names in an archive for a message: the first ones, each on one line and not too long."""
    plain = [name if name.isprintable() and len(name) <= 60 else quoted(name) for name in sorted(entries)]
    more = f" and {len(plain) - 8:,} more" if len(plain) > 8 else ""
    return f"{', '.join(plain[:8])}{more}" if plain else "nothing"


@dataclass(frozen=True)
class _Entry:
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


def _entry(archive: zipfile.ZipFile, entries: Mapping[str, str], name: str) -> _Entry | None:
    """The header of an array, with or without "mom2." in front of its name; None when it is not there."""
    found = next((entries[key] for key in (f"mom2.{name}", name) if key in entries), None)
    if found is None:
        return None
    with archive.open(found) as stream:
        shape, in_columns, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and unpickling them could run code")
    return _Entry(archive, found, shape, in_columns, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape of an array, whether it is in column order, and its type; the stream is then at the array's first byte."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of .npy is not for plain numbers")
    return readers[version](stream)


def _check_moment(moment: _Entry, d_mlp: int, file: Path) -> None:
    """Check by its header that an array can be the second moment.

    Raises:
        InputError: when it has another size, or no floating-point numbers.
    """
    if moment.shape != (d_mlp, d_mlp):
        shape = " × ".join(map(str, moment.shape[:4])) + (" × …" if len(moment.shape) > 4 else "")
        raise InputError(
            f"The second moment in {file} is {shape or 'a single number'}; this model's keys have {d_mlp} numbers, so "
            f"it must be {d_mlp} × {d_mlp}: it belongs to another model."
        )
    if moment.dtype.kind != "f" or moment.dtype.itemsize > 8:
        raise InputError(
            f"The second moment in {file} is of {str(moment.dtype)[:40]}; it must be of floating-point numbers of "
            "16, 32 or 64 bits."
        )


def _count(count: _Entry, file: Path) -> int:
    """How many tokens the sum is over.

    Raises:
        InputError: when the count is not a number of tokens.
    """
    is_number = count.shape == () and count.dtype.kind in "iuf" and count.dtype.itemsize <= 8
    number = float(count.values()) if is_number else math.nan
    if not (1 <= number <= MOST_TOKENS and number == int(number)):
        shown = f"{number:g}" if is_number else f"of shape {quoted(count.shape)} and type {str(count.dtype)[:40]}"
        raise InputError(
            f"{file} has the count {shown}, which is not a number of tokens; give a whole number from 1 to "
            f"{MOST_TOKENS:,}, or leave it out if the matrix is a mean."
        )
    return int(number)


def _mean(moment: np.ndarray, tokens: int, file: Path) -> torch.Tensor:
    """The mean of k kᵀ, (d_mlp, d_mlp) float32.

    Args:
        moment: (d_mlp, d_mlp) of floating-point numbers, the sum of k kᵀ.
        tokens: how many tokens it is the sum over; 0 if it is a mean.
        file: for messages.

    Raises:
        InputError: when it is no second moment, or too large or too small for float32.
    """
    if not np.isfinite(moment).all():
        raise InputError(f"The second moment in {file} has numbers that are not finite; it cannot be used.")
    if moment.dtype == np.float16:  # differences of its largest numbers would not be finite
        moment = moment.astype(np.float32)
    with np.errstate(over="ignore"):
        largest, difference = float(np.abs(moment).max()), float(np.abs(moment - moment.T).max())
    if difference > ASYMMETRY * largest or largest == 0:
        raise InputError(f"The second moment in {file} is not symmetric, or all zeros; it is no E[k kᵀ].")
    if (moment.diagonal() < 0).any():
        raise InputError(f"The second moment in {file} has a negative diagonal; it is no E[k kᵀ].")
    mean = torch.from_numpy(moment / np.asarray(max(tokens, 1), dtype=np.float64))
    C0 = ((mean + mean.T) / 2).float()
    if not bool(torch.isfinite(C0).all()) or not bool(C0.any()):
        raise InputError(
            f"The second moment in {file} has {largest:.3g} as its largest number and {tokens:,} as its count; "
            "the mean is too large or too small for float32."
        )
    return C0
