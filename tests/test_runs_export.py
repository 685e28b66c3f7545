"""What leaves the store: tables as they were recorded, the command that repeats a run, and a model that loads."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from dataclasses import replace

import pytest
import tiny_runs
import torch
from refusals import refusal
from transformers import AutoModelForCausalLM

from encore_core import cli
from encore_core.editing.edit_file import read_edit_file
from encore_core.models.editable import load_model
from encore_core.runs import MeasurePlan, RunPlan, RunStore, prepare, series
from encore_core.runs.compare import differences
from encore_core.runs.export import command_line, export_edits, export_model, export_run, series_csv, settings_of_run
from encore_core.runs.resume_state import load_matrices

METHODS = ("ENCORE", "MEMIT")


@pytest.fixture(scope="module")
def done(tiny_folder, statistics_text, tmp_path_factory):
    """A store with a run of each method, done, on a model folder of its own."""
    store = RunStore(tmp_path_factory.mktemp("export") / "runs")
    folder = shutil.copytree(tiny_folder, store.folder / "model")
    ids = store.submit([tiny_runs.prepared(folder, statistics_text, method=method) for method in METHODS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(tmp_path_factory.mktemp("home")))
        torch.set_num_threads(1)
        tiny_runs.worker(store).serve()
    return store, ids, folder


def read_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))


def test_every_series_and_the_settings_are_written(done, tmp_path):
    store, [run_id, _], _ = done
    written = export_run(store, run_id, tmp_path / "out")
    assert {path.name for path in written} == {*(f"{name}.csv" for name in series.ALL), "run.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}
    heading, *rows = read_csv((tmp_path / "out" / "norms.csv").read_bytes())
    assert heading == ["run", "edits", "layer", "norm", "ratio"]
    frame = series.norms(store, [run_id])
    assert [[*row[:3], float(row[3]), float(row[4])] for row in rows] == [
        [run_id, str(r.edits), str(r.layer), r.norm, r.ratio] for r in frame.itertuples()
    ]
    settings = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert settings["weights_digest"] == store.get(run_id).weights_digest and settings["plan"]["n_edits"] == 10
    assert settings["settings"]["layers"] == [0, 1] and settings["versions"]["torch"] == torch.__version__


def test_series_of_several_runs_stand_in_one_file(done):
    store, ids, _ = done
    rows = read_csv(series_csv(store, "measuring", ids))
    assert {row[0] for row in rows[1:]} == set(ids)
    assert "Unknown series" in refusal(series_csv, store, "norm", ids)


def test_text_of_others_starts_no_formula(done):
    store, [run_id, _], _ = done
    with store.database.writing() as db:
        db.execute("UPDATE targets SET stopped = '=HYPERLINK(1)' WHERE fact = 0")
    try:
        assert read_csv(series_csv(store, "targets", [run_id]))[1][4] == "'=HYPERLINK(1)"
    finally:
        with store.database.writing() as db:
            db.execute("UPDATE targets SET stopped = 'mpes' WHERE fact = 0")


def test_the_model_is_written_with_the_run_s_matrices_in_it(done, tmp_path):
    store, [run_id, _], folder = done
    assert export_run(store, run_id, tmp_path / "out", with_model=True)[-1] == tmp_path / "out" / "model"
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    base = AutoModelForCausalLM.from_pretrained(folder)
    matrices, _ = load_matrices(store.folder_of(run_id), [])
    for (name, weight), original in zip(edited.named_parameters(), base.parameters(), strict=True):
        layer = next((n for n in (0, 1) if f".{n}.mlp.c_proj.weight" in name), None)
        assert torch.equal(weight, original if layer is None else matrices[layer])
        assert layer is None or not torch.equal(weight, original)
    report = json.loads((tmp_path / "out" / "model" / "edit_report.json").read_text("utf-8"))
    assert report["n_edits"] == 10 and report["method"] == "ENCORE"
    norms = series.norms(store, [run_id])
    last = norms[norms.edits == 10].set_index("layer").ratio
    assert {int(n): v["ratio"] for n, v in report["norms"].items()} == pytest.approx({n: last[n] for n in (0, 1)})


def test_a_run_s_edits_are_a_file_that_is_put_back_onto_the_model(done, tmp_path, capsys):
    store, [run_id, _], folder = done
    out = tmp_path / "out"
    words = ["runs", "export", run_id, "--store", str(store.folder), "--out", str(out), "--edits"]
    assert cli.main(words) == 0
    edits = read_edit_file(out / "edits.safetensors")
    lm = load_model(str(folder), "cpu")
    expected, _ = load_matrices(store.folder_of(run_id), [])
    found = edits.matrices_on(lm)
    assert found.keys() == expected.keys() == {0, 1}
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)
    assert edits.facts == list(store.facts(run_id)[:10]) and edits.values["n_edits"] == 10
    assert (edits.values["method"], edits.values["settings"]["layers"]) == ("ENCORE", [0, 1])
    assert "use encore apply" in refusal(edits.session_on, lm)
    words = ["apply", "--edits", str(out / "edits.safetensors"), "--model", str(folder), "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "model"), "--scored", "0"]) == 0
    again = load_model(str(tmp_path / "model"), "cpu")
    assert all(torch.equal(again.parameter(layer).data, expected[layer]) for layer in expected)


def test_a_run_that_is_under_way_is_exported_as_last_saved(done, statistics_text, tmp_path):
    store, _, folder = done
    [run_id] = store.submit([tiny_runs.prepared(folder, statistics_text)])
    assert "reach a checkpoint" in refusal(export_model, store, run_id, tmp_path / "out")
    assert "reach a checkpoint" in refusal(export_edits, store, run_id, tmp_path / "out")
    assert "reach a checkpoint" in refusal(export_run, store, run_id, tmp_path / "out", with_model=True)
    assert "reach a checkpoint" in refusal(export_run, store, run_id, tmp_path / "out", with_edits=True)
    assert not (tmp_path / "out").exists()
    store.delete(run_id)


def test_a_model_that_has_changed_is_not_exported(done, tmp_path):
    store, [run_id, _], folder = done
    aside = folder.rename(folder.with_name("aside"))
    assert "does not exist" in refusal(export_model, store, run_id, tmp_path / "a")
    shutil.copytree(aside, folder)
    lm = load_model(str(folder), "cpu")
    lm.parameter(3).data.mul_(1.5)
    lm.model.save_pretrained(folder)
    assert "has changed" in refusal(export_model, store, run_id, tmp_path / "b")
    assert "has changed" in refusal(export_edits, store, run_id, tmp_path / "c")
    shutil.rmtree(folder)
    aside.rename(folder)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_taken_are_left_alone(done, tmp_path):
    store, [run_id, _], _ = done
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert "not empty" in refusal(export_run, store, run_id, tmp_path)
    assert "not empty" in refusal(export_run, store, run_id, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "MEMIT+MPES", "n_edits": 7, "checkpoint_every": 3, "seed": 5, "order": "shuffled", "known": "skip"},
        {"name": "a 'quoted' name; rm -rf", "facts": "my facts.csv", "dtype": "bfloat16", "device": "cpu"},
        {"facts": "nameless.json", "find_subjects": True, "skip_bad": True},
        {"overrides": {"layers": [1, 2], "lr": 0.25, "sequential": False}, "statistics_text": "a b.txt"},
        {"measure": MeasurePlan(subsets=("first",), generate=False, share_cap=None, downstream="d", sample_facts=3)},
        {"measure": MeasurePlan(subsets=(), contributions=False, share_cap=0.5, trajectory_facts=0)},
    ],
    ids=str,
)
def test_the_command_repeats_the_plan(values):
    """The command's words, read as the command line reads them, give the plan again."""
    plan = RunPlan(**values)
    [again] = cli.run.plans_of(cli._parser().parse_args(shlex.split(command_line(plan))[1:]))
    as_text = {name: _text(value) for name, value in plan.overrides.items()}
    assert {name: _text(value) for name, value in again.overrides.items()} == as_text
    assert replace(again, overrides={}) == replace(plan, overrides={})


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def test_settings_name_the_command(done):
    store, [run_id, _], folder = done
    settings = settings_of_run(store.get(run_id))
    assert settings["command"].startswith(f"encore run --model {folder} --method ENCORE")
    assert json.loads(json.dumps(settings)) == settings


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_runs_of_one_comparison_differ_in_nothing_but_the_method(done):
    store, ids, _ = done
    assert differences([store.get(run_id) for run_id in ids]) == []
    assert differences([]) == differences([store.get(ids[0])]) == []


@pytest.mark.parametrize(
    ("values", "facts", "wanted"),
    [
        ({"seed": 1}, tiny_runs.FACTS, {"seed": ("0", "1")}),
        ({"n_edits": 8}, tiny_runs.FACTS, {"facts": ("10 of bundled", "8 of bundled")}),
        ({}, tiny_runs.FACTS[1:], None),
        ({}, tiny_runs.FACTS[9::-1], None),
        ({"batch_size": 5}, tiny_runs.FACTS, {"batch size": ("2", "5")}),
        ({"known": "skip"}, tiny_runs.FACTS, {"known facts": ("edit", "skip")}),
        ({"dtype": "bfloat16"}, tiny_runs.FACTS, {"precision": ("float32", "bfloat16")}),
        ({"overrides": tiny_runs.SETTINGS | {"statistics_tokens": 1500}}, tiny_runs.FACTS, "statistics"),
    ],
)
def test_what_else_differs_is_told(done, statistics_text, values, facts, wanted):
    store, [run_id, _], folder = done
    [other] = store.submit([prepare(tiny_runs.plan(folder, statistics_text, **values), facts)])
    pair = [store.get(run_id), replace(store.get(other), fingerprint=store.get(run_id).fingerprint)]
    store.delete(other)
    found = {entry.what: entry.values for entry in differences(pair)}
    if isinstance(wanted, dict):
        assert found == wanted
    elif wanted is None:
        # The same words for both, so the content's digests tell them apart.
        [what] = found
        assert what in ("facts", "order") and found[what][0] != found[what][1] and "(" in found[what][0]
        assert what == ("order" if facts[0] == tiny_runs.FACTS[9] else "facts")
    else:
        assert list(found) == [wanted]
    assert all(str(entry).startswith(f"{entry.what}: ") for entry in differences(pair))


def test_another_model_of_the_same_name_is_told(done):
    store, ids, _ = done
    a, b = (store.get(run_id) for run_id in ids)
    [entry] = differences([a, replace(b, fingerprint="0123456789abcdef")])
    assert entry.what == "model" and "01234567" in entry.values[1]
