"""The fast target pass: it computes only what δ can change.

That is the blocks above the edited one, the tokens from the subject's last one on (those before it are kept as keys
and values), and logits where a target token is predicted. It runs the rows packed into one sequence (see `packing`)
where the family's attention allows that, else padded.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from encore_core.editing.target_rows import Example, Rows, median_norm
from encore_core.forward.packed_pass import record_packed, run_packed
from encore_core.forward.packing import Packing
from encore_core.forward.prefix_cache import SharedStarts
from encore_core.forward.prompts import Encoded, pad
from encore_core.forward.tracing import Prefix, record_prefix, run
from encore_core.models.editable import EditableModel

MERGE_TOKENS = 64
"""Up to this many tokens in a group, one pass serves the contexts and the subject prompts together."""


@dataclass(frozen=True)
class Starts:
    """What the rows of a batch begin with (see `prefix_cache`), run through the whole model.

    Attributes:
        shared: the tokens.
        below: their prefix up to the edited block; None when nothing is shared.
        above: their prefix in the blocks above it; None when nothing is shared, or there is no such block.
    """

    shared: SharedStarts
    below: Prefix | None
    above: Prefix | None

    @classmethod
    @torch.no_grad()
    def of(cls, lm: EditableModel, layer: int, examples: Sequence[Example]) -> Starts:
        shared = SharedStarts.of(lm, list(zip(*(example.contexts for example in examples), strict=True)))
        below, hidden = shared.record(lm, 0, layer + 1)
        above = None
        if layer + 1 < lm.n_layers:
            above, _ = shared.record(lm, layer + 1, None, hidden)
        return cls(shared, below, above)


@dataclass
class Tail:
    """Rows cut at their lookup position: tokens before it as keys and values, tokens from there on as states.

    Attributes:
        prefix: keys and values of the tokens before the lookup position, in the blocks above the edited one.
        hidden: (n_rows, length, d_model) output of the edited block from the lookup position on, without δ.
        mask: (n_rows, length), 1 for tokens and 0 for padding.
    """

    prefix: Prefix | None
    hidden: torch.Tensor
    mask: torch.Tensor
    ids: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.ids = torch.zeros_like(self.mask)

    @functools.cached_property
    def packed(self) -> tuple[Packing, torch.Tensor, torch.Tensor]:
        """The rows as one sequence: packing, states (n_tokens, d_model), and indices of the rows' first tokens."""
        packing = Packing(self.mask, self.prefix)
        rows = torch.arange(len(self.mask), device=self.mask.device)
        return packing, packing.pack(self.hidden), packing.at(rows, torch.zeros_like(rows))

    @classmethod
    @torch.no_grad()
    def of(
        cls, lm: EditableModel, layer: int, rows: Sequence[tuple[Encoded, int]], starts: Starts, packed: bool
    ) -> Tail:
        """The tail of some rows.

        Args:
            lm, layer: model and edited block.
            rows: token rows without the tokens that are only predicted, each with the number of its context.
            starts: what the rows of each context begin with.
            packed: whether the rows are run as one sequence.
        """
        own = [starts.shared.rest(row, context) for row, context in rows]
        batch = pad(lm, [ids for ids, _ in own])
        lookup = torch.tensor([position for _, position in own], device=lm.device)
        contexts = torch.tensor([context for _, context in rows], device=lm.device)
        below, above = (
            prefix.rows(contexts) if prefix is not None else None for prefix in (starts.below, starts.above)
        )
        if packed:
            packing = Packing(batch.mask, below)
            states = run_packed(lm, packing, ids=packing.pack(batch.ids), stop=layer + 1)
            hidden = packing.unpack(states)
        else:
            hidden = run(lm, batch.ids, batch.mask, stop=layer + 1, prefix=below)
        n_before = int(lookup.max())
        if n_before and layer + 1 < lm.n_layers:
            mask = (torch.arange(n_before, device=lm.device) < lookup[:, None]).long()
            if packed:
                packing = Packing(mask, above)
                before = record_packed(lm, packing, start=layer + 1, hidden=packing.pack(hidden[:, :n_before]))
            else:
                before, _ = record_prefix(
                    lm, batch.ids[:, :n_before], mask, start=layer + 1, hidden=hidden[:, :n_before], prefix=above
                )
            above = above.followed_by(before) if above is not None else before
        length = int((batch.mask.sum(-1) - lookup).max())
        columns = lookup[:, None] + torch.arange(length, device=lm.device)
        mask = (columns < batch.mask.sum(-1, keepdim=True)).long()
        columns = columns.clamp_max(batch.ids.shape[1] - 1)
        return cls(above, hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1])), mask)

    def logits_packed(
        self, lm: EditableModel, layer: int, delta: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """`logits`, with the rows run as one sequence."""
        packing, hidden, firsts = self.packed
        hidden = hidden.index_add(0, firsts, delta.to(hidden.dtype))
        return run_packed(lm, packing, start=layer + 1, hidden=hidden, logits_at=packing.at(rows, columns))

    def logits(
        self, lm: EditableModel, layer: int, delta: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Logits at some positions, (n_positions, n_vocab), with δ, (n_rows, d_model), added at rows' first tokens."""
        first = (self.hidden[:, 0] + delta.to(self.hidden.dtype))[:, None]
        hidden = torch.cat([first, self.hidden[:, 1:]], dim=1)
        return run(
            lm,
            self.ids,
            self.mask,
            start=layer + 1,
            hidden=hidden,
            prefix=self.prefix,
            logits_at=(rows, columns),
        )

    def keep(self, rows: torch.Tensor) -> Tail:
        """The tail of some of the rows, given by their indices."""
        prefix = self.prefix.rows(rows) if self.prefix is not None else None
        return Tail(prefix, self.hidden[rows], self.mask[rows])


class FastPass:
    """The logits of `PlainPass` from the blocks above the edited one and the tokens from the lookup position on."""

    def __init__(self, lm: EditableModel, layer: int, examples: Sequence[Example], starts: Starts, packed: bool = True):
        self.lm, self.layer, self.packed = lm, layer, packed
        self.rows = Rows.of(examples, lm.device, from_lookup=True)
        contexts = [(encoded.read, number) for example in examples for number, encoded in enumerate(example.contexts)]
        subjects = [(example.subject, SharedStarts.NONE) for example in examples]
        # Packed, the subjects' rows cost next to nothing extra. Padded, few tokens cost no more than reading the
        # weights once; with many, padding the subjects to the contexts' length would cost more than a second reading.
        self.merged = packed or sum(example.cost for example in examples) <= MERGE_TOKENS
        parts = [contexts + subjects] if self.merged else [contexts, subjects]
        self.tails = [Tail.of(lm, layer, rows, starts, packed) for rows in parts]
        at_subject = self.tails[0].hidden[: len(contexts), 0].float()
        self.h, self.scale = at_subject[:: self.rows.n_contexts], median_norm(at_subject, self.rows.n_contexts)

    def logits(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `PlainPass.logits`."""
        rows, facts = self.rows, torch.arange(len(delta), device=delta.device)
        per_row = rows.per_row(delta)
        at, subject_at = (rows.places, rows.position_columns), (facts, torch.zeros_like(facts))
        if not self.merged:
            return (
                self.tails[0].logits(self.lm, self.layer, per_row, *at),
                self.tails[1].logits(self.lm, self.layer, delta, *subject_at),
            )
        both = (torch.cat([at[0], len(per_row) + facts]), torch.cat([at[1], subject_at[1]]))
        of_tail = self.tails[0].logits_packed if self.packed else self.tails[0].logits
        logits = of_tail(self.lm, self.layer, torch.cat([per_row, delta]), *both)
        # Not two slices: their gradients would each be as large as the whole, and mostly zero.
        return logits.split([len(at[0]), len(facts)])

    def over(self, contexts: torch.Tensor) -> FastPass:
        """As `PlainPass.over`: a pass of their rows alone."""
        used = contexts.flatten().nonzero()[:, 0]
        if len(used) == contexts.numel():
            return self
        some = copy.copy(self)
        some.rows = self.rows.only(used)
        if self.merged:
            subject_rows = torch.arange(self.rows.n_facts, device=used.device) + contexts.numel()
            some.tails = [self.tails[0].keep(torch.cat([used, subject_rows]))]
        else:
            some.tails = [self.tails[0].keep(used), self.tails[1]]
        return some

    def keep(self, facts: torch.Tensor) -> None:
        """As `PlainPass.keep`."""
        rows = self.rows.rows_of(facts)
        if self.merged:
            subject_rows = self.rows.n_facts * self.rows.n_contexts + facts
            self.tails = [self.tails[0].keep(torch.cat([rows, subject_rows]))]
        else:
            self.tails = [self.tails[0].keep(rows), self.tails[1].keep(facts)]
        self.h = self.h[facts]
        self.rows = self.rows.keep(facts)
