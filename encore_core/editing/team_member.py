"""A member of a team (see `team`): a process with the model and the session's matrices, which does shards of batches.

Its matrices follow the session's: every update comes as its thin factors (A, Y) and is added as the session adds it, so
they stay equal to the bit. What goes over the wire is numpy, which Ray passes without copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers

from encore_core import processes
from encore_core.autograd import gradients
from encore_core.editing.edited_matrices import Sums, exact_dtype, weights_digest
from encore_core.editing.keys import KeyReader
from encore_core.editing.target_loss import TargetSettings
from encore_core.editing.targets import Target, optimise_targets
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.facts import Fact
from encore_core.models.editable import load_model


@dataclass(frozen=True)
class LoadAs:
    """How a member loads the model, as for `load_model`.

    Attributes:
        name, device, dtype, start_token: its arguments.
        threads: of torch.
    """

    name: str
    device: str
    dtype: str
    start_token: str
    threads: int


class Member:
    """Does shards. Methods are called in the order in which the session works.

    Args:
        how: to load the model.
    """

    def __init__(self, how: LoadAs):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(how.threads)
        if how.device != "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        self.lm = load_model(how.name, how.device, how.dtype, start_token=how.start_token)
        self.sums, self.draft = Sums(), Sums()
        self.readers: dict[int, KeyReader] = {}

    def about(self) -> dict[str, Any]:
        """Host, fingerprint and start token, to be compared with the session's."""
        return {"host": processes.host(), "fingerprint": self.lm.fingerprint, "start": self.lm.start_text}

    def begin_from(self, exact: Mapping[int, np.ndarray]) -> None:
        """Take the session's matrices over.

        Args:
            exact: by layer, as the family stores them, in the dtype in which they are summed.
        """
        dtype = exact_dtype(self.lm)
        self.sums = Sums.of(
            self.lm,
            {layer: torch.tensor(W, dtype=dtype, device=self.lm.parameter(layer).device) for layer, W in exact.items()},
        )

    def targets(
        self,
        facts: Sequence[Fact],
        prefixes: Sequence[str],
        layer: int,
        settings: TargetSettings,
        F: np.ndarray | None,
        fast: bool,
    ) -> list[tuple[np.ndarray, np.ndarray, Target]]:
        """Targets of a shard on the session's matrices: z, h, and the target without them."""
        metric = None if F is None else torch.from_numpy(F.copy()).to(self.lm.device)
        with gradients(False), self.lm.matrices_replaced(self.sums.run):
            found = optimise_targets(self.lm, facts, prefixes, layer, settings, F=metric, fast=fast)
        return [(to_numpy(one.z), to_numpy(one.h), replace(one, z=None, h=None)) for one in found]

    def begin(self, layers: Sequence[int]) -> None:
        """Begin a batch's draft; one that was not kept is forgotten."""
        with self.lm.matrices_replaced({}):
            self.draft, self.readers = self.sums.copy(), {}
            self.draft.begin(self.lm, layers)

    def read(self, number: int, facts: Sequence[Fact], prefixes: Sequence[str], layers: Sequence[int]) -> None:
        """Begin to read the keys of a shard."""
        with self.lm.matrices_replaced(self.draft.run):
            self.readers[number] = KeyReader(self.lm, facts, prefixes, layers)

    def keys(self, number: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """K, (d_mlp, n), and h, (d_model, n), of a shard at a layer."""
        reader = self.readers[number]
        with self.lm.matrices_replaced(self.draft.run):
            return to_numpy(reader.keys(layer)), to_numpy(reader.states(layer))

    def add(self, layer: int, A: np.ndarray, Y: np.ndarray) -> None:
        """Add an update to the draft, on the device where the session adds it."""
        device = self.draft.exact[layer].device
        update = LowRankUpdate(torch.from_numpy(A.copy()).to(device), torch.from_numpy(Y.copy()).to(device))
        self.draft.add(self.lm, layer, update)

    def advance(self, layer: int, to: int) -> None:
        """Move all shards from a layer, now edited, to the next."""
        with self.lm.matrices_replaced(self.draft.run):
            for reader in self.readers.values():
                reader.advance(layer, to)

    def keep(self) -> None:
        """The session has committed the batch."""
        self.sums, self.draft, self.readers = self.draft, Sums(), {}

    def digest(self) -> str:
        """Of the edited matrices."""
        return weights_digest(self.sums.run)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a contiguous array."""
    return tensor.detach().cpu().contiguous().numpy()
