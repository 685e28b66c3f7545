"""The yardstick: targets the way the published codes find them, one fact at a time.

Every step is a forward and a backward pass over all contexts and the KL prompt, padded to one batch: every block,
every token, logits over the whole vocabulary at every position. Nothing of `encore_core.editing.targets`, its passes
or `tracing` is used, so that it also serves as a second opinion on the results. The formulas are in
`encore_core/editing/target_loss.py` and `targets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from encore_core.editing.target_loss import TargetSettings
from encore_core.facts import Fact


@dataclass(frozen=True)
class PlainTarget:
    """z (d_model,), gradient steps taken, and why the loop stopped."""

    z: torch.Tensor
    steps: int
    stopped: str


@dataclass(frozen=True)
class Rows:
    """A fact's contexts and, last, its KL prompt as rows of one batch.

    Attributes:
        ids, mask: (n_rows, longest), padded on the right.
        lengths: tokens of each row.
        lookups: the place of the subject's last token in each row.
        targets: tokens of what is to be said, the last ones of every context.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: list[int]
    lookups: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of_fact(cls, tokenizer, fact: Fact, prefixes: Sequence[str], device: torch.device) -> Rows:
        """The plain prompt comes first, then one row a prefix, then the KL prompt."""
        leads = ["", *(f"{prefix}. " for prefix in prefixes)]
        texts = [f"{lead}{fact.text} {fact.target_new}" for lead in leads] + [f"{fact.subject} is a"]
        ends = [len(lead) + fact.subject_span[1] for lead in leads] + [len(fact.subject)]
        encoded = [tokenizer(text, return_offsets_mapping=True) for text in texts]
        lookups = torch.tensor(
            [
                max(i for i, (a, b) in enumerate(item["offset_mapping"]) if a <= end - 1 < b)
                for item, end in zip(encoded, ends, strict=True)
            ]
        )
        lengths = [len(item["input_ids"]) for item in encoded]
        ids = torch.zeros(len(texts), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(encoded):
            ids[row, : lengths[row]] = torch.tensor(item["input_ids"])
            mask[row, : lengths[row]] = 1
        ids, mask = ids.to(device), mask.to(device)
        n_target = sum(1 for a, b in encoded[0]["offset_mapping"] if b > len(fact.text) and b > a)
        return cls(ids, mask, lengths, lookups, ids[0, lengths[0] - n_target : lengths[0]])

    def negative_log_likelihood(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Mean over the contexts, and whether every target token is the most probable one in each of them.

        Args:
            log_probs: (n_rows, longest, n_vocab).
        """
        n_contexts, n_target = len(self.lengths) - 1, len(self.targets)
        nll, hits = 0.0, True
        for row in range(n_contexts):
            predicting = log_probs[row, self.lengths[row] - n_target - 1 : self.lengths[row] - 1]
            nll = nll - predicting.gather(1, self.targets[:, None]).mean() / n_contexts
            hits &= bool((predicting.argmax(-1) == self.targets).all())
        return nll, hits


class Added:
    """A hook on a block that adds δ to its output at the subject's last token of every row.

    Args:
        lookups: these places.

    Attributes:
        delta: δ (d_model,), zero at first; None before the first pass.
        h: the state in the plain prompt without it.
    """

    def __init__(self, lookups: torch.Tensor):
        self.lookups = lookups
        self.delta: torch.Tensor | None = None
        self.h: torch.Tensor | None = None

    def __call__(self, module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if self.h is None:
            self.h = hidden[0, self.lookups[0]].detach().clone()
            self.delta = torch.zeros_like(self.h).requires_grad_()
        hidden = hidden.clone()
        for row, position in enumerate(self.lookups.tolist()):
            hidden[row, position] += self.delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    @torch.no_grad()
    def clamp(self, factor: float) -> None:
        """Shorten δ where it is longer than `factor` times h."""
        limit = factor * self.h.norm()
        if self.delta.norm() > limit:
            self.delta.mul_(limit / self.delta.norm())


def plain_target(
    model: nn.Module, tokenizer, block: nn.Module, fact: Fact, prefixes: Sequence[str], settings: TargetSettings
) -> PlainTarget:
    """Find the target of one fact.

    Args:
        model: a transformers causal language model, weights not requiring gradients.
        tokenizer: its fast tokenizer.
        block: the last edited decoder block.
        fact: what is to be said.
        prefixes: sampled prefixes; the plain prompt comes first.
        settings: hyper-parameters.
    """
    rows = Rows.of_fact(tokenizer, fact, prefixes, model.device)
    added = Added(rows.lookups)
    handle = block.register_forward_hook(added)
    adam, original, first_hit, stopped = None, None, None, "steps"
    try:
        for step in range(settings.steps):
            log_probs = model(input_ids=rows.ids, attention_mask=rows.mask).logits.float().log_softmax(-1)
            adam = adam or torch.optim.Adam([added.delta], lr=settings.lr)
            nll, hits = rows.negative_log_likelihood(log_probs)
            subject = log_probs[-1, rows.lookups[-1]]
            original = subject.detach() if original is None else original
            kl = settings.kl_factor * (subject.exp() * (subject - original)).sum()
            loss = nll + kl + settings.weight_decay * added.delta.norm() / added.h.norm() ** 2
            first_hit = step if hits and first_hit is None else first_hit
            if loss < 0.05:
                stopped = "loss"
                break
            if settings.mpes and first_hit is not None and step >= first_hit + settings.mpes_extra_steps:
                stopped = "mpes"
                break
            if step == settings.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            added.clamp(settings.clamp)
    finally:
        handle.remove()
    return PlainTarget((added.h + added.delta).detach(), step, stopped)
