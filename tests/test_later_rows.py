"""The rows that do not come from the paper: their updates against the published expressions, written out densely in
float64, and what every row must be able to do in a session.

NAS        z = h − v₀ + a v* / ‖v*‖,  v* = v₀ + δ                                        arXiv 2602.02543
BetaEdit   Δ = R Kᵀ P (P (K Kᵀ + H + λ₁ C₀) + λ₂ I)⁻ᵀ, P a projector made anew after every τ edits     2605.09285
LyapLock   Δ = [R Kᵀ − λ q E C₀ + H_v − W H] (K Kᵀ + λ q C₀ + H)⁻¹                         2505.15702
UltraEdit  Δᵀ = (KᵀK + ρ I)⁻¹ Kᵀ V, V = −lr ‖k̂‖² ĝ; StableEdit with ĝ whitened               2505.14679, ICML 2026
SPHERE     Δ (I − α U Uᵀ), U the top eigenvectors of ŴᵀŴ / d_model                       arXiv 2510.01172
"""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from test_editor import matrices, same
from test_update_rule import N_BATCHES, alphaedit, projector, second_moment
from tiny_models import CITIES, DEFAULTS, FACTS

from dashboard.parts.learn.anatomy import take_apart
from encore_core.editing import batch, norm_anchor
from encore_core.editing.answer_gradients import answer_gradients
from encore_core.editing.batch import TooLargeChange
from encore_core.editing.comparison import Arm, compare_edits
from encore_core.editing.edit_file import edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.edited_model import EditedModel
from encore_core.editing.gradient_rule import GradientMemory
from encore_core.editing.lyapunov import LyapunovMemory
from encore_core.editing.main_directions import main_directions, weakened
from encore_core.editing.norm_anchor import anchor_of, brought_to_norm, mean_without_largest
from encore_core.editing.projected_gradient import CurvatureMemory
from encore_core.editing.renewed_projector import RenewedPreservation, Weights, weighted_null_space
from encore_core.editing.session import EditSession
from encore_core.editing.session_state import SessionState
from encore_core.editing.update_rule import LowRankUpdate, Preservation, null_space_preservation, solve
from encore_core.errors import InputError
from encore_core.forward.prompts import encode_contexts
from encore_core.method_cards import card_of, source_of
from encore_core.methods import GRADIENTS, METHODS, PAPER, settings_for
from encore_core.models.editable import load_model
from encore_core.models.memory import bytes_kept
from encore_core.runs import MeasurePlan, RunStore, prepare
from encore_core.runs.resume_state import weights_digest

LATER = [name for name, row in METHODS.items() if row.source != PAPER]
D_MODEL, D_MLP, N_FACTS = 24, 80, 3


def batches(generator: np.random.Generator, n: int = N_BATCHES, n_facts: int = N_FACTS):
    for _ in range(n):
        yield generator.standard_normal((D_MLP, n_facts)), generator.standard_normal((D_MODEL, n_facts))


def close(found: torch.Tensor, expected: np.ndarray) -> bool:
    return np.linalg.norm(found.numpy() - expected) <= 1e-8 * np.linalg.norm(expected)


# -- SPHERE ------------------------------------------------------------------------------------------------------------


def sphere_projection(W: np.ndarray, eta: float, alpha: float) -> np.ndarray:
    """As published: the eigenvectors of the large matrix, counted from the top."""
    rows = W / (np.linalg.norm(W, axis=1, keepdims=True) + 1e-8)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    r = int((np.cumsum(values[::-1]) / values.sum() <= eta).sum()) + 1
    U = vectors[:, -r:]
    return np.eye(W.shape[1]) - alpha * U @ U.T


@pytest.mark.parametrize(("eta", "alpha"), [(0.5, 0.5), (0.0, 1.0), (0.9, 0.3)])
def test_sphere_agrees_with_the_published_expression(eta, alpha):
    generator = np.random.default_rng(1)
    C0 = second_moment(D_MLP, generator)
    P, Kp = Preservation(null_space_preservation(torch.from_numpy(C0), 0.02, 10.0)), np.zeros((D_MLP, 0))
    W = generator.standard_normal((D_MODEL, D_MLP)) * np.logspace(0, -2, D_MODEL)[:, None] + 0.3
    for K, R in batches(generator):
        expected = alphaedit(C0, Kp, K, R) @ sphere_projection(W, eta, alpha)
        keys = torch.from_numpy(K)
        update = weakened(solve(torch.from_numpy(R), keys, P.times(keys), 1.0), torch.from_numpy(W), alpha, eta)
        assert close(update.delta(), expected)
        P, Kp, W = P.joined(update).compact(), np.concatenate([Kp, K], axis=1), W + expected


def test_all_main_directions_span_no_more_than_the_rows():
    W = torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W[5] = 2 * W[4]
    U = main_directions(W, 1.0)
    assert U.shape == (30, 5)
    torch.testing.assert_close(U.T @ U, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)


def test_sphere_without_strength_is_alphaedit(llama, new_session):
    sessions = [new_session(llama, "AlphaEdit"), new_session(llama, "SPHERE", sphere_strength=0.0)]
    for session in sessions:
        session.edit(CITIES[:2], known="edit")
    assert same(*map(matrices, sessions))
    other = new_session(llama, "SPHERE")
    other.edit(CITIES[:2], known="edit")
    assert not same(matrices(other), matrices(sessions[0]))


# -- NAS ---------------------------------------------------------------------------------------------------------------


def naive_mlp_output(lm, fact, layer: int) -> torch.Tensor:
    """v₀ from a run of the whole model on the whole prompt."""
    row = encode_contexts(lm, [fact], ())[0][0]
    seen = []
    handle = lm.down_projections[layer].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    return seen[0].reshape(-1, lm.d_model)[row.lookup]


def test_targets_are_brought_to_the_norm_and_far_ones_are_left_out(lm, new_session):
    session = new_session(lm, "AlphaEdit")
    targets = session.find_targets(FACTS)
    wanted = [naive_mlp_output(lm, fact, 1) + t.z - t.h for fact, t in zip(FACTS, targets, strict=True)]
    norms = sorted(float(v.norm()) for v in wanted)
    anchor = (norms[-2] + norms[-1]) / 4  # one fact is too far
    found = brought_to_norm(lm, FACTS, targets, (), 1, anchor)
    assert [one is None for one in found] == [float(v.norm()) > 2 * anchor for v in wanted]
    assert sum(one is None for one in found) == 1
    for fact, before, after, v in zip(FACTS, targets, found, wanted, strict=True):
        if after is not None:
            expected = before.h - naive_mlp_output(lm, fact, 1) + anchor * v / v.norm()
            torch.testing.assert_close(after.z, expected, rtol=1e-4, atol=1e-5)


def test_a_fact_that_is_too_far_is_said_so_and_its_earlier_edit_stays(llama, new_session, monkeypatch):
    session = new_session(llama, "AlphaEdit+NAS")
    session.edit(CITIES, known="edit")
    before = matrices(session)
    one = [CITIES[0]]
    v = naive_norm(session, CITIES[0])
    monkeypatch.setattr(EditedModel, "anchor", lambda self, progress=None: v / 2.5)
    report = session.edit(one, known="edit")
    assert report.edited[0].stopped == "too far" and not report.edited[0].is_edited
    assert [line.startswith("Not edited: ") for line in report.notices] == [True]  # and nothing of the earlier edit
    assert same(before, matrices(session)) and session.n_edits == 3 and len(session.history) == 1


def naive_norm(session, fact) -> float:
    target = session.find_targets([fact])[0]
    with session.edited() as lm:
        return float((naive_mlp_output(lm, fact, 1) + target.z - target.h).norm())


def test_the_anchor_is_the_mean_without_the_largest_and_is_found_once(gpt2, monkeypatch):
    assert mean_without_largest(torch.tensor([3.0, 1.0, 100.0, 2.0, *[2.0] * 16])) == pytest.approx(38 / 19)
    first = anchor_of(gpt2, 1, 20)
    assert first > 0
    monkeypatch.setattr(norm_anchor, "_measured", None)
    assert anchor_of(gpt2, 1, 20) == first
    for key in [key for key in gpt2.shared if key[0] == "anchor"]:
        del gpt2.shared[key]
    assert anchor_of(gpt2, 1, 20) == first  # from the disk


def test_nas_is_a_switch_on_other_methods(llama, new_session):
    sessions = [new_session(llama, "AlphaEdit", nas=True), new_session(llama, "AlphaEdit+NAS")]
    for session in sessions:
        session.edit(CITIES[:2], known="edit")
    assert same(*map(matrices, sessions))


# -- BetaEdit ----------------------------------------------------------------------------------------------------------


def betaedit(C0, H, K, R, P, lambda_1, lambda_2):
    """As published: one solve with the projector on the left."""
    left = P @ (K @ K.T + H + lambda_1 * C0) + lambda_2 * np.eye(len(C0))
    return np.linalg.solve(left, P @ K @ R.T).T


@pytest.mark.parametrize("every", [1000, 12])
def test_betaedit_agrees_with_the_published_expression(every):
    generator = np.random.default_rng(3)
    C0 = second_moment(D_MLP, generator).astype(np.float32).astype(float)
    weights = Weights(30.0, 10.0, 0.02, every)
    start, n = weighted_null_space(torch.from_numpy(C0), 30.0 * torch.from_numpy(C0), weights)
    P = RenewedPreservation.first(start, n, torch.from_numpy(C0).float(), weights)
    projection, H, t, renewed, counts = projector(C0, 0.02), np.zeros_like(C0), 0, 0, {n}
    for K, R in batches(generator):
        K = 0.5 * K  # lest edits use up all directions
        if t - renewed >= every:
            projection, renewed = projector((H / t + 30.0 * C0) / 31.0, 0.02), t
        expected = betaedit(C0, H, K, R, projection, 30.0, 10.0)
        keys = torch.from_numpy(K)
        P = P.begun()
        update = solve(torch.from_numpy(R), keys, P.times(keys), 1.0)
        assert close(update.delta(), expected)
        P, H, t = P.joined(update).compact(), H + K @ K.T, t + K.shape[1]
        counts.add(P.n_directions)
        assert P.n_directions == round(np.trace(projection))
    assert (len(counts) > 1) == (every < t)


def test_betaedit_takes_edits_back_until_its_directions_are_found_anew(llama, new_session):
    session = new_session(llama, "BetaEdit", refresh_every=2)
    session.edit(CITIES[:2], known="edit")
    assert session.takes_back
    session.retract([CITIES[0]])
    session.edit([CITIES[0], FACTS[2]], known="edit")
    session.edit(CITIES[2:], known="edit")
    assert not session.takes_back
    before = matrices(session)
    with pytest.raises(InputError, match="cannot take one edit back any more"):
        session.retract([CITIES[2]])
    assert same(before, matrices(session))
    session.undo()
    assert session.takes_back


@pytest.mark.parametrize("method", ["AlphaEdit", "BetaEdit"])
def test_how_many_directions_are_left_is_said(llama, new_session, method):
    session = new_session(llama, method, null_threshold=0.5, refresh_every=2)
    assert session.directions_left() is None
    told = []
    for fact in CITIES:
        session.edit([fact], known="edit")
        told.append(int(session.directions_left().split()[0]))
        dense = session._contents.preservation[0].dense()
        rank = int(torch.linalg.matrix_rank(dense, rtol=1e-9))
        if method == "BetaEdit":
            assert told[-1] <= rank == session._contents.preservation[0].n_directions
        else:
            assert told[-1] <= round(session.settings.l2 * float(dense.trace())) <= rank
    assert method != "AlphaEdit" or told[-1] < told[0]
    assert session.directions_left().endswith(f"of {llama.d_mlp} directions of a layer left in the null space")


def test_a_batch_that_changes_too_much_is_refused(llama, new_session, monkeypatch):
    session = new_session(llama, "BetaEdit")
    session.edit(CITIES[:1], known="edit")
    before = matrices(session)
    update = session.history[0].updates[0]
    assert update.norm() == pytest.approx(float(update.delta().norm()), rel=1e-9)
    # The same batch with the same P, and a limit that the second one is above.
    limit = 1.001 * max(one.norm() for one in session.history[0].updates.values())
    changed = new_session(llama, "BetaEdit", most_change=limit)
    changed.edit(CITIES[:1], known="edit")
    assert same(before, matrices(changed))
    monkeypatch.setattr(batch, "solve", lambda *parts: scaled(solve(*parts), 1e6))
    with pytest.raises(TooLargeChange, match=r"BetaEdit refuses this batch.*layer 0.*‖Δ‖/√n = .*most_change = "):
        changed.edit(CITIES[1:], known="edit")
    assert same(before, matrices(changed)) and changed.n_edits == 1 and len(changed.history) == 1


def scaled(update: LowRankUpdate, factor: float) -> LowRankUpdate:
    return replace(update, Y=factor * update.Y)


@pytest.mark.parametrize("method", ["MEMIT", "SPHERE", "LyapLock", "UltraEdit", "StableEdit", "CrispEdit"])
def test_every_method_keeps_to_the_largest_change(llama, new_session, method):
    session = new_session(llama, method, most_change=1e-9)
    before = matrices(session)
    with pytest.raises(TooLargeChange, match=f"{method} refuses this batch"):
        session.edit(CITIES[:2], known="edit")
    assert same(before, matrices(session)) and session.n_edits == 0


def test_a_projector_that_is_found_anew_joins_the_keys_as_they_were_solved_for(llama, new_session):
    """Weakened along main directions, an update has another Y than the one that P takes in."""
    session = new_session(llama, "BetaEdit", sphere_strength=0.5)
    start = session._initial_preservation(session._statistics_files())[0].dense().clone()
    session.edit(CITIES[:3], known="edit")
    K = session.history[0].updates[0].K
    expected = torch.linalg.inv(torch.eye(len(K), dtype=torch.float64) + start @ K @ K.T) @ start
    found = session._contents.preservation[0].dense()
    assert float((found - expected).norm() / expected.norm()) < 1e-9


def test_making_a_projector_anew_and_projections_count_as_time_of_the_update(llama, new_session, monkeypatch):
    for cls, name, method in ((RenewedPreservation, "begun", "BetaEdit"), (CurvatureMemory, "projection", "CrispEdit")):
        real = getattr(cls, name)
        with monkeypatch.context() as patch:
            patch.setattr(cls, name, lambda kept, real=real: time.sleep(0.2) or real(kept))
            report = new_session(llama, method).edit(CITIES[:1], known="edit")
        assert report.seconds["update"] > 0.2 and report.seconds["targets"] < report.seconds["update"] + 5


def test_rows_take_the_settings_of_the_method_they_build_on():
    llama_3 = {"model_type": "llama", "n_layers": 32, "d_model": 4096, "n_vocab": 128_256}
    for host, rows in (("AlphaEdit", ("SPHERE", "AlphaEdit+NAS", "BetaEdit")), ("ENCORE", ("ENCORE-N", "ENCORE+NAS"))):
        of_host = settings_for(host, **llama_3)
        for row in rows:
            found = settings_for(row, **llama_3)
            assert (found.lr, found.mpes_extra_steps, found.layers) == (
                of_host.lr, of_host.mpes_extra_steps, of_host.layers,
            )  # fmt: skip
    assert settings_for("SPHERE", **llama_3).lr == 0.1 and settings_for("ENCORE-N", **llama_3).mpes_extra_steps == 1
    assert settings_for("BetaEdit", **llama_3).lambda_p == 3000


def test_a_model_that_is_broken_says_so_instead_of_leaving_every_fact_alone(llama, new_session):
    targets = new_session(llama, "AlphaEdit").find_targets(CITIES[:1])
    targets = [replace(target, z=target.z * float("nan")) for target in targets]
    with pytest.raises(InputError, match="not finite"):
        brought_to_norm(llama, CITIES[:1], targets, (), 1, 1.0)


# -- LyapLock ----------------------------------------------------------------------------------------------------------


def lyaplock(C0, H, Hv, W, W0, K, R, q, weight):
    """As in the authors' code: with the values that the matrix gave after each batch, and one dense inverse."""
    left = R @ K.T - weight * q * (W - W0) @ C0 + (Hv - W @ H)
    return left @ np.linalg.inv(K @ K.T + weight * q * C0 + H)


def published_loss(delta, C0, W, W0, K, R, earlier, q, weight):
    """What a batch minimises: its own facts, the values of earlier ones, and general text weighted by the queue."""
    new = W + delta
    loss = (new @ K - (W @ K + R)).square().sum() + weight * q * torch.trace((new - W0) @ C0 @ (new - W0).T)
    return loss + sum((new @ Kp - Vp).square().sum() for Kp, Vp in earlier)


@pytest.mark.parametrize("budget", [1e6, 60.0])
def test_lyaplock_agrees_with_the_published_expression_and_minimises_the_published_loss(budget):
    generator = np.random.default_rng(4)
    C0 = second_moment(D_MLP, generator).astype(np.float32).astype(float)
    W0 = generator.standard_normal((D_MODEL, D_MLP))
    memory, W, q, first = LyapunovMemory.first(torch.from_numpy(C0).float(), 3.0, budget), W0.copy(), 1.0, None
    H, Hv, queues, earlier = np.zeros_like(C0), np.zeros_like(W0), [], []
    for K, R in batches(generator):
        expected = lyaplock(C0, H, Hv, W, W0, K, R, q, 3.0)
        update = memory.update(*map(torch.from_numpy, (R, K, W - W0)))
        assert close(update.delta(), expected)
        delta = update.delta().requires_grad_()
        arguments = [torch.from_numpy(one) for one in (C0, W, W0, K, R)]
        loss = published_loss(delta, *arguments, earlier, q, 3.0)
        scale = published_loss(torch.zeros_like(delta).requires_grad_(), *arguments, earlier, q, 3.0)
        (gradient,) = torch.autograd.grad(loss, delta)
        assert float(gradient.norm()) <= 1e-8 * float(scale.detach())
        W, H = W + expected, H + K @ K.T
        Hv, D = Hv + W @ K @ K.T, np.trace((W - W0) @ C0 @ (W - W0).T)
        earlier.append((torch.from_numpy(K), torch.from_numpy(W @ K)))
        first = D if first is None else first
        q = max(1.0, q + D / (budget * first) - 1)
        memory = memory.joined(update).compact()
        assert memory.queue == pytest.approx(q, rel=1e-8)
        queues.append(q)
    assert (queues[-1] > 1) == (budget == 60)
    assert update.Y.shape[1] == (D_MODEL if budget == 60 else 2 * N_FACTS)


# -- UltraEdit and StableEdit ------------------------------------------------------------------------------------------


class NaiveNormaliser:
    """From all tokens of all batches so far, kept as they are."""

    def __init__(self, whitens: bool):
        self.batches, self.whitens = [], whitens

    def update(self, K: np.ndarray, G: np.ndarray, ridge: float, lr: float) -> np.ndarray:
        """K (T, d_mlp), G (T, d_model), a row a token, as in the authors' code. Returns Δᵀ."""
        self.batches.append(np.concatenate([K, G], axis=1))
        x, eps = np.concatenate(self.batches), float(np.finfo(np.float32).eps)
        squares, n, mean = np.zeros(x.shape[1]), 0, np.zeros(x.shape[1])
        for one in self.batches:
            T, shift = len(one), one.mean(0) - mean
            squares = squares + T * one.var(0, ddof=0 if self.whitens else 1) + n * T * shift**2 / (n + T)
            mean, n = mean + T * shift / (n + T), n + T
        hat = (self.batches[-1] - mean) / (np.sqrt(squares / (n - 1 + eps)) + eps)
        k, g = hat[:, : K.shape[1]], hat[:, K.shape[1] :]
        if self.whitens and n > G.shape[1] + 1:
            all_g = x[:, K.shape[1] :] - x[:, K.shape[1] :].mean(0)
            values, vectors = np.linalg.eigh(all_g.T @ all_g / (n - G.shape[1] - 1))
            g = (G - mean[K.shape[1] :]) @ (vectors / np.sqrt(np.maximum(values, 1e-6 * values.mean()))) @ vectors.T
        V = -lr * (k * k).sum(1, keepdims=True) * g
        return np.linalg.solve(K.T @ K + ridge * np.eye(K.shape[1]), K.T @ V)


@pytest.mark.parametrize(("whitens", "ridge"), [(False, 1.0), (True, 10.0)])
def test_gradient_rules_agree_with_the_published_expressions(whitens, ridge):
    generator = np.random.default_rng(5)
    memory = GradientMemory.first(ridge, 1e-3, whitens, D_MLP, D_MODEL, "cpu")
    naive, whitened = NaiveNormaliser(whitens), 0
    for n in range(N_BATCHES):
        T = (3, 1, 5, 2)[n % 4] if not (n % 4 == 1 and not whitens) else 2  # the unbiased variance of one is none
        K, G = generator.standard_normal((T, D_MLP)) + 0.5, 1e-3 * generator.standard_normal((T, D_MODEL))
        update = memory.update(torch.from_numpy(K.T.copy()), torch.from_numpy(G.T.copy()))
        assert close(update.delta(), naive.update(K, G, ridge, 1e-3).T)
        memory = memory.joined(update)
        whitened += memory.n > D_MODEL + 1
    assert memory.n > D_MODEL + 1 and whitened


def test_a_batch_of_one_token_is_taken_after_others_and_refused_first():
    memory = GradientMemory.first(1.0, 1e-3, False, 6, 4, "cpu")
    one = (torch.ones(6, 1).double(), torch.ones(4, 1).double())
    with pytest.raises(InputError, match=r"first batch has one token.*two facts"):
        memory.update(*one)
    generator = torch.Generator().manual_seed(0)
    K, G = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (6, 4))
    memory = memory.joined(memory.update(K, G))
    assert bool(torch.isfinite(memory.update(*one).delta()).all())


def test_gradients_are_those_of_the_whole_model(lm):
    """K and G against one run of the whole model for each fact, the graph reaching down to the matrices."""
    found, column = answer_gradients(lm, FACTS, (0, 1)), 0
    for fact in FACTS:
        row = encode_contexts(lm, [fact], ())[0][0]
        seen = {}

        def keep(module, inputs, output, seen=seen):
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.retain_grad()
            seen[module] = inputs[0].detach(), output
            return output

        handles = [lm.down_projections[layer].register_forward_hook(keep) for layer in (0, 1)]
        logits = lm.model(input_ids=torch.tensor([row.ids])).logits[0]
        sum(
            -logits[place - 1].log_softmax(-1)[row.ids[place]] for place in range(row.n_prompt, len(row.ids))
        ).backward()
        places = slice(row.n_prompt - 1, len(row.ids) - 1)
        for layer, handle in zip((0, 1), handles, strict=True):
            handle.remove()
            inputs, output = seen[lm.down_projections[layer]]
            for part, expected in zip(found[layer], (inputs, output.grad), strict=True):
                own = part[:, column : column + row.n_target].T.float()
                wanted = expected.reshape(len(row.ids), -1)[places]
                torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-5)
        column += row.n_target


def test_facts_of_many_lengths_cost_one_pass_and_keep_their_order(llama):
    together = answer_gradients(llama, FACTS, (0, 1))
    apart = [answer_gradients(llama, [fact], (0, 1)) for fact in FACTS]
    for layer in (0, 1):
        for part in (0, 1):
            joined = torch.cat([one[layer][part] for one in apart], dim=1)
            torch.testing.assert_close(together[layer][part], joined, rtol=1e-3, atol=1e-5)


def test_gradient_methods_need_no_statistics_and_have_no_targets(llama, new_session, tmp_path):
    session = new_session(llama, "UltraEdit")
    session.prepare()
    assert session.statistics_files == {} and session.statistics == "none: UltraEdit needs no statistics"
    with pytest.raises(InputError, match="without targets"):
        session.find_targets(CITIES)
    for setting, value in (("nas", True), ("sphere_strength", 0.5)):
        with pytest.raises(InputError, match=f"{setting}.*does not suit UltraEdit"):
            new_session(llama, "UltraEdit", **{setting: value})
    report = session.edit(CITIES, known="edit")
    assert [item.stopped for item in report.edited] == ["gradient"] * 3 and all(one.is_edited for one in report.edited)


# -- every row ---------------------------------------------------------------------------------------------------------


def test_every_method_has_a_card():
    for name in METHODS:
        card = card_of(name)
        assert card.changes.endswith((".", "(MPES).")) and card.formula and card.keeps and card.licence
        row = METHODS[name]
        assert ("λn" in card.formula) == row.norm_constraint
        assert ("a v* / ‖v*‖" in card.formula) == bool(row.published.get("nas"))
        assert not row.mpes or re.search("early stopping|stop once the new answer|ENCORE", card.changes)


def test_a_card_names_the_paper_of_its_method():
    assert source_of("MEMIT") == "arXiv 2210.07229" and source_of("ENCORE") == PAPER
    assert source_of("EMMET+MPES") == f"arXiv 2403.14236, with MPES in {PAPER}"
    assert source_of("SPHERE") == METHODS["SPHERE"].source and not source_of("ENCORE-N")


@pytest.mark.parametrize("method", LATER)
def test_published_settings_are_the_defaults_of_an_unknown_model(method):
    settings = settings_for(method, model_type="llama", n_layers=12, d_model=64, n_vocab=100)
    for name, value in METHODS[method].published.items():
        assert getattr(settings, name) == value
    assert not settings.validated


@pytest.fixture(params=["gpt2", "llama_tied"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("method", LATER)
def test_undo_is_bit_for_bit_and_editing_goes_on(method, model, new_session):
    session, twin = new_session(model, method), new_session(model, method)
    for one in (session, twin):
        one.edit(CITIES[:2], known="edit")
    before = matrices(session)
    session.edit(FACTS[2:4], known="edit")
    assert not same(before, matrices(session))
    session.undo()
    assert same(before, matrices(session))
    for one in (session, twin):
        one.edit(CITIES[2:], known="edit")
    assert same(matrices(session), matrices(twin))
    assert session.reset() == 2
    assert session.n_edits == 0


@pytest.mark.parametrize("method", LATER)
def test_a_state_continues_with_the_same_bits(method, model, new_session):
    parts = [CITIES[:2], CITIES[2:], FACTS[2:3], FACTS[3:4]]
    straight = new_session(model, method, keep_history=False)
    for part in parts:
        straight.edit(part, known="edit")
    first = new_session(model, method, keep_history=False)
    for part in parts[:2]:
        first.edit(part, known="edit")
    second = new_session(model, method, keep_history=False)
    second.restore(first.state())
    for part in parts[2:]:
        second.edit(part, known="edit")
    assert same(matrices(straight), matrices(second))


@pytest.mark.parametrize("method", LATER)
def test_an_edit_file_restores_the_session(method, model, new_session, tmp_path):
    session = new_session(model, method)
    session.edit(CITIES[:2], known="edit")
    session.edit(CITIES[2:], known="edit")
    write_edit_file(tmp_path / "edits.safetensors", edit_file_of(session), {})
    back = read_edit_file(tmp_path / "edits.safetensors")
    assert same(back.matrices_on(model), session.matrices())
    if back.form == "factors":
        again = back.session_on(model, statistics_text=session.statistics_text)
        assert again.n_edits == 3
        for one in (session, again):
            one.edit(FACTS[2:3], known="edit")
        assert same(matrices(session), matrices(again))


@pytest.mark.parametrize("method", LATER)
def test_an_edit_is_taken_back_or_the_method_says_why_not(method, model, new_session):
    session, other = new_session(model, method), new_session(model, method)
    session.edit(CITIES[:2], known="edit")
    session.edit(CITIES[2:], known="edit")
    before = matrices(session)
    if session.settings.takes_back:
        report = session.retract([CITIES[0]])
        assert report.retracted and session.n_edits == 2
        session.undo()
    else:
        with pytest.raises(InputError, match=r"cannot take one edit back.*Undo the last batch"):
            session.retract([CITIES[0]])
    assert same(before, matrices(session))
    # The same fact again: taken back first, or on top of what is there.
    report = session.edit([CITIES[0]], known="edit")
    [line] = [line for line in report.notices if "was edited in batch 1" in line]
    assert ("is taken back" if session.settings.takes_back else "comes on top") in line
    assert session.n_edits == 3
    assert not other.n_edits


@pytest.mark.parametrize("method", LATER)
def test_a_run_gives_the_weights_of_editing_by_hand(method, tiny_folder, statistics_text, tmp_path):
    store = RunStore(tmp_path / "runs")
    measure = MeasurePlan(
        subsets=(),
        perplexity=False,
        foretold_damage=False,
        generation_entropy=False,
        contributions=False,
        share_cap=None,
    )
    plan = tiny_runs.plan(tiny_folder, statistics_text, method=method, measure=measure)
    own = {"gradients": {"lr": 0.05}, "whitened_gradients": {"lr": 0.05}, "curvature": {"lr": 0.01}}
    own = own.get(METHODS[method].preservation, {})
    own |= {"nas_facts": 20} if METHODS[method].published.get("nas") else {}
    plan = replace(plan, overrides={**plan.overrides, **own})
    ready = prepare(plan, tiny_runs.FACTS)
    assert (ready.statistics == "none") == (METHODS[method].preservation in GRADIENTS)
    [run_id] = store.submit([ready])
    tiny_runs.worker(store).serve()
    run = store.get(run_id)
    assert (run.status, run.error, run.done) == ("done", None, 10)
    lm = load_model(str(tiny_folder), "cpu")
    session = EditSession(
        lm, method, settings=dict(plan.overrides), statistics_text=statistics_text, keep_history=False
    )
    skipped = 0
    for start in range(0, 10, 2):
        report = session.edit(tiny_runs.FACTS[start : start + 2], known="edit", measure=False)
        skipped += sum(not item.is_edited for item in report.edited)
    assert weights_digest(session.matrices()) == run.weights_digest and run.skipped == skipped


def test_rows_are_compared_with_the_papers(llama, statistics_text):
    methods, lr = ["AlphaEdit", "SPHERE", "BetaEdit", "LyapLock", "UltraEdit", "CrispEdit"], {"UltraEdit": 0.05}
    arms = [Arm(name, DEFAULTS | {"lr": (lr | {"CrispEdit": 0.01}).get(name, 0.5)}) for name in methods]
    found = compare_edits(llama, CITIES, arms, batch_size=2, known="edit", statistics_text=statistics_text)
    assert [side.label for side in found.sides] == methods and not any(side.error for side in found.sides)
    assert len({tuple(side.session.norms().values()) for side in found.sides}) == len(methods)


@pytest.mark.parametrize("method", ["BetaEdit", "LyapLock", "UltraEdit", "StableEdit", "CrispEdit"])
def test_what_a_layer_keeps_is_as_large_as_foretold(method, llama, new_session, monkeypatch):
    monkeypatch.setattr(Preservation, "FOLD_RANK_SHARE", 0.0)  # every batch is folded in
    session = new_session(llama, method, keep_history=False)
    session.edit(CITIES, known="edit")
    kept = session._contents.preservation[0]
    thin = ("keys", "missed")  # of the last batch alone
    held = sum(piece.nbytes for name, piece in kept.pieces() if name not in thin)
    assert held == bytes_kept(session.settings, llama.d_mlp, llama.d_model)


def test_what_does_not_suit_a_row_is_refused_with_the_reason(llama, new_session):
    for method in ("UltraEdit", "LyapLock", "CrispEdit"):
        session = new_session(llama, method)
        session.edit(CITIES, known="edit")
        with pytest.raises(InputError, match=f"{method} does not solve"):
            take_apart(session)


def test_a_weakened_update_is_taken_apart_as_it_was_solved(llama, new_session):
    session = new_session(llama, "SPHERE")
    session.edit(CITIES, known="edit")
    found = take_apart(session)
    for layer in found.layers:
        assert layer.error < 1e-6
        assert layer.delta_norm == pytest.approx(session.history[0].updates[layer.layer].norm(), rel=1e-9)


def test_a_state_of_an_earlier_version_goes_on(llama, new_session):
    """It lacks the settings that were added since, and says of P how many factors there are."""
    session, twin = (new_session(llama, "AlphaEdit", keep_history=False) for _ in range(2))
    session.edit(CITIES[:2], known="edit")
    state = session.state()
    values = {name: value for name, value in state.values.items() if name not in ("nas", "sphere_strength")}
    kept = values.pop("preserved")
    values["recent"] = {layer: numbers["recent"] for layer, numbers in kept.items()}
    twin.restore(SessionState(state.tensors, values))
    for one in (session, twin):
        one.edit(CITIES[2:], known="edit")
    assert same(matrices(session), matrices(twin))
