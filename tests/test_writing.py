"""What a model writes: greedy as `generate` does, sampled with a seed, and the probability of every token."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal
from tiny_models import continued

from encore_core.forward.decoding import GrowingPrefix
from encore_core.measures.answers import next_tokens
from encore_core.measures.writing import MOST_TOKENS, Writing, _draft, written

PROMPT = "The capital of France is"


def test_greedy_text_and_its_probabilities(lm):
    found = written(lm, PROMPT, Writing(tokens=6))
    assert found.text == continued(lm, [PROMPT], 6)[0]
    token, probability = found.tokens[0]
    top = next_tokens(lm, [PROMPT], 1)[0][0]
    assert token == top[0] and probability == pytest.approx(top[1], rel=1e-4)
    ten = next_tokens(lm, [PROMPT], 10)[0]
    assert [word for word, _ in found.first] == [word for word, _ in ten]
    assert [value for _, value in found.first] == pytest.approx([value for _, value in ten], rel=1e-4)
    assert all(0 < probability <= 1 for _, probability in found.tokens) and len(found.tokens) <= 6


@pytest.mark.parametrize("n_right", [0, 1, 5, 8])
@pytest.mark.parametrize("n_wrong", [0, 3])
def test_a_guess_changes_nothing_but_the_number_of_passes(lm, monkeypatch, n_right, n_wrong):
    plain = written(lm, PROMPT, Writing(tokens=8))
    assert len(plain.ids) == 8
    passes = []
    run = GrowingPrefix.run
    monkeypatch.setattr(GrowingPrefix, "run", lambda *args, **kwargs: passes.append(1) or run(*args, **kwargs))
    wrong = (plain.ids[n_right] + 1, *plain.ids[:2]) if n_wrong and n_right < 8 else ()
    found = written(lm, PROMPT, Writing(tokens=8), (*plain.ids[:n_right], *wrong))
    assert found.ids == plain.ids and found.text == plain.text
    for (token, value), (same, expected) in zip(found.tokens, plain.tokens, strict=True):
        assert token == same and value == pytest.approx(expected, rel=1e-4)
    assert len(passes) <= max(1, 8 - n_right)


def test_texts_that_part_in_a_word_and_go_on_alike_take_a_pass_more(lm, monkeypatch):
    plain = written(lm, PROMPT, Writing(tokens=8))
    unused = next(token for token in range(len(plain.ids) + 1) if token not in plain.ids)
    other = (unused, *plain.ids[1:])  # "Paris" there, "Rome" here
    passes = []
    run = GrowingPrefix.run
    monkeypatch.setattr(GrowingPrefix, "run", lambda *args, **kwargs: passes.append(1) or run(*args, **kwargs))
    assert written(lm, PROMPT, Writing(tokens=8), other).ids == plain.ids
    assert len(passes) == 2


@pytest.mark.parametrize(
    ("found", "guess", "draft"),
    [
        ((), (1, 2, 3, 4), (1, 2, 3)),
        ((9,), (1, 2, 3, 4), (2, 3, 4)),  # what stands at this place
        ((9, 1), (1, 2, 3, 4, 1, 5), (2, 3, 4)),  # what follows the last token, nearest to its place
        ((1, 2, 3, 4), (1, 2, 3, 4), ()),
        ((5, 6, 7), (1,), ()),
    ],
)
def test_what_may_come_next(found, guess, draft):
    assert tuple(_draft(found, guess, 3)) == draft


def test_a_text_ends_at_a_token_that_ends_texts(llama, monkeypatch):
    plain = written(llama, PROMPT, Writing(tokens=6))
    monkeypatch.setattr("encore_core.measures.writing.end_tokens", lambda lm: {plain.ids[2]})
    end = plain.ids.index(plain.ids[2]) + 1
    for guess in ((), plain.ids, plain.ids[:1]):
        ended = written(llama, PROMPT, Writing(tokens=6), guess)
        assert ended.ids == plain.ids[:end] and not ended.is_cut and plain.is_cut


def test_probabilities_are_those_of_the_plain_pass(llama):
    found = written(llama, PROMPT, Writing(tokens=4))
    ids = llama.tokenizer(PROMPT, return_tensors="pt").input_ids
    for token, probability in found.tokens:
        logits = llama.model(ids).logits[0, -1].float().softmax(-1)
        best = int(logits.argmax())
        assert llama.tokenizer.decode([best]) == token and float(logits[best]) == pytest.approx(probability, rel=1e-4)
        ids = torch.cat([ids, torch.tensor([[best]])], dim=1)


def test_sampling_repeats_with_its_seed_and_leaves_the_generator_alone(llama):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = written(llama, PROMPT, Writing(20, temperature=2.0, seed=1))
    assert torch.equal(torch.rand(1), expected)
    assert written(llama, PROMPT, Writing(20, temperature=2.0, seed=1)) == one
    assert written(llama, PROMPT, Writing(20, temperature=2.0, seed=2)) != one
    # Almost nothing is left to sample from but the most probable token.
    assert written(llama, PROMPT, Writing(6, temperature=1.0, top_p=1e-6)).text == written(
        llama, PROMPT, Writing(6)
    ).text  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [({"tokens": 0}, "0 tokens"), ({"tokens": MOST_TOKENS + 1}, "201 tokens"), ({"temperature": -1}, "Temperature -1"),
     ({"temperature": 9}, "Temperature 9"), ({"top_p": 0}, "top_p 0"), ({"top_p": 1.5}, "top_p 1.5")],
)  # fmt: skip
def test_values_out_of_range(values, said):
    assert said in refusal(Writing, **values)


def test_a_prompt_that_leaves_no_room(llama):
    assert "leaves no room" in refusal(written, llama, PROMPT, Writing(tokens=MOST_TOKENS))
