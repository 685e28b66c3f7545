"""`encore eval`: both protocols, with intervals; a judge; texts in a file; words that make no sense together."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from encore_core.cli import evaluating, main
from encore_core.errors import InputError
from encore_core.facts import Fact, Neighbour, Portability, write_facts
from encore_core.measures.generated_scores import PARTS


@pytest.fixture
def words(tiny_folder, tmp_path):
    """A model and three facts, one with everything that a fact can have."""
    facts = [
        Fact("France", "The capital of {} is", "Rome", "Paris", paraphrases=("France's capital is",),
             neighbours=(Neighbour("The capital of Spain is", "Madrid"),),
             portability=(Portability("Rome is the capital of", ("France",), "reversed"),)),
        Fact("Peru", "The capital of {} is", "Oslo", "Lima"),
        Fact("Spain", "The capital of {} is", "Lima", "Madrid"),
    ]  # fmt: skip
    write_facts(facts, tmp_path / "facts.jsonl")
    return ["eval", f"--model={tiny_folder}", "--device=cpu", f"--facts={tmp_path / 'facts.jsonl'}"]


def test_scores_have_protocol_interval_and_n(words, capsys):
    assert main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["protocol"].startswith("teacher-forced") and "generated" not in values
    assert values["intervals"]["edit_score"]["n"] == 3 and values["intervals"]["paraphrase_score"]["n"] == 1
    for name, found in values["intervals"].items():
        assert (found is None) == (values[name] is None)
        assert found is None or found["value"] == pytest.approx(values[name])


def test_both_protocols_and_a_judge(words, tmp_path, capsys):
    judge = f'"{sys.executable}" -c "print(1)"'
    more = ["--protocol", "teacher-forced,generated", "--judge", judge, "--max-tokens", "4"]
    assert main([*words, "--json", *more, f"--texts={tmp_path / 'texts.csv'}"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["edit_score"] is not None and set(values["generated"]["scores"]) == set(PARTS)
    assert values["generated"]["scores"]["edit"]["judged"]["value"] == 100
    assert "at most 4 tokens; judged by" in values["generated"]["protocol"]
    assert set(values["generated"]["portability_by_kind"]) == {"reversed"}
    rows = list(csv.DictReader((tmp_path / "texts.csv").open(encoding="utf-8")))
    assert len(rows) == 6 and rows[0]["protocol"] == values["generated"]["protocol"] and rows[0]["judged"] == "True"
    assert main([*words, "--protocol=generated", "--max-tokens=4"]) == 0
    out = capsys.readouterr().out
    assert "no judge" in out and "edit, exact" in out and "teacher-forced" not in out and "3 facts" in out


def test_a_judge_that_is_broken_is_counted(words, capsys):
    assert main([*words, "--protocol=generated", "--max-tokens=2", "--judge=no-such-program", "--json"]) == 0
    said = capsys.readouterr()
    assert "no verdict on 6 of 6 answers" in said.err and "no-such-program" in said.err
    assert json.loads(said.out)["generated"]["scores"]["edit"]["judged"] is None


def test_scores_are_printed_even_if_the_answers_cannot_be_written(words, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise InputError("The disk is full.")

    monkeypatch.setattr(evaluating, "_write_texts", full)
    more = ["--protocol=generated", "--max-tokens=2", "--json", f"--texts={tmp_path / 'texts.csv'}"]
    assert main([*words, *more]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["generated"]["scores"] and "The disk is full." in err


def test_a_file_that_is_there_is_not_written_over(words, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("mine", encoding="utf-8")
    assert main([*words, "--protocol=generated", f"--texts={tmp_path / 'mine.csv'}"]) == 2
    assert "mine.csv exists; give a new name" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--protocol=said"], "'said' is not known"), (["--judge=x"], "--judge is for generated answers"),
     (["--texts=x"], "--texts is for generated answers"),
     (["--protocol=generated", "--judge=http://x"], "name of a model"),
     (["--protocol=generated", "--chat=yes"], "no chat template")],
)  # fmt: skip
def test_words_that_make_no_sense(words, capsys, more, said):
    assert main([*words, *more]) == 2
    assert said in capsys.readouterr().err
