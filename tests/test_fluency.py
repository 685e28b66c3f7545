"""Perplexity and generation entropy, held to one sequence at a time and to cases by hand."""

from __future__ import annotations

import hashlib
import itertools
import math
from contextlib import contextmanager

import pytest
import tiny_models
import torch
from refusals import refusal
from tiny_models import CITIES, CORPUS, Snapshot, hooks_and_patches
from transformers import PreTrainedTokenizerFast

from encore_core.measures import perplexity_entropy
from encore_core.measures.perplexity_entropy import (
    FIXED_TEXT,
    generation_entropy,
    ngram_entropy,
    perplexity,
    sample_continuations,
    text_entropy,
)
from encore_core.models.editable import wrap

TEXT = " ".join(CORPUS[:12])
PROMPTS = ["The capital of France is", "I", "I live in Tokyo. The largest city of New Zealand is", "You can travel"]


# -- perplexity --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def naive_perplexity(lm, text: str, window: int) -> float:
    """Token by token: each from a pass of its own over what its window has before it."""
    bare = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    has_bos = lm.tokenizer(text)["input_ids"][0] == lm.tokenizer.bos_token_id
    predicted = bare if has_bos else bare[1:]
    total = 0.0
    for number, token in enumerate(predicted):
        start = number - number % (window - 1)
        lead = [lm.tokenizer.bos_token_id] if has_bos else [bare[start]]
        before = lead + list(predicted[start:number])
        log_probs = lm.model(torch.tensor([before]), use_cache=False).logits[0, -1].double().log_softmax(-1)
        total -= float(log_probs[token])
    return math.exp(total / len(predicted))


@pytest.mark.parametrize("sizes", [(12, 24, 1 << 24), (12, 5, 3000), (40, 1000, 1), (512, 2048, 1 << 24)])
def test_every_token_is_predicted_once(lm, monkeypatch, sizes):
    """Whatever windows are run together, and whatever logits are held at a time."""
    for name, value in zip(("WINDOW", "MAX_TOKENS", "MAX_LOGITS"), sizes, strict=True):
        monkeypatch.setattr(perplexity_entropy, name, value)
    text = " ".join(CORPUS[:4])
    expected = naive_perplexity(lm, text, min(sizes[0], lm.max_length))
    assert perplexity(lm, text) == pytest.approx(expected, rel=1e-5)


def test_one_window_equals_the_librarys_loss(lm):
    ids = torch.tensor([lm.tokenizer(CORPUS[0])["input_ids"]])
    with torch.no_grad():
        loss = lm.model(input_ids=ids, labels=ids).loss
    assert perplexity(lm, CORPUS[0]) == pytest.approx(float(loss.exp()), rel=1e-5)


@contextmanager
def output_matrix_times(lm, factor: float):
    weight = lm.model.get_output_embeddings().weight
    before = weight.data
    weight.data = before * factor
    try:
        yield
    finally:
        weight.data = before


def test_a_model_that_knows_nothing_is_as_perplexed_as_there_are_tokens(llama):
    with output_matrix_times(llama, 0):
        assert perplexity(llama, TEXT) == pytest.approx(llama.model.config.vocab_size, rel=1e-6)


def test_the_start_of_a_text(lm):
    ids = lm.tokenizer(TEXT)["input_ids"]
    has_bos = ids[0] == lm.tokenizer.bos_token_id
    part = torch.tensor([ids[: 1 + 7]])
    with torch.no_grad():
        loss = lm.model(input_ids=part, labels=part).loss
    assert perplexity(lm, TEXT, n_tokens=7) == pytest.approx(float(loss.exp()), rel=1e-5)
    n_predicted = len(ids) - 1
    assert perplexity(lm, TEXT, n_tokens=n_predicted) == perplexity(lm, TEXT) == perplexity(lm, TEXT, n_tokens=10**6)
    assert has_bos == (lm.name != "tiny-gpt2")


def test_a_broken_model_has_a_perplexity_all_the_same(llama):
    with output_matrix_times(llama, 1e6):
        assert perplexity(llama, TEXT) == math.inf
    with output_matrix_times(llama, math.nan):
        assert math.isnan(perplexity(llama, TEXT))


def test_perplexity_is_that_of_the_model_as_it_stands(llama, new_session):
    before = perplexity(llama, TEXT)
    session = new_session(llama)
    session.edit(CITIES)
    with session.edited():
        assert perplexity(llama, TEXT) != before
    assert perplexity(llama, TEXT) == before


def test_texts_that_cannot_be_used(gpt2, llama):
    assert "''" in refusal(perplexity, gpt2, "")
    assert "at least two tokens" in refusal(perplexity, gpt2, "I")
    assert perplexity(llama, "I") > 1  # behind the BOS
    assert "n_tokens 0 is too small" in refusal(perplexity, gpt2, TEXT, n_tokens=0)


DIGEST = "f5bd9f17a887b0c89e3baa6d4dd0a2009a26740f62cae53a8cf9818570f71824"


def test_the_fixed_text_is_the_one_that_results_were_measured_on():
    content = FIXED_TEXT.read_bytes()
    assert hashlib.sha256(content).hexdigest() == DIGEST
    text = content.decode("utf-8")
    assert len(text.split("\n\n")) == 18
    assert 1800 < len(text.split()) < 2000


@pytest.mark.slow
@pytest.mark.embedded
@torch.no_grad()
def test_the_embedded_model_reads_the_fixed_text(embedded_model):
    """Across the border of two windows, each behind the start token, by the library alone."""
    ids = embedded_model.tokenizer(FIXED_TEXT.read_text(encoding="utf-8"))["input_ids"]
    total, start = 0.0, [embedded_model.start_token]
    for window in (start + ids[:511], start + ids[511:600]):
        ids_of = torch.tensor(window)
        log_probs = embedded_model.model(ids_of[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
        total -= float(log_probs.gather(1, ids_of[1:, None]).sum())
    assert perplexity(embedded_model, n_tokens=600) == pytest.approx(math.exp(total / 600), rel=1e-4)


# -- entropy -----------------------------------------------------------------------------------------------------------


def test_entropy_by_hand():
    """a b a b: pairs ab, ba, ab; triples aba, bab."""
    assert ngram_entropy(list("abab"), 2) == pytest.approx(2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3))
    assert ngram_entropy(list("abab"), 3) == 1.0
    assert text_entropy("a b a b") == pytest.approx(100 * (0.9182958340544896 + 2 * 1.0) / 3)
    assert ngram_entropy(list("abcde"), 2) == 2.0  # four different ones
    assert ngram_entropy(["no"], 2) == ngram_entropy([], 3) == 0.0


def test_stuttering_has_no_entropy_and_case_and_marks_count():
    assert text_entropy("the the the the the the") == 0
    assert text_entropy("") == text_entropy("one") == 0
    assert text_entropy("Rome, Rome, Rome, Rome") == text_entropy("a b a b a b a")
    assert text_entropy("rome, Rome, rome, rome") > text_entropy("Rome, Rome, Rome, Rome")
    words = [f"w{number}" for number in range(66)]
    assert text_entropy(" ".join(words)) == pytest.approx(100 * (math.log2(65) + 2 * math.log2(64)) / 3)


@torch.no_grad()
def naive_sample(lm, prompt: str, n_tokens: int, seed: int, top_k: int, occurrence: int = 0) -> str:
    """One token at a time from full passes, the draw looked up by going through the tokens in order."""
    digest = hashlib.sha256(f"{seed}/{occurrence}/{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    draws = torch.rand(n_tokens, generator=generator, dtype=torch.float64).tolist()
    ids = list(lm.tokenizer(prompt)["input_ids"])
    start = len(ids)
    for draw in draws:
        logits = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        logits[list({*lm.tokenizer.all_special_ids, lm.tokenizer.eos_token_id})] = -math.inf
        likeliest = sorted(logits.argsort(descending=True)[:top_k].tolist())
        weights = [math.exp(float(logits[token] - logits.max())) for token in likeliest]
        reached = itertools.accumulate(weights)
        ids.append(next(t for t, mark in zip(likeliest, reached, strict=True) if draw * sum(weights) < mark))
    return lm.tokenizer.decode(ids[start:])


@pytest.mark.parametrize("max_generated", [30, 8192])
def test_continuations_equal_one_at_a_time(lm, monkeypatch, max_generated):
    monkeypatch.setattr(perplexity_entropy, "MAX_GENERATED", max_generated)
    found = sample_continuations(lm, PROMPTS, n_tokens=12, seed=3)
    assert found == [naive_sample(lm, prompt, 12, 3, 5) for prompt in PROMPTS]


def test_what_is_drawn_depends_on_seed_and_prompt_alone(lm):
    state = torch.get_rng_state()
    found = sample_continuations(lm, PROMPTS, n_tokens=10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert sample_continuations(lm, PROMPTS, n_tokens=10) == found
    torch.set_rng_state(state)
    assert sample_continuations(lm, PROMPTS[::-1], n_tokens=10) == found[::-1]
    assert [sample_continuations(lm, [prompt], n_tokens=10)[0] for prompt in PROMPTS] == found
    assert sample_continuations(lm, PROMPTS, n_tokens=10, seed=1) != found


def test_a_prompt_given_twice_is_continued_in_two_ways(llama):
    first, second = sample_continuations(llama, ["People from France"] * 2, n_tokens=12)
    assert first == naive_sample(llama, "People from France", 12, 0, 5)
    assert second == naive_sample(llama, "People from France", 12, 0, 5, occurrence=1)
    assert first != second


def test_the_most_probable_token_alone_is_greedy(lm):
    found = sample_continuations(lm, PROMPTS, n_tokens=8, top_k=1)
    assert found == [naive_sample(lm, prompt, 8, 99, 1) for prompt in PROMPTS]


def test_draws_follow_the_probabilities(llama):
    """Many draws of one token: within four standard deviations of what the model says."""
    n = 600
    prompt = "I live in"
    found = sample_continuations(llama, [prompt] * n, n_tokens=1, top_k=4)
    with torch.no_grad():
        logits = llama.model(torch.tensor([llama.tokenizer(prompt)["input_ids"]])).logits[0, -1]
    logits[llama.tokenizer.all_special_ids] = -math.inf
    top = logits.topk(4)
    for token, p in zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True):
        share = found.count(llama.tokenizer.decode([token])) / n
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n) + 1e-9


def test_texts_do_not_end_early(gpt2):
    """The model is made to want nothing but to stop."""
    head = gpt2.model.get_output_embeddings()

    def wants_to_stop(module, inputs, output):
        output[..., gpt2.tokenizer.eos_token_id] = 100.0
        return output

    handle = head.register_forward_hook(wants_to_stop)
    try:
        (text,) = sample_continuations(gpt2, ["I live in"], n_tokens=15)
    finally:
        handle.remove()
    assert gpt2.tokenizer.eos_token not in text
    assert text == sample_continuations(gpt2, ["I live in"], n_tokens=15)[0]


def test_tokens_that_are_special_without_a_role_are_never_drawn(gpt2):
    """The embedded model's tokenizer has 17 special tokens, of which three have one."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=tiny_models.byte_level_tokenizer().backend_tokenizer, eos_token="<|end|>"
    )
    lm, begin = wrap(gpt2.model, made, "one role"), made.convert_tokens_to_ids("<|begin|>")
    assert begin in lm.special_ids and begin not in made.all_special_ids

    def wants_it(module, inputs, output):
        output[..., begin] = 100.0
        return output

    handle = gpt2.model.get_output_embeddings().register_forward_hook(wants_it)
    try:
        (text,) = sample_continuations(lm, ["I live in"], n_tokens=15)
    finally:
        handle.remove()
    assert "<|begin|>" not in text and text == sample_continuations(lm, ["I live in"], n_tokens=15)[0]


def test_generation_entropy_is_the_mean_over_prompts(lm):
    texts = sample_continuations(lm, PROMPTS, n_tokens=20, seed=5)
    expected = sum(text_entropy(text) for text in texts) / len(texts)
    assert generation_entropy(lm, PROMPTS, n_tokens=20, seed=5) == pytest.approx(expected)


def test_a_model_that_broke_has_no_entropy(gpt2):
    broken = torch.full_like(gpt2.parameter(1), math.nan)
    with gpt2.matrices_replaced({1: broken}):
        assert math.isnan(generation_entropy(gpt2, PROMPTS, n_tokens=4))
        assert sample_continuations(gpt2, PROMPTS, n_tokens=4) == [None] * len(PROMPTS)
    assert not math.isnan(generation_entropy(gpt2, PROMPTS, n_tokens=4))


def test_what_cannot_be_continued(gpt2):
    assert "no prompt" in refusal(generation_entropy, gpt2, [])
    room = " the" * (gpt2.max_length - 5)
    assert len(sample_continuations(gpt2, [room], n_tokens=5)) == 1
    message = refusal(sample_continuations, gpt2, ["I", room], n_tokens=6)
    assert f"{gpt2.max_length - 5} tokens" in message and f"6 more in the model's {gpt2.max_length}" in message
    assert "n_tokens 0" in refusal(sample_continuations, gpt2, ["I"], n_tokens=0)
    assert "top_k 0" in refusal(sample_continuations, gpt2, ["I"], top_k=0)
    assert sample_continuations(gpt2, []) == []


def test_the_model_is_left_as_it_was(lm):
    weights, tidy = Snapshot.of(lm), hooks_and_patches(lm)
    perplexity(lm, TEXT)
    generation_entropy(lm, PROMPTS, n_tokens=3)
    assert weights.holds(lm)
    assert hooks_and_patches(lm) == tidy
