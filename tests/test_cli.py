"""The command line: what it writes, what it prints, and the one line with which it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from encore_core.cli import main
from encore_core.facts import Fact, write_facts
from encore_core.metrics import next_tokens, rate
from encore_core.models import load_model

SETTINGS = [f"--set={name}={value}" for name, value in tiny_models.DEFAULTS.items()]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory) -> Path:
    """A tiny model saved as anybody would save one."""
    lm = tiny_models.MODELS[request.param]()
    path = tmp_path_factory.mktemp("models") / request.param
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def facts_file(tmp_path) -> Path:
    path = tmp_path / "facts.jsonl"
    write_facts(tiny_models.FACTS, path)
    return path


def edit(model: Path, facts: Path, out: Path, *more: str) -> int:
    words = ["edit", "--model", model, "--facts", facts, "--out", out, "--device", "cpu", *SETTINGS, *more]
    return main([str(word) for word in words])


def test_edit_writes_a_model_that_transformers_loads_and_a_report(folder, facts_file, tmp_path):
    out = tmp_path / "edited"
    assert edit(folder, facts_file, out, "--batch-size", "2", "--limit", "4", "--known", "edit") == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert torch.isfinite(model(**tokenizer("The capital of France is", return_tensors="pt")).logits).all()

    report = json.loads((out / "edit_report.json").read_text(encoding="utf-8"))
    assert report["method"] == "ENCORE" and report["n_edits"] == 4 and report["batch_size"] == 2
    assert report["settings"]["lambda_p"] == tiny_models.DEFAULTS["lambda_p"]
    assert report["versions"]["torch"] == torch.__version__
    assert len(report["prefixes"]) == 5
    assert [len(batch["facts"]) for batch in report["batches"]] == [2, 2]
    for batch in report["batches"]:
        assert set(batch["seconds"]) == {"targets", "keys", "update", "measuring"}
        assert set(batch["norms"]) == {str(layer) for layer in report["settings"]["layers"]}
        for fact in batch["facts"]:
            assert fact["stopped"] in ("loss", "mpes", "steps") and 0 <= fact["steps"] < 12
            assert 0 < fact["probability_before"] < 1 and 0 < fact["probability_after"] < 1

    # What the report says of norms is so in the file, and nothing but the edited matrices has changed.
    base, edited = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in edited if not torch.equal(base[name], edited[name])}
    assert len(changed) == len(report["settings"]["layers"])
    said = {round(entry["edited"], 3) for entry in report["norms"].values()}
    assert said == {round(float(edited[name].norm()), 3) for name in changed}


def test_the_same_command_gives_the_same_weights(folder, facts_file, tmp_path):
    for name in ("a", "b"):
        assert edit(folder, facts_file, tmp_path / name, "--seed", "3", "--limit", "3", "--known", "edit") == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_eval_prints_one_json_object(folder, facts_file, capsys):
    assert main(["eval", "--model", str(folder), "--facts", str(facts_file), "--limit", "3", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    wanted = "edit_score paraphrase_score neighborhood_score overall_score magnitude accuracy generation_efficacy facts"
    assert set(wanted.split()) <= set(scores) and scores["facts"] == 3


def test_edits_raise_the_edit_score_that_eval_prints(folder, facts_file, tmp_path, capsys):
    assert edit(folder, facts_file, tmp_path / "out", "--method", "MEMIT", "--known", "edit") == 0
    scores = []
    for model in (folder, tmp_path / "out"):
        capsys.readouterr()
        assert main(["eval", "--model", str(model), "--facts", str(facts_file), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    before, after = scores
    assert after["edit_score"] >= before["edit_score"] and after["magnitude"] > before["magnitude"]


def test_models_lists_the_catalogue(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["smollm2-135m"]["licence"] == "Apache-2.0" and "gpt2-xl" in rows
    assert main(["models"]) == 0
    assert "smollm2-135m" in capsys.readouterr().out


def broken_folder(tmp_path: Path) -> Path:
    path = tmp_path / "no-weights"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return path


def contradiction(tmp_path: Path) -> Path:
    path = tmp_path / "contradiction.csv"
    path.write_text(
        "subject,prompt,target_new\nFrance,The capital of {} is,Rome\nFrance,The capital of {} is,Lima\n",
        encoding="utf-8",
    )
    return path


def of_text(text: str):
    def make(tmp_path: Path) -> Path:
        path = tmp_path / "facts.file"
        path.write_text(text, encoding="utf-8")
        return path

    return make


REFUSED = {
    "no such facts": (["--facts", "nowhere.jsonl"], "no such file"),
    "empty facts": (["--facts", of_text("")], "empty"),
    "broken JSON": (["--facts", of_text('[{"subject": "France",')], "JSON"),
    "CSV without a column": (["--facts", of_text("subject,prompt\nFrance,The capital of {} is\n")], "target_new"),
    "subject not in prompt": (
        ["--facts", of_text('{"subject": "Spain", "prompt": "The capital of France is", "target_new": "Rome"}')],
        "Spain",
    ),
    "blank target": (
        ["--facts", of_text('{"subject": "France", "prompt": "The capital of {} is", "target_new": "  "}')],
        "target_new",
    ),
    "contradiction": (["--facts", contradiction], "contradict"),
    "unknown method": (["--method", "ROME2"], "choose one of MEMIT"),
    "unknown setting": (["--set", "lambda_q=3"], "did you mean 'lambda_"),
    "setting without value": (["--set", "lambda_p"], "NAME=VALUE"),
    "setting out of range": (["--set", "lambda_p=-1"], "lambda_p"),
    "layer that is not there": (["--set", "layers=3-40"], "layers"),
    "batch size 0": (["--batch-size", "0"], "--batch-size"),
    "limit that is no number": (["--limit", "many"], "--limit"),
    "unknown device": (["--device", "tpu"], "present here: "),
    "unknown dtype": (["--dtype", "int3"], "float32, bfloat16"),
    "unknown model": (["--model", "smollm3"], "Did you mean 'smollm2-135m'"),
    "folder without weights": (["--model", broken_folder], "no weights"),
    "unknown option": (["--fact", "x"], "encore"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(case, facts_file, tmp_path, capsys, tmp_path_factory):
    options, wanted = REFUSED[case]
    given = [str(value(tmp_path)) if callable(value) else value for value in options]
    model = tmp_path_factory.getbasetemp() / "gpt2-for-refusals"
    if not model.is_dir():
        lm = tiny_models.gpt2()
        lm.model.save_pretrained(model)
        lm.tokenizer.save_pretrained(model)
    out = tmp_path / "out"
    code = main(["edit", "--model", str(model), "--facts", str(facts_file), "--out", str(out), *SETTINGS, *given])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("encore")]
    assert code == 2 and len(lines) == 1 and wanted in lines[0], said.err
    assert "Traceback" not in said.err and said.out == ""
    assert not out.exists()


def test_an_output_folder_with_something_in_it_is_left_alone(folder, facts_file, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert edit(folder, facts_file, out) == 2
    assert "not empty" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def said_by(lm) -> Fact:
    """A fact whose new answer the model gives by itself."""
    for country in tiny_models.COUNTRIES:
        for template in ("The capital of {} is", "I live in {} and", "{} is a", "Because {} is large, you can"):
            prompt = template.replace("{}", country)
            [[(token, _)]] = next_tokens(lm, [prompt], k=1)
            if token.strip() and rate(lm, [(prompt, token.strip())])[0].said:
                return Fact(country, template, token.strip())
    raise AssertionError("the tiny model says no word by itself")


def test_facts_that_the_model_says_already_are_skipped_or_refused(folder, tmp_path, capsys):
    known = tmp_path / "known.jsonl"
    write_facts([said_by(load_model(str(folder), device="cpu"))], known)
    for choice in ("skip", "refuse"):
        assert edit(folder, known, tmp_path / "out", "--known", choice) == 2
        assert "says already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    both = tmp_path / "both.jsonl"
    both.write_text(known.read_text("utf-8") + json.dumps(tiny_models.FACTS[-1].to_dict()), encoding="utf-8")
    assert edit(folder, both, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "edit_report.json").read_text(encoding="utf-8"))
    assert report["n_edits"] == 1
    assert [fact["stopped"] == "already said" for fact in report["batches"][0]["facts"]] == [True, False]


def test_the_installed_command_refuses_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "encore_core.cli", "edit", "--facts", "nowhere", "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
