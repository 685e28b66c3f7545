"""The logit lens and answers token by token, in every family, against plain passes with hooks of the test's own."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_families
import torch
from refusals import refusal
from test_sublayers import streams
from tiny_models import hooks_and_patches

from encore_core.facts.joining import joined
from encore_core.measures import logit_lens as module
from encore_core.measures.answer_tokens import answer_tokens
from encore_core.measures.answers import answer_probabilities, next_tokens
from encore_core.measures.logit_lens import logit_lens

PROMPT = "I know that the capital of New Zealand is"
ANSWERS = ("Rome", "Xylophonic and old")


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def of_family(request):
    return tiny_families.made(request.param)


def prompt_ids(lm, prompt=PROMPT):
    front = [] if lm.start_token is None else [lm.start_token]
    return [*front, *lm.tokenizer(prompt)["input_ids"]]


@torch.no_grad()
def own_probabilities(lm, ids) -> np.ndarray:
    """(n_tokens, n_vocab), by one plain pass of transformers."""
    return lm.model(torch.tensor([list(ids)])).logits[0].float().softmax(-1).double().numpy()


def held_to_the_model(lm) -> None:
    tidy = hooks_and_patches(lm)
    lens = logit_lens(lm, PROMPT, ANSWERS)
    ids = prompt_ids(lm)
    p = own_probabilities(lm, ids)
    assert lens.probabilities.shape == (2, lm.n_layers + 1, len(ids)) and lens.left_out == 0
    for number, answer in enumerate(ANSWERS):
        first = prompt_ids(lm, joined(PROMPT, answer))[len(ids)]
        assert lens.answer_ids[number] == first
        np.testing.assert_allclose(lens.probabilities[number, -1], p[:, first], atol=1e-5)
    np.testing.assert_allclose(lens.top_probabilities[-1], p.max(-1), atol=1e-5)
    assert lens.top_words[-1][-1] == next_tokens(lm, [PROMPT], 1)[0][0][0]
    assert hooks_and_patches(lm) == tidy


def test_the_last_layer_is_the_model(of_family):
    held_to_the_model(of_family)


def test_the_last_layer_is_the_model_with_a_start_token(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "start_token", gpt2.tokenizer.eos_token_id)
    held_to_the_model(gpt2)
    assert logit_lens(gpt2, PROMPT).tokens[0] == "<|end|>"


def test_between_the_layers(of_family):
    """Each layer is what a model says whose later blocks do nothing."""
    lm = of_family
    lens, ids = logit_lens(lm, PROMPT, ANSWERS), prompt_ids(lm)
    states = streams(lm, ids)
    for layer in (0, 2):
        kept = states[layer][None]
        hook = lm.blocks[-1].register_forward_hook(
            lambda _, args, out, kept=kept: (kept, *out[1:]) if isinstance(out, tuple) else kept
        )
        try:
            p = own_probabilities(lm, ids)
        finally:
            hook.remove()
        np.testing.assert_allclose(lens.probabilities[:, layer], p[:, lens.answer_ids].T, atol=1e-5)
        assert lens.top_ids[layer].tolist() == p.argmax(-1).tolist()
        assert (lens.leads(0)[layer] == (p.argmax(-1) == lens.answer_ids[0])).all()


def test_layers_are_read_in_groups(llama, monkeypatch):
    whole = logit_lens(llama, PROMPT, ANSWERS)
    monkeypatch.setattr(module, "MAX_LOGITS", 3 * 2 * llama.n_vocab)
    parts = logit_lens(llama, PROMPT, ANSWERS, most_tokens=3)
    assert parts.left_out == len(whole.tokens) - 3 and parts.tokens == whole.tokens[-3:]
    np.testing.assert_allclose(parts.probabilities, whole.probabilities[..., -3:], atol=1e-6)
    assert (parts.top_ids == whole.top_ids[:, -3:]).all()
    assert parts.top_words == tuple(row[-3:] for row in whole.top_words)


def test_an_edit_shows_at_the_layers_it_reaches(llama, new_session):
    from tiny_models import CITIES

    session = new_session(llama)
    session.edit(CITIES[:1])
    fact = CITIES[0]
    before = logit_lens(llama, fact.text, [fact.target_new])
    with session.edited():
        after = logit_lens(llama, fact.text, [fact.target_new])
    first = session.settings.layers[0]
    change = np.abs(after.probabilities - before.probabilities)[0]
    assert change[: first + 1].max() == 0 < change[first + 1].max()
    assert after.probabilities[0, -1, -1] > before.probabilities[0, -1, -1]


def test_every_token_of_an_answer(of_family):
    lm = of_family
    found = answer_tokens(lm, PROMPT, ANSWERS)
    whole = answer_probabilities(lm, [(PROMPT, answer) for answer in ANSWERS])
    for answer, tokens, rated in zip(ANSWERS, found, whole, strict=True):
        n_prompt, ids = len(prompt_ids(lm)), prompt_ids(lm, joined(PROMPT, answer))
        p = own_probabilities(lm, ids)
        assert len(tokens) == len(ids) - n_prompt
        for place, token in enumerate(tokens):
            row, own = p[n_prompt + place - 1], ids[n_prompt + place]
            assert token.probability == pytest.approx(row[own], abs=1e-5)
            assert token.rank == 1 + (row > row[own]).sum()
            assert token.text == lm.tokenizer.decode([own])
            other = max((i for i in range(len(row)) if i != own), key=row.__getitem__)
            assert token.instead_probability == pytest.approx(row[other], abs=1e-5)
            assert token.instead == lm.tokenizer.decode([other])
        assert np.mean(np.log([token.probability for token in tokens])) == pytest.approx(
            rated.log_probability, abs=1e-4
        )
        assert tuple(token.rank == 1 for token in tokens) == rated.hits


def test_bad_input(gpt2):
    long = "word " * 200
    assert "at most 96" in refusal(logit_lens, gpt2, long, ["Rome"])
    assert "at most 96" in refusal(answer_tokens, gpt2, long, ["Rome"])
    assert "is blank" in refusal(logit_lens, gpt2, PROMPT, ["Rome", " "])
    assert "is blank" in refusal(answer_tokens, gpt2, PROMPT, [""])
    assert "no token" in refusal(logit_lens, gpt2, "", ["Rome"])
    assert "at least one token" in refusal(logit_lens, gpt2, PROMPT, most_tokens=0)
    assert answer_tokens(gpt2, PROMPT, []) == []


def test_more_than_one_stream_is_refused(llama):
    handle = llama.blocks[0].register_forward_pre_hook(lambda _, args: (args[0][None], *args[1:]))
    try:
        assert "more than one residual stream" in refusal(logit_lens, llama, PROMPT)
    finally:
        handle.remove()
