"""Bootstrap intervals: their coverage, what they say where nothing varies, and that pairs are drawn together."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from encore_core.measures import intervals
from encore_core.measures.downstream import weighted_f1
from encore_core.measures.intervals import Interval, of_difference, of_harmonic_mean, of_mean, student


# A share of twenty facts is covered in steps, whatever the interval: there it is not measured.
@pytest.mark.parametrize(
    ("n", "kind"), [(20, "probability"), (50, "share"), pytest.param(200, "probability", marks=pytest.mark.slow),
                    pytest.param(200, "share", marks=pytest.mark.slow)],
)  # fmt: skip
def test_coverage(n, kind):
    rng = np.random.default_rng(n)
    covered = 0
    for draw in range(1000):
        values = rng.random(n) < 0.6 if kind == "share" else rng.beta(2, 2, n)
        found = of_mean(values.astype(float).tolist(), seed=draw)
        covered += found.low <= (0.6 if kind == "share" else 0.5) <= found.high
    assert 930 <= covered <= 970


def test_coverage_of_a_paired_difference():
    rng = np.random.default_rng(1)
    covered = 0
    for draw in range(1000):
        base = rng.normal(size=40)
        found = of_difference(base + 0.1 + 0.2 * rng.normal(size=40), base, seed=draw)
        covered += found.low <= 0.1 <= found.high
    assert 930 <= covered <= 970


def test_coverage_of_the_overall_score():
    rng = np.random.default_rng(2)
    means = (0.7, 0.5, 0.6)
    truth = 3 / sum(1 / mean for mean in means)
    covered = 0
    for draw in range(300):  # 300: each draws whole facts, which takes ten times as long
        found = of_harmonic_mean([rng.beta(8 * mean, 8 * (1 - mean), 50).tolist() for mean in means], seed=draw)
        covered += found.low <= truth <= found.high
    assert covered >= 0.92 * 300


def test_the_draws_are_those_of_a_naive_bootstrap():
    values = np.random.default_rng(3).random(100)  # more than 64 distinct values
    found = of_mean(values.tolist())
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 100).mean() for _ in range(20_000)]
    assert found.value == pytest.approx(values.mean()) and found.n == 100
    # A hundred values widen the interval by 1.7 %.
    width = 1.017 * (np.quantile(means, 0.975) - np.quantile(means, 0.025))
    assert found.high - found.low == pytest.approx(width, rel=0.05)


def test_a_seed_repeats():
    values = list(np.random.default_rng(4).random(30))
    assert of_mean(values, 5) == of_mean(values, 5) != of_mean(values, 6)


def test_what_cannot_be_told_is_not():
    assert of_mean([]) is None and of_mean([None]) is None
    assert of_mean([0.5]) == Interval(0.5, None, None, 1)
    assert of_mean([0.3, 0.3, None]) == Interval(0.3, None, None, 2)
    assert of_mean([math.nan, 1.0])[1:3] == (None, None)
    assert of_harmonic_mean([[1.0, None], [None, None]]) is None
    assert of_difference([1.0, None], [None, 1.0]) is None


def test_a_share_of_all_or_none_is_not_certain():
    low, high = of_mean([1.0] * 20)[1:3]
    assert high == pytest.approx(1) and low == pytest.approx(0.8389, abs=1e-3)  # Wilson's
    assert of_mean([0.0] * 20)[1:3] == pytest.approx((0, 1 - 0.8389), abs=1e-3)


def test_pairs_belong_together():
    base = np.random.default_rng(5).normal(0, 10, 50)
    paired = of_difference(base + 1, base + np.tile([0.1, -0.1], 25))
    assert paired.excludes_zero and paired.value == pytest.approx(1)
    assert paired.high - paired.low < 0.1  # the facts' own spread of 10 is no part of it
    assert of_difference([1.0, 1.0], [0.0, 0.0]) == Interval(1.0, 1.0, 1.0, 2)
    assert not of_difference([0.0, 1.0], [1.0, 0.0]).excludes_zero


def test_the_overall_score_is_that_of_the_means():
    found = of_harmonic_mean([[1.0, 0.0], [1.0, None], [0.5, 0.5]])
    assert found.value == pytest.approx(3 / (1 / 0.5 + 1 / 1 + 1 / 0.5)) and found.n == 1
    assert found.times(100).value == pytest.approx(60)


def test_the_overall_score_is_as_unsure_as_its_rarest_part():
    """A hundred facts, of which four have neighbours: their mean decides how far the draws are widened."""
    rng = np.random.default_rng(8)
    often, rare = rng.random((2, 100)).tolist(), [*rng.random(4).tolist(), *[None] * 96]
    found, other = of_harmonic_mean([*often, rare]), of_harmonic_mean([*often, [one and one / 2 for one in rare]])
    change = intervals.of_harmonic_mean_difference([*often, rare], [*often, [one and one / 2 for one in rare]])
    assert (found.n, other.n, change.n) == (4, 4, 4)
    draws = intervals._drawn_harmonic_means(intervals._table([*often, rare]), 0)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    assert found.high - found.low > 1.1 * (high - low)  # of a hundred values it would be 1.02


@pytest.mark.parametrize(("df", "wanted"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)])
def test_quantiles_of_the_t_distribution(df, wanted):
    assert student(0.975, df) == pytest.approx(wanted, rel=5e-3)  # tabulated values


def test_the_interval_of_f1_is_that_of_a_naive_bootstrap():
    rng = random.Random(3)
    truth = [rng.choice("ABC") for _ in range(60)]
    said = [one if rng.random() < 0.6 else rng.choice(["A", "B", None]) for one in truth]
    found = intervals.of_weighted_f1(truth, said)
    assert found.value == pytest.approx(weighted_f1(truth, said)) and found.n == 60
    draws = sorted(
        weighted_f1([truth[i] for i in drawn], [said[i] for i in drawn])
        for drawn in ([rng.randrange(60) for _ in truth] for _ in range(2000))
    )
    assert found.low == pytest.approx(draws[50], abs=0.02) and found.high == pytest.approx(draws[1949], abs=0.02)
    assert intervals.of_weighted_f1(truth, said) == found != intervals.of_weighted_f1(truth, said, seed=1)


def test_an_f1_of_all_or_none_is_not_certain():
    assert intervals.of_weighted_f1(["a", "b"] * 5, ["a", "b"] * 5) == intervals.of_share(1.0, 10)
    assert intervals.of_weighted_f1(["a", "b"] * 5, [None] * 10) == intervals.of_share(0.0, 10)
    assert intervals.of_weighted_f1([], []) is None
    assert intervals.of_share(0.5, 10)[1:3] == pytest.approx((0.2366, 0.7634), abs=1e-4)  # a table of Wilson's


def test_differences_of_f1_are_paired():
    truth = ["a", "b"] * 20
    said = [one if place % 5 else None for place, one in enumerate(truth)]
    worse = [one if place % 5 > 1 else None for place, one in enumerate(truth)]
    found = intervals.of_weighted_f1_difference(truth, said, worse)
    assert found.value == pytest.approx(weighted_f1(truth, said) - weighted_f1(truth, worse)) and found.excludes_zero
    alone = intervals.of_weighted_f1(truth, said)
    assert found.high - found.low < 2 * (alone.high - alone.low)
    same = intervals.of_weighted_f1_difference(truth, said, said)
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, 40)


def test_differences_of_the_overall_score_are_paired():
    rng = random.Random(5)
    one = [[float(rng.random() < p) for _ in range(80)] for p in (0.9, 0.8, 0.7)]
    other = [[*column] for column in one]
    other[0] = [value if place % 4 else 0.0 for place, value in enumerate(one[0])]
    found = intervals.of_harmonic_mean_difference(one, other)
    values = [intervals.of_harmonic_mean(columns).value for columns in (one, other)]
    assert found.value == pytest.approx(values[0] - values[1]) and found.excludes_zero
    draws = []
    for _ in range(2000):
        drawn = [rng.randrange(80) for _ in range(80)]
        means = [[sum(column[i] for i in drawn) / 80 for column in columns] for columns in (one, other)]
        draws.append(3 / sum(1 / m for m in means[0]) - 3 / sum(1 / m for m in means[1]))
    draws.sort()
    assert found.low == pytest.approx(draws[50], abs=0.03) and found.high == pytest.approx(draws[1949], abs=0.03)
    assert intervals.of_harmonic_mean_difference(one, one)[:3] == (0, 0, 0)
