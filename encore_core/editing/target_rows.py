"""Facts as rows of tokens for a target pass: their contexts, and where target tokens are predicted in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.facts import Fact
from encore_core.forward.prompts import Encoded, encode_contexts, encode_subject_prompts
from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class Example:
    """A fact as tokens: one row per context, and the subject prompt, whose prediction must stay."""

    contexts: tuple[Encoded, ...]
    subject: Encoded

    @classmethod
    def of_facts(cls, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[Example]:
        return list(map(cls, encode_contexts(lm, facts, prefixes), encode_subject_prompts(lm, facts)))

    @property
    def cost(self) -> int:
        """Tokens that the fast pass runs for this fact (the last target token is only predicted, never read)."""
        return len(self.contexts) * max(len(row.ids) - 1 - row.lookup for row in self.contexts)


@dataclass
class Rows:
    """The rows of several facts in a batch.

    Attributes:
        n_facts, n_contexts: every fact has the same number of contexts; row r belongs to fact r // n_contexts.
        position_rows, position_columns: (n_positions,) where target tokens are predicted.
        position_targets: (n_positions,) token ids wanted there.
        used: (n_used,) the rows that are run, if those are not all; positions are in these rows alone.
    """

    n_facts: int
    n_contexts: int
    position_rows: torch.Tensor
    position_columns: torch.Tensor
    position_targets: torch.Tensor
    used: torch.Tensor | None = None

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device, from_lookup: bool) -> Rows:
        n_contexts = len(examples[0].contexts)
        rows, columns, targets = [], [], []
        for row, encoded in enumerate(c for example in examples for c in example.contexts):
            first = encoded.n_prompt - 1 - (encoded.lookup if from_lookup else 0)
            for offset, token in enumerate(encoded.target_ids):
                rows.append(row)
                columns.append(first + offset)
                targets.append(token)
        tensors = (torch.tensor(values, device=device) for values in (rows, columns, targets))
        return cls(len(examples), n_contexts, *tensors)

    def keep(self, facts: torch.Tensor) -> Rows:
        """The rows of some of the facts; `facts` holds their indices, ascending."""
        new_number = torch.full((self.n_facts,), -1, device=facts.device)
        new_number[facts] = torch.arange(len(facts), device=facts.device)
        fact, context = self.position_rows // self.n_contexts, self.position_rows % self.n_contexts
        kept = new_number[fact] >= 0
        rows = new_number[fact[kept]] * self.n_contexts + context[kept]
        return Rows(len(facts), self.n_contexts, rows, self.position_columns[kept], self.position_targets[kept])

    def only(self, used: torch.Tensor) -> Rows:
        """Some of the rows, for one evaluation; `used` holds their numbers, ascending."""
        kept = torch.isin(self.position_rows, used)
        positions = (self.position_rows[kept], self.position_columns[kept], self.position_targets[kept])
        return Rows(self.n_facts, self.n_contexts, *positions, used)

    @property
    def places(self) -> torch.Tensor:
        """(n_positions,) of `position_rows`, which of the rows that are run it is."""
        return self.position_rows if self.used is None else torch.searchsorted(self.used, self.position_rows)

    def per_row(self, of_facts: torch.Tensor) -> torch.Tensor:
        """What each fact has, (n_facts, …), for every row that is run."""
        rows = of_facts.repeat_interleave(self.n_contexts, dim=0)
        return rows if self.used is None else rows[self.used]

    def rows_of(self, facts: torch.Tensor) -> torch.Tensor:
        """Row numbers of some facts, (len(facts) · n_contexts,)."""
        return (facts[:, None] * self.n_contexts + torch.arange(self.n_contexts, device=facts.device)).reshape(-1)


def median_norm(states: torch.Tensor, n_contexts: int) -> torch.Tensor:
    """s of each fact, (n_facts,): the median of ‖h‖ over its contexts.

    Args:
        states: (n_facts · n_contexts, d_model), h at the subject.
        n_contexts: of every fact.
    """
    return states.norm(dim=-1).view(-1, n_contexts).median(dim=1).values
