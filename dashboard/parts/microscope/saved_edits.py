"""The weights of a run as it last saved them, to be looked at like a visitor's own edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import streamlit as st
import torch

from encore_core.errors import InputError
from encore_core.models.editable import EditableModel
from encore_core.runs import RunInfo, RunStore
from encore_core.runs.resume_state import load_matrices

KEPT = 2
"""Runs whose weights a server keeps, of all visitors together."""

Places = tuple[tuple[int, tuple[str, torch.dtype]], ...]
"""By layer, the device and the type of a model's matrix."""


@dataclass(frozen=True, eq=False)
class SavedEdits:
    """What `Looked` needs of an `EditSession`, from matrices alone.

    Attributes:
        lm: the model that the run edited.
        by_layer: its edited matrices, stored like `EditableModel.parameter`.
        n_edits: after how many edits.
        history: none is kept.
    """

    lm: EditableModel
    by_layer: Mapping[int, torch.Tensor] = field(repr=False)
    n_edits: int
    history: tuple[()] = ()

    @contextmanager
    def edited(self) -> Iterator[EditableModel]:
        """The model with the run's edits in it."""
        with self.lm.matrices_replaced(dict(self.by_layer)):
            yield self.lm

    @contextmanager
    def pristine(self) -> Iterator[EditableModel]:
        """The model as it was loaded."""
        with self.lm.matrices_replaced({}):
            yield self.lm

    def matrices(self) -> dict[int, torch.Tensor]:
        """The edited matrices by layer."""
        return dict(self.by_layer)


def why_not(run: RunInfo, store: RunStore) -> str:
    """Why one cannot look inside a run, and what would be needed; empty if its weights are at hand."""
    if run.recorded:
        return (
            f"Recorded runs come without their matrices, so nobody can look inside {run.id}. Run its command on this "
            "machine (see Data and code): runs made here keep the weights that they last saved."
        )
    if run.status != "done" and not store.states(run.id):
        return f"{run.id} has saved no weights yet; it does so at its checkpoints and every five minutes."
    return ""


def read(run: RunInfo, store: RunStore, lm: EditableModel) -> SavedEdits:
    """The weights that a run last saved. All visitors who look at them share one copy, which may take a gigabyte.

    Args:
        run, store: which run, with weights at hand (see `why_not`).
        lm: the model to put them into.

    Raises:
        InputError: when the run edited another model, or nothing can be read.
    """
    if run.fingerprint != lm.fingerprint:
        raise InputError(
            f"{run.id} edited {run.plan.model}, and the model that is loaded is {lm.name} (fingerprints "
            f"{run.fingerprint} and {lm.fingerprint}); choose the run's model in the sidebar."
        )
    places = {layer: (str(lm.parameter(layer).device), lm.dtype) for layer in run.layers}
    saved, edits = _shared((str(store.folder_of(run.id)), run.cursor, run.done, tuple(places.items())), run, store)
    return SavedEdits(lm, saved, run.done if edits is None else edits)


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _shared(
    state: tuple[str, int, int, Places], _run: RunInfo, _store: RunStore
) -> tuple[dict[int, torch.Tensor], int | None]:
    """The matrices of a run where a model has them, and after how many edits."""
    saved, edits = load_matrices(_store.folder_of(_run.id), _store.states(_run.id))
    # A saved state holds sums that are more precise than a 16-bit model's weights.
    return {layer: saved[layer].to(device, dtype) for layer, (device, dtype) in state[-1]}, edits
