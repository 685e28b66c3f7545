"""The Models page: what it says of a model, its statistics, and the jobs that gather them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import NO_HUB
from streamlit.testing.v1 import AppTest
from test_methods import SMOLLM2
from tiny_pages import app_at, errors, markup, opened, words

from dashboard.reading import model_check_rows, settings_fields
from encore_core import processes
from encore_core.editing import stored_statistics
from encore_core.methods import override, settings_for
from encore_core.model_check import check_model
from encore_core.models.editable import load_model
from encore_core.statistics import convergence, jobs, worker
from encore_core.statistics.gathering import gather
from encore_core.statistics.jobs import Job
from encore_core.statistics.request import Request


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tmp_path / "no-model"))
    # Anything else would be the machine's, and slow to fail.
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    monkeypatch.setattr("encore_core.statistics.texts.hub_trouble", lambda: NO_HUB)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """Jobs wait until `work` does them, in this process."""
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda *args, **kwargs: type("P", (), {"wait": lambda self: None})()
    )
    monkeypatch.setattr(worker, "_settle_process", lambda: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *args: None)


def work() -> int:
    return worker.main([jobs.jobs()[0].id])


def page_of(model: Path | str, **typed: str) -> AppTest:
    """The page of a model, with what was typed into boxes, which AppTest cannot do."""
    app = app_at("models")
    app.session_state["models_name"] = str(model)
    for name, value in typed.items():
        app.session_state[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    return words(app) + "\n" + "\n".join(element.value for element in app.caption)


def test_with_an_empty_data_folder_there_is_a_list_to_pick_from(home):
    app = opened("models")
    assert app.selectbox(key="models_name").value is None
    assert "smollm2-135m" in words(app) and "gated" in words(app) and not errors(app)
    assert not list(home.rglob("*.safetensors"))  # nothing was unpacked for it


def test_what_is_said_of_a_model(tiny_folder):
    app = page_of(tiny_folder)
    check = check_model(str(tiny_folder))
    text = said(app)
    assert "✓ yes" in text and "GPT-2" in text and "▲ untested" in text and "defaults for any model" in text
    assert "d_mlp 64" in text and f"vocabulary of {check.n_vocab:,} tokens" in text
    for part in check.memory.parts:
        assert model_check_rows.PARTS[part][0] in text
    assert f"0 of {len(check.settings.layers)}" in text and "at the first edit" in text
    assert any("--import" in code.value for code in app.code) and not errors(app)


def test_statistics_of_layers_that_only_thousands_of_edits_need_are_told_apart(tiny_folder, monkeypatch):
    """4.0 GB and 5 of 5 are of the layers for a few edits; the settings for thousands edit more."""
    few = check_model(str(tiny_folder)).settings
    outer = tuple(range(few.layers[-1] + 1, few.layers[-1] + 3))
    many = replace(few, layers=(*few.layers, *outer))
    monkeypatch.setattr("encore_core.model_check._for_thousands", lambda shape, method: many)
    check = check_model(str(tiny_folder))
    assert check.lacking_for_thousands == outer and check.settings.layers == few.layers
    stored = SimpleNamespace(used=object(), layer=few.layers[0])
    there = replace(check, statistics=(stored,) * len(few.layers))
    named = {name: remark for name, _, remark, _ in model_check_rows.tiles(there)}
    assert f"{few.layers[0]}–{few.layers[-1]}" in named["Memory needed"] or len(few.layers) < 3
    assert f"for thousands gather those of layers {outer[0]}–{outer[1]} at the first edit" in named["Key statistics"]
    assert named["Can it be edited here?"].startswith("architecture: GPT-2")
    whole = {name: remark for name, _, remark, _ in model_check_rows.tiles(replace(there, lacking_for_thousands=()))}
    assert whole["Key statistics"] == "edited layers have them"
    [row] = [row for row in model_check_rows.settings_rows(check) if row[0] == "Edited layers"]
    assert "-" not in "".join(row[1:])


@pytest.mark.parametrize(
    ("name", "wanted"), [("someone/some-model", "the hub cannot be reached"), ("./nowhere", "does not exist")]
)
def test_a_model_that_cannot_be_had_is_one_line(name, wanted):
    app = page_of(name)
    [error] = errors(app)
    assert wanted in error or "Unknown model" in error
    assert "smollm2-135m" in words(app)


def test_too_little_memory_is_said_in_place(tiny_folder, monkeypatch):
    app = page_of(tiny_folder)
    # The page keeps what it found for a minute; another number format is another model to it, and to it alone there is
    # too little.
    monkeypatch.setattr("encore_core.model_check.free_memory", lambda device: 1000)
    app.selectbox(key="models_dtype").set_value("bfloat16").run()
    assert "✗ no" in words(app) and "(weights 0.12 MB" in errors(app)[0]


def test_statistics_are_shown_with_what_was_seen(tiny_folder, statistics_text, monkeypatch):
    lm = load_model(str(tiny_folder), device="cpu")
    layer = check_model(str(tiny_folder)).settings.layers[0]
    result = gather(lm, Request(str(tiny_folder), str(statistics_text), layers=(layer,), tokens=1500, enough=True))
    app = page_of(tiny_folder)
    text = said(app)
    assert f"text {statistics_text.name}" in text and f"{result.tokens:,}" in text
    assert f"{result.tokens / 64:.1f} ×" in text and "✓ used by edits" in text
    assert f"{result.looks[0].tokens:,}" in text and f"{max(result.looks[0].disturbance.values()):.3g}" in text
    app.button(key="models_forget").click().run()
    assert stored_statistics.chosen(lm.fingerprint) == {} and "✓ used by edits" not in words(app)


def test_the_choice_is_forgotten_of_a_model_with_a_start_token(tiny_folder, statistics_text, tmp_path):
    """Its statistics are kept apart by that token, and so is the choice among them."""
    folder = shutil.copytree(tiny_folder, tmp_path / "started")
    (folder / "edit_report.json").write_text(json.dumps({"start_token": "<|begin|>"}))
    lm = load_model(str(folder), device="cpu")
    assert lm.start_text == "<|begin|>"
    layer = check_model(str(folder)).settings.layers[0]
    gather(lm, Request(str(folder), str(statistics_text), layers=(layer,), tokens=1500))
    app = page_of(folder)
    assert "✓ used by edits" in words(app)
    app.button(key="models_forget").click().run()
    assert stored_statistics.chosen(lm.texts_key) == {} and "✓ used by edits" not in words(app)


def test_gathering_goes_on_without_the_page(tiny_folder, statistics_text):
    app = page_of(tiny_folder, models_source=str(statistics_text))
    app.text_input(key="models_layers").set_value("0-1")
    app.number_input(key="models_tokens").set_value(700).run()
    assert "700 tokens, 10.9 × d_mlp" in said(app)
    app.button(key="models_start").click().run()
    assert "It runs on without this page" in words(app) and "◌ starting" in words(app) and not errors(app)
    [job] = jobs.jobs()
    assert job.request.layers == (0, 1) and job.request.tokens == 700
    app.button(key=f"stop {job.id}").click().run()
    assert work() == 130
    app.run()
    assert "■ stopped" in words(app)
    app.button(key=f"resume {job.id}").click().run()
    assert work() == 0
    app.run()
    assert "✓ done: 700 tokens" in words(app) and "✓ used by edits" in words(app)
    app.button(key=f"forget {job.id}").click().run()
    assert jobs.jobs() == [] and "✓ used by edits" in words(app)


def test_a_job_that_failed_says_why(tiny_folder, tmp_path):
    (tmp_path / "short.txt").write_text("<b>Too short.</b>")
    jobs.start(Request(str(tiny_folder), str(tmp_path / "short.txt")))
    assert work() == 2
    app = page_of(tiny_folder)
    assert "✗ failed" in words(app) and "too little" in words(app)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("models_layers", "six", "write"),
        ("models_layers", "0-99", "no blocks from 0 to 4"),
        ("models_tokens", 20, "20 tokens say too little"),
    ],
)
def test_what_cannot_be_gathered_is_said_beside(tiny_folder, field, value, wanted):
    app = page_of(tiny_folder)
    element = app.number_input(key=field) if field == "models_tokens" else app.text_input(key=field)
    element.set_value(value).run()
    assert wanted in errors(app)[0] and app.button(key="models_start").disabled


def test_without_the_hub_its_texts_are_refused_in_one_line(tiny_folder):
    app = page_of(tiny_folder)
    app.selectbox(key="models_source").set_value("wikipedia").run()
    app.button(key="models_start").click().run()
    assert "the hub cannot be reached" in errors(app)[0] and jobs.jobs() == []


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"status": "running", "what": "Gathering key statistics", "done": 512, "total": 2048, "seconds_left": 90.0},
         "▶ running: 512 of 2,048 tokens, 1 min 30 s left"),
        ({"status": "running", "what": "Sampling text from the model", "done": 3, "total": 1000},
         "▶ running: Sampling text from the model"),
        ({"status": "interrupted", "what": "Gathering key statistics", "done": 512, "total": 2048},
         "▲ interrupted: 512 of 2,048 tokens"),
        ({"status": "done", "result": {"tokens": 15360, "source": "wikitext", "enough": True}},
         "✓ done: 15,360 tokens of wikitext; enough"),
    ],
)  # fmt: skip
def test_how_a_job_stands(values, wanted):
    assert model_check_rows.job_state(Job("x", Request("m"), 0.0, **values)) == wanted


def test_names_of_visitors_are_no_markup(tiny_folder, tmp_path):
    odd = tmp_path / "<img src=x>.txt"
    odd.write_text("Too short.")
    jobs.start(Request(str(tiny_folder), str(odd)))
    app = page_of(tiny_folder)
    assert "<img" not in markup(app)


def test_changes_are_those_of_the_criterion():
    looks = [convergence.Look(100, {0: 1.2, 1: 1.0}), convergence.Look(200, {0: 1.0, 1: 1.0})]
    rows = model_check_rows.looks_rows([json.loads(json.dumps(look.as_dict())) for look in looks])
    assert rows == [("100", "1.2", ""), ("200", "1", "20.0 %")]


def test_settings_that_a_search_does_not_read_are_not_listed():
    names = {
        method: {one.name for one in settings_fields.settings_read([settings_for(method, **SMOLLM2)])}
        for method in ("ENCORE", "ENCORE-N", "UltraEdit")
    }
    assert "lr" in names["ENCORE"] and not names["ENCORE"] & {"search_step", "search_decay", "search_ridge"}
    assert "lr" not in names["ENCORE-N"] and names["ENCORE-N"] >= {"search_step", "search_decay", "search_ridge"}
    assert names["UltraEdit"] == {"layers", "l2", "lr"}
    both = [override(settings_for("ENCORE", **SMOLLM2), {"search": one}, 30) for one in ("adam", "normalised_gradient")]
    assert {"lr", "search_step"} <= {one.name for one in settings_fields.settings_read(both)}
