"""A request for statistics, and the layers and tokens that it means on a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from encore_core.editing.covariance import BUNDLED
from encore_core.errors import InputError, quoted
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

USUAL, MOST = 10, 40
"""Tokens in multiples of d_mlp: by default, and at most when gathering is to stop by itself."""


@dataclass(frozen=True)
class Request:
    """What to gather.

    Attributes:
        model: catalogue name, folder or hub id.
        source: see `texts`.
        layers: blocks; None for those that ENCORE edits on this model.
        tokens: how many tokens of text; None for ten times d_mlp or what the model's settings say, whichever is more.
        enough: stop when more tokens would change little (see `convergence`); `tokens` is then the limit.
        device, dtype, start_token: as for `editable.load_model`.
    """

    model: str
    source: str = BUNDLED
    layers: tuple[int, ...] | None = None
    tokens: int | None = None
    enough: bool = False
    device: str | None = None
    dtype: str | None = None
    start_token: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Request:
        """The request that `to_json` gave."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        return cls(**values | {"layers": tuple(values["layers"]) if values.get("layers") else None})


def layers_of(lm: EditableModel, request: Request) -> tuple[int, ...]:
    """The blocks of a request.

    Raises:
        InputError: for one that the model does not have.
    """
    if request.layers is None:
        return settings_of(lm, "ENCORE").layers
    return checked_layers(lm, request.layers)


def checked_layers(lm: EditableModel, layers: Iterable[int]) -> tuple[int, ...]:
    """Blocks in order, each once.

    Raises:
        InputError: for one that the model does not have.
    """
    found = tuple(sorted(set(layers)))
    for layer in found:
        if not 0 <= layer < lm.n_layers:
            raise InputError(f"Layer {layer} is not between 0 and {lm.n_layers - 1}, the last of {quoted(lm.name)}.")
    return found


def tokens_of_request(lm: EditableModel, request: Request) -> int:
    """At most how many tokens to gather.

    Raises:
        InputError: when they are fewer than d_mlp.
    """
    usual = max(USUAL * lm.d_mlp, settings_of(lm, "ENCORE").statistics_tokens)
    n_tokens = request.tokens or (max(MOST * lm.d_mlp, usual) if request.enough else usual)
    if n_tokens < lm.d_mlp:
        raise InputError(
            f"{n_tokens} tokens say too little about the {lm.d_mlp} directions of this model's keys; "
            f"give at least {2 * lm.d_mlp}."
        )
    return n_tokens
