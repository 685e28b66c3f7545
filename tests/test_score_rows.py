"""Scores on a page: each with interval and n, rows only for what was asked, and a sentence that may say "too few"."""

from __future__ import annotations

import pytest

from dashboard.reading.score_rows import forced_rows, gap_sentence, generated_rows, with_interval
from encore_core.facts import Fact
from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import GeneratedAnswer, GeneratedScores
from encore_core.measures.intervals import Interval
from encore_core.measures.scores import FactScores, summarised


def forced(shares: list[float]):
    return summarised([FactScores(share, None, 1.0, 0.25, share, share, None) for share in shares])


def generated(shares: list[bool], kinds: tuple[str, ...] = ()):
    facts = tuple(Fact(f"Land {n}", "The capital of {} is", "Rome") for n in range(len(shares)))
    per_fact = tuple(
        (GeneratedAnswer("edit", None, "p", ("Rome",), "Rome.", "sentence", False, share),
         *(GeneratedAnswer("portability", kind, "q", ("x",), "x", "line", True, True) for kind in kinds))
        for share in shares
    )  # fmt: skip
    return GeneratedScores(GenerationSettings(), None, facts, per_fact)


def test_a_score_with_its_interval():
    assert with_interval(Interval(87.4, 70.6, 95.1, 20)) == "87 (71 to 95)"
    assert with_interval(Interval(0.5, None, None, 1), 2, "+") == "+0.50" and with_interval(None) == "–"


def test_rows_of_what_was_asked():
    rows = forced_rows(forced([0.0, 0.0, 1.0]), forced([1.0, 1.0, 1.0]))
    assert [row[0] for row in rows] == ["Edit score", "Neighbourhood score", "Accuracy", "Magnitude"]
    assert rows[0][1].startswith("33 (") and rows[0][2] == "100 (44 to 100)" and rows[0][3] == "3"
    rows = generated_rows(generated([False, False]), generated([True, False], ("two-hop", "alias")))
    assert [row[0] for row in rows] == ["Edited prompts", "Portability", "· two-hop", "· alias"]
    assert rows[0][2].startswith("0 (") and rows[0][3].startswith("50 (") and rows[0][5] == "2"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ([True] * 3 + [False] * 17, "85 points more (95 %: +65 to +100)"),
        ([True] * 20, "The protocols agree"),
        ([True, False], "Too few facts to tell"),
        ([True] * 19 + [False], "5 points more (95 %: +0 to +15), not significant"),
    ],
)
def test_the_gap_between_the_protocols(said, wanted):
    sentence = gap_sentence(forced([1.0] * len(said)), generated(said))
    assert wanted in sentence and f"100 % of {len(said)} facts" in sentence
