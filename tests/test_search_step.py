"""The search for targets along the gradient, held to one fact at a time on plain passes of the library.

normalised_gradient   δ ← δ − η s g / ‖g‖
natural_gradient      δ ← δ − η s F̂⁻¹g / ‖F̂⁻¹g‖,   F̂ = F / (tr F / d_model) + ε I
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_targets import MIXED, MPES, SETTINGS, Oracle
from tiny_models import CITIES, DEFAULTS, FACTS, PREFIXES

from encore_core.editing.plain_target_pass import PlainPass
from encore_core.editing.search_step import inverse_metric, step_of
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import evaluate
from encore_core.editing.target_rows import Example
from encore_core.editing.targets import optimise_targets
from encore_core.errors import InputError
from encore_core.methods import settings_for

ALONG = replace(SETTINGS, search="normalised_gradient", search_step=0.2, search_decay=0.9)
NATURAL = replace(ALONG, search="natural_gradient", search_ridge=0.3)


@pytest.fixture(params=["gpt2", "llama-tied"])
def lm(request):
    return request.getfixturevalue(request.param.replace("-", "_"))


def some_F(lm) -> torch.Tensor:
    """Symmetric, far from round."""
    A = torch.randn(lm.d_model, lm.d_model, generator=torch.Generator().manual_seed(3))
    return A @ torch.diag(torch.logspace(0, 2, lm.d_model)) @ A.T


class AlongOracle(Oracle):
    """One fact, step by step, with its own F̂ and its own scale."""

    def walk(self, settings, F) -> tuple[torch.Tensor, int]:
        norms = sorted(float(self._with_delta(ids, lookup, None)[1].norm()) for ids, _, lookup in self.rows)
        length = settings.search_step * norms[(len(norms) - 1) // 2]
        metric = torch.eye(self.lm.d_model, dtype=torch.float64)
        if settings.search == "natural_gradient":
            F = F.double()
            metric = F / (F.trace() / len(F)) + settings.search_ridge * metric
        delta = torch.zeros(self.lm.d_model, requires_grad=True)
        first_hit, every, at_once, in_full = None, self.rows, settings.contexts_at_once, not settings.contexts_at_once
        for step in range(settings.steps):
            self.rows = every
            in_full = in_full or step == settings.steps - 1
            if not in_full:
                self.rows = [every[i] for i in sorted((step * at_once + i) % len(every) for i in range(at_once))]
            nll, kl, decay, hit, _ = self.losses(delta, settings)
            first_hit = step if hit and in_full and first_hit is None else first_hit
            extra = settings.mpes_extra_steps
            enough = settings.mpes and first_hit is not None and step - first_hit >= extra
            small = in_full and float((nll + kl + decay).detach()) < 0.05
            if enough or small or step == settings.steps - 1:
                return delta.detach(), step
            in_full = in_full or self.losses(delta, replace(settings, mpes_contexts="all"))[3]
            (g,) = torch.autograd.grad(nll + kl + decay, delta)
            turned = torch.linalg.solve(metric, g.double())
            with torch.no_grad():
                delta -= (length * turned / turned.norm()).float()
                length *= settings.search_decay
                most = settings.clamp * self.h.norm()
                if delta.norm() > most:
                    delta *= most / delta.norm()
        raise AssertionError


def agree_with_one_at_a_time(lm, found, settings, F) -> None:
    for target, fact in zip(found, MIXED, strict=True):
        delta, steps = AlongOracle(lm, fact, PREFIXES, 1).walk(settings, F)
        assert target.steps == steps
        assert float((target.z - target.h - delta).norm()) <= 1e-4 * float(delta.norm())


@pytest.mark.parametrize("path", ["packed", "padded", "plain"])
@pytest.mark.parametrize("contexts", ["sampled", "all"])
@pytest.mark.parametrize("search", [ALONG, NATURAL], ids=["normalised", "natural"])
def test_each_pass_agrees_with_one_fact_at_a_time(lm, path, contexts, search, monkeypatch):
    settings = replace(search, steps=12, mpes=True, mpes_extra_steps=1, mpes_contexts=contexts, clamp=2.0)
    F = some_F(lm)
    monkeypatch.setattr(lm, "checked_paths", {1: path})
    found = optimise_targets(lm, MIXED, PREFIXES, 1, settings, F=F)
    agree_with_one_at_a_time(lm, found, settings, F)


@pytest.mark.parametrize("path", ["packed", "padded", "plain"])
@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("search", [ALONG, NATURAL], ids=["normalised", "natural"])
def test_contexts_in_turn_agree_with_one_fact_at_a_time(lm, path, at_once, search, monkeypatch):
    settings = replace(search, steps=12, mpes=True, mpes_extra_steps=1, contexts_at_once=at_once, clamp=2.0)
    F = some_F(lm)
    monkeypatch.setattr(lm, "checked_paths", {1: path})
    found = optimise_targets(lm, MIXED, PREFIXES, 1, settings, F=F)
    whole = optimise_targets(lm, MIXED, PREFIXES, 1, replace(settings, contexts_at_once=0), F=F)
    agree_with_one_at_a_time(lm, found, settings, F)
    assert any(not torch.equal(one.z, other.z) for one, other in zip(found, whole, strict=True))


def test_the_plain_prompt_counts_only_where_it_is_to(lm):
    """Stopping on all contexts is never earlier, and without sampled contexts the plain one decides."""
    early = optimise_targets(lm, CITIES, PREFIXES, 1, replace(MPES, mpes_contexts="sampled"))
    late = optimise_targets(lm, CITIES, PREFIXES, 1, replace(MPES, mpes_contexts="all"))
    assert all(one.steps <= other.steps for one, other in zip(early, late, strict=True))
    alone = [optimise_targets(lm, CITIES, (), 1, replace(MPES, mpes_contexts=which)) for which in ("sampled", "all")]
    assert [one.steps for one in alone[0]] == [one.steps for one in alone[1]]
    assert any(one.stopped == "mpes" for one in alone[0])


def test_the_gradient_that_is_followed_agrees_with_finite_differences(llama_tied):
    lm = llama_tied
    forward = PlainPass(lm, 1, Example.of_facts(lm, FACTS[:1], PREFIXES))
    settings = replace(SETTINGS, kl_factor=1.0)
    original = evaluate(forward, torch.zeros_like(forward.h), None, settings).subject_log_probs
    generator = torch.Generator().manual_seed(1)
    delta = 0.3 * torch.randn(forward.h.shape, generator=generator)
    at = delta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(evaluate(forward, at, original, settings).loss.sum(), at)
    for _ in range(5):
        direction = torch.randn(forward.h.shape, generator=generator)
        direction /= direction.norm()
        loss = [float(evaluate(forward, delta + e * direction, original, settings).loss) for e in (-0.02, 0.02)]
        slope = (loss[1] - loss[0]) / 0.04
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-2, abs=2e-3)


def test_a_step_has_its_length_and_follows_the_metric(gpt2):
    forward = PlainPass(gpt2, 1, Example.of_facts(gpt2, CITIES, PREFIXES))
    F = some_F(gpt2)
    gradient = torch.randn(2, gpt2.d_model, generator=torch.Generator().manual_seed(2))
    active, delta = torch.tensor([0, 2]), torch.zeros(3, gpt2.d_model)
    mover = step_of(forward, NATURAL, F)
    mover.move(delta, active, gradient)
    assert not bool(delta[1].any())
    wanted = -gradient.double() @ inverse_metric(F, NATURAL.search_ridge)
    for row, expected, scale in zip(delta[active], wanted, forward.scale[active], strict=True):
        assert float(row.norm()) == pytest.approx(NATURAL.search_step * float(scale), rel=1e-5)
        assert float(torch.nn.functional.cosine_similarity(row.double(), expected, dim=0)) > 1 - 1e-6
    before = delta.clone()
    mover.move(delta, active, gradient)
    assert torch.allclose((delta - before)[active], NATURAL.search_decay * before[active], rtol=1e-4)


def test_the_scale_is_the_contexts_median_not_the_plain_prompts(gpt2):
    forward = PlainPass(gpt2, 1, Example.of_facts(gpt2, CITIES, PREFIXES))
    for fact, scale in zip(CITIES, forward.scale, strict=True):
        oracle = Oracle(gpt2, fact, PREFIXES, 1)
        norms = [float(oracle._with_delta(ids, lookup, None)[1].norm()) for ids, _, lookup in oracle.rows]
        assert float(scale) == pytest.approx(sorted(norms)[1], rel=1e-5)


def test_without_F_there_is_no_natural_gradient(gpt2):
    with pytest.raises(ValueError, match="needs F"):
        optimise_targets(gpt2, CITIES, PREFIXES, 1, NATURAL)


def test_a_session_searches_by_the_F_of_its_last_layer(llama_tied):
    """On a tiny model: F is gathered once, kept, saved with the state, and decides the targets."""
    lm = llama_tied
    natural = DEFAULTS | {"search": "natural_gradient", "search_step": 0.3}
    session = EditSession(lm, settings=natural)
    [target] = session.find_targets(CITIES[:1])
    F = session.metric()
    assert F.shape == (lm.d_model, lm.d_model)
    [plain] = EditSession(lm, settings=natural | {"search": "normalised_gradient"}).find_targets(CITIES[:1])
    assert float((target.z - plain.z).norm()) > 1e-3 * float(plain.z.norm())
    session.edit(CITIES[:2], known="edit")
    other = EditSession(lm, settings=natural, keep_history=False)
    other.restore(session.state())
    assert torch.equal(other.metric(), F)
    for one in (session, other):
        one.edit(CITIES[2:], known="edit")
    for layer, matrix in session.matrices().items():
        assert torch.equal(matrix, other.matrices()[layer])


def test_settings_that_do_not_suit_are_refused():
    shape = {"model_type": "llama", "n_layers": 30, "d_model": 576, "n_vocab": 49152}
    with pytest.raises(InputError, match=re.escape('must be "adam", "normalised_gradient"')):
        settings_for("ENCORE", **shape, overrides={"search": "steepest"})
    with pytest.raises(InputError, match="has no targets"):
        settings_for("UltraEdit", **shape, overrides={"search": "natural_gradient"})
    with pytest.raises(InputError, match="contexts_at_once = 2 does not suit UltraEdit, which has no targets"):
        settings_for("UltraEdit", **shape, overrides={"contexts_at_once": "2"})
    assert settings_for("ENCORE", **shape).search == "adam"
    assert settings_for("ENCORE-N", **shape).search == "natural_gradient"
