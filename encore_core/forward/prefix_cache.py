"""The common start of a batch's prompts: in each context, every fact's row begins with the same sampled prefix.

Those tokens are run once per batch instead of once per fact; each fact's own tokens then use their keys and values.
What is shared is found by comparing tokens, so with a tokenizer that merges across the border there is only less of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.forward.prompts import Encoded, Padded, pad
from encore_core.forward.tracing import Prefix, record_prefix
from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class SharedStarts:
    """The tokens that all rows of a context begin with: one row per context, and an empty row for other prompts.

    Attributes:
        batch: (n_contexts + 1, length) token ids; the last row is empty.
        lengths: tokens shared in each row.
    """

    batch: Padded
    lengths: tuple[int, ...]

    NONE = -1
    """Row index for prompts that share nothing."""

    @classmethod
    def of(cls, lm: EditableModel, contexts: Sequence[Sequence[Encoded]]) -> SharedStarts:
        """Find what is shared.

        Args:
            lm: gives padding token and device.
            contexts: for each context its rows, one per fact. A row's lookup position is never shared.
        """
        starts = [_common_start(rows) for rows in contexts]
        lengths = tuple(len(start) for start in starts)
        filled = pad(lm, [start or (0,) for start in (*starts, ())])
        mask = filled.mask * (torch.tensor([*lengths, 0], device=filled.mask.device) > 0).long()[:, None]
        return cls(Padded(filled.ids, mask), (*lengths, 0))

    @property
    def any(self) -> bool:
        """Whether any tokens are shared."""
        return max(self.lengths) > 0

    def record(
        self, lm: EditableModel, start: int, stop: int | None, hidden: torch.Tensor | None = None
    ) -> tuple[Prefix | None, torch.Tensor | None]:
        """Run the shared tokens through some blocks.

        Args:
            lm: the model; the caller holds its lock.
            start, stop, hidden: as for `tracing.run`.

        Returns:
            their prefix in these blocks, and what `tracing.run` returns; both None when nothing is shared.
        """
        if not self.any:
            return None, None
        return record_prefix(lm, self.batch.ids, self.batch.mask, start=start, stop=stop, hidden=hidden)

    def rest(self, row: Encoded, context: int) -> tuple[tuple[int, ...], int]:
        """A row's tokens after the shared ones, and its lookup position among them."""
        length = self.lengths[context]
        return row.ids[length:], row.lookup - length


def _common_start(rows: Sequence[Encoded]) -> tuple[int, ...]:
    """The tokens that several rows begin with, up to the first lookup position."""
    if len(rows) < 2:
        return ()
    length = min(row.lookup for row in rows)
    first = rows[0].ids
    while length and any(row.ids[:length] != first[:length] for row in rows):
        length -= 1
    return first[:length]
