"""UltraEditBench, which names no subjects, and the rule that finds them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from encore_core.facts import Fact, Neighbour, read_facts, write_facts
from encore_core.facts.found import find_subject


def read(path: Path, **options: Any) -> tuple[list[Fact], list[str]]:
    """The facts of a file, and the notices without its name."""
    notices: list[str] = []
    facts = read_facts(path, notice=lambda line: notices.append(line.removeprefix(f"{path}: ")), **options)
    return facts, notices


@pytest.fixture
def file(tmp_path):
    """`file(records)`: a JSON file of records."""

    def made(records: Any) -> Path:
        (tmp_path / "facts.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        return tmp_path / "facts.json"

    return made


ULTRA = [
    {
        "prompt": f"What is the capital of {land}?", "rephrase_prompt": f"Which city is {land}'s capital?", "ans": new,
        "loc": f"What is the anthem of {land}?", "loc_ans": "a song",
    }
    for land, new in (("Norway", "Bergen"), ("Chad", "Moundou"), ("Peru", "Cusco"))
]  # fmt: skip


def test_ultraeditbench(file, tmp_path):
    path = file(ULTRA)
    message = refusal(read_facts, path)
    assert "record 1: subject is missing" in message and 'subject="found", --find-subjects' in message
    facts, notices = read(path, subject="found")
    assert len(facts) == len(ULTRA)
    for fact, record in zip(facts, ULTRA, strict=True):
        assert fact.paraphrases == (record["rephrase_prompt"],) and fact.target_new == record["ans"]
        assert fact.neighbours == (Neighbour(record["loc"], record["loc_ans"]),) and not fact.portability
    assert [fact.subject for fact in facts] == ["Norway", "Chad", "Peru"]
    assert [fact.text for fact in facts] == [record["prompt"] for record in ULTRA]
    assert all(fact.subject_found for fact in facts)
    assert notices == ["subjects that the file does not name are found by a rule (3 rows, the first: record 1)"]
    # it stays with the fact, and is not there for others
    write_facts(facts, tmp_path / "own.jsonl")
    assert read_facts(tmp_path / "own.jsonl") == facts and facts[0].to_dict()["subject_found"] is True
    assert "subject_found" not in Fact("a", "a b", "c").to_dict()
    assert "subject_found 'x' must be true" in refusal(Fact, "a", "a b", "c", subject_found="x")
    assert "subject 'guess' is unknown: choose 'found'" in refusal(read_facts, path, subject="guess")


def test_ultraeditbench_as_a_table(tmp_path):
    path = tmp_path / "ultra.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(ULTRA[0]))
        table.writeheader()
        table.writerows(ULTRA)
    assert "CSV columns missing: subject" in (message := refusal(read_facts, path)) and "--find-subjects" in message
    assert [fact.subject for fact in read_facts(path, subject="found")] == ["Norway", "Chad", "Peru"]


def test_what_the_rule_cannot_find_is_refused(file):
    records = [*ULTRA, {"prompt": "why is it so?", "ans": "x"}, ULTRA[0] | {"subject": "Sweden"}]
    facts, notices = read(file(records), subject="found", on_error="skip")
    assert len(facts) == 3
    assert "record 4 skipped: subject is missing, and the rule finds none in the prompt 'why is it so?'" in notices[0]
    # a subject that the file names is the file's, right or wrong
    assert "record 5 skipped: prompt 'What is the capital of Norway?' does not contain" in notices[1]


@pytest.mark.parametrize(
    ("prompt", "paraphrases", "subject", "slot"),
    [
        ("Who runs the Bank of England?", ["The Bank of England is run by whom?"], "Bank of England", "the {}?"),
        ("Norway has its capital in", [], "Norway", "{} has"),
        ("Did Ann Lee or Bo sing it?", ["It was sung by Bo?"], "Bo", "or {} sing"),
        ("Who wrote \"the old song\"?", ["Who made 'the old song'?"], "the old song", 'wrote "{}"?'),
        ("who has the most 70 point games?", ["most 70 point games: whose?"], "70 point games", "most {}?"),
        ("Paris is the capital, so Paris lies in", [], "Paris", "so {} lies"),
        ("挪威的首都是", ["首都在挪威的"], "挪威的", "{}首都是"),
        ("What is Norway's capital?", ["The capital of Norway?"], "Norway", "is {}'s"),
        ("Who built St. Louis Arena?", ["St. Louis Arena was built by"], "St. Louis Arena", "built {}?"),
    ],
)  # fmt: skip
def test_the_rule(prompt, paraphrases, subject, slot):
    found = find_subject(prompt, paraphrases)
    assert found is not None and found.subject == subject and slot in found.prompt
    assert Fact(found.subject, found.prompt, "x").text == prompt


@pytest.mark.parametrize(
    ("prompt", "paraphrases"), [("why is it so?", ["is it so, and why?"]), ("The {} of Norway", [])]
)
def test_where_the_rule_finds_nothing(prompt, paraphrases):
    assert find_subject(prompt, paraphrases) is None


def test_a_subject_that_is_there_twice(file):
    # only once as a word of its own, so nothing has to be guessed
    assert Fact("i", "i want to be with you", "x").prompt == "{} want to be with you"
    record = {"subject": "cells", "prompt": "who saw cells make new cells?", "target": "Remak"}
    message = refusal(read_facts, path := file([record]))
    assert "has the subject 'cells' 2 times" in message and "or let a rule take the last place" in message
    (fact,), notices = read(path, subject="found")
    assert (fact.prompt, fact.text, fact.subject_found) == ("who saw cells make new {}?", record["prompt"], True)
    assert notices == ["of a subject that the prompt has several times, the last place is taken by a rule (record 1)"]
    assert Fact(**fact.to_dict()) == fact
