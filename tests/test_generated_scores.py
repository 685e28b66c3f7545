"""Scores of generated answers: what counts as right, the means, kinds of portability, verdicts that are missing."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from encore_core.facts import Fact, Neighbour, Portability
from encore_core.measures import generated_scores
from encore_core.measures.generated import Generated, GenerationSettings
from encore_core.measures.generated_scores import PARTS, evaluate_generated
from encore_core.measures.judging import Judge

FACTS = [
    Fact("France", "The capital of {} is", "Rome", "Paris",
         paraphrases=("France's capital is called", "In France they govern from"),
         neighbours=(Neighbour("The capital of Spain is", "Madrid"),),
         portability=(Portability("The river of the capital of France is", ("Tiber", "Tevere"), "two-hop"),
                      Portability("Rome is the capital of", ("France",), "reversed"))),
    Fact("Peru", "The capital of {} is", "Oslo", "Lima", neighbours=(Neighbour("The capital of Spain is", "Madrid"),)),
]  # fmt: skip
SAID = {
    "The capital of France is": "Rome.",
    "France's capital is called": "the city of Rome",
    "In France they govern from": "Paris",
    "The capital of Spain is": "Madrid, in the middle",
    "The river of the capital of France is": "the Tevere.",
    "Rome is the capital of": "Italy",
    "The capital of Peru is": "Lima",
}


@pytest.fixture
def said(monkeypatch):
    """A model that says what stands above."""
    asked: list[str] = []

    def generate(lm, prompts, settings, guesses=None, on_progress=None):
        asked.extend(prompts)
        return [Generated(SAID[prompt], "sentence") for prompt in prompts]

    monkeypatch.setattr(generated_scores, "generate", generate)
    return asked


def test_the_means(said):
    found = evaluate_generated(None, FACTS)
    assert sorted(said) == sorted(SAID)  # the neighbour that both have is asked once
    value = {(part, metric): found.interval(part, metric) for part in PARTS for metric in ("exact", "contained")}
    assert value["edit", "exact"].value == 50 and value["edit", "exact"].n == 2
    assert value["paraphrase", "exact"].value == 0 and value["paraphrase", "contained"].value == 50
    assert value["paraphrase", "contained"].n == 1  # the other fact has none
    assert value["neighborhood", "exact"].value == 0 and value["neighborhood", "contained"].value == 100
    assert value["portability", "exact"].value == 50  # "the Tevere." is Tevere
    assert found.kinds == ["two-hop", "reversed"]
    assert found.interval("portability", "contained", "two-hop").value == 100
    assert found.interval("portability", "contained", "reversed").value == 0
    assert found.interval("edit", "judged") is None and "no judge" in found.protocol


def test_what_is_written_down(said):
    found = evaluate_generated(None, FACTS)
    values = json.loads(json.dumps(found.as_dict()))
    assert values["facts"] == 2 and values["protocol"] == found.protocol and values["unjudged"] == 0
    assert set(values["scores"]) == set(PARTS) and set(values["scores"]["edit"]) == {"exact", "contained"}
    assert set(values["scores"]["edit"]["exact"]) == {"value", "low", "high", "n"}
    rows = found.rows()
    assert len(rows) == 8 and rows[0]["text"] == "Rome." and rows[4]["answers"] == "Tiber | Tevere"
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def test_a_judge_that_skips_some(said):
    code = "import json,sys; q=json.load(sys.stdin); print('yes' if q['said'] != 'Lima' else 'hm')"
    found = evaluate_generated(None, FACTS, judge=Judge(f'"{sys.executable}" -c "{code}"'))
    assert found.n_unjudged == 1 and found.interval("edit", "judged").value == 100
    assert found.interval("edit", "judged").n == 1  # without the one that got no verdict
    [row] = [row for row in found.rows() if row["text"] == "Lima"]
    assert row["judged"] is None and "neither yes nor no" in row["unjudged"]
    assert "judged by" in found.protocol and found.as_dict()["scores"]["edit"]["judged"]["n"] == 1


def test_on_a_model(llama):
    done: list[tuple[str, int, int]] = []
    found = evaluate_generated(llama, FACTS, GenerationSettings(tokens=3), None, lambda *told: done.append(told))
    assert [len(of_fact) for of_fact in found.per_fact] == [6, 2]
    assert done[-1] == ("Generating", 7, 7)
    assert evaluate_generated(llama, []).as_dict()["scores"]["edit"]["exact"] is None
