"""What the microscope has measured, as the rows that its charts draw and its files hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from dashboard.charts.labels import percent
from dashboard.charts.microscope_maps import LEAST
from encore_core.measures.answer_tokens import AnswerToken
from encore_core.measures.direct_effects import Moved
from encore_core.measures.fact_trace import FactTrace
from encore_core.measures.logit_lens import LogitLens
from encore_core.measures.strength import Strength

MOMENTS = {"before": "Before", "after": "After", "difference": "Difference"}
TOP = "top"
"""In place of an answer: whatever is most probable."""


# -- logit lens --------------------------------------------------------------------------------------------------------


def row_name(row: int) -> str:
    """A row of the lens: what enters the first block, then the output of each."""
    return str(row - 1) if row else "in"


def lens_map(
    before: LogitLens, after: LogitLens | None, answer: int | str, moment: str, edited: Collection[int]
) -> pd.DataFrame:
    """The cells of the lens, as `microscope_maps.heat` takes them.

    Args:
        before: of the model as loaded.
        after: of the edited one; None without edits.
        answer: its place among the lens's answers, or `TOP`.
        moment: of `MOMENTS`; other than "before" only with `after`.
        edited: layers.
    """
    now = before if moment == "before" or after is None else after
    value = _of(now, answer)
    if moment == "difference" and after is not None:
        was = _of(before, answer)
        value = value - was if answer == TOP else np.maximum(value, LEAST) / np.maximum(was, LEAST)
    found = []
    for row, column in np.ndindex(*now.top_ids.shape):
        told = _told(now, answer, row, column)
        word = now.top_words[row][column]
        if moment == "difference" and after is not None:
            told = f"{_told(before, answer, row, column)} → {told}"
            word = word if before.top_ids[row, column] != now.top_ids[row, column] else ""
        cell = (row, row_name(row), column, now.tokens[column], float(value[row, column]), told, word.strip())
        found.append((0, *cell, row - 1 in edited, False))
    columns = ["panel", "row", "row_name", "column", "token", "value", "hover", "word", "edited", "subject"]
    return pd.DataFrame(found, columns=columns)


def _of(lens: LogitLens, answer: int | str) -> np.ndarray:
    return lens.top_probabilities if answer == TOP else lens.probabilities[int(answer)]


def _told(lens: LogitLens, answer: int | str, row: int, column: int) -> str:
    says = f"says “{lens.top_words[row][column].strip()}” {percent(float(lens.top_probabilities[row, column]))}"
    if answer == TOP:
        return says
    own = percent(float(lens.probabilities[int(answer), row, column]))
    return f"{lens.answers[int(answer)]} {own}, {says}"


def lens_last_token(
    before: LogitLens, after: LogitLens | None, roles: Sequence[str], edited: Collection[int]
) -> pd.DataFrame:
    """The answers at the last token by layer, as `microscope_maps.last_token` takes them.

    Args:
        before, after, edited: as for `lens_map`.
        roles: "new" or "true" for each answer of the lens.
    """
    found = [
        (role, moment, row, row_name(row), float(lens.probabilities[number, row, -1]), row - 1 in edited)
        for moment, lens in (("before", before), ("after", after))
        if lens is not None
        for number, role in enumerate(roles)
        for row in range(lens.probabilities.shape[1])
    ]
    return pd.DataFrame(found, columns=["answer", "moment", "row", "row_name", "probability", "edited"])


# -- causal trace ------------------------------------------------------------------------------------------------------

KIND_NAMES = {"hidden": "Hidden states", "MLP": "MLPs", "attention": "Attention"}


def trace_map(before: FactTrace, after: FactTrace | None, moment: str, edited: Collection[int]) -> pd.DataFrame:
    """The cells of a causal trace, a panel per kind. Differences are of effects, each of the answer that is said then.

    Args:
        before, after, moment, edited: as for `lens_map`.
    """
    now = before if moment == "before" or after is None else after
    found = []
    for panel, kind in enumerate(now.maps):
        for row, column in np.ndindex(*now.maps[kind].shape):
            restored = float(now.maps[kind][row, column])
            told = f"“{now.answer.strip()}” {percent(restored)} restored, {percent(now.noisy)} with noise"
            value = restored
            if moment == "difference" and after is not None:
                was = float(before.maps[kind][row, column]) - before.noisy
                value = restored - now.noisy - was
                told = f"effect {100 * was:+.1f} → {100 * (restored - now.noisy):+.1f} points"
            place = now.places[column]
            inside = now.subject[0] <= place <= now.subject[1]
            found.append((panel, row, str(row), column, now.tokens[column], value, told, "", row in edited, inside))
    columns = ["panel", "row", "row_name", "column", "token", "value", "hover", "word", "edited", "subject"]
    return pd.DataFrame(found, columns=columns).assign(kind=lambda frame: frame["panel"].map(dict(enumerate(now.maps))))


# -- tokens, direct effects, strength ----------------------------------------------------------------------------------


def token_rows(
    before: Mapping[str, Sequence[AnswerToken]], after: Mapping[str, Sequence[AnswerToken]] | None
) -> pd.DataFrame:
    """Every token of the answers, as `microscope_bars.tokens` takes them.

    Args:
        before, after: role of an answer ("new", "true") → its tokens; `after` is None without edits.
    """
    found = []
    for role, tokens in before.items():
        for place, was in enumerate(tokens):
            now = None if after is None else after[role][place]
            found.append(
                (role, place, was.text, was.probability, now and now.probability, was.rank, now and now.rank,
                 was.instead, was.instead_probability, now and now.instead, now and now.instead_probability,
                 _rated(was), now and _rated(now))
            )  # fmt: skip
    columns = ["answer", "place", "token", "before", "after", "rank_before", "rank_after", "instead_before",
               "instead_before_probability", "instead_after", "instead_after_probability", "hover_before",
               "hover_after"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _rated(token: AnswerToken) -> str:
    verb = "else" if token.rank == 1 else "says"
    other = f"{verb} “{token.instead.strip()}” {percent(token.instead_probability)}"
    return f"{percent(token.probability)}, number {token.rank:,}; {other}"


NEW_MINUS_TRUE = "new minus true"


def effect_rows(found: Moved, of: str, roles: Sequence[str], edited: Collection[int]) -> pd.DataFrame:
    """Direct effects, as `microscope_bars.moved` takes them.

    Args:
        found: the change.
        of: "new", "true", or `NEW_MINUS_TRUE`.
        roles: of the answers in `found`.
        edited: layers.
    """
    weights = np.array([{"new": 1.0, "true": -1.0 if of == NEW_MINUS_TRUE else 1.0}[role]
                        if of in (role, NEW_MINUS_TRUE) else 0.0 for role in roles])  # fmt: skip
    effects = weights @ found.effects
    rows = [
        (place, name, kind, layer, kind == "MLP" and layer in edited, float(effect))
        for place, (name, kind, layer, effect) in enumerate(
            zip(found.labels, found.kinds, found.layers, effects, strict=True)
        )
    ]
    rest = {"the final norm's other scale": weights @ found.norm, "the soft cap on logits": weights @ found.cap}
    place = len(rows) + 1
    for name, effect in rest.items():
        if abs(effect) > 1e-9:
            rows.append((place, name, "rest", None, False, float(effect)))
            place += 1
    columns = ["place", "label", "kind", "layer", "edited", "effect"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


def strength_rows(found: Strength) -> pd.DataFrame:
    """Answers by strength, as `microscope_bars.strength` takes them."""
    rows = []
    numbers: dict[str, int] = {}
    for path in found.paths:
        number = numbers[path.role] = numbers.get(path.role, -1) + 1
        for answer, text, rated in (("new", path.new, path.new_answers), ("true", path.true, path.true_answers)):
            rows += [
                (path.role, path.prompt, number, answer, text, beta, one.probability)
                for beta, one in zip(found.betas, rated, strict=False)
            ]
    return pd.DataFrame(rows, columns=["role", "prompt", "number", "answer", "text", "beta", "probability"])
