"""The command line: what it writes, what it prints, and the one line with which it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import tiny_runs
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from encore_core.cli import _parser, main
from encore_core.cli.places import held
from encore_core.editing.covariance import KeySums
from encore_core.editing.edit_file import read_edit_file
from encore_core.editing.session import EditSession
from encore_core.facts import Fact, read_facts, write_facts
from encore_core.measures.answers import answer_probabilities, next_tokens
from encore_core.models.editable import load_model

SETTINGS = [f"--set={name}={value}" for name, value in tiny_models.DEFAULTS.items()]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory) -> Path:
    """A tiny model saved as anybody would save one."""
    return tiny_runs.save_model(
        request.getfixturevalue(request.param), tmp_path_factory.mktemp("models") / request.param
    )


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
    assert said == {round(float(edited[name].double().norm()), 3) for name in changed}


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
    "limit that is not a number": (["--limit", "many"], "--limit"),
    "unknown device": (["--device", "tpu"], "present here: "),
    "unknown dtype": (["--dtype", "int3"], "float32, bfloat16"),
    "unknown model": (["--model", "smollm3"], "Did you mean 'smollm2-135m'"),
    "folder without weights": (["--model", broken_folder], "no weights"),
    "unknown option": (["--fact", "x"], "encore"),
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("statistics --import=x.npz --estimate", "--estimate does not go with --import"),
        ("statistics --import=x.npz --layers=1", "--layers does not go with --import"),
        ("statistics --forget --estimate", "--estimate does not go with --forget"),
        ("statistics --list --enough", "--enough does not go with --list"),
        ("statistics --source=wikitext --layer=1", "--layer does not go with --source"),
        ("tune --forget --estimate", "--estimate is for a search"),
        ("eval --facts=bundled --protocol=generated --judge-model=x", "--judge-model is for a judge; add --judge"),
        ("eval --facts=bundled --chat=no", "--chat is for generated answers"),
        ("eval --facts=bundled --max-tokens=3", "--max-tokens is for generated answers"),
        ("run --facts=bundled --judge-seconds=3", "--judge-seconds is for a judge"),
        ("run --facts=bundled --seeds=1,2 --seed=0", "--seed: not allowed with argument --seeds"),
        ("doctor --device=cuda:7", "--device is for a model; add --model"),
        ("facts check bundled --start-token=none", "--start-token is for a model; add --model"),
        ("edit --facts=bundled --scored=3", "--scored is for the model card; add --out"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words, said, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(case, tiny_folder, facts_file, tmp_path, capsys):
    options, wanted = REFUSED[case]
    given = [str(value(tmp_path)) if callable(value) else value for value in options]
    out = tmp_path / "out"
    code = main(["edit", "--model", str(tiny_folder), "--facts", str(facts_file), "--out", str(out), *SETTINGS, *given])
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


@pytest.mark.parametrize(
    "words",
    [
        "edit --facts=~/a --out=~/a --edits=~/a --edits-out=~/a --statistics=~/a",
        "apply --edits=~/a --out=~/a",
        "eval --facts=~/a --edits=~/a --texts=~/a",
        "retract --edits=~/a --edits-out=~/a --statistics=~/a",
        "facts convert ~/a --out=~/a",
        "facts get zsre --out=~/a",
        "run --facts=~/a --statistics=~/a --downstream=~/a --store=~/a",
        "runs export id --out=~/a",
        "runs import ~/a --store=~/a",
        "statistics --source=~/a --import=~/a",
        "tune --facts=~/a --downstream=~/a --statistics=~/a",
        "layers --facts=~/a --statistics=~/a",
    ],
)
def test_a_home_folder_is_understood_by_every_option(words, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = vars(_parser().parse_args(words.split()))
    named = [str(value) for value in options.values() if isinstance(value, str | Path) and str(value).endswith("/a")]
    assert named == ["/home/me/a"] * words.count("~")


def test_an_output_folder_that_cannot_be_kept_is_refused_before_the_work(facts_file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    for edits in (out / "my.edits", tmp_path / "out" / ".." / "out" / "my.edits", out):
        assert edit(Path("nowhere"), facts_file, out, "--edits-out", str(edits)) == 2
        assert f"{edits} is in the output folder" in capsys.readouterr().err and out.is_dir()
    with held(out):
        assert edit(Path("nowhere"), facts_file, out) == 2
    assert "Another command is about to write the output folder" in capsys.readouterr().err
    monkeypatch.chdir(out)
    assert edit(Path("nowhere"), facts_file, Path()) == 2
    assert "is the current one" in capsys.readouterr().err and not list(out.iterdir())


def test_a_folder_that_was_filled_meanwhile_is_left_alone_and_the_edits_are_kept(
    tiny_folder, facts_file, tmp_path, capsys, monkeypatch
):
    out, edits = tmp_path / "out", tmp_path / "some.edits"
    made = EditSession.edit

    def filling(session, *values, **named):
        out.mkdir()
        (out / "thesis.txt").write_text("years of work", encoding="utf-8")
        return made(session, *values, **named)

    monkeypatch.setattr(EditSession, "edit", filling)
    assert edit(tiny_folder, facts_file, out, "--limit", "1", "--known", "edit", "--edits-out", str(edits)) == 2
    assert "not empty" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert read_edit_file(edits).values["n_edits"] == 1


def said_by(lm) -> Fact:
    """A fact whose new answer the model gives by itself."""
    for country in tiny_models.COUNTRIES:
        for template in ("The capital of {} is", "I live in {} and", "{} is a", "Because {} is large, you can"):
            prompt = template.replace("{}", country)
            [[(token, _)]] = next_tokens(lm, [prompt], k=1)
            if token.strip() and answer_probabilities(lm, [(prompt, token.strip())])[0].said:
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
    # A batch that was skipped as a whole is reported, too, where the edits are kept.
    again, edits = tmp_path / "again", tmp_path / "some.edits"
    assert edit(folder, both, again, "--batch-size", "1", "--edits-out", str(edits)) == 0
    report = json.loads((again / "edit_report.json").read_text(encoding="utf-8"))
    said = [[fact["stopped"] == "already said" for fact in batch["facts"]] for batch in report["batches"]]
    assert said == [[True], [False]]


def test_the_installed_command_refuses_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "encore_core.cli", "edit", "--facts", "nowhere", "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def statistics(model: Path, *more: object) -> int:
    return main(["statistics", "--model", str(model), "--device", "cpu", *map(str, more)])


def test_statistics_are_gathered_listed_used_and_forgotten(
    folder, statistics_text, facts_file, tmp_path, own_home, capsys
):
    asked = ("--source", statistics_text, "--layers", "0-1", "--tokens", 600)
    assert statistics(folder, *asked, "--estimate", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["tokens"] == 600 and cost["layers"] == [0, 1] and cost["seconds"] > 0
    assert not list(own_home.rglob("*.safetensors"))
    assert statistics(folder, *asked, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["tokens"] == 600 and "Layers 0, 1, at most 600 tokens: about" in said.err

    assert main(["statistics", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["layer"], row["tokens"], row["chosen"]) for row in rows] == [(0, 600, True), (1, 600, True)]
    assert {row["model"] for row in rows} == {str(folder)}
    assert main(["statistics", "--list"]) == 0
    assert "used by edits" in capsys.readouterr().out

    assert edit(folder, facts_file, tmp_path / "a", "--limit", "2", "--known", "edit") == 0
    assert f"Key statistics of layers 0, 1: text {statistics_text.name}, 600 tokens" in capsys.readouterr().err
    text = ("--statistics", str(statistics_text), "--set=statistics_tokens=600")
    assert edit(folder, facts_file, tmp_path / "b", "--limit", "2", "--known", "edit", *text) == 0
    capsys.readouterr()
    assert statistics(folder, "--forget", "--layers", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"layers": [1]}
    assert main(["statistics", "--list", "--json"]) == 0
    assert [row["chosen"] for row in json.loads(capsys.readouterr().out)] == [True, False]
    assert statistics(folder, "--forget") == 0
    assert edit(folder, facts_file, tmp_path / "c", "--limit", "2", "--known", "edit") == 0
    assert "bundled sample" in capsys.readouterr().err
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a) and not all(torch.equal(a[name], c[name]) for name in a)


def test_statistics_that_stop_by_themselves_say_what_they_saw(folder, statistics_text, own_home, capsys):
    assert statistics(folder, "--source", statistics_text, "--layers", "0", "--tokens", "1500", "--enough") == 0
    said = capsys.readouterr()
    assert said.out.count(" tokens  disturbance ") >= 2 and "change" in said.out


def test_statistics_of_memit_are_imported(folder, tmp_path, own_home, capsys):
    d_mlp = load_model(str(folder), device="cpu").d_mlp
    K = np.random.default_rng(0).standard_normal((400, d_mlp)).astype(np.float32)
    file = tmp_path / "transformer.h.1.mlp.c_proj_float32_mom2_100000.npz"
    np.savez(file, **{"mom2.mom2": K.T @ K, "mom2.count": 400, "sample_size": 100_000})
    assert statistics(folder, "--import", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layer"], found["tokens"]) == (1, 400)
    assert np.allclose(load_file(found["file"])["C0"].numpy(), K.T @ K / 400, rtol=1e-4, atol=1e-6)


def test_statistics_go_from_one_machine_to_another(folder, statistics_text, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "there"))
    assert statistics(folder, "--source", statistics_text, "--layers", "0-1", "--tokens", "700") == 0
    capsys.readouterr()
    assert statistics(folder, "--export", tmp_path / "out", "--layers", "1", "--json") == 0
    [file] = json.loads(capsys.readouterr().out).values()
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "here"))
    assert statistics(folder, "--import", file) == 0
    said = capsys.readouterr().err
    assert "Layer 1: C0 and F imported" in said and "other weights" not in said
    assert statistics(folder, "--import", file, "--dtype", "bfloat16", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["gradients"] is True and "gathered with other weights, another number" in said.err
    assert statistics(folder, "--export", tmp_path / "out", "--layers", "0") == 2
    assert "has no statistics yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), "Nothing is asked for; give one of --source, --import, --export, --list and --forget"),
        (("--source", "bundled", "--list"), "--source and --list is asked for"),
        (("--source", "wikibooks"), "Unknown source 'wikibooks'"),
        (("--source", "bundled", "--layers", "a-b"), "--layers 'a-b'"),
        (("--source", "bundled", "--layers", "9"), "Layer 9 is not between 0 and"),
        (("--source", "bundled", "--tokens", "5"), "5 tokens say too little"),
        (("--source", "bundled", "--tokens", "0"), "--tokens"),
        (("--source", "bundled", "--layer", "1"), "--layer does not go with --source"),
        (("--import", "nowhere.npz"), "There is no file nowhere.npz"),
    ],
)
def test_statistics_refuse_in_one_line(folder, own_home, capsys, options, wanted):
    assert statistics(folder, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("encore: ")]
    assert len(lines) == 1 and wanted in lines[0]


def test_ctrl_c_keeps_what_has_been_gathered(folder, statistics_text, own_home, capsys, monkeypatch):
    step = KeySums.step
    steps = []

    def interrupted(sums):
        steps.append(sums.position)
        if len(steps) == 3:  # the first two are the estimate's
            signal.raise_signal(signal.SIGINT)
        return step(sums)

    monkeypatch.setattr(KeySums, "step", interrupted)
    asked = ("--source", statistics_text, "--layers", "0", "--tokens", 1500)
    assert statistics(folder, *asked) == 130
    said = capsys.readouterr().err
    assert "the same command continues" in said and "encore: stopped." in said
    assert len(list(own_home.rglob("partial-*"))) == 1
    assert statistics(folder, *asked) == 0
    assert steps[3:6] == [0, 1, 1]  # the estimate again, and on from where it was


def test_edits_are_saved_put_back_and_scored(folder, facts_file, tmp_path, capsys):
    """The folder that apply writes has the bits of the one that edit wrote; eval --edits scores the same."""
    out, edits, again = tmp_path / "out", tmp_path / "some.edits", tmp_path / "again"
    assert edit(folder, facts_file, out, "--edits-out", str(edits), "--batch-size", "2", "--known", "edit") == 0
    model = ["--model", str(folder), "--device", "cpu"]
    assert main(["apply", *model, "--edits", str(edits), "--out", str(again), "--scored", "2"]) == 0
    one, two = (load_file(place / "model.safetensors") for place in (out, again))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    for place in (out, again):
        assert "New Zealand" in (place / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    scores = []
    for words in (["--model", str(out), "--facts", str(facts_file)], [*model, "--edits", str(edits)]):
        assert main(["eval", *words, "--device", "cpu", "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]


def test_without_a_place_to_write_to_it_is_a_trial(folder, facts_file, tmp_path, capsys, monkeypatch):
    """A line per fact on standard output, and nothing is kept."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["edit", "--model", str(folder), "--device", "cpu", "--facts", str(facts_file), "--limit", "2"]) == 0
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert head.split() == ["p", "before", "after", "steps", "stopped", "by", "fact"] and len(rows) == 2
    for row, fact in zip(rows, read_facts(facts_file), strict=False):
        was, now, steps, *_ = row.split()
        assert float(now) > float(was) and int(steps) > 0 and row.endswith(f"{fact.text} {fact.target_new}")
    assert "nothing is written without --out or --edits-out" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_edit_files_that_cannot_be_used(folder, facts_file, tmp_path, capsys):
    model = ["--model", str(folder), "--device", "cpu"]
    cases = (
        (["edit", *model, "--facts", str(facts_file), "--edits-out", str(facts_file)], "exists"),
        (["apply", *model, "--edits", str(facts_file), "--out", str(tmp_path / "o")], "edit file"),
        (["eval", *model], "no facts"),
    )
    for words, wanted in cases:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.count("encore:") == 1 and wanted in said
