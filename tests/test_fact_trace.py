"""The causal trace of a fact against a plain one: a pass of its own for every cell and draw, with the test's hooks."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_families
import torch
from refusals import refusal
from tiny_models import CITIES, hooks_and_patches

from encore_core.facts import Fact
from encore_core.measures import fact_trace as module
from encore_core.measures.causal_trace import NOISE, causal_trace
from encore_core.measures.fact_trace import KINDS, fact_trace

FIRST = Fact("New Zealand", "{} is a country whose capital is", "Rome")
"""Its subject begins the text."""


class PlainTrace:
    """Cells of the map by unbatched passes; positions from the tokenizer's offsets."""

    def __init__(self, lm, fact: Fact, seed: int, samples: int):
        self.lm, self.n_layers = lm, lm.n_layers
        encoded = lm.tokenizer(fact.text, return_offsets_mapping=True)
        start, end = fact.subject_span
        self.inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > start and a < end and b > a]
        self.ids = torch.tensor([encoded["input_ids"]])
        scale, made = NOISE * float(lm.model.get_input_embeddings().weight.std()), torch.Generator().manual_seed(seed)
        self.noises = [scale * torch.randn(len(self.inside), lm.d_model, generator=made) for _ in range(samples)]
        self.kept: dict = {}
        self.clean = self._run(None, {})

    @torch.no_grad()
    def _run(self, noise, restored: dict) -> torch.Tensor:
        """Probabilities after the prompt; `restored` is module → place."""
        handles = []
        if noise is not None:

            def shake(module, inputs, output):
                output = output.clone()
                output[0, self.inside] += noise
                return output

            handles.append(self.lm.model.get_input_embeddings().register_forward_hook(shake))
        parts = self.lm.parts
        for part in (*parts.blocks, *parts.mlps, *parts.attentions):

            def hook(module, inputs, output):
                states = output[0] if isinstance(output, tuple) else output
                rows = states.view(self.ids.shape[1], -1)
                if noise is None:
                    self.kept[module] = rows.clone()
                elif module in restored:
                    rows[restored[module]] = self.kept[module][restored[module]]

            handles.append(part.register_forward_hook(hook))
        try:
            return self.lm.model(input_ids=self.ids).logits[0, -1].float().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    def cell(self, kind: str, layer: int, place: int, window: int, token: int) -> float:
        parts = self.lm.parts
        modules = {"hidden": parts.blocks, "MLP": parts.mlps, "attention": parts.attentions}[kind]
        low, high = (layer, layer + 1) if kind == "hidden" else (layer - window // 2, layer - (-window // 2))
        there = {modules[at]: place for at in range(max(0, low), min(self.n_layers, high))}
        return float(np.mean([self._run(noise, there)[token] for noise in self.noises]))

    def noisy(self, token: int) -> float:
        return float(np.mean([self._run(noise, {})[token] for noise in self.noises]))


@pytest.mark.parametrize("fact", (*CITIES[:2], FIRST), ids=lambda fact: fact.text[:20])
def test_it_is_the_plain_trace(lm, fact):
    tidy = hooks_and_patches(lm)
    found, plain = fact_trace(lm, fact, samples=2, window=3, seed=3), PlainTrace(lm, fact, 3, 2)
    token = int(plain.clean.argmax())
    assert found.answer == lm.tokenizer.decode([token]) and found.subject == (plain.inside[0], plain.inside[-1])
    assert (found.clean, found.noisy) == pytest.approx((float(plain.clean[token]), plain.noisy(token)), abs=1e-5)
    assert found.places == tuple(range(plain.inside[0], plain.ids.shape[1])) and found.left_out == 0
    for kind in KINDS:
        expected = [
            [plain.cell(kind, layer, place, 3, token) for place in found.places] for layer in range(lm.n_layers)
        ]
        np.testing.assert_allclose(found.maps[kind], expected, atol=1e-5, err_msg=kind)
    assert hooks_and_patches(lm) == tidy


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_every_family(family):
    lm = tiny_families.made(family)
    if "contributions" in tiny_families.FAMILIES[family].refuses:
        assert "do not add up" in refusal(fact_trace, lm, CITIES[1])
        kinds = KINDS[:1]
    else:
        kinds = KINDS
    found, plain = fact_trace(lm, CITIES[1], kinds, answer="Rome", samples=1, window=2), PlainTrace(lm, CITIES[1], 0, 1)
    prompt = lm.tokenizer(CITIES[1].text)["input_ids"]
    token = lm.tokenizer(f"{CITIES[1].text} Rome")["input_ids"][len(prompt)]
    assert found.noisy == pytest.approx(plain.noisy(token), abs=1e-5)
    for kind in kinds:
        for layer, column in ((0, 0), (1, -1), (2, 1), (3, -2)):
            expected = plain.cell(kind, layer, found.places[column], 2, token)
            assert found.maps[kind][layer, column] == pytest.approx(expected, abs=1e-5), (kind, layer, column)


def test_it_agrees_with_the_average_over_facts(llama):
    """At the subject's last token, restored states have the effects that `causal_trace` averages."""
    fact = CITIES[0]
    found, other = fact_trace(llama, fact, ["hidden"], samples=2), causal_trace(llama, [fact], draws=2)
    effects = found.maps["hidden"][:, found.places.index(found.subject[1])] - found.noisy
    np.testing.assert_allclose(effects, other.effects, atol=1e-5)


def test_passes_of_any_size(llama, monkeypatch):
    whole = fact_trace(llama, CITIES[1])
    monkeypatch.setattr(module, "MAX_TOKENS", 1)
    shares: list[float] = []
    one_by_one = fact_trace(llama, CITIES[1], on_progress=shares.append)
    for kind in KINDS:
        np.testing.assert_allclose(one_by_one.maps[kind], whole.maps[kind], atol=1e-6)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 3 * whole.maps["MLP"].size


def test_it_can_be_stopped(llama):
    class Enough(Exception):
        pass

    def stop(share):
        raise Enough

    tidy = hooks_and_patches(llama)
    with pytest.raises(Enough):
        fact_trace(llama, CITIES[0], on_progress=stop)
    assert hooks_and_patches(llama) == tidy


def test_the_last_state_brings_all_of_the_answer_back(lm):
    found = fact_trace(lm, CITIES[0], ["hidden"])
    assert found.maps["hidden"][-1, -1] == pytest.approx(found.clean, abs=1e-6)
    peak = found.peak("hidden")
    assert peak.effect == pytest.approx(found.maps["hidden"].max() - found.noisy)
    assert found.maps["hidden"][peak.layer, found.places.index(peak.place)] == found.maps["hidden"].max()


def test_what_is_as_published():
    tokens, maps = ("A", "B", " is"), np.zeros((6, 3))
    maps[1, 1] = 0.5
    settings = {"prompt_tokens": 4, "answer": "x", "clean": 0.9, "noisy": 0.1, "noise": 3, "samples": 1, "window": 1}
    made = module.FactTrace(tokens, (1, 2, 3), (1, 2), maps={"MLP": maps}, **settings)
    assert made.peak("MLP") == module.Peak(1, 2, "B", 0.4, True, 0) and made.peak("MLP").as_published
    upper = module.FactTrace(tokens, (1, 2, 3), (1, 2), maps={"MLP": maps[[0, 2, 3, 4, 1, 5]]}, **settings)
    assert upper.peak("MLP").third == 2 and not upper.peak("MLP").as_published
    elsewhere = module.FactTrace(tokens, (1, 2, 3), (1, 2), maps={"MLP": maps[:, [1, 0, 2]]}, **settings)
    assert not elsewhere.peak("MLP").is_subject_end and not elsewhere.peak("MLP").as_published


def test_long_prompts_are_restored_in_part(llama, monkeypatch):
    monkeypatch.setattr(module, "MOST_TOKENS", 3)
    whole = fact_trace(llama, FIRST, ["hidden"], samples=1)
    monkeypatch.undo()
    full = fact_trace(llama, FIRST, ["hidden"], samples=1)
    assert len(whole.places) == 3 and whole.left_out == len(full.places) - 3
    assert whole.subject[1] in whole.places and whole.places[-1] == full.places[-1]
    columns = [full.places.index(place) for place in whole.places]
    np.testing.assert_allclose(whole.maps["hidden"], full.maps["hidden"][:, columns], atol=1e-6)


def test_bad_input(gpt2):
    assert "at least one draw" in refusal(fact_trace, gpt2, CITIES[0], samples=0)
    assert "from 1 to 5 blocks, not 6" in refusal(fact_trace, gpt2, CITIES[0], window=6)
    assert "'keys'" in refusal(fact_trace, gpt2, CITIES[0], ["keys"])
    assert "is blank" in refusal(fact_trace, gpt2, CITIES[0], answer=" ")
    assert "at most 96" in refusal(fact_trace, gpt2, Fact("France", "word " * 200 + "{} is", "Rome"))
