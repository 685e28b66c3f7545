"""`encore retract`, and `encore edit` that goes on from saved edits, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import CITIES

from encore_core.cli import main
from encore_core.editing.edit_file import read_edit_file
from encore_core.facts import write_facts

SETTINGS = ("lambda_p=0.01", "lambda_n=0.001", "layers=0,1", "statistics_tokens=2000", "steps=8", "clamp=1.5")


@pytest.fixture
def saved(tiny_folder, statistics_text, tmp_path) -> Path:
    """Edits of three facts, each a batch."""
    write_facts(CITIES, tmp_path / "facts.jsonl")
    words = ["edit", "--model", str(tiny_folder), "--facts", str(tmp_path / "facts.jsonl"), "--batch-size", "1"]
    words += ["--statistics", str(statistics_text), "--known", "edit", "--edits-out", str(tmp_path / "mine.edits")]
    assert main([*words, *(word for pair in SETTINGS for word in ("--set", pair))]) == 0
    return tmp_path / "mine.edits"


@pytest.fixture
def retract(saved, tiny_folder, statistics_text):
    """Runs `encore retract` on these edits with more options."""

    def run(*more: str) -> int:
        return main(
            ["retract", "--model", str(tiny_folder), "--edits", str(saved), "--statistics", str(statistics_text), *more]
        )

    return run


def test_an_edit_is_taken_back_and_what_it_left_is_said(retract, saved, tiny_folder, tmp_path, capsys):
    out = tmp_path / "fewer.edits"
    capsys.readouterr()
    assert retract("--subject", "New Zealand", "--edits-out", str(out)) == 0
    told = capsys.readouterr()
    assert told.out.startswith("People from New Zealand live in the city of: Madrid ")
    assert "2 other edits: mean" in told.out and "1 taken back, 2 left" in told.err
    edits = read_edit_file(out)
    assert [fact.subject for fact in edits.facts] == ["France", "Kenya"]
    assert main(["apply", "--model", str(tiny_folder), "--edits", str(out), "--out", str(tmp_path / "model")]) == 0
    report = json.loads((tmp_path / "model" / "edit_report.json").read_text())
    assert report["n_edits"] == 2 and len(report["facts"]) == 2


def test_a_trial_prints_one_object_and_writes_nothing(retract, saved, tmp_path, capsys):
    before = {file.name for file in tmp_path.iterdir()}
    capsys.readouterr()
    assert retract("--number", "1,3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["subject"], one["batch"]) for one in found["retracted"]] == [("France", 1), ("Kenya", 3)]
    for one in found["retracted"]:
        assert one["new"]["after"] < one["new"]["before"] and isinstance(one["is_back"], bool)
    assert found["others"]["n"] == 1 and found["n_edits"] == 1 and set(found["norms"]) == {"0", "1"}
    assert {file.name for file in tmp_path.iterdir()} == before


def test_without_a_choice_the_edits_are_listed(retract, capsys):
    capsys.readouterr()
    assert retract() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "'The capital of France is' → 'Rome'" in lines[1]
    assert retract("--json") == 0
    edits = json.loads(capsys.readouterr().out)["edits"]
    assert [edit["number"] for edit in edits] == [1, 2, 3] and all(edit["live"] for edit in edits)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--subject", "Atlantis"], "No edit has the subject 'Atlantis'; encore retract --edits FILE lists them."),
        (["--subject", "France", "--prompt", "x {}"], "No edit has the subject 'France' and the prompt 'x {}'"),
        (["--number", "4"], "There is no edit number 4; give a number from 1 to 3."),
        (["--number", "1,x"], "'x' is not a whole number from 1"),
        (["--number", "0"], "'0' is not a whole number from 1"),
        (["--prompt", "x {}"], "--prompt 'x {}' needs --subject"),
        (["--subject", "France", "--number", "1"], "Give --subject or --number, not both."),
        (["--edits-out", "x"], "There is no edit to take back; give --subject or --number."),
        (["--subject", "France", "--edits-out", "/nowhere/x"], "the folder /nowhere does not exist"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(retract, capsys, words, wanted):
    capsys.readouterr()
    assert retract(*words) == 2
    told = capsys.readouterr()
    [line] = [line for line in told.err.splitlines() if line.startswith("encore:")]
    assert wanted in line and not told.out


def test_a_fact_is_overwritten_and_then_taken_back(saved, tiny_folder, statistics_text, tmp_path, capsys):
    (tmp_path / "again.json").write_text(json.dumps([{**CITIES[0].to_dict(), "target_new": "Lima"}]))
    more = ["--model", str(tiny_folder), "--statistics", str(statistics_text)]
    on = ["edit", *more, "--edits", str(saved), "--facts", str(tmp_path / "again.json"), "--known", "edit"]
    capsys.readouterr()
    for words, why in ((["--method", "MEMIT"], "ENCORE"), (["--seed", "3"], "seed 0"), (["--set", "lr=1"], "--set")):
        assert main([*on, *words]) == 2
        assert why in capsys.readouterr().err
    assert main([*on, "--edits-out", str(tmp_path / "b.edits"), "--out", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().err
    assert "that edit is taken back, and this one takes its place" in told and "1 fact edited" in told
    assert [fact.target_new for fact in read_edit_file(tmp_path / "b.edits").facts] == ["Madrid", "Lima", "Lima"]
    report = json.loads((tmp_path / "model" / "edit_report.json").read_text())
    assert report["n_edits"] == 3 and len(report["batches"]) == 4
    words = ["retract", *more, "--edits", str(tmp_path / "b.edits")]
    assert main([*words, "--number", "1"]) == 2
    assert "was edited again in batch 4; take that one back" in capsys.readouterr().err
    assert main([*words, "--subject", "France", "--edits-out", str(tmp_path / "c.edits")]) == 0
    assert main(["retract", *more, "--edits", str(tmp_path / "c.edits"), "--subject", "France"]) == 2
    assert "was taken back already, in batch 5" in capsys.readouterr().err
    assert main(["retract", *more, "--edits", str(tmp_path / "c.edits")]) == 0
    listed = capsys.readouterr().out
    assert "overwritten, 4" in listed and "taken back, 5" in listed
