"""The targets of benchmarks/fuzz.py: their seeds hold, mutations are repeatable, and a broken property is found.

atheris, which searches for hours, is not needed here.
"""

from __future__ import annotations

import random

import pytest
from fuzzing import edit_files, lesson_plans, links, npz_files, readers
from fuzzing.target import Broken, attempt, check_line

from encore_core.errors import InputError

pytestmark = pytest.mark.slow

QUICK = (*readers.TARGETS, *edit_files.TARGETS, *npz_files.TARGETS, *lesson_plans.TARGETS, links.TARGETS[0])
TRIES = 40


@pytest.mark.parametrize("target", QUICK, ids=lambda target: target.name)
def test_a_target_holds_for_its_seeds_and_some_inputs_made_of_them(target, tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    target.setup(tmp_path)
    seeds = target.seeds()
    outcomes = [target.check(data) for data in seeds]
    assert {"taken", "refused"} == set(outcomes)
    tried = []
    for number in range(TRIES):
        made = [target.mutated(seeds[number % len(seeds)], random.Random(number)) for _ in range(2)]
        assert made[0] == made[1]
        tried.append(made[0])
    assert len(set(tried)) > TRIES // 2
    for data in tried:
        assert target.check(data) in ("taken", "refused")


def test_what_does_not_hold_is_found(tmp_path, monkeypatch):
    target = readers.TARGETS[0]
    target.setup(tmp_path)
    [one] = [target for target in QUICK if target.name == "encore"]
    one.setup(tmp_path)
    good = one.seeds()[0]
    monkeypatch.setattr(one._facts, "write_facts", lambda facts, path: path.write_text('{"subject": "x"}'))
    with pytest.raises(InputError):
        one.check(good)
    written = b'{"subject": "Peru", "prompt": "{} is", "target_new": "x"}'
    monkeypatch.setattr(one._facts, "write_facts", lambda facts, path: path.write_bytes(written))
    with pytest.raises(Broken, match="written and read again are others"):
        one.check(good)


@pytest.mark.parametrize(
    ("line", "kind"),
    [("", "empty"), ("a\nb", "several lines"), ("a\u2028b", "several lines"), ("a\x1bb", "control"),
     ("a\ud800", "half"), ("a" * 3000, "very long")],
)  # fmt: skip
def test_lines_that_cannot_be_shown_are_found(line, kind):
    with pytest.raises(Broken, match=kind):
        check_line(line, "a line")


def test_a_long_refusal_is_found():
    def refused():
        raise InputError("a" * 3000)

    with pytest.raises(Broken, match="a refusal is very long"):
        attempt(refused)


def test_a_line_may_be_in_any_script():
    check_line("Ärger mit '日本': “ok” 👍", "a line")


def test_smaller_inputs_are_made_by_leaving_something_out():
    [target] = [target for target in QUICK if target.name == "encore"]
    smaller = list(target.simpler(b'[{"subject": "France", "x": [1, 2]}]'))
    assert b"[]" in smaller and b'[{"x": [1, 2]}]' in smaller and b'[{"subject": "Fra", "x": [1, 2]}]' in smaller
