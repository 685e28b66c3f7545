"""The loss that targets minimise, its hyper-parameters, and its terms at a given δ.

A vector δ, added at the subject's last token to the block output of the last edited layer, costs a fact with its
contexts c (the plain prompt and the sampled prefixes)

    loss = mean_c [ -log p(target | c) / |target| ]
         + kl_factor · KL( p_δ ‖ p_0 )( · | "{subject} is a", at the subject's last token )
         + weight_decay · ‖δ‖ / ‖h‖²

with h the state in the plain prompt (MEMIT, arXiv 2210.07229).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from encore_core.editing.fast_target_pass import FastPass
from encore_core.editing.plain_target_pass import PlainPass
from encore_core.methods import Settings
from encore_core.setting_values import MpesContexts, Search


@dataclass(frozen=True)
class TargetSettings:
    """Hyper-parameters of the optimisation, see the module's formula.

    Attributes:
        steps: at most how many evaluations of the loss.
        lr: Adam's learning rate.
        clamp: largest ‖δ‖ / ‖h‖.
        weight_decay, kl_factor: weights of the two penalties.
        mpes: whether to stop once every target token is the most probable one in every context.
        mpes_extra_steps: steps taken after that.
        mpes_contexts: "sampled" for those with sampled prefixes alone, as the authors do, or "all" for the plain prompt
            as well. Without sampled prefixes it is the plain prompt that counts.
        search, search_step, search_decay, search_ridge: how δ is moved, see `search_step`.
        bfloat16: whether matrix products are computed in bfloat16; δ, the losses and the search stay in float32.
    """

    steps: int
    lr: float
    clamp: float
    weight_decay: float
    kl_factor: float
    mpes: bool
    mpes_extra_steps: int
    mpes_contexts: MpesContexts = "sampled"
    search: Search = "adam"
    search_step: float = 0.1
    search_decay: float = 1.0
    search_ridge: float = 0.05
    bfloat16: bool = False


def target_settings(settings: Settings) -> TargetSettings:
    """The settings that the optimisation of targets needs."""
    return TargetSettings(**{one.name: getattr(settings, one.name) for one in fields(TargetSettings)})


@dataclass
class Evaluation:
    """The loss of every fact and its terms, each (n_facts,), `hit` boolean; `subject_log_probs` (n_facts, n_vocab)."""

    loss: torch.Tensor
    nll: torch.Tensor
    kl: torch.Tensor
    decay: torch.Tensor
    probability: torch.Tensor
    hit: torch.Tensor
    subject_log_probs: torch.Tensor

    def table(self) -> torch.Tensor:
        """(n_facts, 6): loss, nll, kl, decay, probability, hit."""
        columns = (self.loss.detach(), self.nll, self.kl, self.decay, self.probability, self.hit.float())
        return torch.stack(columns, dim=-1)


def evaluate(
    forward: PlainPass | FastPass,
    delta: torch.Tensor,
    original: torch.Tensor | None,
    settings: TargetSettings,
) -> Evaluation:
    """The loss at δ.

    Args:
        delta: (n_facts, d_model).
        original: (n_facts, n_vocab) log-probabilities after "{subject} is a" without δ; None when δ is zero.
    """
    rows = forward.rows
    with torch.autocast(delta.device.type, torch.bfloat16, enabled=settings.bfloat16):
        logits, subject_logits = forward.logits(delta)
    n_rows = rows.n_facts * rows.n_contexts
    token_nll = F.cross_entropy(logits.float(), rows.position_targets, reduction="none")
    zeros = torch.zeros(n_rows, device=token_nll.device)
    n_tokens = zeros.index_add(0, rows.position_rows, torch.ones_like(token_nll))
    row_nll = zeros.index_add(0, rows.position_rows, token_nll) / n_tokens
    misses = zeros.index_add(0, rows.position_rows, (logits.argmax(-1) != rows.position_targets).float())
    by_fact = (rows.n_facts, rows.n_contexts)
    nll = row_nll.view(by_fact).mean(-1)
    # Context 0 is the plain prompt.
    first_that_counts = 1 if settings.mpes_contexts == "sampled" and rows.n_contexts > 1 else 0

    subject_log_probs = subject_logits.float().log_softmax(-1)
    original = subject_log_probs.detach() if original is None else original
    kl = settings.kl_factor * (subject_log_probs.exp() * (subject_log_probs - original)).sum(-1)
    # The norm's gradient at zero is undefined; torch returns zero there, as wanted.
    decay = settings.weight_decay * delta.norm(dim=-1) / forward.h.norm(dim=-1) ** 2
    return Evaluation(
        loss=nll + kl + decay,
        nll=nll.detach(),
        kl=kl.detach(),
        decay=decay.detach(),
        probability=(-row_nll.detach()).exp().view(by_fact).mean(-1),
        hit=misses.view(by_fact)[:, first_that_counts:].sum(-1) == 0,
        subject_log_probs=original,
    )
