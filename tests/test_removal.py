"""Facts taken out of W and P, held to dense solutions over the other facts, which know no recursion and no factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refusal
from test_update_rule import L2, METHODS, projector, second_moment

from encore_core.editing.removal import Entry, removal, with_keys
from encore_core.editing.update_rule import LowRankUpdate, Preservation, solve

D_MLP, D_MODEL = 40, 12
SIZES = (1, 3, 1, 2, 4)
"""Facts of the batches of a history."""


class History:
    """Batches solved one after the other by the module under test, with all keys and wanted values on record."""

    def __init__(self, method: str, sequential: bool = True, seed: int = 0):
        generator = np.random.default_rng(seed)
        C0 = second_moment(D_MLP, generator)
        _, initial, self.slack = METHODS[method]
        self.sequential, self.start = sequential, Preservation(initial(torch.from_numpy(C0)))
        self.P, self.W = self.start, torch.zeros(D_MODEL, D_MLP, dtype=torch.float64)
        self.entries: list[Entry] = []
        self.keys: dict[tuple[int, int], torch.Tensor] = {}
        self.values: dict[tuple[int, int], torch.Tensor] = {}
        if method == "AlphaEdit":
            inverse = L2 * projector(C0, 0.02)
            self.to_range = torch.from_numpy(projector(C0, 0.02))
        else:
            inverse, self.to_range = np.linalg.inv(self.start.start.numpy()), torch.eye(D_MLP, dtype=torch.float64)
        self.inverse = torch.from_numpy(inverse)
        for number, n in enumerate(SIZES):
            K, R = (torch.from_numpy(generator.standard_normal((d, n))) for d in (D_MLP, D_MODEL))
            # Facts of one subject have nearly one key.
            K += 3 * torch.from_numpy(np.random.default_rng(7).standard_normal((D_MLP, 1)))
            update = solve(R, K, self.P.times(K), self.slack(n))
            for column in range(n):
                self.keys[number, column] = K[:, column]
                # What least squares is asked for when it gives this Δ.
                self.values[number, column] = (self.W @ K + asked(update, K, self.P.dense()))[:, column]
            self.add(update)
            self.entries.append(Entry(added=update))

    def add(self, update: LowRankUpdate) -> None:
        self.W = self.W + update.delta()
        if self.sequential:
            self.P = self.P.absorbed(update.Y)

    def take_out(self, places: list[tuple[int, int]]) -> None:
        found = removal(self.entries, places, self.start, self.P, self.no_inverse, sequential=self.sequential)
        assert found.A.shape == (D_MODEL, len(places)) and found.Y.shape == (D_MLP, len(places))
        self.W = self.W + found.delta()
        if self.sequential:
            self.P = self.P.without(found.Y)
        self.entries.append(Entry(tuple(places), found))

    @staticmethod
    def no_inverse():
        raise AssertionError("keys are there, so no inverse is needed")

    def dense_P(self, places) -> torch.Tensor:
        """What is preserved with only these facts, by a dense inverse on the range of P."""
        K = self.to_range @ torch.stack([self.keys[place] for place in places], 1)
        return torch.linalg.pinv(self.inverse + K @ K.T, rcond=1e-12, hermitian=True)


def asked(update: LowRankUpdate, K: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    """V − W K for which least squares gives the update, by a dense solve: Δ = (V − W K) (I + KᵀPK)⁻¹ KᵀP."""
    left = torch.linalg.solve(torch.eye(K.shape[1], dtype=K.dtype) + K.T @ P @ K, K.T @ P)
    return torch.linalg.lstsq(left.T, update.delta().T, driver="gelsd").solution.T


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-8) -> bool:
    return float((found - wanted).norm()) <= tolerance * float(wanted.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gone", [[(0, 0)], [(1, 2)], [(4, 0), (4, 3)], [(0, 0), (1, 1), (3, 0), (3, 1)]], ids=str)
def test_w_and_p_are_the_dense_solution_over_the_other_facts(method, gone):
    history = History(method)
    history.take_out(gone)
    rest = [place for place in history.keys if place not in gone]
    P = history.dense_P(rest)
    assert close(history.P.dense(), P)
    # min Σ ‖W k − v‖² + tr(W P₀⁻¹ Wᵀ) over the rest.
    K, V = (torch.stack([of[place] for place in rest], 1) for of in (history.keys, history.values))
    assert close(history.W, V @ K.T @ P, 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_by_one_is_as_at_once_and_all_leave_nothing(method):
    at_once, one_by_one = History(method), History(method)
    places = [(3, 1), (0, 0), (1, 0), (1, 2), (4, 1)]
    at_once.take_out(places)
    for place in places:
        one_by_one.take_out([place])
    assert close(one_by_one.W, at_once.W, 1e-6) and close(one_by_one.P.dense(), at_once.P.dense(), 1e-6)
    before = float(at_once.W.norm())
    at_once.take_out([place for place in at_once.keys if place not in places])
    assert float(at_once.W.norm()) <= 1e-6 * before and close(at_once.P.dense(), at_once.start.start, 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_taking_the_last_batch_out_is_minus_its_update(method):
    history = History(method)
    last = len(SIZES) - 1
    wanted = -history.entries[last].added.delta()
    history.take_out([(last, column) for column in range(SIZES[last])])
    assert close(history.entries[-1].removed.delta(), wanted)


def test_what_nothing_was_preserved_of_is_taken_out_of_its_batch_alone():
    history, other = History("ENCORE", sequential=False), History("ENCORE", sequential=False)
    for places in ([(1, 0), (4, 2)], [(1, 1)]):
        history.take_out(places)
    assert history.P is history.start
    wanted = torch.zeros_like(other.W)
    for number, n in enumerate(SIZES):
        live = [column for column in range(n) if (number, column) not in {(1, 0), (4, 2), (1, 1)}]
        K = torch.stack([other.keys[number, column] for column in live], 1)
        V = asked_of(other, number)[:, live]
        P = torch.linalg.inv(other.inverse + K @ K.T)
        wanted += V @ K.T @ P
    assert close(history.W, wanted)


def asked_of(history: History, number: int) -> torch.Tensor:
    K = torch.stack([history.keys[number, column] for column in range(SIZES[number])], 1)
    return asked(history.entries[number].added, K, history.start.dense())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sequential", [True, False])
def test_keys_follow_from_the_factors(method, sequential):
    history = History(method, sequential)
    history.take_out([(1, 1)])
    bare = [
        replace(entry, added=replace(entry.added, K=None)) if entry.added is not None else entry
        for entry in history.entries
    ]
    found = with_keys(bare, history.inverse, sequential=sequential)
    for (number, column), k in history.keys.items():
        assert close(found[number].added.K[:, column], history.to_range @ k, 1e-6)
    again = removal(bare, [(0, 0), (4, 1)], history.start, history.P, lambda: history.inverse, sequential=sequential)
    wanted = removal(
        history.entries, [(0, 0), (4, 1)], history.start, history.P, history.no_inverse, sequential=sequential
    )
    assert close(again.delta(), wanted.delta(), 1e-5)
    assert close(again.Y @ again.Y.T, wanted.Y @ wanted.Y.T, 1e-5)


def test_updates_made_with_other_statistics_are_refused():
    history, other = History("ENCORE"), History("ENCORE", seed=1)
    P = other.start
    for entry in history.entries:
        P = P.absorbed(entry.added.Y)
    told = refusal(lambda: removal(history.entries, [(0, 0)], other.start, P, history.no_inverse, sequential=True))
    assert "do not belong together" in told
    bare = [replace(entry, added=replace(entry.added, K=None)) for entry in history.entries]
    assert "do not belong together" in refusal(
        lambda: removal(bare, [(0, 0)], other.start, P, lambda: 1e9 * other.inverse, sequential=True)
    )


def test_what_is_released_is_folded_in():
    history = History("MEMIT")
    history.take_out([(0, 0), (3, 0)])
    P = history.P
    assert P.released and len(P.recent) == len(SIZES)
    folded = P.compact()  # 13 of 40 columns are many
    assert not folded.released and not folded.recent and folded.owns_start
    assert close(folded.dense(), P.dense(), 1e-12)
    K = torch.randn(D_MLP, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert close(folded.times(K), P.times(K), 1e-10)
