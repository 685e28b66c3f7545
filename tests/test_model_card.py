"""Model cards: what they tell, and that nothing in them is more than text."""

from __future__ import annotations

import re

import pytest
from tiny_models import CITIES

from encore_core.export.card import SHOWN_FACTS, CardScores, card_scores, facts_csv, model_card
from encore_core.facts import Fact
from encore_core.measures.intervals import Interval

REPORT = {
    "model": "smollm2-135m", "base_fingerprint": "a" * 16, "method": "ENCORE", "n_edits": 3,
    "settings": {"layers": [6, 7], "lambda_p": 300.0},
    "norms": {"6": {"original": 10.0, "edited": 11.0}},
}  # fmt: skip


def test_it_tells_what_was_done():
    before = {"edit_score": Interval(24.0, 10.0, 40.5, 3), "overall_score": Interval(20.0, None, None, 0)}
    after = {"edit_score": Interval(100.0, 43.8, 100.0, 3), "overall_score": None}
    card = model_card(REPORT, CITIES, CardScores(3, before, after))
    for wanted in ("ENCORE", "license: apache-2.0", "| edit | 24.0 (10.0 to 40.5) | 100.0 (43.8 to 100.0) | 3 |",
                   "| overall | 20.0 | – | – |", "teacher-forced", "1.10000", "Rome", "New Zealand",
                   "| layers | 6, 7 |", "from_pretrained", "a" * 16):  # fmt: skip
        assert wanted in card.replace("&#95;", "_"), wanted
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "Not measured." in model_card(REPORT, CITIES, None)


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a | b | c", "[x](javascript:alert(1))", "![x](http://y)", "`code` ```", "# head",
     "**bold** _it_", "a\n---\n| b", "&lt;b&gt;", "\\| x", "$x$ {{y}}", "<!-- x", "http://x.y"],
)  # fmt: skip
def test_text_stays_text(text):
    """A row has its cells and no character left that markdown or markup gives a meaning."""
    card = model_card(REPORT, [Fact("Mars", f"{text} {{}} is", text, "Venus")], None)
    [row] = [line for line in card.splitlines() if "Mars" in line]
    assert row.count("|") == 4
    assert not re.search(r"[<>\[\]`*_$\\!:/]", re.sub(r"&#\d+;", "", row))
    hostile = model_card(REPORT | {"model": f"{text}\nlicense: mit"}, [], None)
    assert hostile.split("---")[1].count("license") == 0


def test_many_facts_are_cut_and_named():
    facts = [Fact(f"S{i}", "{} is", "=1+1") for i in range(SHOWN_FACTS + 5)]
    card = model_card(REPORT, facts, None)
    assert f"S{SHOWN_FACTS - 1} is" in card and f"S{SHOWN_FACTS} is" not in card and "and 5 more" in card
    rows = facts_csv(facts).decode("utf-8-sig").splitlines()
    assert len(rows) == len(facts) + 1 and "'=1+1" in rows[1]


def test_scores_are_bounded_and_before_is_before(gpt2, new_session):
    session = new_session(gpt2)
    session.edit(CITIES, known="edit")
    scores = card_scores(gpt2, session.matrices(), CITIES, 2)
    assert scores.facts == 2 and scores.after["accuracy"].value >= scores.before["accuracy"].value
    assert card_scores(gpt2, {}, CITIES, 3).before == card_scores(gpt2, {}, CITIES, 3).after
    assert card_scores(gpt2, {}, CITIES, 0) is None and card_scores(gpt2, {}, [], 5) is None
