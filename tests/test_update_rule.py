"""The update rule held to the four published expressions, each written out as a dense float64 solve.

The oracles use the papers' own forms, with explicit inverses of everything to be preserved, and share nothing with the
module under test: no P, no recursion, no thin factors.

MEMIT      Δ = R K₁ᵀ (λp C₀ + Kp Kpᵀ + K₁ K₁ᵀ)⁻¹                       arXiv 2210.07229, sequentially as in 2502.01636
ENCORE     Δ = R K₁ᵀ (λp C₀ + λn I + Kp Kpᵀ + K₁ K₁ᵀ)⁻¹                arXiv 2502.01636
EMMET      Δ = R (ε I + K₁ᵀ A⁻¹ K₁)⁻¹ K₁ᵀ A⁻¹,  A = λp C₀ + Kp Kpᵀ     arXiv 2403.14236
AlphaEdit  Δ = R K₁ᵀ P (Kp Kpᵀ P + K₁ K₁ᵀ P + L2 I)⁻¹                  arXiv 2410.02355
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from encore_core.editing.update_rule import (
    LowRankUpdate,
    Preservation,
    inverse_preservation,
    null_space_preservation,
    solve,
)
from encore_core.errors import InputError

N_BATCHES = 20
LAMBDA_P, LAMBDA_N, EPSILON, L2 = 3.0, 0.7, 0.1, 10.0


def second_moment(d_mlp: int, generator: np.random.Generator, rank: int | None = None) -> np.ndarray:
    """E[k kᵀ] of keys whose directions are used to very different degrees, as a model's are."""
    keys = generator.standard_normal((d_mlp, rank or 4 * d_mlp))
    scales = np.logspace(0, -1.5, d_mlp)
    rotation, _ = np.linalg.qr(generator.standard_normal((d_mlp, d_mlp)))
    keys = rotation @ (scales[:, None] * keys)
    return keys @ keys.T / keys.shape[1]


def projector(C0: np.ndarray, threshold: float) -> np.ndarray:
    """Onto what general text leaves unused, by the singular value decomposition as in the authors' code."""
    if C0.tobytes() not in _decomposed:
        _decomposed.clear()
        _decomposed[C0.tobytes()] = np.linalg.svd(C0)[:2]
    U, S = _decomposed[C0.tobytes()]
    unused = U[:, threshold > S]
    return unused @ unused.T


_decomposed: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}


def memit(C0, Kp, K, R):
    return R @ K.T @ np.linalg.inv(LAMBDA_P * C0 + Kp @ Kp.T + K @ K.T)


def encore(C0, Kp, K, R):
    return R @ K.T @ np.linalg.inv(LAMBDA_P * C0 + LAMBDA_N * np.eye(len(C0)) + Kp @ Kp.T + K @ K.T)


def emmet(C0, Kp, K, R):
    A_inv = np.linalg.inv(LAMBDA_P * C0 + Kp @ Kp.T)
    epsilon = EPSILON if K.shape[1] > 1 else 0.0
    return R @ np.linalg.inv(epsilon * np.eye(K.shape[1]) + K.T @ A_inv @ K) @ K.T @ A_inv


def alphaedit(C0, Kp, K, R):
    P = projector(C0, 0.02)
    return R @ K.T @ P @ np.linalg.inv(Kp @ Kp.T @ P + K @ K.T @ P + L2 * np.eye(len(C0)))


METHODS = {
    "MEMIT": (memit, lambda C0: inverse_preservation(C0, LAMBDA_P), lambda n: 1.0),
    "ENCORE": (encore, lambda C0: inverse_preservation(C0, LAMBDA_P, LAMBDA_N), lambda n: 1.0),
    "EMMET": (emmet, lambda C0: inverse_preservation(C0, LAMBDA_P), lambda n: EPSILON if n > 1 else 0.0),
    "AlphaEdit": (alphaedit, lambda C0: null_space_preservation(C0, 0.02, L2), lambda n: 1.0),
}

# With 160 columns a batch of 3 is folded in after 7 batches, of 1 never; with 48 one of 5 after 2, one of 9 at once.
SHAPES = ((160, 3, "folds twice"), (160, 1, "never folds"), (48, 5, "folds often"), (48, 9, "folds every time"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("d_mlp", "n_facts", "folding"), SHAPES, ids=[shape[2] for shape in SHAPES])
def test_sequential_batches_agree_with_the_published_expression(method, d_mlp, n_facts, folding):
    oracle, initial, slack = METHODS[method]
    generator = np.random.default_rng(d_mlp + n_facts)
    C0 = second_moment(d_mlp, generator)
    start = initial(torch.from_numpy(C0))
    untouched = start.clone()
    preservation, sibling = Preservation(start), Preservation(start)
    Kp = np.zeros((d_mlp, 0))
    W, W_expected = np.zeros((16, d_mlp)), np.zeros((16, d_mlp))
    n_folds = 0
    for _ in range(N_BATCHES):
        K, R = generator.standard_normal((d_mlp, n_facts)), generator.standard_normal((16, n_facts))
        expected = oracle(C0, Kp, K, R)
        update = solve(*map(torch.from_numpy, (R, K)), preservation.times(torch.from_numpy(K)), slack(n_facts))
        found = update.delta().numpy()
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)
        preservation = preservation.absorbed(update.Y).compact()
        n_folds += not preservation.recent
        Kp = np.concatenate([Kp, K], axis=1)
        W, W_expected = W + found, W_expected + expected
    assert np.linalg.norm(W - W_expected) <= 1e-8 * np.linalg.norm(W_expected)
    # The shapes do what they are here for, and the shared start has been left alone by the one session and the other.
    assert {"folds twice": 2, "never folds": 0, "folds often": 10, "folds every time": 20}[folding] == n_folds
    assert torch.equal(start, untouched)
    assert torch.equal(sibling.dense(), untouched)


@pytest.mark.parametrize("block", [1, 37, 64, 160, 161])
def test_folding_block_by_block(block, monkeypatch):
    """Whatever the size of the blocks: P less the products, both its halves, and the shared start untouched."""
    monkeypatch.setattr(Preservation, "FOLD_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(160, 200, dtype=torch.float64, generator=generator)
    start = X @ X.T
    Ys = [torch.randn(160, n, dtype=torch.float64, generator=generator) for n in (7, 30)]
    wanted = start - sum(Y @ Y.T for Y in Ys)
    before = start.clone()
    preservation = Preservation(start)
    for Y in Ys:
        preservation = preservation.absorbed(Y).compact()
    assert not preservation.recent
    torch.testing.assert_close(preservation.start, wanted, rtol=1e-12, atol=1e-10)
    assert torch.equal(start, before)


def test_folding_changes_no_product():
    generator = torch.Generator().manual_seed(1)
    start = torch.eye(40, dtype=torch.float64)
    factors = [0.1 * torch.randn(40, 3, generator=generator, dtype=torch.float64) for _ in range(7)]
    K = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    preservation = Preservation(start)
    expected = start.clone()
    for Y in factors:
        preservation = preservation.absorbed(Y).compact()
        expected = expected - Y @ Y.T
        torch.testing.assert_close(preservation.times(K), expected @ K, rtol=0, atol=1e-13)
        torch.testing.assert_close(preservation.dense(), expected, rtol=0, atol=1e-13)
    assert preservation.owns_start
    assert preservation.start is not start


def test_float32_statistics_are_solved_in_float64():
    C0 = torch.from_numpy(second_moment(32, np.random.default_rng(0))).float()
    for P in (inverse_preservation(C0, 15_000.0), null_space_preservation(C0, 0.02, 10.0)):
        assert P.dtype == torch.float64
    product = inverse_preservation(C0, 15_000.0) @ (15_000.0 * C0.double())
    torch.testing.assert_close(product, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-9)
    assert C0.dtype == torch.float32


def test_preservation_does_not_write_to_the_statistics():
    C0 = torch.from_numpy(second_moment(24, np.random.default_rng(0)))
    before = C0.clone()
    inverse_preservation(C0, 1.0, 5.0)
    null_space_preservation(C0, 0.02, 10.0)
    assert torch.equal(C0, before)


def test_equality_reaches_the_target_exactly_and_least_squares_does_not():
    generator = np.random.default_rng(2)
    P = inverse_preservation(torch.from_numpy(second_moment(64, generator)), 1e6)
    K, R = (torch.from_numpy(generator.standard_normal(shape)) for shape in ((64, 1), (16, 1)))
    exact, least = (solve(R, K, P @ K, slack).delta() @ K for slack in (0.0, 1.0))
    torch.testing.assert_close(exact, R, rtol=1e-10, atol=1e-10)
    assert float((least - R).norm()) > 0.01 * float(R.norm())


def test_alphaedit_leaves_what_is_used_alone():
    generator = np.random.default_rng(3)
    C0 = second_moment(64, generator)
    values, vectors = np.linalg.eigh(C0)
    used = torch.from_numpy(vectors[:, values >= 0.02])
    assert 0 < used.shape[1] < 64
    preservation = Preservation(null_space_preservation(torch.from_numpy(C0), 0.02, 10.0))
    for _ in range(5):
        K, R = (torch.from_numpy(generator.standard_normal(shape)) for shape in ((64, 4), (16, 4)))
        update = solve(R, K, preservation.times(K), 1.0)
        preservation = preservation.absorbed(update.Y).compact()
        assert float((update.delta() @ used).norm()) < 1e-12 * float(update.delta().norm())


@pytest.mark.parametrize("seed", range(5))
def test_the_norm_constraint_bounds_growth(seed):
    """‖Δ‖ shrinks with λn for every batch, and obeys the bound ‖Δ‖ ≤ ‖R‖ / (2 √λn) that the constraint gives."""
    generator = np.random.default_rng(seed)
    C0 = torch.from_numpy(second_moment(48, generator))
    batches = [
        tuple(torch.from_numpy(generator.standard_normal(shape)) for shape in ((48, 4), (16, 4))) for _ in range(10)
    ]
    growth = []
    for lambda_n in (0.0, 1.0, 20.0, 1000.0):
        preservation = Preservation(inverse_preservation(C0, 0.01, lambda_n))
        norms = []
        for K, R in batches:
            update = solve(R, K, preservation.times(K), 1.0)
            preservation = preservation.absorbed(update.Y).compact()
            norms.append(float(update.delta().norm()))
            if lambda_n:
                assert norms[-1] <= float(R.norm()) / (2 * lambda_n**0.5) * (1 + 1e-12)
        growth.append(norms)
    for weaker, stronger in itertools.pairwise(growth):
        assert all(b < a for a, b in zip(weaker, stronger, strict=True))


def test_too_few_statistics_are_refused_with_their_rank():
    """Many of them, for whether a singular matrix has a Cholesky factor is a matter of the processor's rounding."""
    generator = np.random.default_rng(4)
    for _ in range(50):
        for rank, dtype in ((1, torch.float32), (10, torch.float32), (24, torch.float32), (31, torch.float64)):
            C0 = torch.from_numpy(second_moment(32, generator, rank=rank)).to(dtype)
            with pytest.raises(InputError, match=f"rank {rank} of 32"):
                inverse_preservation(C0, 15_000.0)
            inverse_preservation(C0, 15_000.0, 1.0)  # λn makes it regular
            inverse_preservation(torch.from_numpy(second_moment(32, generator)).to(dtype), 15_000.0)
    with pytest.raises(InputError, match="rank 0 of 8"):
        inverse_preservation(torch.zeros(8, 8), 1.0)


def test_no_unused_direction_is_refused_naming_the_setting():
    with pytest.raises(InputError, match=r"below 0\.02 \(smallest 1\).*null_threshold"):
        null_space_preservation(torch.eye(8), 0.02, 10.0)


@pytest.mark.parametrize("n_facts", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_equal_keys_without_slack_are_refused(n_facts, seed):
    generator = np.random.default_rng(seed)
    P = inverse_preservation(torch.from_numpy(second_moment(32, generator)), 1.0)
    K = torch.from_numpy(generator.standard_normal((32, n_facts)))
    K[:, -1] = K[:, 0]
    R = torch.from_numpy(generator.standard_normal((16, n_facts)))
    with pytest.raises(InputError, match="same key"):
        solve(R, K, P @ K, 0.0)
    assert bool(torch.isfinite(solve(R, K, P @ K, 0.1).delta()).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["keys", "residuals"])
def test_what_is_not_finite_is_refused(which, value):
    P, K, R = torch.eye(8, dtype=torch.float64), torch.ones(8, 2).double(), torch.ones(4, 2).double()
    (K if which == "keys" else R)[1, 1] = value
    with pytest.raises(InputError, match="not finite"):
        solve(R, K, P @ K, 1.0)


def test_an_update_is_its_thin_factors():
    generator = np.random.default_rng(5)
    P = inverse_preservation(torch.from_numpy(second_moment(32, generator)), 1.0)
    K, R = (torch.from_numpy(generator.standard_normal(shape)) for shape in ((32, 3), (16, 3)))
    update = solve(R, K, P @ K, 1.0)
    assert update.A.shape == (16, 3)
    assert update.Y.shape == (32, 3)
    # What Y takes from P is what the batch's keys add to its inverse (Woodbury).
    expected = torch.linalg.inv(torch.linalg.inv(P) + K @ K.T)
    torch.testing.assert_close(P - update.Y @ update.Y.T, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True], ids=["as it lies", "transposed"])
def test_delta_is_added_by_rows_and_rounded_once(dtype, turned, monkeypatch):
    monkeypatch.setattr(LowRankUpdate, "BLOCK_BYTES", 3 * 5 * 8)  # of three rows
    torch.manual_seed(0)
    update = LowRankUpdate(torch.randn(7, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
    W = torch.randn(5, 7).T if turned else torch.randn(7, 5)
    W = W.to(dtype)
    wanted = (W.double() + update.delta()).to(dtype)
    update.add_to(W)
    assert torch.equal(W, wanted)
