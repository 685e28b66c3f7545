"""What differs between methods, in words: computed, and ready to say that nothing does, or that it cannot be told."""

from __future__ import annotations

import pytest

from dashboard.parts.edit.history import stop_word
from dashboard.reading import model_readings
from dashboard.reading.compared_words import FEW_EDITS, Outcome, difference, listed, why_early
from encore_core.editing.batch_report import BY_GRADIENT, EditedFact
from encore_core.facts import Fact
from encore_core.measures.answers import Answer
from encore_core.methods import settings_for

STILL = (0.001, 0.002, 0.001, 0.002, 0.001)
MOVED = (0.10, 0.12, 0.09, 0.11, 0.10)


def one(label: str, new: float, moved=STILL, stopped: str = "loss", true: float = 0.01) -> Outcome:
    return Outcome(label, new, true, stopped, moved)


def test_who_stopped_early_is_named_with_its_probability():
    said = difference(
        "Rome", [one("ENCORE", 0.54, stopped="mpes"), one("MEMIT", 0.97, MOVED), one("AlphaEdit", 0.96, MOVED)]
    )
    assert said.startswith(
        "MEMIT and AlphaEdit put Rome at 96\u202f% to 97\u202f%; ENCORE stopped at 54\u202f%, as soon as Rome was the "
        "most probable answer."
    )
    assert "moved least under ENCORE (0.1) and most under MEMIT and AlphaEdit (10.4), in points on average." in said


def test_methods_that_agree_are_said_to_agree():
    said = difference("Rome", [one("MEMIT", 0.97), one("EMMET", 0.975), one("AlphaEdit", 0.96)])
    assert said.startswith(
        "No difference in the answer: EMMET, MEMIT and AlphaEdit put Rome at 96\u202f% to 98\u202f%."
    )
    assert "no clear difference" in said


def test_an_answer_behind_the_true_one_is_no_success():
    said = difference("Rome", [one("MEMIT", 0.9), one("EMMET", 0.1, true=0.6)])
    assert "EMMET left Rome at 10\u202f%, behind the true answer" in said


def test_early_stopping_of_all_is_no_difference():
    said = difference("Rome", [one("ENCORE", 0.54, stopped="mpes"), one("MEMIT+MPES", 0.55, stopped="mpes")])
    assert said.startswith("No difference in the answer: MEMIT+MPES and ENCORE put Rome at 54\u202f% to 55\u202f%.")


def test_groups_do_not_chain():
    """Each value is near its neighbour, but the first and the last are not near each other."""
    said = difference("Rome", [one("A", 0.97), one("B", 0.955), one("C", 0.94)])
    assert said.startswith("A and B put Rome at 96\u202f% to 97\u202f%; C at 94\u202f%.")


def test_too_few_neighbours_to_tell():
    assert "This fact has no neighbours" in difference("Rome", [one("A", 0.9, ()), one("B", 0.5, ())])
    two = difference("Rome", [one("A", 0.9, (0.0, 0.0)), one("B", 0.5, (0.5, 0.5))])
    assert "2 neighbours: too few to tell" in two
    assert "1 neighbour: too few to tell" in difference("Rome", [one("A", 0.9, (0.0,)), one("B", 0.5, (0.5,))])


def test_a_difference_within_the_noise_is_none():
    noisy = (0.30, 0.0, 0.0, 0.25, 0.0)
    assert "no clear difference" in difference("Rome", [one("A", 0.9), one("B", 0.5, noisy)])


def test_two_that_spare_the_neighbours_alike_share_it():
    close = (0.002, 0.001, 0.002, 0.001, 0.002)
    said = difference("Rome", [one("A", 0.9), one("B", 0.9, close), one("C", 0.9, MOVED)])
    assert "moved least under A and B (0.1 to 0.2) and most under C (10.4)" in said


def test_most_is_said_of_all_that_moved_them_about_as_far():
    far, farther = (0.10, 0.09, 0.10, 0.11, 0.10), (0.10, 0.12, 0.09, 0.11, 0.10)
    said = difference("Rome", [one("ENCORE", 0.9), one("EMMET", 0.9, far), one("AlphaEdit", 0.9, farther)])
    assert "least under ENCORE (0.1) and most under EMMET and AlphaEdit (10.0 to 10.4)" in said


def test_neighbours_that_the_model_does_not_know_are_not_said_to_be_missing():
    said = difference("Rome", [Outcome(name, 0.9, 0.01, "loss", (), unknown=5) for name in ("A", "B")])
    assert "The model knows none of this fact's neighbours" in said and "has no neighbours" not in said


def test_names_are_listed_as_people_do():
    assert [listed(names) for names in (["A"], ["A", "B"], ["A", "B", "C"])] == ["A", "A and B", "A, B and C"]


def test_paraphrases_are_told_where_the_methods_differ():
    few = Outcome("ENCORE", 0.97, 0.01, "mpes", STILL, (1, 2))
    all_of_them = [Outcome(name, 0.97, 0.01, "loss", STILL, (2, 2)) for name in ("MEMIT", "EMMET")]
    said = difference("Rome", [few, *all_of_them])
    assert "New answer ahead in paraphrases: 2 of 2 by MEMIT and EMMET, 1 of 2 by ENCORE." in said
    assert "paraphrases" not in difference("Rome", all_of_them)


def test_why_a_method_stopped_early_is_told_where_others_did_not():
    some = [one("ENCORE", 0.54, stopped="mpes"), one("MEMIT", 0.97)]
    assert why_early(some, 1).startswith("ENCORE stops early so as to") and "one edit cannot show" in why_early(some, 1)
    assert "3 edits cannot" in why_early(some, 3)
    assert not why_early(some, FEW_EDITS + 1)
    assert not why_early(some[:1], 1) and not why_early(some[1:], 1)  # all of them, or none


@pytest.mark.parametrize(("method", "passes", "word"), [
    ("UltraEdit", 1, "one step"), ("StableEdit", 1, "one step"), ("CrispEdit", 12, "low loss"),
    ("CrispEdit", 25, "last pass"),
])  # fmt: skip
def test_why_edits_along_gradients_stopped(method, passes, word):
    item = EditedFact(Fact("France", "The capital of {} is", "Rome"), None, None, None, None, BY_GRADIENT, passes)
    assert stop_word(item, settings_for(method, model_type="llama", n_layers=30, d_model=576, n_vocab=49152)) == word


@pytest.mark.parametrize(("was", "now", "true", "verdict"), [
    (-1.0, -0.5, -2.0, "ahead"), (-3.0, -0.5, -2.0, "changed"), (-3.0, -2.5, -2.0, "unchanged"),
    (-1.0, -0.5, None, "changed"),
])  # fmt: skip
def test_a_prompt_at_which_the_new_answer_was_ahead_before_is_not_said_to_have_changed(was, now, true, verdict):
    new_was, new_now = Answer(was, (False,)), Answer(now, (True,))
    answers = [Answer(true, (False,)) if true is not None else None] * 2
    assert model_readings._verdict("paraphrase", new_was, new_now, *answers, True, True) == verdict
