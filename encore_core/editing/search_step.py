"""How the search for targets moves δ after an evaluation of its loss.

    adam                   Adam with learning rate lr, as published: its first step moves every coordinate by lr
    normalised_gradient    δ ← δ − η_t s g / ‖g‖
    natural_gradient       δ ← δ − η_t s F̂⁻¹g / ‖F̂⁻¹g‖,      F̂ = F / (tr F / d_model) + ε I

The last two are ours, not the paper's. g is the loss's gradient at δ; η_t = step · decay^t; s is the median of ‖h‖ over
a fact's contexts, never the plain prompt's alone: where nothing stands in front of it, a first token's state is many
times as long as others. F = E[g gᵀ] over general text (see `gradient_moments`) is what a change of the block's output
costs that text, so F̂⁻¹g is the direction that says the fact at the least cost to the rest. C0 guards the keys' side of
an update, F its values' side.
"""

from __future__ import annotations

import torch
from torch.optim.adam import adam

from encore_core.editing.fast_target_pass import FastPass
from encore_core.editing.plain_target_pass import PlainPass
from encore_core.editing.target_loss import TargetSettings


def step_of(forward: PlainPass | FastPass, settings: TargetSettings, F: torch.Tensor | None) -> Adam | Along:
    """What moves δ under these settings.

    Args:
        forward: the pass of a group of facts.
        settings: they name the search.
        F: (d_model, d_model), for `natural_gradient`.

    Raises:
        ValueError: when the search needs F and there is none.
    """
    if settings.search == "adam":
        return Adam(forward.h, settings.lr)
    if settings.search == "normalised_gradient":
        return Along(forward.scale, settings, None)
    if F is None:
        raise ValueError("The natural gradient needs F of the last edited block.")
    return Along(forward.scale, settings, inverse_metric(F, settings.search_ridge).to(forward.h))


def inverse_metric(F: torch.Tensor, ridge: float) -> torch.Tensor:
    """F̂⁻¹, (d_model, d_model) float64.

    Args:
        F: (d_model, d_model), symmetric.
        ridge: ε.
    """
    F = F.double()
    metric = F * (len(F) / F.trace())
    metric.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(metric))


class Adam:
    """Adam, element by element, so that facts do not influence each other.

    Args:
        h: (n_facts, d_model), for the shape and the device.
        lr: learning rate.
    """

    def __init__(self, h: torch.Tensor, lr: float):
        self.lr = lr
        self.first_moment, self.second_moment = torch.zeros_like(h), torch.zeros_like(h)
        # On a GPU the step counter is on it, too, where it can be increased without waiting.
        self.on_gpu = h.device.type == "cuda"
        self.n_steps = torch.zeros((), device=h.device if self.on_gpu else "cpu")

    def move(self, delta: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor) -> None:
        """Move δ in place, with tensors that stay at the same addresses.

        Args:
            delta: (n_facts, d_model).
            active: (n_active,) the facts that have a gradient. The others' rows may drift on.
            gradient: (n_active, d_model).
        """
        adam(
            [delta], [torch.zeros_like(delta).index_copy_(0, active, gradient)],
            [self.first_moment], [self.second_moment], [], [self.n_steps],
            capturable=self.on_gpu, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.lr, weight_decay=0.0,
            eps=1e-8, maximize=False,
        )  # fmt: skip


class Along:
    """A step of fixed length along the gradient, turned by F̂⁻¹ if that is given.

    Args:
        scale: (n_facts,), s.
        settings: for η and its decay.
        inverse: (d_model, d_model), F̂⁻¹.
    """

    def __init__(self, scale: torch.Tensor, settings: TargetSettings, inverse: torch.Tensor | None):
        self.length, self.decay, self.inverse = settings.search_step * scale[:, None], settings.search_decay, inverse

    def move(self, delta: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor) -> None:
        """As `Adam.move`."""
        direction = gradient if self.inverse is None else gradient @ self.inverse
        direction = direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        delta.index_add_(0, active, direction * self.length[active], alpha=-1)
        self.length.mul_(self.decay)
