"""Sentences and rows of the microscope from made-up measurements, and that its charts are valid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dashboard.charts import microscope_bars, microscope_maps
from dashboard.charts.palette import DARK, LIGHT
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from encore_core.measures.answer_tokens import AnswerToken
from encore_core.measures.answers import Answer
from encore_core.measures.direct_effects import Moved
from encore_core.measures.fact_trace import FactTrace
from encore_core.measures.logit_lens import LogitLens
from encore_core.measures.strength import Path, Strength

ROME, PARIS, OTHER = 7, 8, 9


def lens(*tops: int, p: float = 0.2) -> LogitLens:
    """A lens of two tokens, whose most probable word at the last one is given by layer."""
    ids = np.array([[OTHER, top] for top in tops])
    probabilities = np.full((2, len(tops), 2), p / 2)
    probabilities[0][ids == ROME] = probabilities[1][ids == PARIS] = 0.9
    names = {ROME: " Rome", PARIS: " Paris", OTHER: " the"}
    return LogitLens(
        (" of", " is"), 0, ("Rome", "Paris"), (ROME, PARIS), (" Rome", " Paris"), probabilities, ids,
        np.full(ids.shape, 0.9), tuple(tuple(names[i] for i in row) for row in ids.tolist()),
    )  # fmt: skip


UNEDITED, EDITED = lens(OTHER, OTHER, PARIS, PARIS), lens(OTHER, ROME, OTHER, ROME)


def test_lens_sentence():
    assert words.lens_sentence(UNEDITED, EDITED) == (
        "Rome first leads at layer 0; unedited it never does. Paris never leads; unedited it first leads at layer 1."
    )
    assert words.lens_sentence(UNEDITED, None) == "Rome never leads. Paris first leads at layer 1."
    assert "Paris first leads at layer 1, edited or not." in words.lens_sentence(UNEDITED, UNEDITED)
    assert "Rome first leads at the embedding" in words.lens_sentence(lens(ROME), None)
    assert words.lens_map_sentence(UNEDITED, None) == "The most probable word of 8 cells: Rome at 0, Paris at 2."
    told = words.lens_map_sentence(UNEDITED, EDITED)
    assert told == "The edits changed the most probable word in 3 of 8 cells, lowest at layer 0, at “is”."
    assert "in none of the 8 cells" in words.lens_map_sentence(UNEDITED, UNEDITED)
    assert words.alike_sentence(UNEDITED) == ""
    assert "“Rome”" in words.alike_sentence(replace(UNEDITED, answer_ids=(ROME, ROME)))


@pytest.mark.parametrize("answer", [0, 1, frames.TOP])
@pytest.mark.parametrize("moment", frames.MOMENTS)
def test_lens_rows(answer, moment):
    rows = frames.lens_map(UNEDITED, EDITED, answer, moment, (1,))
    assert len(rows) == 8 and set(rows[rows["edited"]]["row"]) == {2} and set(rows["row_name"]) == {"in", "0", "1", "2"}
    cell = rows[(rows["row"] == 3) & (rows["column"] == 1)].iloc[0]
    expected = {
        ("before", 0): 0.1, ("after", 0): 0.9, ("difference", 0): 9.0,
        ("before", 1): 0.9, ("after", 1): 0.1, ("difference", 1): 1 / 9,
    }.get((moment, answer), 0.9 if moment != "difference" else 0.0)  # fmt: skip
    assert cell["value"] == pytest.approx(expected)
    assert cell["word"] == ("Paris" if moment == "before" else "Rome")
    if moment == "difference":
        assert rows[(rows["row"] == 0)]["word"].tolist() == ["", ""]
    scale = "log" if moment != "difference" else "points" if answer == frames.TOP else "factor"
    for colours in (LIGHT, DARK):
        chart = microscope_maps.heat(rows, ["<b>$x$"], colours, scale=scale, marked="edited layer")
        assert len(chart.figure.data) == 2 and chart.narrow and chart.slim
        assert "$" not in chart.figure.layout.annotations[0].text


def test_colours_of_a_map():
    """Equal colours at both ends of a difference, none in its middle; small probabilities are told apart."""
    rows = frames.lens_map(UNEDITED, EDITED, 0, "difference", ())
    axis = microscope_maps.heat(rows, ["x"], LIGHT, scale="factor").wide["coloraxis"]
    assert axis["cmin"] == -axis["cmax"] and axis["colorscale"][1] == [0.5, LIGHT.panel]
    values = pd.Series([0.0, 1e-7, 1e-3, 1.0])
    shown = microscope_maps.heat(rows.head(4).assign(value=values), ["x"], LIGHT, scale="log").traces[0]["marker"]
    assert list(shown["color"]) == [-5, -5, -3, 0]
    cells = microscope_maps.heat(rows.head(4).assign(value=values), ["x"], DARK, scale="log").traces[0]
    assert cells["insidetextfont"]["color"] == [DARK.ink, DARK.ink, DARK.ink, DARK.page]
    broken = microscope_maps.heat(rows.assign(value=math.nan), ["x"], LIGHT, scale="log")
    assert broken.figure.data


def trace(layer: int, column: int, effect: float = 0.6, noisy: float = 0.1) -> FactTrace:
    maps = {kind: np.full((6, 3), noisy) for kind in ("hidden", "MLP", "attention")}
    maps["MLP"][layer, column] += effect
    return FactTrace((" New", " Zealand", " is"), (2, 3, 4), (2, 3), 5, " Wellington", maps, 0.9, noisy, 3.0, 2, 2)


def test_trace_sentences():
    told = words.trace_sentences(trace(1, 1), None)
    assert told.startswith("Here restoring MLPs brings “Wellington” back most at “Zealand”, the subject's last token, ")
    assert (
        "around layer 1, in the lower third: 10\u202f% → 70\u202f%. That is where Meng et al. (2022) found facts"
        in told
    )
    told = words.trace_sentences(trace(1, 1), trace(5, 2))
    assert "After the edits" in told and "the prompt's last token, around layer 5, in the upper third" in told
    assert told.endswith("this trace does not.")
    assert "“New”, within the subject," in words.trace_sentences(trace(0, 0), None)
    assert "does not bring “Wellington” back anywhere" in words.trace_sentences(trace(0, 0, 0.0), None)
    assert "does not make the model forget" in words.trace_sentences(trace(0, 0, 0.0, noisy=0.9), None)
    assert "2 draws; MLPs and attention in windows of 2 layers" in words.trace_terms(trace(0, 0))
    assert "3 tokens in between were left out" in words.trace_terms(replace(trace(0, 0), prompt_tokens=8))


def test_trace_rows():
    before, after = trace(1, 1), trace(2, 1, effect=0.3)
    rows = frames.trace_map(before, after, "difference", (1,))
    of_mlps = rows[rows["kind"] == "MLP"].set_index(["row", "column"])["value"]
    assert of_mlps[1, 1] == pytest.approx(-0.6) and of_mlps[2, 1] == pytest.approx(0.3)
    assert rows.groupby("column")["subject"].first().tolist() == [True, True, False]
    chart = microscope_maps.heat(rows, ["a", "b", "c"], DARK, scale="points", columns=3, marked="edited layer")
    assert len(chart.figure.data) == 6
    assert chart.wide["coloraxis"]["cmax"] == pytest.approx(0.6)


def token(text: str, probability: float, rank: int = 1) -> AnswerToken:
    return AnswerToken(text, probability, rank, " else", 0.05)


def test_tokens_sentence():
    one, other = (token(" Rome", 0.001, 400),), (token(" Rome", 0.8),)
    assert words.tokens_sentence("Rome", one, None) == "Rome is one token: 0.1\u202f%, number 400."
    assert words.tokens_sentence("Rome", one, other).endswith("number 400 → 80\u202f%, number 1.")
    two = (token(" New", 0.5), token(" York", 0.02, 3))
    told = words.tokens_sentence("New York", two, None)
    assert "2 tokens; the least probable is “York” with 2.0\u202f%" in told and "leaves it at “York”" in told
    assert "says all of them" in words.tokens_sentence("New York", two, (token(" New", 0.9), token(" York", 0.9)))
    rows = frames.token_rows({"new": two, "true": one}, {"new": two, "true": other})
    assert rows["rank_after"].tolist() == [1, 3, 1] and rows["after"].tolist() == [0.5, 0.02, 0.8]
    assert len(microscope_bars.tokens(rows, {"new": "New York", "true": "Rome"}, LIGHT).figure.data) == 4
    alone = frames.token_rows({"new": two}, None)
    assert len(microscope_bars.tokens(alone, {"new": "New York"}, LIGHT).figure.data) == 1


def test_a_model_that_broke_is_said():
    """NaN is what an edited model can come to."""
    gone = replace(EDITED, top_probabilities=np.full_like(EDITED.top_probabilities, math.nan))
    assert words.lens_sentence(UNEDITED, gone) == words.BROKEN
    assert words.trace_sentences(trace(1, 1), replace(trace(1, 1), noisy=math.nan)).endswith(words.BROKEN)
    rows = pd.DataFrame({"effect": [1.0, math.nan], "label": ["a", "b"], "edited": [False, True]})
    assert words.moved_sentence(rows, "the lead", (0,)) == words.BROKEN


def test_moved_rows_and_sentence():
    labels, kinds = ("input", "attention 0", "MLP 0"), ("input", "attention", "MLP")
    effects = np.array([[0.0, 2.0, 0.5], [0.0, -1.0, 0.25]])
    norm, cap = np.array([-0.5, 0.1]), np.zeros(2)
    change = effects.sum(1) + norm
    found = Moved(labels, (None, 0, 0), kinds, effects, norm, cap, np.zeros(2), change, np.zeros(2), change, ("a", "b"))
    both = frames.effect_rows(found, frames.NEW_MINUS_TRUE, ("new", "true"), (0,))
    assert both["effect"].tolist() == pytest.approx([0, 3, 0.25, -0.6])
    assert both["kind"].tolist() == ["input", "attention", "MLP", "rest"] and both["edited"].tolist()[2]
    assert frames.effect_rows(found, "true", ("new", "true"), ())["effect"].sum() == pytest.approx(change[1])
    told = words.moved_sentence(both, "the lead", (0,))
    assert told.startswith(
        "The lead changed by +2.65, most through attention 0 +3.00, the final norm's other scale −0.60"
    )
    assert "contributed +0.25 of it directly" in told
    assert words.moved_sentence(both.assign(effect=0.0), "the lead", (0,)) == "Nothing moved the lead."
    assert len(microscope_bars.moved(both, "x", DARK).figure.data) == 3


def rated(*probabilities: float) -> tuple[Answer, ...]:
    return tuple(Answer(math.log(p), (p > 0.5,)) for p in probabilities)


def test_strength_sentence():
    rewrite = Path("rewrite", "p", "Rome", "Paris", rated(0.1, 0.4, 0.6), rated(0.5, 0.3, 0.1))
    near = Path("neighbour", "The capital of Italy is", "Rome", "Milan", rated(0.1, 0.3, 0.3), rated(0.5, 0.5, 0.2))
    far = Path("neighbour", "q", "Rome", "Oslo", rated(0.1, 0.1, 0.1), rated(0.5, 0.5, 0.5))
    betas = (0.0, 0.5, 1.0)
    assert words.strength_sentence(Strength(betas, (rewrite, near, far))) == (
        "Rome is ahead of Paris from β = 0.5 on and is what the model says from β = 1 on. "
        "The first neighbour follows at β = 1: The capital of Italy is. Tried in steps of 0.5."
    )
    assert "None of the 2 neighbours follows." in words.strength_sentence(Strength(betas, (rewrite, far, far)))
    assert "does not get ahead of Oslo up to β = 1, and is never said." in words.strength_sentence(
        Strength(betas, (replace(far, role="rewrite"),))
    )
    ahead = replace(rewrite, new_answers=rated(0.9, 0.9, 0.9))
    assert "is ahead of Paris from the start" in words.strength_sentence(Strength(betas, (ahead,)))
    rows = frames.strength_rows(Strength(betas, (rewrite, near, far)))
    assert len(rows) == 18 and rows["number"].max() == 1
    assert len(microscope_bars.strength(rows, 0.5, LIGHT).figure.data) == 6 + 2
