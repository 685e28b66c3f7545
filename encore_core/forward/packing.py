"""Rows of unequal length as one sequence, so that no work goes into padding: the position of every token in it.

Norms, matrix products and activations treat tokens one by one, wherever a row ends, so the tokens of all rows are
concatenated (`packed_pass`); only attention has to know which of them belong together (`packed_attention`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from encore_core.forward.tracing import Prefix


@dataclass
class Packing:
    """The positions of the rows' tokens in one sequence, and what they may attend to.

    Attributes:
        mask: (n_rows, length), 1 at tokens and 0 at padding on the right.
        prefix: keys and values of the tokens before each row; None when there are none.
        places: (n_rows · length,) padded place → index of its token in the sequence; 0 at padding.
        tokens: (n_tokens,) index in the sequence → padded place.
        positions: (n_tokens,) position of each token in its text.
        recorded: by block, the rows' keys and values, while they are recorded.
    """

    mask: torch.Tensor
    prefix: Prefix | None
    places: torch.Tensor = field(init=False)
    tokens: torch.Tensor = field(init=False)
    positions: torch.Tensor = field(init=False)
    recorded: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = field(default=None, init=False, repr=False)
    _bias: dict[tuple[int | None, torch.dtype], torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _heads: dict[tuple[int, int], Heads] = field(default_factory=dict, init=False, repr=False)
    _elsewhere: dict[torch.device, Packing] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        present = self.mask.bool()
        # Padding points at token 0, which is harmless: it is masked as a key and dropped as a query.
        self.tokens = present.flatten().nonzero()[:, 0]
        self.places = torch.zeros(present.numel(), dtype=torch.long, device=self.mask.device)
        self.places[self.tokens] = torch.arange(len(self.tokens), device=self.mask.device)
        self.positions = (self.n_before + torch.arange(self.mask.shape[1], device=self.mask.device)).flatten()[
            self.tokens
        ]

    @property
    def n_before(self) -> torch.Tensor:
        """(n_rows, 1) number of tokens in the prefix, without padding."""
        if self.prefix is None:
            return torch.zeros(len(self.mask), 1, dtype=torch.long, device=self.mask.device)
        return self.prefix.mask.sum(-1, keepdim=True)

    def on(self, device: torch.device) -> Packing:
        """The same packing for a block on another device, made once."""
        if device == self.mask.device:
            return self
        if device not in self._elsewhere:
            other = self._elsewhere[device] = copy.copy(self)
            for name in ("mask", "places", "tokens", "positions"):
                setattr(other, name, getattr(self, name).to(device))
            other._bias, other._heads, other._elsewhere = {}, {}, {}
            if self.prefix is not None:
                other.prefix = copy.copy(self.prefix)  # keys and values are with their blocks already
                other.prefix.mask = self.prefix.mask.to(device)
        self._elsewhere[device].recorded = self.recorded
        return self._elsewhere[device]

    def at(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Indices in the sequence of tokens given by row and column."""
        return self.places[rows * self.mask.shape[1] + columns]

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_rows, length, …) → (n_tokens, …)."""
        return padded.flatten(0, 1)[self.tokens]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(n_tokens, …) → (n_rows, length, …), with arbitrary values at padding."""
        return packed[self.places].unflatten(0, self.mask.shape)

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """The bias of attention scores: 0 where a token may look, else the lowest number.

        Args:
            window: how many tokens a token sees, counting back from itself; None for all.
            dtype: of the scores.

        Returns:
            (n_rows, 1, length, n_prefix + length).
        """
        if (window, dtype) not in self._bias:
            n_rows, length = self.mask.shape
            column = torch.arange(length, device=self.mask.device)
            query = self.n_before + column
            own = (column[:, None] >= column) & self.mask.bool()[:, None, :]
            allowed, key = [own], [query]
            if self.prefix is not None:
                before = self.prefix.mask.bool()[:, None, :]
                allowed.insert(0, before.expand(n_rows, length, -1))
                key.insert(0, self.prefix.mask.cumsum(-1) - 1)
            seen = torch.cat(allowed, -1)
            if window is not None:
                seen = seen & (query[:, :, None] - torch.cat(key, -1)[:, None, :] < window)
            bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._bias[window, dtype] = bias.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
        return self._bias[window, dtype]

    def heads(self, n_heads: int, n_key_heads: int) -> Heads:
        """The indices of the heads of this packing's tokens, made once."""
        if (n_heads, n_key_heads) not in self._heads:
            self._heads[n_heads, n_key_heads] = Heads.of(self, n_heads, n_key_heads)
        return self._heads[n_heads, n_key_heads]


@dataclass(frozen=True)
class Heads:
    """Indices between two layouts of tokens' heads: packed, (n_tokens · n_heads,), and side by side.

    Side by side, the heads that share a key are adjacent, (n_rows, n_key_heads, n_heads / n_key_heads, length), so that
    one product serves all of them. Padding is given token 0: the bias hides it as a key, and nobody reads its query.

    Attributes:
        queries, keys: for every side-by-side place, the packed head there.
        queries_packed, keys_packed: for every packed head, its side-by-side place.
        n_batches: n_rows · n_key_heads.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    queries_packed: torch.Tensor
    keys_packed: torch.Tensor
    n_batches: int

    @classmethod
    def of(cls, packing: Packing, n_heads: int, n_key_heads: int) -> Heads:
        n_rows, length = packing.mask.shape
        head, key_head = (torch.arange(n, device=packing.mask.device) for n in (n_heads, n_key_heads))
        places = packing.places.view(n_rows, 1, length)
        row, column = (packing.tokens // length)[:, None], (packing.tokens % length)[:, None]
        return cls(
            queries=(places * n_heads + head[:, None]).flatten(),
            keys=(places * n_key_heads + key_head[:, None]).flatten(),
            queries_packed=((row * n_heads + head) * length + column).flatten(),
            keys_packed=((row * n_key_heads + key_head) * length + column).flatten(),
            n_batches=n_rows * n_key_heads,
        )
