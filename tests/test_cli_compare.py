"""`encore compare` on the tiny models: one object or one table, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import CITIES

from encore_core.cli import main
from encore_core.editing.session import EditSession
from encore_core.facts import write_facts
from encore_core.measures.scores import evaluate
from encore_core.models.editable import load_model


@pytest.fixture
def words(tiny_folder, statistics_text, tmp_path) -> list[str]:
    write_facts(CITIES[:3], tmp_path / "facts.jsonl")
    return ["compare", "--model", str(tiny_folder), "--device", "cpu", "--facts", str(tmp_path / "facts.jsonl"),
            "--known", "edit", "--statistics", str(statistics_text)]  # fmt: skip


def test_one_object_with_what_edit_gives(words, tiny_folder: Path, statistics_text, capsys):
    assert main([*words, "--methods", "ENCORE,MEMIT", "--limit", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["methods"]) == ["ENCORE", "MEMIT"]
    assert found["seconds"] == pytest.approx(sum(side["seconds"] for side in found["methods"].values()))
    lm = load_model(str(tiny_folder), device="cpu")
    for method, side in found["methods"].items():
        session = EditSession(lm, method, statistics_text=statistics_text)
        report = session.edit(CITIES[:2], known="edit")
        assert len(side["facts"]) == 2
        for told, item in zip(side["facts"], report.edited, strict=True):
            assert (told["subject"], told["prompt"]) == (item.fact.subject, item.fact.text)
            assert (told["steps"], told["stopped"]) == (item.steps, item.stopped)
            assert told["probability_after"] == pytest.approx(item.probability_after, abs=1e-5)
        with session.edited():
            assert side["scores"] == pytest.approx(evaluate(lm, CITIES[:2]).as_dict(), abs=1e-3)
            assert side["intervals"]["edit_score"]["n"] == 2 and side["protocol"].startswith("teacher-forced")
        for layer, norms in session.norms().items():
            assert side["norms"][str(layer)] == pytest.approx(norms, rel=1e-6)


def test_a_table_for_people(words, capsys):
    assert main([*words, "--scored", "0"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "p before" in head and [row.split()[0] for row in rows] == ["MEMIT", "EMMET", "AlphaEdit", "ENCORE"]


def test_a_method_that_refuses_a_setting_says_so_and_the_others_stand(words, capsys):
    assert main([*words, "--methods", "MEMIT,ENCORE", "--limit", "1", "--set", "lambda_n=0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["methods"]
    assert "has no norm constraint" in found["MEMIT"]["error"] and found["ENCORE"]["facts"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "MEMIT,MEMIT"], "there twice"),
        (["--methods", "MEMT"], "did you mean"),
        (["--methods", ","], "0 methods"),
        (["--set", "layers=99"], "99"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, more, said, capsys):
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert said.lower() in error.lower() and error.count("encore:") == 1
