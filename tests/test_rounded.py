"""Matrices held in bfloat16 for a while."""

from __future__ import annotations

import pytest
import torch

from encore_core.forward.bfloat16 import matrices_in_bfloat16
from encore_core.forward.tracing import run


def test_matrices_from_a_block_on_are_held_and_given_back(lm):
    """Also when what is done with them fails; what is not a matrix, and the embedding that may be tied, stays."""
    before = dict(lm.model.named_parameters(remove_duplicate=False))
    blocks = {name for name, parameter in before.items() for block in lm.blocks[2:] if _within(parameter, block)}
    with pytest.raises(ZeroDivisionError), matrices_in_bfloat16(lm, 2):
        held = dict(lm.model.named_parameters(remove_duplicate=False))
        rounded = {name for name, parameter in held.items() if parameter.dtype == torch.bfloat16}
        assert rounded == {name for name in blocks if before[name].dim() == 2} | {"lm_head.weight"}
        assert all(torch.equal(held[name], before[name].bfloat16()) for name in rounded)
        raise ZeroDivisionError
    after = dict(lm.model.named_parameters(remove_duplicate=False))
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def _within(parameter: torch.nn.Parameter, block: torch.nn.Module) -> bool:
    return any(parameter is own for own in block.parameters())


@torch.no_grad()
def test_a_pass_is_the_same_as_under_autocast_alone(lm):
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.long)
    hidden = run(lm, ids, mask, stop=2)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = run(lm, ids, mask, start=2, hidden=hidden)
        with matrices_in_bfloat16(lm, 2):
            found = run(lm, ids, mask, start=2, hidden=hidden)
    assert torch.equal(found, wanted)
