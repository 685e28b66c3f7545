"""The loss that targets minimise, its hyper-parameters, and its terms at a given δ.

A vector δ, added at the subject's last token to the block output of the last edited layer, costs a fact with its
contexts c (the plain prompt and the sampled prefixes)

    loss = mean_c [ -log p(target | c) / |target| ]
         + kl_factor · KL( p_δ ‖ p_0 )( · | "{subject} is a", at the subject's last token )
         + weight_decay · ‖δ‖ / ‖h‖²

with h the state in the plain prompt (MEMIT, arXiv 2210.07229). A step may look at some of the contexts alone, see
`context_turns`.
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
        contexts_at_once: how many contexts a step looks at until they say the answer, see `context_turns`; 0 for all.
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
    contexts_at_once: int = 0
    bfloat16: bool = False


def target_settings(settings: Settings) -> TargetSettings:
    """The settings that the optimisation of targets needs."""
    return TargetSettings(**{one.name: getattr(settings, one.name) for one in fields(TargetSettings)})


@dataclass
class Evaluation:
    """The loss of every fact and its terms.

    Attributes:
        loss, nll, kl, decay, probability: (n_facts,); means are over the contexts that were looked at.
        hit: (n_facts,) bool, whether the contexts that count for MPES were all looked at and say the answer.
        said: (n_facts,) bool, whether all contexts that were looked at say it.
        in_full: (n_facts,) bool, whether all contexts were looked at.
        subject_log_probs: (n_facts, n_vocab), after "{subject} is a" without δ.
    """

    loss: torch.Tensor
    nll: torch.Tensor
    kl: torch.Tensor
    decay: torch.Tensor
    probability: torch.Tensor
    hit: torch.Tensor
    said: torch.Tensor
    in_full: torch.Tensor
    subject_log_probs: torch.Tensor

    def table(self) -> torch.Tensor:
        """(n_facts, 7): loss, nll, kl, decay, probability, hit, in_full."""
        numbers = (self.loss.detach(), self.nll, self.kl, self.decay, self.probability)
        return torch.stack([*numbers, self.hit.float(), self.in_full.float()], dim=-1)


def evaluate(
    forward: PlainPass | FastPass,
    delta: torch.Tensor,
    original: torch.Tensor | None,
    settings: TargetSettings,
    contexts: torch.Tensor | None = None,
) -> Evaluation:
    """The loss at δ.

    Args:
        delta: (n_facts, d_model).
        original: (n_facts, n_vocab) log-probabilities after "{subject} is a" without δ; None when δ is zero.
        contexts: (n_facts, n_contexts) bool, those that are looked at, if not all; the pass gives logits in these.
    """
    rows = forward.rows
    with torch.autocast(delta.device.type, torch.bfloat16, enabled=settings.bfloat16):
        logits, subject_logits = forward.logits(delta)
    n_rows = rows.n_facts * rows.n_contexts
    token_nll = F.cross_entropy(logits.float(), rows.position_targets, reduction="none")
    zeros = torch.zeros(n_rows, device=token_nll.device)
    n_tokens = zeros.index_add(0, rows.position_rows, torch.ones_like(token_nll))
    # A row that is not run has no tokens.
    row_nll = zeros.index_add(0, rows.position_rows, token_nll) / n_tokens.clamp_min(1)
    misses = zeros.index_add(0, rows.position_rows, (logits.argmax(-1) != rows.position_targets).float())
    by_fact = (rows.n_facts, rows.n_contexts)
    in_full = torch.ones(rows.n_facts, dtype=torch.bool, device=token_nll.device)
    if contexts is not None:
        in_full, misses = contexts.all(-1), misses * contexts.flatten()

    def mean(of_rows: torch.Tensor) -> torch.Tensor:
        values = of_rows.view(by_fact)
        return values.mean(-1) if contexts is None else (values * contexts).sum(-1) / contexts.sum(-1)

    nll = mean(row_nll)
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
        probability=mean((-row_nll.detach()).exp()),
        hit=in_full & (misses.view(by_fact)[:, first_that_counts:].sum(-1) == 0),
        said=misses.view(by_fact).sum(-1) == 0,
        in_full=in_full,
        subject_log_probs=original,
    )
