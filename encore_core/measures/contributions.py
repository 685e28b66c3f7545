"""Which sublayers write the residual stream: the share of each sublayer's output in it.

The output of the last block is a sum, h_L = Σ_s o_s, over the sublayers s: the input embedding, and each block's
attention and MLP. There are two ways of dividing it, both computed per token and then averaged over tokens:

    share_s        = ‖o_s‖ / Σ_t ‖o_t‖          the paper's "average norm proportion"; positive, sums to 1
    signed_share_s = ⟨o_s, h_L⟩ / ‖h_L‖²        counts only the part in the direction of the sum; sums to 1 as well

The paper finds that sequential edits make the edited layers' share grow until they outvote the others ("importance
hacking").
Tensors in, numbers out; `sublayers` reads the outputs from a model.

    n_sublayers   2 n_layers + 1, in the order input, attention 0, MLP 0, attention 1, …
    n_tokens      tokens of all texts, which are averaged over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["input", "attention", "MLP"]


@dataclass(frozen=True)
class Contribution:
    """What one sublayer contributes.

    Attributes:
        label: "input", "attention 3", "MLP 3".
        layer: the block; None for the input embedding.
        kind: "input", "attention" or "MLP".
        share: from 0 to 1.
        signed_share: negative if the sublayer mostly subtracts from the stream.
    """

    label: str
    layer: int | None
    kind: Kind
    share: float
    signed_share: float


@dataclass(frozen=True)
class Contributions:
    """What all sublayers contribute.

    Attributes:
        parts: one per sublayer, from the bottom of the model to its top.
        n_tokens: how many tokens are averaged over.
        missing: mean over tokens of ‖h_L − Σ_s o_s‖ / ‖h_L‖; only rounding if the outputs are what the model adds.
    """

    parts: tuple[Contribution, ...]
    n_tokens: int
    missing: float


@dataclass(frozen=True)
class TokenShares:
    """The contributions before averaging, all on the CPU.

    Attributes:
        shares, signed_shares: (n_sublayers, n_tokens).
        missing: (n_tokens,).
    """

    shares: torch.Tensor
    signed_shares: torch.Tensor
    missing: torch.Tensor


def token_shares(outputs: torch.Tensor | Sequence[torch.Tensor], h_L: torch.Tensor) -> TokenShares:
    """Divide the stream among the sublayers, token by token, in float64 where the device has it.

    Args:
        outputs: (n_sublayers, n_tokens, d_model), or a sequence of (n_tokens, d_model): what each adds to the stream.
        h_L: (n_tokens, d_model), the stream after the last block, before the final norm.
    """
    precise = torch.float32 if h_L.device.type == "mps" else torch.float64
    h_L = h_L.to(precise)
    norms, products, rest = [], [], h_L.clone()
    for output in outputs:  # one at a time: the outputs together are the largest thing in memory
        o = output.to(precise)
        norms.append(o.norm(dim=-1))
        products.append((o * h_L).sum(-1))
        rest -= o
    norms, products, squared = torch.stack(norms), torch.stack(products), h_L.square().sum(-1)
    return TokenShares(
        shares=(norms / norms.sum(0)).cpu(),
        signed_shares=(products / squared).cpu(),
        missing=(rest.norm(dim=-1) / squared.sqrt()).cpu(),
    )


def averaged(batches: Sequence[TokenShares]) -> Contributions:
    """The mean over the tokens of all batches, with names.

    Args:
        batches: shares of the same 2 n_layers + 1 sublayers on different tokens; at least one token in all.
    """
    shares = torch.cat([batch.shares for batch in batches], dim=1).mean(1).tolist()
    signed = torch.cat([batch.signed_shares for batch in batches], dim=1).mean(1).tolist()
    missing = torch.cat([batch.missing for batch in batches])
    names = sublayer_names((len(shares) - 1) // 2)
    return Contributions(
        parts=tuple(Contribution(*row) for row in zip(*zip(*names, strict=True), shares, signed, strict=True)),
        n_tokens=len(missing),
        missing=float(missing.mean()),
    )


def sublayer_names(n_layers: int) -> list[tuple[str, int | None, Kind]]:
    """Label, block and kind of every sublayer, in order."""
    names: list[tuple[str, int | None, Kind]] = [("input", None, "input")]
    for layer in range(n_layers):
        names += [(f"attention {layer}", layer, "attention"), (f"MLP {layer}", layer, "MLP")]
    return names
