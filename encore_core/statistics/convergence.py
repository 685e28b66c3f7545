"""When are key statistics enough? When more text no longer reduces the effect of edits on text that is not in them.

C0 represents what an edit must leave alone, and affects it only through P = (λp C0 + λn I)⁻¹: with keys K of a batch,

    Δ = R A,    A = (I + Kᵀ P K)⁻¹ Kᵀ P          (n_facts, d_mlp)

so ‖A k‖ says how far a batch of residuals of length 1 moves the output for a key k of text. For keys of text that is
*not* in C0,

    disturbance = ( mean over held-out k of ‖A k‖² )^½

With few tokens, C0 misses directions that text uses, edits are free to go there, and the disturbance is large. With n
independent tokens it exceeds the unavoidable part by about c d_mlp / n, where c is between 1/2 (edits that are met
exactly) and 3/2 (edits that hardly move anything). The update itself keeps changing far longer, by (d_mlp / n)^½, in
directions that text does not use; so the difference between two updates says little about how good they are. Statistics
are enough when doubling the tokens has changed the disturbance by less than a tolerance at every layer; still more text
could then change it by about as much again. 10 % is reached between 5 and 15 × d_mlp independent tokens. The tokens of
a text are not independent: on the embedded model a doubling changes 36, 17 and 11 % on the way to 4, 8 and 16 × d_mlp.
The keys K are those of bundled facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

FIRST_STAGE = 2
"""The first look, in multiples of d_mlp tokens. With fewer tokens than d_mlp the inverse does not exist."""

TOLERANCE = 0.1
DOUBLED = 1.8
"""Factor that counts as a doubling; whole windows are used, so the tokens double only approximately."""


@dataclass(frozen=True)
class Look:
    """The disturbance measured at one number of tokens.

    Attributes:
        tokens: in C0 so far.
        disturbance: by layer; infinite where λp C0 + λn I has no inverse yet.
    """

    tokens: int
    disturbance: Mapping[int, float]

    def change(self, before: Look | None) -> float | None:
        """Largest relative change of any layer since an earlier look; None without one, infinite without an inverse."""
        if before is None:
            return None
        pairs = [(before.disturbance[layer], now) for layer, now in self.disturbance.items()]
        if any(now == math.inf for pair in pairs for now in pair):
            return math.inf
        return max(abs(then - now) / max(now, 1e-300) for then, now in pairs)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values; infinity becomes None."""
        finite = {str(layer): value if value < math.inf else None for layer, value in self.disturbance.items()}
        return {"tokens": self.tokens, "disturbance": finite}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Look:
        """The look that `as_dict` was called on."""
        found = values["disturbance"].items()
        return cls(values["tokens"], {int(layer): math.inf if value is None else value for layer, value in found})


def disturbance(
    C0: torch.Tensor, K: torch.Tensor, held_out: torch.Tensor, lambda_p: float, lambda_n: float = 0.0
) -> float:
    """How much an update for some keys disturbs text that is not in C0, see the module.

    Args:
        C0: (d_mlp, d_mlp).
        K: (d_mlp, n_facts), keys of the update.
        held_out: (d_mlp, n_tokens), keys of text.
        lambda_p, lambda_n: weights of C0 and of the identity.

    Returns:
        the root mean square of ‖A k‖, computed in float64; infinite if there is no inverse.
    """
    C0, K, held_out = (tensor.to(torch.float64) for tensor in (C0, K, held_out))
    preserved = lambda_p * C0
    preserved.diagonal().add_(lambda_n)
    L, failed = torch.linalg.cholesky_ex(preserved)
    if int(failed):
        return math.inf
    PK = torch.cholesky_solve(K, L)
    A = torch.linalg.solve(torch.eye(K.shape[1], dtype=K.dtype, device=K.device) + K.T @ PK, PK.T)
    return float((A @ held_out).square().sum(0).mean().sqrt())


def stages(d_mlp: int, total: int) -> list[int]:
    """Numbers of tokens at which to look: 2, 4, 8, … times d_mlp, and the total."""
    found, at = [], FIRST_STAGE * d_mlp
    while at < total:
        found.append(at)
        at *= 2
    return [*found, total]


def settled(looks: Sequence[Look], tolerance: float = TOLERANCE) -> bool:
    """Whether the last doubling has changed less than the tolerance. The last look of a text may be no doubling."""
    if len(looks) < 2 or looks[-1].tokens < DOUBLED * looks[-2].tokens:
        return False
    return looks[-1].change(looks[-2]) < tolerance
