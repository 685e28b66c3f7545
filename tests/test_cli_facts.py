"""--facts of the command line: bad rows left out, standard input, and everything looked at before a fact is edited."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import tiny_models
import tiny_runs

from encore_core.cli import main
from encore_core.editing.session import EditSession
from encore_core.facts import write_facts

SETTINGS = [f"--set={name}={value}" for name, value in tiny_models.DEFAULTS.items()]
GOOD = [fact.to_dict() for fact in tiny_models.FACTS[:3]]
BAD = {"subject": "Atlantis", "prompt": "The capital of Mu is", "target_new": "Rome"}


@pytest.fixture
def edit(tiny_folder, tmp_path):
    """`edit(facts, *words)`: `encore edit` of a file of such records; gives the exit code."""

    def call(records: list[dict] | str, *words: str) -> int:
        path = tmp_path / "facts.json"
        if not isinstance(records, str):
            path.write_text(json.dumps(records), encoding="utf-8")
        source = records if isinstance(records, str) else path
        return main(
            ["edit", f"--model={tiny_folder}", f"--facts={source}", f"--out={tmp_path / 'out'}", "--device=cpu",
             "--known=edit", *SETTINGS, *words]
        )  # fmt: skip

    return call


def typed_in(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def edited(tmp_path: Path) -> list[str]:
    report = json.loads((tmp_path / "out" / "edit_report.json").read_text(encoding="utf-8"))
    return [fact["subject"] for batch in report["batches"] for fact in batch["facts"]]


def no_model(*args, **kwargs):
    raise AssertionError("the model is not to be loaded")


def no_edit(*args, **kwargs):
    raise AssertionError("nothing is to be edited")


def test_bad_rows_are_refused_with_the_way_on_or_left_out_and_listed(edit, tmp_path, capsys):
    records = [GOOD[0], BAD, GOOD[1], BAD | {"target_new": ""}]
    assert edit(records) == 2
    said = capsys.readouterr().err
    assert "2 of 4 rows cannot be used: record 2:" in said and "--skip-bad goes on with the other 2" in said
    assert edit(records, "--skip-bad") == 0
    said = capsys.readouterr().err
    assert "note: " in said and "record 2 skipped: prompt 'The capital of Mu is'" in said and "record 4 skipped" in said
    assert edited(tmp_path) == [record["subject"] for record in GOOD[:2]]


def test_there_is_no_way_on_where_nothing_can_be_used(edit, capsys):
    assert edit([BAD]) == 2 and "--skip-bad" not in capsys.readouterr().err
    assert edit([BAD], "--skip-bad") == 2 and "there is no fact in it" in capsys.readouterr().err
    assert edit("nowhere.json") == 2 and "--skip-bad" not in capsys.readouterr().err


def test_facts_come_from_standard_input(edit, tmp_path, capsys, monkeypatch, tiny_folder):
    typed_in(monkeypatch, "\n".join(map(json.dumps, GOOD)))
    assert edit("-") == 0
    assert edited(tmp_path) == [record["subject"] for record in GOOD]
    typed_in(monkeypatch, json.dumps(GOOD[0] | {"note": 1}))
    assert main(["eval", f"--model={tiny_folder}", "--device=cpu", "--facts=-", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["facts"] == 1 and "standard input: keys ignored: 'note'" in said.err
    typed_in(monkeypatch, "")
    assert edit("-") == 2 and "standard input: the file is empty" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert edit("-") == 2 and "no standard input" in capsys.readouterr().err


def test_eval_leaves_bad_rows_out(tiny_folder, tmp_path, capsys):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([BAD, *GOOD]), encoding="utf-8")
    words = ["eval", f"--model={tiny_folder}", "--device=cpu", f"--facts={path}", "--json"]
    assert main(words) == 2 and "--skip-bad goes on with the other 3" in capsys.readouterr().err
    assert main([*words, "--skip-bad"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"] == 3


def test_a_contradiction_in_the_last_batch_is_found_before_the_model_is_loaded(edit, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("encore_core.cli.editing.load_model", no_model)
    many = [{"subject": f"Land{n}", "prompt": f"The capital of Land{n} is", "target_new": "Rome"} for n in range(20)]
    records = [BAD, *many, GOOD[0], GOOD[0] | {"target_new": "Lima"}]
    assert edit(records, "--batch-size=10", "--skip-bad") == 2
    assert "facts 22 and 23 contradict each other" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


TOO_LONG = GOOD[2] | {"prompt": "so " * 200 + "{} is"}
LONG_PARAPHRASE = GOOD[2] | {"paraphrases": ["so " * 200]}


@pytest.mark.parametrize("bad", [TOO_LONG, LONG_PARAPHRASE], ids=["prompt", "paraphrase"])
def test_what_the_tokenizer_alone_can_tell_is_found_before_the_first_batch(bad, edit, capsys, monkeypatch, tmp_path):
    records = [BAD, GOOD[0], GOOD[1], bad]
    with monkeypatch.context() as patch:
        patch.setattr(EditSession, "edit", no_edit)
        assert edit(records[1:], "--batch-size=1") == 2
    said = capsys.readouterr().err
    assert "record 3: " in said and "shorten it" in said and "--skip-bad goes on with the other 2" in said
    assert edit(records, "--batch-size=1", "--skip-bad") == 0
    said = capsys.readouterr().err
    assert "record 1 skipped" in said and "skipped record 4: " in said
    assert edited(tmp_path) == [record["subject"] for record in GOOD[:2]]


def test_a_paraphrase_that_is_never_run_may_be_as_long_as_it_likes(edit):
    assert edit([LONG_PARAPHRASE], "--scored=0") == 0


def test_runs_take_standard_input_and_leave_bad_rows_out(tiny_folder, statistics_text, tmp_path, capsys, monkeypatch):
    write_facts(tiny_runs.FACTS[:6], tmp_path / "facts.jsonl")
    text = json.dumps(BAD) + "\n" + (tmp_path / "facts.jsonl").read_text(encoding="utf-8")
    settings = [f"--set={name}={value}" for name, value in tiny_runs.SETTINGS.items()]
    words = ["run", f"--model={tiny_folder}", "--device=cpu", "--facts=-", "--batch-size=2", "--dry-run", "--json",
             f"--statistics-text={statistics_text}", f"--store={tmp_path / 'store'}", *settings]  # fmt: skip
    typed_in(monkeypatch, text)
    assert main(words) == 2
    assert "standard input: line 1:" in (said := capsys.readouterr().err) and "goes on with the other 6" in said
    typed_in(monkeypatch, text)
    assert main([*words, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["edits"] == 6 and "line 1 skipped" in said.err
