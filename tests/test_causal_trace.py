"""Causal traces against a plain one: a pass for every row, with hooks of its own."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal
from tiny_models import CITIES, hooks_and_patches

from encore_core.facts import Fact
from encore_core.measures.causal_trace import NOISE, Trace, causal_trace, layer_candidates, located


@torch.no_grad()
def plain_trace(lm, fact: Fact, seed: int) -> list[float]:
    """p clean, p noisy, p with each block put back: one unbatched pass each, positions from the tokenizer's offsets."""
    encoded = lm.tokenizer(fact.text, return_offsets_mapping=True)
    start, end = fact.subject_span
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > start and a < end and b > a]
    ids = torch.tensor([encoded["input_ids"]])
    scale = NOISE * float(lm.model.get_input_embeddings().weight.std())
    noise = scale * torch.randn(len(inside), lm.d_model, generator=torch.Generator().manual_seed(seed))
    seen = {}

    def ask(noisy: bool, restored: int | None) -> torch.Tensor:
        handles = []
        if noisy:

            def shake(module, inputs, output):
                output = output.clone()
                output[0, inside] += noise
                return output

            handles.append(lm.model.get_input_embeddings().register_forward_hook(shake))
        for layer, block in enumerate(lm.blocks):

            def hook(module, inputs, output, layer=layer):
                states = output[0] if isinstance(output, tuple) else output
                if not noisy:
                    seen[layer] = states[0, inside[-1]].clone()
                elif layer == restored:
                    states[0, inside[-1]] = seen[layer]

            handles.append(block.register_forward_hook(hook))
        try:
            return lm.model(input_ids=ids).logits[0, -1].softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    clean = ask(False, None)
    answer = int(clean.argmax())
    rows = [clean, ask(True, None), *(ask(True, layer) for layer in range(lm.n_layers))]
    return [float(row[answer]) for row in rows]


FIRST = Fact("New Zealand", "{} is a country whose capital is", "Rome")
"""Its subject begins the text, so that noise must spare a BOS in front of it."""


BYTES = Fact("東京", "The city of {} is in", "Rome")
"""Each of its subject's characters is several tokens, of one span, to a tokenizer of bytes."""


@pytest.mark.parametrize("fact", (*CITIES, FIRST, BYTES), ids=lambda fact: fact.text[:20])
def test_it_is_the_plain_trace(lm, fact):
    before = hooks_and_patches(lm)
    found = causal_trace(lm, [fact], draws=1, seed=3)
    clean, noisy, *restored = plain_trace(lm, fact, 3)
    assert (found.clean, found.noisy) == pytest.approx((clean, noisy), abs=1e-5)
    assert found.effects == pytest.approx([value - noisy for value in restored], abs=1e-5)
    assert hooks_and_patches(lm) == before


def test_all_bytes_of_the_first_character_are_the_subjects(gpt2):
    where = located(gpt2, BYTES)
    offsets = gpt2.tokenizer(BYTES.text, return_offsets_mapping=True)["offset_mapping"]
    start, end = BYTES.subject_span
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < end]
    assert (where.first, where.last) == (inside[0], inside[-1])
    assert offsets[where.first + 1][1] == offsets[where.first][1], "one character must be several tokens"


def test_a_subject_at_the_end_is_restored_whole_by_the_last_block(gpt2):
    fact = Fact("France", "I live in {}", "Rome")
    found = causal_trace(gpt2, [fact], draws=2)
    assert found.effects[-1] == pytest.approx(found.clean - found.noisy, abs=1e-6)
    assert found.draws == 2 and found.facts == 1


def test_it_is_seeded_and_averaged(gpt2):
    one, two = (causal_trace(gpt2, [fact], draws=1, seed=0) for fact in CITIES[:2])
    assert one == causal_trace(gpt2, [CITIES[0]], draws=1, seed=0) != causal_trace(gpt2, [CITIES[0]], draws=1, seed=1)
    both = causal_trace(gpt2, CITIES[:2], draws=1, seed=0)
    assert both.clean == pytest.approx((one.clean + two.clean) / 2, abs=1e-6)
    assert "nothing to trace" in refusal(causal_trace, gpt2, [])


def test_candidates():
    trace = Trace((0.1, 0.4, 0.5, 0.3, 0.26, 0.1, 0.0, 0.9), 1, 0, 1, 1)
    assert layer_candidates(trace, 8, 3) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]  # the last block is not edited
    assert layer_candidates(Trace((0.0, -0.1, 0.0), 1, 0, 1, 1), 3, 2) == []
    assert layer_candidates(Trace((0.9, 0.1, 0.0), 1, 0, 1, 1), 3, 5) == [(0,)]
