"""The plain target pass: logits with δ in place, from every token and every block."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from encore_core.editing.target_rows import Example, Rows, median_norm
from encore_core.forward.prompts import pad
from encore_core.forward.tracing import added_to_output, run
from encore_core.models.editable import EditableModel


class PlainPass:
    """Logits with δ in place, from full passes over every token and block. Slow, but right for every family."""

    def __init__(self, lm: EditableModel, layer: int, examples: Sequence[Example]):
        self.lm, self.layer = lm, layer
        self.rows = Rows.of(examples, lm.device, from_lookup=False)
        contexts = [encoded for example in examples for encoded in example.contexts]
        self.batch = pad(lm, [encoded.read.ids for encoded in contexts])
        self.lookups = torch.tensor([encoded.lookup for encoded in contexts], device=lm.device)
        self.subject_batch = pad(lm, [example.subject.ids for example in examples])
        self.subject_lookups = torch.tensor([example.subject.lookup for example in examples], device=lm.device)
        with torch.no_grad():
            hidden = run(lm, self.batch.ids, self.batch.mask, stop=layer + 1)
        at_subject = hidden[torch.arange(len(contexts), device=lm.device), self.lookups].float()
        self.h, self.scale = at_subject[:: self.rows.n_contexts], median_norm(at_subject, self.rows.n_contexts)

    def logits(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits where target tokens are predicted, and at the subject's last token of "{subject} is a".

        Args:
            delta: (n_facts, d_model).

        Returns:
            (n_positions, n_vocab) and (n_facts, n_vocab).
        """
        block = self.lm.blocks[self.layer]
        row_numbers = torch.arange(len(self.lookups), device=delta.device)
        per_row = delta.repeat_interleave(self.rows.n_contexts, dim=0)
        with added_to_output(block, row_numbers, self.lookups, per_row):
            logits = run(self.lm, self.batch.ids, self.batch.mask)
        fact_numbers = torch.arange(len(delta), device=delta.device)
        with added_to_output(block, fact_numbers, self.subject_lookups, delta):
            subject_logits = run(self.lm, self.subject_batch.ids, self.subject_batch.mask)
        return (
            logits[self.rows.position_rows, self.rows.position_columns],
            subject_logits[fact_numbers, self.subject_lookups],
        )

    def over(self, contexts: torch.Tensor) -> PlainPass:
        """A pass for one evaluation that has to give logits in some contexts alone: this one gives them in all.

        Args:
            contexts: (n_facts, n_contexts) bool, at least one of each fact.
        """
        return self

    def keep(self, facts: torch.Tensor) -> None:
        """Keep only some of the facts; `facts` holds their indices, ascending."""
        rows = self.rows.rows_of(facts)
        self.batch = type(self.batch)(self.batch.ids[rows], self.batch.mask[rows])
        self.lookups = self.lookups[rows]
        self.subject_batch = type(self.batch)(self.subject_batch.ids[facts], self.subject_batch.mask[facts])
        self.subject_lookups = self.subject_lookups[facts]
        self.h = self.h[facts]
        self.rows = self.rows.keep(facts)
