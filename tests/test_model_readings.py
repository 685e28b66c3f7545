"""The most probable words as a page shows them."""

from __future__ import annotations

from dashboard.reading.model_readings import first_words
from encore_core.facts import Fact
from encore_core.measures.writing import Written

FACT = Fact("France", "The capital of {} is", "Rome", "Paris")


def written(*first: tuple[str, float]) -> Written:
    return Written("", (), False, (), first)


def test_blanks_are_shown_where_two_words_differ_in_nothing_else():
    found = first_words(written((" Rome", 0.9), (" Paris", 0.05), ("Rome", 0.01), ("\n", 0.01), ("", 0.0)), FACT)
    assert [word for word, _, _ in found] == ["␣Rome", "Paris", "Rome", "⏎", "(nothing)"]
    assert [role for _, _, role in found] == ["new", "true", "new", "", ""]
    assert [probability for _, probability, _ in found] == [0.9, 0.05, 0.01, 0.01, 0.0]
