"""A session's state: what another session on the same model needs to continue with exactly the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from encore_core.editing.edited_matrices import EditedMatrices, Sums, exact_dtype
from encore_core.editing.session_contents import Contents
from encore_core.editing.shared_by_sessions import solve_device
from encore_core.editing.what_is_kept import restored
from encore_core.errors import InputError, quoted
from encore_core.methods import MARKS, USUAL, Settings
from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class SessionState:
    """What a session needs to continue elsewhere with exactly the same bits; see `EditSession.state`.

    Attributes:
        tensors: contiguous tensors on the session's devices, by name: the edited matrices as the family stores them,
            F if the search uses it, and per layer the start of P and the thin factors not folded into it, because sums
            in another order give other bits. Nobody writes to them.
        values: everything else, as plain JSON values.
    """

    tensors: dict[str, torch.Tensor] = field(repr=False)
    values: dict[str, Any]


def identity_of(lm: EditableModel, settings: Settings, seed: int) -> dict[str, Any]:
    """The values that a state must share with a session to be restored in it."""
    values = asdict(settings) | {"layers": list(settings.layers)}
    values = {name: value for name, value in values.items() if name not in MARKS}
    return {
        "fingerprint": lm.fingerprint,
        "start_token": lm.start_text,
        "dtype": str(lm.dtype),
        "seed": seed,
        **values,
    }


def state_of(
    contents: Contents, exact: dict[int, torch.Tensor], prefixes: Sequence[str], identity: dict[str, Any]
) -> SessionState:
    """The state of a session.

    Args:
        contents: of the session; its history is left out.
        exact: the edited matrices, see `Sums`.
        prefixes: sampled prefixes.
        identity: from `identity_of`.
    """
    tensors: dict[str, torch.Tensor] = {}
    strides: dict[str, list[int]] = {}

    def put(name: str, tensor: torch.Tensor) -> None:
        # BLAS sums in another order for another memory layout, so the strides are part of the state.
        tensors[name], strides[name] = tensor.contiguous(), list(tensor.stride())

    for layer, matrix in exact.items():
        put(f"matrix.{layer}", matrix)
    for layer, preservation in contents.preservation.items():
        for name, piece in preservation.pieces():
            put(f"P.{layer}.{name}", piece)
    if contents.F is not None:
        put("F", contents.F)
    values = identity | {
        "prefixes": list(prefixes),
        "n_edits": contents.n_edits,
        "edited_keys": sorted(map(list, contents.edited_keys)),
        "matrices": sorted(exact),
        "preserved": {str(layer): P.numbers() for layer, P in contents.preservation.items()},
        "strides": strides,
        **({} if contents.anchor is None else {"anchor": contents.anchor}),
    }
    return SessionState(tensors, values)


def check_identity(state: SessionState, identity: dict[str, Any]) -> None:
    """Refuse a state whose identity differs from this session's.

    Raises:
        InputError: naming the first difference.
    """
    # A state of an earlier version lacks settings that were added since; it was made with what is usual.
    for name, mine in identity.items():
        saved = state.values.get(name, USUAL.get(name))
        if saved != mine:
            raise InputError(
                f"The saved state has {name} {quoted(saved)} and this session {quoted(mine)}; "
                "restore it with the model and settings that it was made with."
            )


def _preserved(values: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """By layer, what a state says of P beside its tensors; states of earlier versions say it otherwise."""
    if "preserved" in values:
        return values["preserved"]
    released = values.get("released", {})
    return {layer: {"recent": n, "released": released.get(layer, 0)} for layer, n in values["recent"].items()}


def contents_of(state: SessionState, lm: EditableModel) -> Contents:
    """The contents of a session that continues from a state, as copies.

    Raises:
        InputError: when the state is incomplete.
    """

    def take(name: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        if name not in state.tensors:
            raise InputError(f"The saved state is incomplete: {name} is missing.")
        # A copy with torch's usual alignment, because alignment, too, decides in which order BLAS sums.
        shape, strides = state.tensors[name].shape, state.values["strides"][name]
        return torch.empty_strided(shape, strides, dtype=dtype, device=device).copy_(state.tensors[name])

    device = solve_device(lm)
    matrices = {
        layer: take(f"matrix.{layer}", lm.parameter(layer).device, exact_dtype(lm))
        for layer in state.values["matrices"]
    }
    preservation = {
        int(layer): restored(
            state.values, numbers, lambda name, dtype, layer=layer: take(f"P.{layer}.{name}", device, dtype)
        )
        for layer, numbers in _preserved(state.values).items()
    }
    return Contents(
        EditedMatrices(lm, False, Sums.of(lm, matrices)),
        preservation,
        (),
        state.values["n_edits"],
        frozenset((subject, prompt) for subject, prompt in state.values["edited_keys"]),
        state.values.get("anchor"),
        take("F", torch.device("cpu"), torch.float32) if "F" in state.tensors else None,
    )
