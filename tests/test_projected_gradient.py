"""CrispEdit (arXiv 2602.15823): its steps against a dense float64 form, the projection's limits, and a batch by hand.

G' = U_B ((U_Bᵀ G U_A) ∘ M) U_Aᵀ,  M_ij = [s^B_i s^A_j < the threshold above which lie γ of all energy]
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusals import refusal
from test_editor import matrices, same
from test_update_rule import N_BATCHES, second_moment
from tiny_models import CITIES, FACTS

from encore_core.cli.output import teller
from encore_core.editing import fine_tuning
from encore_core.editing.batch_report import EditProgress
from encore_core.editing.covariance import windows_of
from encore_core.editing.fine_tuning import loss_and_gradients, steps_of
from encore_core.editing.projected_gradient import CurvatureMemory, ProjectedAdam, projection
from encore_core.editing.session_state import SessionState
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import InputError
from encore_core.forward.prompts import encode_contexts
from encore_core.methods import settings_for

D_MODEL, D_MLP, N_TEXT, LR = 24, 80, 500, 5e-3


def naive_projection(A: np.ndarray, B: np.ndarray, energy: float, G: np.ndarray) -> np.ndarray:
    """As published: two full rotations, and a mask over all pairs, counted one by one from the heaviest."""
    s_A, U_A = np.linalg.eigh(A)
    s_B, U_B = np.linalg.eigh(B)
    pairs = sorted(((b * a, i, j) for i, b in enumerate(s_B) for j, a in enumerate(s_A)), reverse=True)
    M, total, seen = np.ones((len(B), len(A))), sum(weight for weight, _, _ in pairs), 0.0
    for weight, i, j in pairs:
        if seen >= energy * total:
            break
        M[i, j] = 0
        seen += weight
    return U_B @ ((U_B.T @ G @ U_A) * M) @ U_A.T


class NaiveAdam:
    """As in Kingma and Ba, with bias correction."""

    def __init__(self, W: np.ndarray):
        self.W, self.m, self.v, self.t = W.copy(), np.zeros_like(W), np.zeros_like(W), 0

    def step(self, G: np.ndarray) -> None:
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * G, 0.999 * self.v + 0.001 * G * G
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        self.W -= LR * m / (np.sqrt(v) + 1e-8)


def moments(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """C0 and F that float32 holds exactly."""
    return tuple(second_moment(d, generator).astype(np.float32).astype(float) for d in (D_MLP, D_MODEL))


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99])
def test_projected_steps_agree_with_the_published_expression(energy):
    generator = np.random.default_rng(6)
    C0, F = moments(generator)
    memory = CurvatureMemory.first(*(torch.from_numpy(one).float() for one in (C0, F)), energy, N_TEXT)
    W = generator.standard_normal((D_MODEL, D_MLP))
    A, B, n = C0, F, N_TEXT
    for _ in range(N_BATCHES):
        naive, ours = NaiveAdam(W), torch.from_numpy(W.copy())
        adam = ProjectedAdam(ours, memory.projection(), LR)
        for _ in range(4):
            G = generator.standard_normal((D_MODEL, D_MLP))
            naive.step(naive_projection(A, B, energy, G))
            adam.step(torch.from_numpy(G))
        moved = naive.W - W
        assert np.linalg.norm(ours.numpy() - W - moved) <= 1e-8 * np.linalg.norm(moved)
        T = int(generator.integers(1, 9))
        K, g = 3 * generator.standard_normal((D_MLP, T)), 2 * generator.standard_normal((D_MODEL, T))
        A, B, n = (n * A + K @ K.T) / (n + T), (n * B + g @ g.T) / (n + T), n + T
        thin = [torch.from_numpy(one) for one in (K, g)]
        update = LowRankUpdate(torch.eye(D_MODEL), torch.zeros(D_MLP, D_MODEL), thin[0], {"token_gradient": thin[1]})
        memory, W = memory.joined(update).compact(), naive.W
    assert memory.n == n - N_TEXT


def test_no_energy_takes_nothing_out_and_all_of_it_takes_out_everything():
    generator = np.random.default_rng(7)
    A, B = (torch.from_numpy(one) for one in moments(generator))
    G = torch.from_numpy(generator.standard_normal((D_MODEL, D_MLP)))
    assert torch.equal(projection(A, B, 0.0).of(G), G)
    assert not projection(A, B, 1.0).of(G).any()


def test_it_is_a_projection_that_takes_out_more_the_larger_the_energy():
    generator = np.random.default_rng(8)
    A, B = (torch.from_numpy(one) for one in moments(generator))
    G, H = (torch.from_numpy(generator.standard_normal((D_MODEL, D_MLP))) for _ in range(2))
    left, cost = [], []
    for energy in (0.1, 0.5, 0.8, 0.95, 0.99):
        P = projection(A, B, energy)
        once = P.of(G)
        torch.testing.assert_close(P.of(once), once, rtol=0, atol=1e-11)  # a second time changes nothing
        assert float((once * H).sum()) == pytest.approx(float((G * P.of(H)).sum()), rel=1e-9)  # it is symmetric
        left.append(float(once.norm()))
        cost.append(float(torch.trace(B @ once @ A @ once.T)))
    assert left == sorted(left, reverse=True) and cost == sorted(cost, reverse=True)
    # Of a random gradient, whose cost falls on all pairs by their weight, as much is left as γ leaves.
    whole, trials = 0.0, [torch.from_numpy(generator.standard_normal((D_MODEL, D_MLP))) for _ in range(200)]
    kept, P = 0.0, projection(A, B, 0.8)
    for one in trials:
        whole += float(torch.trace(B @ one @ A @ one.T))
        kept += float(torch.trace(B @ P.of(one) @ A @ P.of(one).T))
    assert kept / whole == pytest.approx(0.2, abs=0.03)


def test_moments_of_little_text_leave_what_it_never_uses():
    """With γ = 1, directions without any weight stay free."""
    generator = np.random.default_rng(9)
    A, B = torch.from_numpy(second_moment(D_MLP, generator)), torch.zeros(D_MODEL, D_MODEL, dtype=torch.float64)
    B[:5, :5] = torch.from_numpy(second_moment(5, generator))
    G = torch.from_numpy(generator.standard_normal((D_MODEL, D_MLP)))
    found = projection(A, B, 1 - 1e-12).of(G)
    torch.testing.assert_close(found[5:], G[5:], rtol=0, atol=1e-10)
    assert float(found[:5].norm()) <= 1e-2 * float(G[:5].norm())


def test_moments_that_are_not_finite_are_refused():
    assert "not finite" in refusal(projection, torch.full((3, 3), torch.nan), torch.eye(2), 0.5)


# -- a batch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(0, 1), (1, 2)])
def test_gradients_by_the_matrices_are_those_of_autograd(lm, layers):
    """From a run of the whole model for each fact, with the matrices as leaves of the graph."""
    facts = FACTS[:3]
    with lm.lock:
        [(n, groups)] = steps_of(lm, facts, layers[0], 8)
        loss, found = loss_and_gradients(lm, groups, layers)
    parameters = [lm.parameter(layer) for layer in layers]
    total, count = 0.0, 0
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for fact in facts:
            row = encode_contexts(lm, [fact], ())[0][0]
            logs = lm.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            for place in range(row.n_prompt, len(row.ids)):
                total, count = total - logs[place - 1, row.ids[place]], count + 1
        expected = torch.autograd.grad(total / count, parameters)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    assert n == 3 and loss == pytest.approx(float(total.detach() / count), rel=1e-4)
    for layer, gradient in zip(layers, expected, strict=True):
        wanted = lm.oriented(layer, gradient)
        torch.testing.assert_close(found[layer], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_batch_learns_its_facts_and_says_how_far_it_came(llama, new_session):
    session = new_session(llama, "CrispEdit", steps=60, curvature_energy=0.3, stop_loss=0.1)
    report = session.edit(CITIES, known="edit")
    assert all(item.probability_after > 0.7 > item.probability_before for item in report.edited)
    steps = {item.steps for item in report.edited}
    assert steps.pop() < 60 and not steps
    assert [item.stopped for item in report.edited] == ["gradient"] * 3
    assert not any("mean loss" in line for line in report.notices)
    short = new_session(llama, "CrispEdit", steps=2)
    [line] = [line for line in short.edit(CITIES, known="edit").notices if "mean loss" in line]
    assert "After 2 passes" in line and "stop_loss = 0.01" in line


def test_where_everything_is_taken_out_nothing_is_learned(llama, new_session):
    session = new_session(llama, "CrispEdit", curvature_energy=1.0)
    report = session.edit(CITIES, known="edit")
    assert any("mean loss" in line for line in report.notices)
    for before, after in report.norms.values():
        assert before == after


def test_edited_facts_join_both_moments(llama, new_session):
    session, apart = new_session(llama, "CrispEdit"), new_session(llama, "CrispEdit", sequential=False)
    for one in (session, apart):
        one.edit(CITIES[:2], known="edit")
    kept, alone = (one._contents.preservation[0] for one in (session, apart))
    update = session.history[0].updates[0]
    assert kept.n == update.K.shape[1] > 0 == alone.n
    A, B = kept.moments()
    C0, G = kept.C0.double(), update.kept["token_gradient"]
    torch.testing.assert_close(A, (kept.n_text * C0 + update.K @ update.K.T) / (kept.n_text + kept.n))
    torch.testing.assert_close(B, (kept.n_text * kept.F.double() + G @ G.T) / (kept.n_text + kept.n))


def test_text_counts_as_many_tokens_as_it_has_not_as_were_asked_for(llama, new_session, statistics_text):
    asked = 500_000
    session, restored, earlier = (new_session(llama, "CrispEdit", statistics_tokens=asked) for _ in range(3))
    session.edit(CITIES[:1], known="edit")
    n = sum(map(len, windows_of(llama, statistics_text.read_text("utf-8"), asked)))
    assert n < asked and {memory.n_text for memory in session._contents.preservation.values()} == {n}
    state = session.state()
    restored.restore(state)
    kept = {layer: {k: v for k, v in numbers.items() if k != "n_text"}
            for layer, numbers in state.values["preserved"].items()}  # fmt: skip
    earlier.restore(SessionState(state.tensors, state.values | {"preserved": kept}))
    for one, wanted in ((restored, n), (earlier, asked)):
        assert {memory.n_text for memory in one._contents.preservation.values()} == {wanted}


def test_a_failed_batch_changes_nothing(llama, new_session, monkeypatch):
    session = new_session(llama, "CrispEdit")
    session.edit(CITIES[:1], known="edit")
    before = matrices(session)
    with pytest.raises(RuntimeError), llama.lock:
        session.edit(CITIES[1:], known="edit", on_progress=_fail)
    assert same(before, matrices(session)) and session.n_edits == 1
    real = fine_tuning.loss_and_gradients
    losses = iter([False, True])  # the second step breaks the model
    monkeypatch.setattr(
        fine_tuning, "loss_and_gradients", lambda *parts: (math.nan, {}) if next(losses) else real(*parts)
    )
    with pytest.raises(InputError, match="The loss of the batch is nan in pass 2; lower lr"):
        session.edit(CITIES[1:], known="edit")
    assert same(before, matrices(session)) and session.n_edits == 1


def _fail(progress) -> None:
    raise RuntimeError("stopped in the middle")


def test_settings_are_checked_and_layers_are_late():
    shape = {"model_type": "llama", "n_layers": 32, "d_model": 4096, "n_vocab": 128_256}
    settings = settings_for("CrispEdit", **shape)
    assert (settings.layers, settings.lr, settings.steps) == ((19, 20, 21, 22, 23), 5e-4, 25)
    assert (settings.facts_per_step, settings.stop_loss, settings.from_gradients) == (32, 0.01, True)
    for name, value, right in (
        ("curvature_energy", 1.5, "from 0 to 1"), ("facts_per_step", 0, "from 1"), ("stop_loss", 0, "above 0"),
        ("search", "natural_gradient", "no targets"), ("nas", True, "no targets"),
    ):  # fmt: skip
        message = refusal(settings_for, "CrispEdit", **shape, overrides={name: value})
        assert name in message and right in message


def test_progress_without_a_loss_is_told():
    """Gradients are gathered without a loss to show."""
    said = []
    tell = teller(SimpleNamespace(bar=SimpleNamespace(set_postfix_str=said.append)), 2)
    for progress in (
        EditProgress("targets", 1, 3),
        EditProgress("targets", 0, 3, 4, 0.5),
        EditProgress("update", 1, 2),
    ):
        tell(progress)
    assert said == ["batch 2, step 0", "batch 2, step 4, loss 0.50", "batch 2, layer 1 of 2"]
