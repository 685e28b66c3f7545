"""Subjects that are spelt another way than in their prompt: what is mended, with a word, and what is refused."""

from __future__ import annotations

import json
import logging

import pytest
from refusals import refusal

from encore_core.facts import Fact, parse_facts

SPELLINGS = [
    ("Norway", "The capital of norway is", "norway"),
    ("Природный газ", "Из чего состоит природный газ?", "природный газ"),
    ("Xi’an", "The city of Xi'an lies in", "Xi'an"),
    ("Xi'an", "The city of Xiʼan lies in", "Xiʼan"),
    ("O'Neill", "The surname of O‘NEILL is", "O‘NEILL"),
    ("Caf\u00e9 Noir", "One meets in Cafe\u0301 Noir and", "Cafe\u0301 Noir"),
    ("Cafe\u0301 Noir", "One meets in café noir and", "café noir"),
    ("ＡＢＣ", "The firm ABC makes", "ABC"),
    ("ガーナ", "ｶﾞｰﾅの首都は", "ｶﾞｰﾅ"),
    ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8의 수도는", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ("New York", "The mayor of New\u00a0York is", "New\u00a0York"),
    ("STRASSE 1", "He lives in Straße 1 and", "Straße 1"),
]


@pytest.mark.parametrize(("subject", "prompt", "spelt"), SPELLINGS)
def test_a_subject_in_another_spelling_takes_the_prompts(subject, prompt, spelt, caplog):
    with caplog.at_level(logging.WARNING, "encore_core.facts"):
        fact = Fact(subject, prompt, "x")
    assert fact.subject == spelt and fact.text == prompt
    assert fact.text[slice(*fact.subject_span)] == spelt
    assert [record.getMessage() for record in caplog.records] == [
        f"Fact: the subject {subject!r} is taken as {spelt!r}, as the prompt spells it"
    ]
    notices: list[str] = []
    caplog.clear()
    (read,) = parse_facts(json.dumps({"subject": subject, "prompt": prompt, "target_new": "x"}), notice=notices.append)
    assert read == fact and len(notices) == 1 and "record 1: the subject" in notices[0] and not caplog.records


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("US", "The famous river is"),  # within a word
        ("a1", "The road A12 leads to"),
        ("France", "FRANCE, dear FRANCE, is"),  # twice
        ("Elan", "The word élan means"),  # another letter
        ("Strasse", "The Großstrassenbahn is"),
        ("I", "The letters ﬁ are"),  # half of a character
        ("\ud558", "\u1112\u1161\u11ab\u1100\u116e\u11a8의 수도는"),  # half of a syllable
    ],
)
def test_what_is_no_other_spelling_is_refused(subject, prompt):
    assert "does not contain the subject" in refusal(Fact, subject, prompt, "x")


def test_a_slot_or_the_very_subject_needs_no_repair(caplog):
    assert Fact("France", "Of FRANCE and {} the capital is", "x").subject == "France"
    assert Fact("france", "FRANCE is large, france is", "x").text == "FRANCE is large, france is"
    assert not caplog.records


def test_a_long_prompt_is_not_searched_for_ever():
    assert "does not contain" in refusal(Fact, "A" * 40_000 + "b", "a" * 400_000, "x")
