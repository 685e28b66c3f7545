"""Statistics that MEMIT-style codes publish: `.npz` files of one layer each.

    transformer.h.13.mlp.c_proj_float32_mom2_100000.npz
        mom2.mom2          (d_mlp, d_mlp), the sum of k kᵀ
        mom2.count         how many tokens it is the sum of
        mom2.constructor   which class wrote it; not looked at
        sample_size        how many documents; not looked at

The names may come without the "mom2." in front. Where there is no count, the matrix must be a mean already. Nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encore_core.errors import InputError, quoted
from encore_core.models import EditableModel
from encore_core.statistics import files

ASYMMETRY = 1e-3
"""Largest |A − Aᵀ| relative to the largest entry that sums in float32 leave behind."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        file: where it is kept now.
        layer: the block.
        tokens: how many it is made of; 0 when the file does not say so.
    """

    file: Path
    layer: int
    tokens: int


def layer_in_name(file: Path) -> int | None:
    """The block that a file of statistics is about, from the module's name in its own; None when it says none."""
    match = re.search(r"\.(?:h|layers|blocks)\.(\d+)\.", file.name)
    return int(match[1]) if match else None


def import_npz(lm: EditableModel, file: Path, layer: int | None = None) -> Imported:
    """Take over the statistics of a layer, and let edits of this model use them.

    That they are of this model cannot be seen from the file; only that they fit it.

    Args:
        lm: the model that they are of.
        file: an .npz file, see the module.
        layer: the block; read from the file's name by default.

    Raises:
        InputError: when the file cannot be read without pickle, holds no second moment, or one of another size, that
            is not symmetric, not finite, or not that of anything; and for a layer that the model does not have.
    """
    layer = layer_in_name(file) if layer is None else layer
    if layer is None:
        raise InputError(f"The name of {file} does not say which layer it is for; give --layer.")
    if not 0 <= layer < lm.n_layers:
        raise InputError(f"Layer {layer} is not between 0 and {lm.n_layers - 1}, the last of {quoted(lm.name)}.")
    values = _read(file)
    moment, count = _entry(values, "mom2"), _entry(values, "count")
    if moment is None:
        raise InputError(f"{file} holds no second moment (mom2.mom2); it has {', '.join(sorted(values)) or 'nothing'}.")
    tokens = _count(count, file)
    C0 = _checked(moment, tokens, lm.d_mlp, file)
    digest = hashlib.sha256(C0.numpy().tobytes()).hexdigest()[:12]
    place = files.file_of(lm.texts_key, layer, digest, tokens)
    files.save(place, C0, f"imported {file.name}", tokens)
    files.note_model(lm.texts_key, lm.name)
    files.choose(lm.texts_key, {layer: place})
    return Imported(place, layer, tokens)


def _read(file: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a file that are wanted, by name."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array")
        with loaded as opened:
            wanted = [name for name in opened.files if name.split(".")[-1] in ("mom2", "count")]
            return {name: opened[name] for name in wanted} | {
                name: np.empty(0) for name in opened.files if name not in wanted
            }
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}.") from error
    except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "pickle" in reason.lower():
            reason = "it holds Python objects, and unpickling them could run code"
        raise InputError(f"{file} cannot be read as .npz ({reason}); give one as MEMIT writes it.") from error


def _entry(values: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    return next((values[key] for key in (f"mom2.{name}", name) if key in values), None)


def _count(count: np.ndarray | None, file: Path) -> int:
    """Tokens behind the sum; 0 when nothing is said, which means that it is a mean."""
    if count is None:
        return 0
    number = float(count) if count.ndim == 0 and np.issubdtype(count.dtype, np.number) else float("nan")
    if not (number >= 1 and number == int(number)):
        raise InputError(f"{file} has the count {quoted(count.tolist())}, which is no number of tokens from 1.")
    return int(number)


def _checked(moment: np.ndarray, tokens: int, d_mlp: int, file: Path) -> torch.Tensor:
    """The mean of k kᵀ, (d_mlp, d_mlp) float32."""
    if moment.shape != (d_mlp, d_mlp):
        shape = " × ".join(map(str, moment.shape)) or "a single number"
        raise InputError(
            f"The second moment in {file} is {shape}; this model's keys have {d_mlp} numbers, so it must be "
            f"{d_mlp} × {d_mlp}: it is of another model."
        )
    if not np.issubdtype(moment.dtype, np.floating):
        raise InputError(f"The second moment in {file} is of {moment.dtype}; it must be of floating-point numbers.")
    if not np.isfinite(moment).all():
        raise InputError(f"The second moment in {file} has numbers that are not finite; it cannot be used.")
    largest = float(np.abs(moment).max())
    if float(np.abs(moment - moment.T).max()) > ASYMMETRY * largest or largest == 0:
        raise InputError(f"The second moment in {file} is not symmetric, or all zeros; it is no E[k kᵀ].")
    if (moment.diagonal() < 0).any():
        raise InputError(f"The second moment in {file} has a negative diagonal; it is no E[k kᵀ].")
    mean = torch.from_numpy(moment / np.asarray(max(tokens, 1), dtype=np.float64)).double()
    return ((mean + mean.T) / 2).float()
