"""Inspect a model's files as `load_model` does, without copying the weights into memory.

Configuration, tokenizer, headers and every number are read, and texts of three tokens are run, by the same functions
that load a model, so that the result is what loading would say. Large weights are loaded in the format of their files,
which maps them into memory instead of copying them: this takes one reading of the disk, and next to no memory.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from encore_core.errors import InputError
from encore_core.models.catalogue import Progress, Source
from encore_core.models.editable import assemble
from encore_core.models.memory import Sizes
from encore_core.models.weight_files import stored_weights, usual_format

COPIED = 1_000_000_000
"""Up to this many bytes, weights are copied in the number format asked for, so that the run is the same, too."""

KEPT = 32


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a model's files.

    Attributes:
        refusal: why `load_model` would refuse them; None if it would not.
        notes: what one should know about them.
    """

    refusal: str | None
    notes: tuple[str, ...]


_KEPT: OrderedDict[tuple, Inspection] = OrderedDict()
"""By model, format and state of every file, because pages ask again whenever they are drawn."""


def inspect_files(
    name: str, source: Source, sizes: Sizes, dtype: torch.dtype, progress: Progress | None = None
) -> Inspection:
    """Inspect a model's files; those of a hub model only if they are in the hub's cache.

    Args:
        name, source, dtype: as for `checkpoint.read_weights`.
        sizes: from its configuration.
        progress: called with the progress.
    """
    if source.hub is not None and source.hub.missing:
        return Inspection(None, ("Its weights are not in the hub's cache; they are checked when they are loaded.",))
    state = (name, str(source), dtype, *_state_of(Path(source)))
    found = _KEPT.get(state)
    if found is None:
        found = _KEPT[state] = _inspected(name, source, sizes, dtype, progress or (lambda what, share: None))
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
    return found


def _inspected(name: str, source: Source, sizes: Sizes, dtype: torch.dtype, tell: Progress) -> Inspection:
    try:
        if sizes.n_weights * dtype.itemsize > COPIED:
            dtype = usual_format(stored_weights(name, Path(source))) or dtype
        return Inspection(None, assemble(name, source, sizes.n_vocab, dtype, tell).notes)
    except InputError as error:
        return Inspection(str(error), ())


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file in the folder, links followed."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
