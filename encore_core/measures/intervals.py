"""How sure a score is: 95 % bootstrap intervals over facts, seeded, and of differences on the same facts.

Facts are drawn again with replacement, as many as there are, and the score of each such draw is computed; the interval
lies between two quantiles of the draws. With few facts the plain quantiles are too narrow, because the draws vary by
(n - 1) / n of the variance and know nothing of the t-distribution; the quantiles are widened for both (the expanded
percentile interval, Hesterberg 2015, doi:10.1080/00031305.2015.1089789).

Where every fact has the same score, no draw differs from another, and a bootstrap would claim certainty. If that score
is 0 or 1, a share, Wilson's interval is given; if it is anything else, none.

F1 of a task is not a mean over its tests; there, whole tests are drawn, and F1 is computed of each draw.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
DRAWS = 2000
FEWEST = 2
"""With fewer values there is no interval."""

_MOST_AT_ONCE = 4_000_000  # drawn indices in memory


class Interval(NamedTuple):
    """A mean with its interval.

    Attributes:
        value: the mean.
        low, high: the ends; None where there are too few values to tell.
        n: how many values it is the mean of.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def times(self, factor: float) -> Interval:
        """In another unit, such as percent."""
        ends = (None if end is None else factor * end for end in (self.low, self.high))
        return Interval(factor * self.value, *ends, self.n)

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is beyond what chance in the choice of facts explains."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def once(scores: object, key: Hashable, make: Callable[[], Interval | None]) -> Interval | None:
    """An interval of scores that never change, made at the first call and kept with them.

    Args:
        scores: an instance of a class whose instances have a dictionary.
        key: what the interval is of.
        make: computes it.
    """
    known = vars(scores).setdefault("_intervals", {})  # a frozen dataclass lets nothing be assigned
    if key not in known:
        known[key] = make()
    return known[key]


def of_mean(values: Sequence[float | None], seed: int = 0) -> Interval | None:
    """The mean of values, one per fact, with its interval.

    Args:
        values: None where a fact has no such score; these are left out.
        seed: of the draws.

    Returns:
        None if no value is left.
    """
    known = np.array([value for value in values if value is not None], dtype=float)
    n = len(known)
    if not n:
        return None
    mean = float(known.mean())
    if n < FEWEST or not np.isfinite(known).all():
        return Interval(mean, None, None, n)
    if (known == known[0]).all():
        ends = _wilson(mean, n) if mean in (0.0, 1.0) else (None, None)
        return Interval(mean, *ends, n)
    return Interval(mean, *_ends(_drawn_means(known, seed), n), n)


def of_difference(values: Sequence[float | None], others: Sequence[float | None], seed: int = 0) -> Interval | None:
    """The mean difference between two lists of scores of the same facts, `values` minus `others` (paired bootstrap).

    Args:
        values, others: one per fact, in the same order; facts that lack one of the two are left out.
        seed: of the draws.

    Returns:
        None if no pair is left. Where every pair differs by the same, the interval is that difference alone.
    """
    pairs = [(a, b) for a, b in zip(values, others, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    differences = np.array([a - b for a, b in pairs])
    mean, n = float(differences.mean()), len(pairs)
    if n < FEWEST or not np.isfinite(differences).all():
        return Interval(mean, None, None, n)
    if (differences == differences[0]).all():
        return Interval(mean, mean, mean, n)
    return Interval(mean, *_ends(_drawn_means(differences, seed), n), n)


def of_harmonic_mean(columns: Sequence[Sequence[float | None]], seed: int = 0) -> Interval | None:
    """The harmonic mean of several means, such as the overall score, with its interval: whole facts are drawn.

    Args:
        columns: for each score, one value per fact, None where the fact has none.
        seed: of the draws.

    Returns:
        None if one of the scores has no value at all. n is that of the score with the fewest values: the mean is no
        surer than its least sure part.
    """
    table = _table(columns)
    n = int((~np.isnan(table)).sum(axis=1).min())
    if not n:
        return None
    value = float(_harmonic(np.nanmean(table, axis=1)[:, None])[0])
    same = all(len({value for value in column if value is not None}) == 1 for column in columns)
    if n < FEWEST or same:
        return Interval(value, None, None, n)
    draws = _drawn_harmonic_means(table, seed)
    return Interval(value, *_ends(draws[np.isfinite(draws)], n), n)


def of_harmonic_mean_difference(
    columns: Sequence[Sequence[float | None]], others: Sequence[Sequence[float | None]], seed: int = 0
) -> Interval | None:
    """The difference between two harmonic means on the same facts, `columns` minus `others` (paired bootstrap).

    Args:
        columns, others: as for `of_harmonic_mean`, the facts in the same order.
        seed: of the draws.

    Returns:
        None if one of the scores has no value at all. Where both have the same values, the interval is 0 alone.
    """
    value, other = of_harmonic_mean(columns, seed), of_harmonic_mean(others, seed)
    if value is None or other is None:
        return None
    difference, n = value.value - other.value, min(value.n, other.n)
    if [list(column) for column in columns] == [list(column) for column in others]:
        return Interval(0.0, 0.0, 0.0, n)
    if n < FEWEST:
        return Interval(difference, None, None, n)
    # The same seed draws the same facts for both.
    draws = _drawn_harmonic_means(_table(columns), seed) - _drawn_harmonic_means(_table(others), seed)
    draws = draws[np.isfinite(draws)]
    if not len(draws) or (draws == draws[0]).all():
        return Interval(difference, None, None, n)
    return Interval(difference, *_ends(draws, n), n)


def _table(columns: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Scores × facts, NaN where a fact has none."""
    return np.array([[math.nan if value is None else value for value in column] for column in columns], dtype=float)


def _drawn_harmonic_means(table: np.ndarray, seed: int) -> np.ndarray:
    """`DRAWS` harmonic means, each of as many facts as there are; NaN where a draw lacks a score."""
    n = table.shape[1]
    rng, found = np.random.default_rng(seed), []
    filled, present = np.nan_to_num(table), (~np.isnan(table)).astype(float)
    for n_draws in _chunks(n):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).T  # how often each fact is drawn
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(_harmonic((filled @ counts) / (present @ counts)))
    return np.concatenate(found)


def of_share(share: float, n: int) -> Interval:
    """A share of n yes-or-no values of which nothing else is known, with Wilson's interval; no draws are needed.

    Args:
        share: from 0 to 1.
        n: 1 or more.
    """
    return Interval(share, *_wilson(share, n), n)


def of_weighted_f1(truth: Sequence[str], said: Sequence[str | None], seed: int = 0) -> Interval | None:
    """F1 of a task from 0 to 1, as `downstream.weighted_f1` has it, with its interval over tests.

    Where every answer is right, or none, no draw differs from another, and Wilson's interval of that share is given.

    Args:
        truth: the right answers.
        said: for each an answer or None.
        seed: of the draws.

    Returns:
        None without any test.
    """
    pairs = list(zip(truth, said, strict=True))
    if not pairs:
        return None
    rights = {wanted == found for wanted, found in pairs}
    if len(rights) == 1:
        return of_share(float(rights.pop()), len(pairs))
    kinds, drawn = _drawn_kinds(pairs, seed)
    counts, draws = drawn[:1], drawn[1:]
    return Interval(float(_f1(kinds, counts)[0]), *_ends(_f1(kinds, draws), len(pairs)), len(pairs))


def of_weighted_f1_difference(
    truth: Sequence[str], said: Sequence[str | None], others: Sequence[str | None], seed: int = 0
) -> Interval | None:
    """The difference in F1 between two models on the same tests, `said` minus `others`, from -1 to 1 (paired).

    Args:
        truth, said, seed: as for `of_weighted_f1`.
        others: the other model's answers.

    Returns:
        None without any test. Where both always say the same, the interval is 0 alone.
    """
    rows = list(zip(truth, said, others, strict=True))
    if not rows:
        return None
    kinds, drawn = _drawn_kinds(rows, seed)
    differences = _f1([kind[:2] for kind in kinds], drawn) - _f1([kind[::2] for kind in kinds], drawn)
    value, n = float(differences[0]), len(rows)
    if n < FEWEST:
        return Interval(value, None, None, n)
    if all(kind[1] == kind[2] for kind in kinds):
        return Interval(value, value, value, n)
    return Interval(value, *_ends(differences[1:], n), n)


def _drawn_kinds(rows: Sequence[tuple], seed: int) -> tuple[list[tuple], np.ndarray]:
    """The distinct rows, and (1 + `DRAWS`, kinds) how often each is there: as they are, and in every draw."""
    kinds = Counter(rows)
    counts = np.array(list(kinds.values()))
    draws = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=DRAWS)
    return list(kinds), np.vstack([counts, draws])


def _f1(kinds: Sequence[tuple], counts: np.ndarray) -> np.ndarray:
    """(n,) weighted F1 of n draws, given how often each (right answer, answer) is in them."""
    total = np.zeros(len(counts))
    for name in {wanted for wanted, _ in kinds}:
        frequency = counts @ np.array([wanted == name for wanted, _ in kinds])
        claimed = counts @ np.array([found == name for _, found in kinds])
        hits = counts @ np.array([wanted == name == found for wanted, found in kinds])
        total += frequency * 2 * hits / np.maximum(frequency + claimed, 1)
    return total / counts.sum(axis=1)


def _harmonic(means: np.ndarray) -> np.ndarray:
    """Harmonic means of columns; 0 where one of the means is 0 or below."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = len(means) / (1 / means).sum(axis=0)
    return np.where((means <= 0).any(axis=0), 0.0, found)


def _drawn_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of `DRAWS` draws with replacement, each of as many values as there are."""
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 64:  # how often each value is drawn is all that matters
        return rng.multinomial(len(values), counts / len(values), size=DRAWS) @ distinct / len(values)
    parts = [values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in _chunks(len(values))]
    return np.concatenate(parts)


def _chunks(n: int) -> list[int]:
    """`DRAWS` in parts whose indices fit into memory."""
    most = max(1, min(DRAWS, _MOST_AT_ONCE // n))
    return [most] * (DRAWS // most) + ([DRAWS % most] if DRAWS % most else [])


def _ends(draws: np.ndarray, n: int) -> tuple[float, float]:
    """The quantiles of the draws, widened as for so few values (see above)."""
    normal = NormalDist()
    share = normal.cdf(-math.sqrt(n / (n - 1)) * student((1 + LEVEL) / 2, n - 1))
    low, high = np.quantile(draws, (share, 1 - share))
    return float(low), float(high)


def student(share: float, df: int) -> float:
    """A quantile of the t-distribution: exact for 1 and 2 degrees of freedom, else by its series in 1 / df.

    Source: Abramowitz and Stegun, 26.7.5; off by less than 0.5 % from 3 degrees of freedom on.
    """
    if df == 1:
        return math.tan(math.pi * (share - 0.5))
    if df == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, 1))


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # A share of 0 or 1 has itself as one end; rounding would put that a little off.
    return (middle - half if share else 0.0), (middle + half if share < 1 else 1.0)
