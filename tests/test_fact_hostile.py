"""Files of facts that take too long or too much memory, or break the reader (see benchmarks/fuzz.py)."""

from __future__ import annotations

import json
import time

import pytest
from refusals import refusal

from encore_core.facts import parse_facts, reading

PERU = {"subject": "Peru", "prompt": "{} is", "target_new": "x", "target_true": "y"}
MANY = 20_000
SECONDS = 5.0
"""Of processor time; what took time with the square of its size took minutes."""


def test_a_quote_in_the_header_is_told_on_one_line():
    message = refusal(parse_facts, '"subject"\t"prompt"x\t"target_new"\n')
    assert "malformed CSV in the header" in message and message.isprintable() and r"'\t' expected" in message


@pytest.mark.parametrize("key", ["\u2028prompt", "prompt\n", "\x1bprompt", "Prompt\x85"])
def test_a_key_with_a_line_end_is_told_on_one_line(key):
    row = {"subject": "Peru", key: "nothing of it", "target_new": "x", f"more {key}": 1}
    for text in (json.dumps([row]), json.dumps({"requested_rewrite": row})):
        notices: list[str] = []
        message = refusal(parse_facts, text, notice=notices.append)
        assert len(message.splitlines()) == 1 and len(message) < 400
        assert all(len(line.splitlines()) == 1 for line in notices)


def test_a_long_key_is_cut():
    rewrite = {"subject": "Peru", "prompt": "{} is", "target_new": "x"}
    row = {"requested_rewrite": rewrite, "locality": {"k" * 5_000: {"prompt": ["a", "b"], "ground_truth": ["c"]}}}
    assert len(refusal(parse_facts, json.dumps([row]))) < 400


@pytest.mark.parametrize("depth", [5, 50, 90, 800])
@pytest.mark.parametrize("inside", ["", "'a'", '"a"'])
def test_an_answer_of_brackets_is_a_text(depth, inside):
    answer = "[" * depth + inside + "]" * depth
    quoted = answer.replace('"', '""')
    [fact] = parse_facts(f'subject,prompt,target_new\nPeru,{{}} is,"{quoted}"\n')
    assert fact.target_new in (answer, "a")


def test_many_keys_of_which_some_are_there_twice():
    keys = ",".join(f'"k{number}":1' for number in range(MANY))
    notices: list[str] = []
    started = time.process_time()
    assert len(parse_facts(f"[{json.dumps(PERU)[:-1]},{keys},{keys}}}]", notice=notices.append)) == 1
    assert time.process_time() - started < SECONDS
    assert any("keys there twice" in line for line in notices) and max(map(len, notices)) < 300


def hops(n_questions: int, answers: list[str]) -> str:
    rewrite = {"prompt": "{} is", "subject": "Peru", "target_new": {"str": "x"}, "target_true": {"str": "y"}}
    questions = [f"q{number}" for number in range(n_questions)]
    return json.dumps([{"requested_rewrite": [rewrite], "questions": questions, "new_answer_alias": answers}])


def test_many_questions_over_several_hops():
    started = time.process_time()
    [fact] = parse_facts(hops(MANY, ["z"] * MANY))
    assert len(fact.portability) == MANY and time.process_time() - started < SECONDS
    message = refusal(parse_facts, hops(2_000, [f"a{number}" for number in range(2_000)]))
    assert "2,000 questions share 2,000 right answers" in message and "pairs" in message


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_reading_ends_where_nothing_can_be_used(monkeypatch, on_error):
    monkeypatch.setattr(reading, "MOST_BAD", 50)
    good, bad = "Peru,{} is,x\n", "Peru,is,x\n"
    head = "subject,prompt,target_new\n"
    assert len(parse_facts(head + good + bad * 50, on_error="skip")) == 1
    looked_at: list[str] = []
    message = refusal(parse_facts, head + good + bad * 5_000, on_error=on_error, notice=looked_at.append)
    assert "more than 50 rows cannot be used" in message and "line 3" in message and len(looked_at) <= 51
