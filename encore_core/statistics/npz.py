"""Statistics in the format published with MEMIT-style code, `.npz` files of one layer each, read and written.

    transformer.h.13.mlp.c_proj_float32_mom2_100000.npz
        mom2.mom2          (d_mlp, d_mlp), the sum of k kᵀ
        mom2.count         how many tokens it is the sum of
        mom2.constructor   which class wrote it; ignored
        sample_size        how many documents; ignored
        gradients.mom2     (d_model, d_model), the sum of g gᵀ (see `gradient_moments`); ours, as all that follows
        gradients.count    how many tokens that is the sum of
        text               what it was gathered from, for people
        model              `EditableModel.texts_key` of the model

The names may lack the "mom2." prefix. Without a count, the matrix must already be a mean. Files that are written here
have float64 sums, so that a mean comes back to the bit; MEMIT's own code reads them (with `mom2_dtype` float64), and
looks past the arrays that it does not know.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encore_core.editing import gradient_moments, stored_statistics
from encore_core.editing.covariance import files_used
from encore_core.errors import InputError, first_line, quoted
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of
from encore_core.statistics.npz_arrays import Arrays, Entry
from encore_core.statistics.request import checked_layers
from encore_core.storage import replacing

ASYMMETRY = 1e-3
"""Largest |A − Aᵀ|, relative to the largest entry, that rounding of sums in float32 can cause."""

MOST_TOKENS = 10**15
"""Limit of a count, because it becomes part of a file's name; no text has more tokens."""

LONGEST_NAME = 60
"""Letters of a text's name that are taken over from a file."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        file: where it is kept now.
        layer: the block.
        tokens: how many tokens it is made from; 0 when the file does not say.
        gradients: whether F came with it.
        model: `EditableModel.texts_key` of the model that it was gathered with; None when the file does not say.
    """

    file: Path
    layer: int
    tokens: int
    gradients: bool
    model: str | None


def layer_in_name(file: Path) -> int | None:
    """The block of a file of statistics, from the module's name in the file's name; None if it has none."""
    match = re.search(r"\.(?:h|layers|blocks)\.(\d+)\.", file.name)
    return int(match[1]) if match else None


# -- importing ---------------------------------------------------------------------------------------------------------


def import_npz(lm: EditableModel, file: Path, layer: int | None = None) -> Imported:
    """Import the statistics of a layer, and let edits of this model use them.

    The file can only be checked to fit the model, not to come from it, unless it names its model.

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
    checked_layers(lm, [layer])
    read = _read(file, lm)
    C0, F = (None if sums is None else _mean(*sums, file) for sums in (read.keys, read.gradients))
    digest = hashlib.sha256(C0.numpy().tobytes()).hexdigest()[:12]
    tokens = read.keys[1]
    place = stored_statistics.file_of(lm.texts_key, layer, digest, tokens)
    source = f"{read.text} (imported)" if read.text else f"imported {file.name}"
    if F is not None:
        gradient_moments.save(gradient_moments.file_beside(place), F, source, read.gradients[1])
    stored_statistics.save(place, C0, source, tokens)
    stored_statistics.note_model(lm.texts_key, lm.name)
    stored_statistics.choose(lm.texts_key, {layer: place})
    return Imported(place, layer, tokens, F is not None, read.model)


@dataclass(frozen=True)
class _Read:
    """What a file holds: each second moment with how many tokens it is the sum of, 0 for a mean."""

    keys: tuple[np.ndarray, int]
    gradients: tuple[np.ndarray, int] | None
    text: str | None
    model: str | None


def _read(file: Path, lm: EditableModel) -> _Read:
    """Read a file.

    Raises:
        InputError: when it cannot be read, or its arrays are of another kind.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(6) == np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is a single array")
            with zipfile.ZipFile(stream) as archive:
                arrays = Arrays(archive)
                keys = _sums(arrays, ("mom2.", ""), lm.d_mlp, "keys", file)
                if keys is None:
                    raise InputError(f"{file} holds no second moment (mom2.mom2); it has {arrays.listed()}.")
                gradients = _sums(arrays, ("gradients.",), lm.d_model, "gradients", file)
                return _Read(keys, gradients, _words(arrays.find("text")), _words(arrays.find("model")))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}.") from error
    # For damaged files zipfile, its decompressors and numpy's header parser raise errors without a common base class.
    except Exception as error:
        raise InputError(f"{file} cannot be read as .npz ({first_line(error)}); give one in MEMIT's format.") from error


def _sums(arrays: Arrays, prefixes: tuple[str, ...], size: int, of: str, file: Path) -> tuple[np.ndarray, int] | None:
    """A second moment, (size, size) of floating-point numbers, and how many tokens it is the sum of; None without it.

    Raises:
        InputError: when the arrays are of another kind.
    """
    moment = arrays.find(*(f"{prefix}mom2" for prefix in prefixes))
    if moment is None:
        return None
    _check_moment(moment, size, of, file)
    count = arrays.find(*(f"{prefix}count" for prefix in prefixes))
    return moment.values(), 0 if count is None else _count(count, file)


def _words(entry: Entry | None) -> str | None:
    """A short text; None for anything else."""
    if entry is None or entry.dtype.kind != "U" or entry.shape or not 0 < entry.dtype.itemsize <= 4 * LONGEST_NAME:
        return None
    words = str(entry.values())
    return words if words.isprintable() else None


def _check_moment(moment: Entry, size: int, of: str, file: Path) -> None:
    """Check by its header that an array can be the second moment.

    Raises:
        InputError: when it has another size, or no floating-point numbers.
    """
    if moment.shape != (size, size):
        shape = " × ".join(map(str, moment.shape[:4])) + (" × …" if len(moment.shape) > 4 else "")
        raise InputError(
            f"The second moment in {file} is {shape or 'a single number'}; this model's {of} have {size} numbers, so "
            f"it must be {size} × {size}: it belongs to another model."
        )
    if moment.dtype.kind != "f" or moment.dtype.itemsize > 8:
        raise InputError(
            f"The second moment in {file} is of {str(moment.dtype)[:40]}; it must be of floating-point numbers of "
            "16, 32 or 64 bits."
        )


def _count(count: Entry, file: Path) -> int:
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
    """The mean of k kᵀ or g gᵀ, (d, d) float32.

    Args:
        moment: (d, d) of floating-point numbers, the sum.
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
        raise InputError(f"The second moment in {file} is not symmetric, or all zeros; so it is none.")
    if (moment.diagonal() < 0).any():
        raise InputError(f"The second moment in {file} has a negative diagonal; so it is none.")
    mean = torch.from_numpy(moment / np.asarray(max(tokens, 1), dtype=np.float64))
    C0 = ((mean + mean.T) / 2).float()
    if not bool(torch.isfinite(C0).all()) or not bool(C0.any()):
        raise InputError(
            f"The second moment in {file} has {largest:.3g} as its largest number and {tokens:,} as its count; "
            "the mean is too large or too small for float32."
        )
    return C0


# -- exporting ---------------------------------------------------------------------------------------------------------


def export_npz(lm: EditableModel, folder: Path, layers: Iterable[int] | None = None) -> dict[int, Path]:
    """Write the statistics that edits of a model use, C0 and what there is of F, a file for each layer.

    Args:
        lm: the model.
        folder: where; made if need be. A file of the same name is replaced.
        layers: blocks; by default all that have statistics.

    Returns:
        the files by layer, named after the layer's module as in MEMIT-style code.

    Raises:
        InputError: for a layer that the model does not have, or without statistics, and when none has.
        WriteError: when they cannot be written.
    """
    wanted = checked_layers(lm, range(lm.n_layers) if layers is None else layers)
    used = files_used(lm, wanted, settings_of(lm, "ENCORE").statistics_tokens)
    heads = {layer: stored_statistics.read_head(file) for layer, file in used.items() if file.is_file()}
    missing = [layer for layer in wanted if heads.get(layer) is None]
    if len(missing) == len(wanted) or (missing and layers is not None):
        lacking = f"Layer {missing[0]} of {quoted(lm.name)} has" if layers is not None else f"{quoted(lm.name)} has"
        raise InputError(f"{lacking} no statistics yet; gather them with `encore statistics --source`.")
    return {layer: _write(lm, folder, head) for layer, head in heads.items() if head is not None}


def _write(lm: EditableModel, folder: Path, head: stored_statistics.Stored) -> Path:
    C0 = stored_statistics.load(head.file, lm.d_mlp)
    if C0 is None:
        raise InputError(f"The statistics of layer {head.layer} in {head.file} cannot be read; gather them again.")
    down = lm.down_projections[head.layer]
    module = next(name for name, one in lm.model.named_modules() if one is down)
    arrays = {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        **({"mom2.count": np.array(head.tokens)} if head.tokens else {}),
        "mom2.mom2": C0.double().numpy() * max(head.tokens, 1),
        "text": np.array(head.source.removesuffix(" (imported)")[:LONGEST_NAME]),
        "model": np.array(lm.texts_key),
    }
    beside = gradient_moments.file_beside(head.file)
    if (F := gradient_moments.load(beside, lm.d_model)) is not None:
        count = gradient_moments.count_in(beside)
        arrays |= {"gradients.count": np.array(count)} if count else {}
        arrays["gradients.mom2"] = F.double().numpy() * max(count, 1)
    place = folder / f"{module}_float64_mom2.npz"
    with replacing(place) as part, part.open("wb") as stream:
        np.savez(stream, **arrays)
    return place
