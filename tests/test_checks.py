"""Checks of values: what each takes, and the one line with which it refuses."""

from __future__ import annotations

import math

import pytest
from refusals import refusal

from encore_core.checks import choice, flag, number, unknown, whole

NO_NUMBERS = (None, "", "x", [], [1], {}, math.nan, math.inf, -math.inf, 10**400)


@pytest.mark.parametrize("value", [1, 2, 10**6])
def test_whole_numbers(value):
    found = whole("steps", value, 1, 10**6)
    assert found == value and type(found) is int


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 10**6 + 1, 2.0, "2", True])
def test_what_is_no_whole_number(value):
    said = refusal(whole, "steps", value, 1, 10**6)
    assert said.startswith("steps = ") and said.endswith(" must be a whole number from 1 to 1,000,000.")
    assert repr(value)[:20] in said and len(said) < 150


def test_a_whole_number_keeps_all_its_digits():
    assert whole("seed", 2**63 - 1, 0, 2**63 - 1) == 2**63 - 1
    refusal(whole, "seed", 2**63, 0, 2**63 - 1)


@pytest.mark.parametrize("value", [7, "7", " 7 ", "7.0", 7.0, "7e0"])
def test_typed_whole_numbers(value):
    found = whole("steps", value, 1, 10, typed=True)
    assert found == 7 and type(found) is int


@pytest.mark.parametrize("value", [*NO_NUMBERS, "7.5", 7.5, "0", "11", "nan", "inf"])
def test_typed_text_that_is_no_whole_number(value):
    assert "must be a whole number from 1 to 10." in refusal(whole, "steps", value, 1, 10, typed=True)


@pytest.mark.parametrize(("value", "typed"), [(0, False), (0.25, False), (1000, False), ("0.25", True), (1, True)])
def test_numbers(value, typed):
    found = number("share", value, 0, 1000, typed=typed)
    assert found == float(value) and type(found) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, -0.1, 1000.1, "1", True])
def test_what_is_no_number(value):
    said = refusal(number, "share", value, 0, 1000)
    assert said.startswith("share = ") and said.endswith(" must be a number from 0 to 1000.")


def test_a_number_above_its_bound():
    assert number("lr", 1e-9, 0, 100, above=True) == 1e-9
    for value in (0, -1, 101):
        assert refusal(number, "lr", value, 0, 100, above=True) == (
            f"lr = {value} must be a number above 0 and up to 100."
        )


def test_truth_values():
    assert flag("generate", True) is True and flag("generate", False) is False
    for value in (1, 0, "true", "", None, []):
        assert refusal(flag, "generate", value) == f"generate = {value!r} must be true or false."
    for value, meaning in (("Yes", True), (" 1", True), (1, True), (False, False), ("no", False), ("0", False)):
        assert flag("generate", value, typed=True) is meaning
    for value in ("perhaps", "", None, 2):
        assert repr(value) in refusal(flag, "generate", value, typed=True)


def test_choices():
    assert choice("order", "file", ("file", "shuffled")) == "file"
    for value in ("File", "", None, 1, []):
        assert refusal(choice, "order", value, ("file", "shuffled")) == (
            f'order = {value!r} must be "file" or "shuffled".'
        )
    assert refusal(choice, "x", 1, ("a", "b", "c")).endswith('must be "a", "b" or "c".')
    assert refusal(choice, "x", 1, ("a",)).endswith('must be "a".')


def test_unknown_names():
    names = ("lambda_p", "steps")
    assert str(unknown("Unknown setting", "lambdap", names)) == "Unknown setting 'lambdap'; did you mean 'lambda_p'?"
    for name in ("zzz", "", None, 3, "a\nb"):
        assert str(unknown("Unknown setting", name, iter(names))) == (
            f"Unknown setting {name!r}; choose one of lambda_p, steps."
        )


def test_a_place_stands_behind_the_value():
    place = "in [runs]"
    assert refusal(whole, "f: x", 0, 1, 9, place=place) == "f: x = 0 in [runs] must be a whole number from 1 to 9."
    assert "x = 3 in [runs] must" in refusal(number, "x", 3, 0, 1, place=place)
    assert "x = 3 in [runs] must" in refusal(flag, "x", 3, place=place)
    assert "x = 3 in [runs] must" in refusal(choice, "x", 3, ("a",), place=place)
    assert "'ed' in [runs]; choose" in str(unknown("f: unknown key", "ed", ["x"], place=place))
