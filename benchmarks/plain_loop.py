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
    ids, mask = ids.to(model.device), mask.to(model.device)
    n_target = sum(1 for a, b in encoded[0]["offset_mapping"] if b > len(fact.text) and b > a)
    targets = ids[0, lengths[0] - n_target : lengths[0]]

    delta: torch.Tensor | None = None
    h: torch.Tensor | None = None

    def hook(module, inputs, output):
        nonlocal delta, h
        hidden = output[0] if isinstance(output, tuple) else output
        if h is None:
            h = hidden[0, lookups[0]].detach().clone()
            delta = torch.zeros_like(h).requires_grad_()
        hidden = hidden.clone()
        for row, position in enumerate(lookups.tolist()):
            hidden[row, position] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(hook)
    adam, original, first_hit, stopped = None, None, None, "steps"
    try:
        for step in range(settings.steps):
            log_probs = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
            adam = adam or torch.optim.Adam([delta], lr=settings.lr)
            nll, hits = 0.0, True
            for row in range(len(leads)):
                predicting = log_probs[row, lengths[row] - n_target - 1 : lengths[row] - 1]
                nll = nll - predicting.gather(1, targets[:, None]).mean() / len(leads)
                hits &= bool((predicting.argmax(-1) == targets).all())
            subject = log_probs[-1, lookups[-1]]
            original = subject.detach() if original is None else original
            kl = settings.kl_factor * (subject.exp() * (subject - original)).sum()
            loss = nll + kl + settings.weight_decay * delta.norm() / h.norm() ** 2
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
            with torch.no_grad():
                limit = settings.clamp * h.norm()
                if delta.norm() > limit:
                    delta.mul_(limit / delta.norm())
    finally:
        handle.remove()
    return PlainTarget((h + delta).detach(), step, stopped)
