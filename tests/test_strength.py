"""Strength of an edit: the ends are the two models, and what is between them is the dense sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_families
import torch
from refusals import refusal
from tiny_models import CITIES, Snapshot

from encore_core.facts import Neighbour
from encore_core.measures.answers import Answer, answer_probabilities
from encore_core.measures.strength import Path, Strength, scaled_matrices, strengths

FACT = replace(
    CITIES[0],
    paraphrases=("The largest city of France is",),
    neighbours=(Neighbour("The capital of Italy is", "Rome"), Neighbour("The capital of Spain is", "Madrid")),
)


@pytest.fixture(scope="module")
def session(llama, new_session):
    session = new_session(llama)
    session.edit([FACT])
    return session


def asked(lm):
    pairs = [(prompt, answer) for prompt in (FACT.text, *FACT.paraphrases) for answer in ("Rome", "Paris")]
    pairs += [(n.prompt, answer) for n in FACT.neighbours for answer in ("Rome", n.target)]
    return [answer.log_probability for answer in answer_probabilities(lm, pairs)]


def at(strength: Strength, step: int) -> list[float]:
    return [a[step].log_probability for path in strength.paths for a in (path.new_answers, path.true_answers)]


def test_the_ends_are_the_two_models(llama, session):
    weights = Snapshot.of(llama)
    shares: list[float] = []
    found = strengths(llama, session.matrices(), FACT, on_progress=shares.append)
    assert found.betas[0] == 0 and found.betas[8] == 1 and found.betas[-1] == 1.5 and len(shares) == 13
    with session.pristine():
        assert at(found, 0) == asked(llama)
    with session.edited():
        assert at(found, 8) == asked(llama)
    assert [path.role for path in found.paths] == ["rewrite", "paraphrase", "neighbour", "neighbour"]
    assert weights.holds(llama)


@pytest.mark.parametrize("family", ["GPT-2", "Llama 3", "Gemma 2", "OPT"])
def test_between_them_is_the_dense_sum(family):
    lm = tiny_families.made(family)
    made = torch.Generator().manual_seed(0)
    W = {layer: lm.parameter(layer) + 0.1 * torch.randn(lm.parameter(layer).shape, generator=made) for layer in (1, 2)}
    base = {layer: lm.parameter(layer).data.clone() for layer in W}
    found = strengths(lm, W, FACT, (1.25, 0.5, 0.5))
    assert found.betas == (0.5, 1.25)
    for step, beta in enumerate(found.betas):
        try:
            for layer in W:
                lm.parameter(layer).data = (1 - beta) * base[layer] + beta * W[layer]
            assert at(found, step) == pytest.approx(asked(lm), abs=1e-4)
        finally:
            for layer in W:
                lm.parameter(layer).data = base[layer]


def test_16_bits_do_not_round_beta_away():
    lm = tiny_families.made("Llama 3")  # one of its own, because a model does not come back from bfloat16 as it was
    lm.model.to(torch.bfloat16)
    W_0 = lm.parameter(1).data
    W = {1: W_0 * 1.5}
    found = scaled_matrices(lm, W, 0.3)[1]
    expected = W_0.double() + 0.3 * (W[1].double() - W_0.double())
    assert found.dtype == torch.bfloat16
    assert float(((found.double() - expected).abs() / expected.abs()).max()) <= 2**-8


def rated(*probabilities: float) -> tuple[Answer, ...]:
    import math

    return tuple(Answer(math.log(p), (p > 0.5,)) for p in probabilities)


def test_flips():
    rewrite = Path("rewrite", "p", "new", "true", rated(0.1, 0.4, 0.6), rated(0.5, 0.3, 0.1))
    early = Path("neighbour", "q", "new", "own", rated(0.1, 0.3, 0.3), rated(0.5, 0.5, 0.2))
    always = Path("neighbour", "r", "new", "own", rated(0.6, 0.6, 0.6), rated(0.2, 0.2, 0.2))
    never = Path("neighbour", "s", "new", "own", rated(0.1, 0.1, 0.1), rated(0.2, 0.2, 0.2))
    found = Strength((0.0, 0.5, 1.0), (rewrite, never, always, early))
    assert found.flips(rewrite) == 0.5 and found.says(rewrite) == 1.0
    assert found.flips(always) is None and found.flips(never) is None and found.says(never) is None
    assert found.first_to_follow() == (1.0, early) and found.rewrite is rewrite
    assert Strength((0.0, 0.5, 1.0), (rewrite, never)).first_to_follow() is None
    alone = Path("rewrite", "p", "new", None, rated(0.1, 0.4, 0.6), ())
    assert Strength((0.0, 0.5, 1.0), (alone,)).flips(alone) == 1.0


def test_bad_input(llama, session):
    for beta in (-0.1, 1.6, float("nan"), float("inf")):
        assert "from 0 to 1.5" in refusal(strengths, llama, session.matrices(), FACT, [0.5, beta])
    assert "at least one" in refusal(strengths, llama, session.matrices(), FACT, [])
    assert "make an edit first" in refusal(strengths, llama, {}, FACT)
    long = replace(FACT, paraphrases=("word " * 400,))
    assert "at most 160" in refusal(strengths, llama, session.matrices(), long)
