"""Direct effects in every family: directions against the norms' own formulas, and sums against plain passes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny_families
import torch
from refusals import refusal
from test_sublayers import added_by_sublayers
from tiny_models import CITIES, hooks_and_patches

from encore_core.measures.direct_effects import moved, read_directly
from encore_core.models.editable import wrap
from encore_core.models.families import text_config

FACT = CITIES[1]
ANSWERS = (FACT.target_new, FACT.target_true)
LAYERS = (1, 2)


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def of_family(family):
    return tiny_families.made(family)


def changed_matrices(lm) -> dict[int, torch.Tensor]:
    """A tenth of every matrix turned elsewhere: more than an edit changes."""
    made = torch.Generator().manual_seed(1)
    noise = {layer: torch.randn(lm.parameter(layer).shape, generator=made) for layer in LAYERS}
    return {layer: lm.parameter(layer) + 0.1 * lm.parameter(layer).norm() / n.norm() * n for layer, n in noise.items()}


@torch.no_grad()
def plain(lm):
    """(tokens of the prompt, first tokens of the answers, the model's own logits of these)."""
    ids = lm.tokenizer(FACT.text)["input_ids"]
    firsts = [lm.tokenizer(f"{FACT.text} {answer}")["input_ids"][len(ids)] for answer in ANSWERS]
    logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
    return ids, firsts, logits[firsts].numpy()


def frozen_directions(lm, h: torch.Tensor, firsts) -> np.ndarray:
    """u from the norm's class: γ w / r, for a norm that centres with the mean of that taken away; times the scale."""
    norm, head, config = lm.parts.final_norm, lm.model.get_output_embeddings(), text_config(lm.model.config)
    gamma = norm.weight.double() + (1.0 if "Gemma" in type(norm).__name__ else 0.0)
    centres = "RMS" not in type(norm).__name__
    centred = h - h.mean() if centres else h
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    rows = head.weight.double()[firsts] * gamma / (centred.square().mean() + eps).sqrt()
    rows = rows - rows.mean(-1, keepdim=True) if centres else rows
    return (rows * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)).detach().numpy()


def test_directions_are_the_frozen_norm(of_family, family):
    lm = of_family
    if "contributions" in tiny_families.FAMILIES[family].refuses:
        assert "do not add up" in refusal(read_directly, lm, FACT.text, ANSWERS)
        return
    tidy = hooks_and_patches(lm)
    found = read_directly(lm, FACT.text, ANSWERS)
    ids, firsts, logits = plain(lm)
    o = added_by_sublayers(lm, ids)[:, -1].double()
    np.testing.assert_allclose(found.outputs, o.numpy(), rtol=1e-4, atol=1e-5 * float(o.abs().max()))
    expected = frozen_directions(lm, o.sum(0), firsts)
    np.testing.assert_allclose(found.directions, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    cap = getattr(text_config(lm.model.config), "final_logit_softcapping", None)
    uncapped = cap * np.arctanh(logits / cap) if cap else logits
    np.testing.assert_allclose(found.linear, uncapped, atol=1e-4)
    # u·h reproduces what is read, from parts that were found independently of it.
    np.testing.assert_allclose(expected @ o.sum(0).numpy() + found.offsets, uncapped, atol=1e-4)
    np.testing.assert_allclose(found.effects.sum(1) + found.offsets, uncapped, atol=1e-4)
    assert hooks_and_patches(lm) == tidy


def test_the_parts_add_up_to_the_change(of_family, family):
    lm = of_family
    if "contributions" in tiny_families.FAMILIES[family].refuses:
        return
    changed = changed_matrices(lm)
    with lm.matrices_replaced({}):
        before, (ids, firsts, was) = read_directly(lm, FACT.text, ANSWERS), plain(lm)
        o_was = added_by_sublayers(lm, ids)[:, -1].double()
    with lm.matrices_replaced(changed):
        after, (_, _, now) = read_directly(lm, FACT.text, ANSWERS), plain(lm)
        o_now = added_by_sublayers(lm, ids)[:, -1].double()
    found = moved(before, after)
    np.testing.assert_allclose(found.change, now - was, atol=1e-4)
    np.testing.assert_allclose(found.effects.sum(1) + found.norm + found.cap, now - was, atol=1e-4)
    np.testing.assert_allclose(found.unexplained, 0, atol=1e-4)
    u, u_now = (frozen_directions(lm, o.sum(0), firsts) for o in (o_was, o_now))
    np.testing.assert_allclose(found.effects, u @ (o_now - o_was).numpy().T, atol=1e-4 * max(1, np.abs(u).max()))
    np.testing.assert_allclose(found.norm, (u_now - u) @ o_now.sum(0).numpy(), atol=1e-3)
    capped = bool(getattr(text_config(lm.model.config), "final_logit_softcapping", None))
    assert (np.abs(found.cap) > 1e-4).any() == capped
    below = [place for place, layer in enumerate(found.layers) if layer is None or layer < LAYERS[0]]
    assert np.abs(found.effects[:, below]).max() == 0 < np.abs(found.effects).max()
    assert found.labels[5] == "attention 2" and found.kinds[6] == "MLP" and found.layers[6] == 2


def test_nothing_moved(gpt2):
    one = read_directly(gpt2, FACT.text, ANSWERS)
    found = moved(one, read_directly(gpt2, FACT.text, ANSWERS))
    for field in ("effects", "norm", "cap", "change"):
        assert np.abs(getattr(found, field)).max() == 0
    assert len(found.answer_tokens) == 2 and len(found.labels) == 2 * gpt2.n_layers + 1


def test_without_a_final_norm(llama):
    """The state is read as it is: u is the output matrix's row."""
    norm = llama.model.model.norm
    llama.model.model.norm = torch.nn.Identity()
    try:
        found = read_directly(llama, FACT.text, ANSWERS)
        _, firsts, logits = plain(llama)
    finally:
        llama.model.model.norm = norm
    w = llama.model.get_output_embeddings().weight[firsts].detach().numpy()
    np.testing.assert_allclose(found.directions, w, atol=1e-5)
    np.testing.assert_allclose(found.effects.sum(1), logits, atol=1e-4)


def test_what_is_no_norm_is_refused(llama):
    norm = llama.model.model.norm
    llama.model.model.norm = torch.nn.Tanh()
    try:
        assert "not a norm" in refusal(read_directly, llama, FACT.text, ANSWERS)
    finally:
        llama.model.model.norm = norm


def test_16_bits(llama):
    """The parts still add up, but for rounding."""
    precise = read_directly(llama, FACT.text, ANSWERS)
    half = wrap(copy.deepcopy(llama.model).to(torch.bfloat16), llama.tokenizer, "half")
    rough = read_directly(half, FACT.text, ANSWERS)
    found = moved(rough, read_directly(half, FACT.text, ANSWERS))
    scale = np.abs(precise.effects).max()
    np.testing.assert_allclose(rough.effects, precise.effects, atol=0.05 * scale)
    np.testing.assert_allclose(rough.effects.sum(1) + rough.offsets, rough.logits, atol=0.05 * scale)
    assert np.abs(found.change).max() == 0


def test_bad_input(gpt2):
    assert "no answer" in refusal(read_directly, gpt2, FACT.text, [])
    assert "is blank" in refusal(read_directly, gpt2, FACT.text, [" "])
    assert "at most 96" in refusal(read_directly, gpt2, "word " * 200, ["Rome"])
    assert dataclasses.is_dataclass(read_directly(gpt2, FACT.text, ["Rome"]))
