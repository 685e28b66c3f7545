"""Others that share the work of a batch: what they do, and how a batch is cut for them.

A batch is cut into shards of `SHARD_FACTS` facts, in order, whoever is free and however many there are. So the targets
and keys of a shard are the same bits whoever finds them, and the result does not depend on the number of helpers. It
differs from that of one process without helpers only by the rounding that comes from larger groups of facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch

from encore_core.editing.batch_report import OnProgress
from encore_core.editing.target_loss import TargetSettings
from encore_core.editing.targets import Target
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel

SHARD_FACTS = {"cpu": 8, "cuda": 16, "mps": 16}
"""Facts of a shard by kind of device: enough for its matrix units, few enough that nobody waits long for the last. On
one core of a Xeon a fact of the embedded model takes as long in a shard of 8 as in one of 16 or 32, and 1.13 times as
long in one of 4."""


class Reader(Protocol):
    """What reads the keys of a batch layer by layer: `keys.KeyReader`, or several of them (see `team`)."""

    def keys(self, layer: int) -> torch.Tensor:
        """K of a layer, (d_mlp, n_facts)."""

    def states(self, layer: int) -> torch.Tensor:
        """h at the last edited layer, (d_model, n_facts)."""

    def added(self, layer: int, update: LowRankUpdate) -> None:
        """The layer has been edited by this update."""

    def replaced(self, updates: Mapping[int, LowRankUpdate]) -> None:
        """The updates of all layers have been replaced by these, see `push`."""

    def advance(self, layer: int, to: int) -> None:
        """Go on from a layer, now edited, to the next."""


class Helpers(Protocol):
    """Who shares the work of a batch. The matrices of all are equal when a batch begins."""

    def find_targets(
        self,
        lm: EditableModel,
        facts: Sequence[Fact],
        prefixes: Sequence[str],
        layer: int,
        settings: TargetSettings,
        F: torch.Tensor | None,
        fast: bool,
        on_progress: OnProgress | None,
    ) -> list[Target]:
        """One target per fact, as `batch.find_targets`."""

    def reader(
        self, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layers: Sequence[int]
    ) -> Reader:
        """What reads the keys of the batch."""


def shards(n_facts: int, size: int) -> list[range]:
    """The places of a batch's facts, cut into shards of nearly equal size.

    Args:
        n_facts: in the batch.
        size: of a shard, at most; see `SHARD_FACTS`.
    """
    n_shards = -(-n_facts // size)
    ends = [n_facts * number // n_shards for number in range(n_shards + 1)]
    return [range(start, end) for start, end in pairwise(ends)]
