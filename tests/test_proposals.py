"""What is proposed for a typed fact: the model's own answer, cut from what it says, and neighbours from the gallery."""

from __future__ import annotations

import pytest

from dashboard.reading.proposals import N_ASKED, candidates, short_answer
from encore_core.facts import Fact, read_facts

FACTS = tuple(read_facts("bundled"))

SAID = {
    " Paris.\nThe capital of Spain is Madrid.": "Paris",
    " Paris, and it is": "Paris",
    " Rome": "Rome",
    " one of the": None,
    " New York City is known for": "New York City",
    " New Delhi and it was": "New Delhi",
    " the United States of America. It": "the United States of America",
    " the Netherlands is": "the Netherlands",
    " Ludwig van Beethoven was born": "Ludwig van Beethoven",
    " French": "French",
    " gold standard, which": "gold standard",
    " bass guitar.": "bass guitar",
    " 1789, when": "1789",
    " パリです。フランス": "パリです",
    " “Le Monde”": None,
    " located in the heart of the city and is": None,
    " a country that": None,
    " the capital of the country, which is": None,
    "": None,
    " ... ": None,
    "\n\n": None,
    " " + "Long" * 30: None,
    " One Two Three Four Five Six.": None,
}


@pytest.mark.parametrize("text", SAID)
def test_the_answer_is_cut_from_what_is_said(text):
    assert short_answer(text) == SAID[text]


def test_an_answer_that_is_known_is_taken_whole():
    known = ("Trinidad and Tobago", "Trinidad", "Niger", "Nigeria")
    assert short_answer(" Trinidad and Tobago is an island", known) == "Trinidad and Tobago"
    assert short_answer(" Nigeria is", known) == "Nigeria" and short_answer(" Nigerian", known) == "Nigerian"


def fact(prompt: str = "The capital of {} is", subject: str = "Italy", true: str | None = "Rome") -> Fact:
    return Fact(subject=subject, prompt=prompt, target_new="Madrid", target_true=true)


def relations(found) -> set[str]:
    """The relations in which the facts of some neighbours are found, by answer and subject."""
    return {one.relation for one in FACTS for n in found if n.target == one.target_true and one.subject in n.prompt}


@pytest.mark.parametrize(
    "asked",
    [
        fact(),
        fact("the  capital of {} IS"),
        fact("In {}, the capital city is called"),  # a paraphrase of the gallery
        fact("Everybody knows that {} is governed from"),  # known by subject and answer
        fact("Everybody knows that {} is governed from", "Padania", "Budapest"),  # by the answer alone
    ],
)
def test_neighbours_are_the_typed_words_about_other_subjects(asked):
    found = candidates(asked, FACTS)
    assert 5 < len(found) <= N_ASKED and "capital" in relations(found)
    start, end = asked.prompt.split("{}")
    for one in found:
        assert one.prompt.startswith(start) and one.prompt.endswith(end)
        assert one.target != "Madrid" and one.prompt != asked.text
        subject = one.prompt[len(start) : len(one.prompt) - len(end)]
        assert any((other.subject, other.target_true) == (subject, one.target) for other in FACTS)


def test_subjects_with_the_same_answer_come_first_and_unknown_ones_last():
    asked = Fact("Bergen", "The city of {} is located in the country of", "Brazil", "Norway")
    found = candidates(asked, FACTS)
    assert [one.target for one in found[:3]] == ["Norway"] * 3 and all("Bergen" not in one.prompt for one in found)
    known = {other.subject: other.known for other in FACTS if other.relation == "city_country"}
    marks = [known[one.prompt.removeprefix("The city of ").partition(" is ")[0]] for one in found]
    assert marks == sorted(marks, reverse=True)


def test_the_models_answer_stands_in_for_a_true_one():
    asked = fact("Everybody knows that {} is governed from", "Italy", None)
    assert candidates(asked, FACTS) == [] and candidates(asked, FACTS, "Rome")


@pytest.mark.parametrize("asked", [fact("{} likes to eat", "My cat", "tuna"), fact("{} likes to eat", "My cat", None)])
def test_where_nothing_fits_there_are_none(asked):
    assert candidates(asked, FACTS) == [] and candidates(asked, ()) == []
