"""The attention of packed rows: its values against a plain loop over rows, its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch

from encore_core.forward.packed_attention import attend
from encore_core.forward.packing import Packing
from encore_core.forward.tracing import Prefix

N_HEADS, N_KEY_HEADS, D_HEAD = 4, 2, 3
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
BEFORE = torch.tensor([[1, 1], [1, 0], [0, 0]])
OPTIONS = {
    "plain": {"scaling": 0.7, "window": None, "softcap": None},
    "window": {"scaling": 0.7, "window": 2, "softcap": None},
    "soft-capped": {"scaling": 2.0, "window": None, "softcap": 0.9},
}


def operands(dtype: torch.dtype) -> tuple[list[torch.Tensor], Prefix]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    states = [drawn(int(MASK.sum()), heads, D_HEAD) for heads in (N_HEADS, N_KEY_HEADS, N_KEY_HEADS)]
    prefix = Prefix(1, BEFORE)
    prefix.layers[0].take(*(drawn(len(MASK), N_KEY_HEADS, BEFORE.shape[1], D_HEAD) for _ in range(2)))
    return states, prefix


def row_by_row(states: list[torch.Tensor], prefix: Prefix | None, scaling, window, softcap) -> torch.Tensor:
    """Token by token, head by head."""
    query, key, value = states
    found = torch.zeros_like(query)
    sharing = N_HEADS // N_KEY_HEADS
    first = 0
    for row, length in enumerate(MASK.sum(-1).tolist()):
        for head in range(N_HEADS):
            keys, values = (own[first : first + length, head // sharing] for own in (key, value))
            if prefix is not None:
                layer, real = prefix.layers[0], BEFORE[row].bool()
                keys = torch.cat([layer.keys[row, head // sharing][real], keys])
                values = torch.cat([layer.values[row, head // sharing][real], values])
            for number in range(length):
                end = len(keys) - length + number + 1
                start = 0 if window is None else max(0, end - window)
                scores = keys[start:end] @ query[first + number, head] * scaling
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                found[first + number, head] = scores.softmax(-1) @ values[start:end]
        first += length
    return found


@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind a prefix"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients(options, behind):
    states, prefix = operands(torch.float64)
    prefix = prefix if behind else None
    packing = Packing(MASK, prefix)

    def attention(*states: torch.Tensor) -> torch.Tensor:
        return attend(*states, packing, prefix.layers[0] if behind else None, **options)

    torch.testing.assert_close(attention(*states), row_by_row(states, prefix, **options))
    assert torch.autograd.gradcheck(attention, [each.requires_grad_() for each in states])


def test_a_packing_serves_more_than_one_dtype():
    packing = Packing(MASK, None)
    for dtype in (torch.float32, torch.float64):
        states, _ = operands(dtype)
        assert attend(*states, packing, None, **OPTIONS["plain"]).dtype == dtype


def test_under_autocast_a_processor_does_not_round():
    states, prefix = operands(torch.float32)
    packing = Packing(MASK, prefix)
    wanted = attend(*states, packing, prefix.layers[0], **OPTIONS["plain"])
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*states, packing, prefix.layers[0], **OPTIONS["plain"])
        rounded = attend(states[0].bfloat16(), *states[1:], packing, prefix.layers[0], **OPTIONS["plain"])
    assert torch.equal(found, wanted)
    torch.testing.assert_close(rounded, wanted, rtol=0.05, atol=0.05)
    assert rounded.dtype == torch.float32
