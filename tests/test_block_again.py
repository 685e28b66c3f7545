"""A block run again after its matrix has changed is held to an ordinary run of it, in every family."""

from __future__ import annotations

import pytest
import tiny_families
import torch
from tiny_models import hooks_and_patches

from encore_core.forward.block_again import remembered, run_again
from encore_core.forward.prompts import encode, pad
from encore_core.forward.tracing import run
from encore_core.models.editable import EditableModel

TEXTS = ("The capital of France is Paris and it is old.", "Kenya")
LAYER = 1


@pytest.fixture(params=tiny_families.FAMILIES)
def lm(request) -> EditableModel:
    return tiny_families.made(request.param)


@torch.no_grad()
def test_a_block_run_again_is_what_an_ordinary_run_is(lm):
    batch, tidy = pad(lm, [encode(lm, text).ids for text in TEXTS]), hooks_and_patches(lm)
    entering = run(lm, batch.ids, batch.mask, stop=LAYER)

    def through(stop: int) -> torch.Tensor:
        return run(lm, batch.ids, batch.mask, start=LAYER, stop=stop, hidden=entering)

    with remembered(lm, LAYER) as known:
        first = through(LAYER + 1)
    assert known.attention is not None
    weight = lm.parameter(LAYER)
    original = weight.data
    changed = original + 0.3 * torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    weight.data = changed
    try:
        wanted, further = through(LAYER + 1), through(LAYER + 2)
        assert not torch.equal(wanted, first)
        calls = []
        hooks = [
            part.register_forward_hook(lambda module, *_: calls.append(module))
            for part in lm.parts.attentions[LAYER].children()
        ]
        try:
            for stop, full in ((LAYER + 1, wanted), (LAYER + 2, further), (LAYER + 1, wanted)):
                with run_again(lm, LAYER, known):
                    assert torch.equal(through(stop), full)
        finally:
            for hook in hooks:
                hook.remove()
        assert not calls
    finally:
        weight.data = original
    assert hooks_and_patches(lm) == tidy and torch.equal(through(LAYER + 1), first)


@torch.no_grad()
def test_the_rest_of_the_mlp_is_left_out_where_its_output_is_the_matrix_s():
    ends = {}
    for family in tiny_families.FAMILIES:
        lm = tiny_families.made(family)
        batch = pad(lm, [encode(lm, text).ids for text in TEXTS])
        with remembered(lm, LAYER) as known:
            run(lm, batch.ids, batch.mask, stop=LAYER + 1)
        ends[family] = known.ends_with_matrix
    assert {family for family, so in ends.items() if not so} <= {"OPT", "BLOOM"}


@torch.no_grad()
def test_attention_that_is_written_into_is_run_again(lm):
    batch = pad(lm, [encode(lm, text).ids for text in TEXTS])

    def written_into(module, inputs, output):
        (output[0] if isinstance(output, tuple) else output).mul_(2)

    with remembered(lm, LAYER) as known:
        # After the hook that notes what attention returned, as a block does that adds to it in place.
        handle = lm.parts.attentions[LAYER].register_forward_hook(written_into)
        try:
            run(lm, batch.ids, batch.mask, stop=LAYER + 1)
        finally:
            handle.remove()
    assert known.attention is None
