"""The evidence of tuned hyper-parameters: what of a search is shown, and where a model's standing is said."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pages
from refusals import NO_HUB
from test_page_models import page_of, said
from tiny_pages import errors, opened, words

from dashboard.charts import tuning as charts
from dashboard.charts.palette import LIGHT
from dashboard.parts.models import tuning
from encore_core.cli import main
from encore_core.model_check import check_model
from encore_core.tuned_rows import Shape, TunedRow, forget_row, store_row

START = {"layers": [0, 1], "lambda_p": 1000.0, "lambda_n": 20.0, "lr": 0.5, "steps": 25}


def trial(stage: str, overall: float, **settings) -> dict:
    scores = {"edit": overall + 1, "paraphrase": overall + 2, "neighborhood": overall + 3, "accuracy": 0.0}
    ratios = {"norm_ratio": 1.25, "perplexity_ratio": 1.5, "seconds": 75.0}
    return {"stage": stage, "settings": START | settings, "overall": overall} | scores | ratios


TRIALS = [
    trial("present", 50.0),
    trial("layers", 60.0, layers=[1, 2, 3]),
    trial("lambda_p", 70.0, layers=[1, 2, 3], lambda_p=3000.0),
    trial("lambda_p", 65.0, layers=[1, 2, 3], lambda_p=9000.0),
    trial("lambda_p", 55.0, layers=[1, 2, 3], lambda_p=333.0) | {"norm_ratio": math.inf},
    trial("lambda_n", 69.0, layers=[1, 2, 3], lambda_p=3000.0, lambda_n=80.0),
    trial("held out: present", 41.0),
    trial("held out: found", 47.5, layers=[1, 2, 3], lambda_p=3000.0),
]
EVIDENCE = {
    "date": "2026-01-02T03:04:05+0000", "facts": 25, "held_out_facts": 24, "complete": False, "trials": TRIALS,
    "trace": {"effects": [0.1, 0.4, 0.3, 0.2, 0.0], "clean": 0.9, "noisy": 0.1, "facts": 8, "draws": 2},
}  # fmt: skip
FOUND = START | {"layers": [1, 2, 3], "lambda_p": 3000.0}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, surroundings) -> Path:
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tmp_path / "no-model"))
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    monkeypatch.setattr("encore_core.statistics.texts.hub_trouble", lambda: NO_HUB)
    return tmp_path / "home"


@pytest.fixture
def row(tiny_folder) -> TunedRow:
    check = check_model(str(tiny_folder))
    shape = Shape(check.model_type, check.n_layers, check.d_model, check.n_vocab)
    return TunedRow(shape, str(tiny_folder), "f" * 16, "ENCORE", FOUND, True, EVIDENCE)


def test_a_setting_is_shown_with_the_trial_that_its_search_began_at(row):
    frame = tuning.searched(row)
    found = {name: list(zip(part["value"], part["overall"], strict=True)) for name, part in frame.groupby("setting")}
    assert found == {
        "layers": [("0,1", 50.0), ("1-3", 60.0)],
        "lambda_p": [("333", 55.0), ("1000", 60.0), ("3000", 70.0), ("9000", 65.0)],
        "lambda_n": [("20", 70.0), ("80", 69.0)],
    }
    taken = frame[frame["taken"]]
    assert dict(zip(taken["setting"], taken["value"], strict=True)) == {
        "layers": "1-3", "lambda_p": "3000", "lambda_n": "20",
    }  # fmt: skip


def test_the_charts_draw_these_rows(row):
    frame = tuning.searched(row)
    titles = {name: name for name in ("layers", "lambda_p", "lambda_n")}
    chart = charts.searched(frame, titles, LIGHT)
    overall = [trace for trace in chart.figure.data if trace.name == "Overall"]
    assert [list(trace.y) for trace in overall] == [[50, 60], [55, 60, 70, 65], [70, 69]]
    assert [list(trace.marker.symbol).index("diamond") for trace in overall] == [1, 2, 0]
    assert len({trace.line.dash for trace in chart.figure.data}) == len(charts.SCORES)
    for layout in (chart.figure.layout, chart.narrow):
        assert layout.xaxis2.ticktext == ("333", "1000", "3000", "9000") and layout.xaxis3.range == (-0.4, 1.4)
    assert sum(bool(trace.showlegend) for trace in chart.figure.data) == len(charts.SCORES)


def test_the_page_shows_the_evidence(row, tiny_folder, monkeypatch):
    cards = tiny_pages.cards(monkeypatch)
    store_row(row)
    app = page_of(tiny_folder)
    text = said(app)
    assert not errors(app) and "✓ tuned here" in text and "encore tune, 2026-01-02" in text
    assert "On 24 facts that the search has not seen, edited as one batch: overall score (teacher-forced) 41.0" in text
    assert "47.5 with what was found (+6.5)" in text and "may be chance" in text
    assert "cut short" in text and "All 8 trials" in "".join(one.label for one in app.expander)
    for wanted in ("held out: found", "3000", "× 1.500", "1.250", "inf", "1 min 15 s"):
        assert wanted in text
    assert set(cards) == {"tuning", "tuning trace"}
    assert len(cards["tuning"][1]) == 8 and list(cards["tuning trace"][1]["effect"]) == EVIDENCE["trace"]["effects"]
    hatched = [trace for trace in cards["tuning trace"][0].figure.data if trace.marker.pattern.shape]
    assert [list(trace.x) for trace in hatched] == [[1, 2, 3]]
    # Another method's row is a choice; a row that is not in force says so.
    store_row(replace(row, method="MEMIT", in_force=False))
    app = page_of(tiny_folder)
    app.segmented_control(key="models_tuned").set_value("MEMIT").run()
    assert "MEMIT, scores of 25 facts" in words(app) and any("--adopt" in one.value for one in app.caption)


def test_without_a_row_there_is_the_command(tiny_folder):
    app = page_of(tiny_folder)
    assert "▲ untested" in words(app) and any("encore tune --model" in code.value for code in app.code)


def test_rows_without_evidence_and_searches_without_time_are_shown_as_they_are(row, tiny_folder):
    store_row(replace(row, evidence={}))
    app = page_of(tiny_folder)
    assert "stored without their trials" in words(app) and not errors(app)
    store_row(replace(row, evidence=EVIDENCE | {"trials": [TRIALS[0], *TRIALS[-2:]], "trace": None}))
    app = page_of(tiny_folder)
    assert "no other value in the time allowed" in words(app) and "cut short" in words(app) and not errors(app)


def test_the_doctor_says_how_settings_stand(row, tiny_folder, capsys):
    assert check_model(str(tiny_folder)).settings.standing == "untested"
    store_row(row)
    check = check_model(str(tiny_folder))
    assert check.settings.standing == check.as_dict()["standing"] == "tuned here"
    assert check.settings.lambda_p == 3000 and not any("untested" in note for note in check.notes)
    assert main(["doctor", "--model", str(tiny_folder)]) == 0
    assert "tuned here (encore tune, 2026-01-02): layers 1-3" in capsys.readouterr().out
    store_row(replace(row, in_force=False))
    assert check_model(str(tiny_folder)).source == "defaults for any model"


def test_a_row_found_on_other_weights_is_untested_on_these(row, tiny_folder, monkeypatch):
    store_row(row)
    monkeypatch.setattr("encore_core.model_check.stored_statistics.fingerprint_of", lambda name: "0" * 16)
    check = check_model(str(tiny_folder))
    assert check.settings.standing == "untested" and check.settings.lambda_p == 3000
    assert check.source == "encore tune on other weights, 2026-01-02"
    assert any("untested" in note for note in check.notes)


def life(stage: str, left: float, stopped: str = "", **settings) -> dict:
    looks = [
        {"edits": edits, "first": left, "last": left, "first_accuracy": 50.0, "last_accuracy": 50.0,
         "perplexity_ratio": 100 / left, "norm_ratio": 1.1, "tasks": left if edits == 600 else None}
        for edits in ((200,) if stopped else (200, 600))
    ]  # fmt: skip
    return {"stage": stage, "settings": START | settings, "looks": looks, "seconds": 75.0, "stopped": stopped}


LIVES = [
    life("present", 50.0),
    life("layers", 60.0, layers=[1, 2, 3]),
    life("lambda_p", 70.0, layers=[1, 2, 3], lambda_p=3000.0),
    life("lambda_p", 40.0, "30.0 points behind the best after 200 edits", layers=[1, 2, 3], lambda_p=9000.0),
    life("held out: present", 45.0),
    life("held out: found", 65.0, layers=[1, 2, 3], lambda_p=3000.0),
]
LONG = {"date": "2026-01-02T03:04:05+0000", "facts": 600, "held_out_facts": 600, "batch_size": 100, "complete": True}


@pytest.fixture
def long_row(row) -> TunedRow:
    return replace(row, evidence=LONG | {"lives": LIVES}, tuned_for="thousands")


def test_the_lives_of_a_search_for_thousands_of_edits(long_row, row, tiny_folder, monkeypatch):
    cards = tiny_pages.cards(monkeypatch)
    store_row(long_row)
    app = page_of(tiny_folder)
    text = said(app)
    assert not errors(app) and "What is left of the model" in text
    chart, frame = cards["tuning lives"]
    assert list(frame[frame.taken].left) == [70.0, 70.0] and set(frame.label) == {
        "settings for a few edits", "Edited layers 1-3", "Edited layers 1-3, λp 3000", "Edited layers 1-3, λp 9000"
    }  # fmt: skip
    assert chart.figure.data[-1].name == "taken", "on top"
    assert "After 600 edits of held-out facts the combined score (0 to 100) is 65.0, against 45.0 with" in text
    assert "(+20.0)" in text and "30.0 points behind" in text
    assert "All 6 trials" in "".join(one.label for one in app.expander)
    # Beside it stands the search for a few edits, and both rows of settings.
    store_row(row)
    app = page_of(tiny_folder)
    assert app.segmented_control(key="models_tuned").options == ["ENCORE", "ENCORE, thousands of edits"]
    assert "A few edits" in said(app) and "Thousands" in said(app)


@pytest.mark.parametrize(("changed", "said_so"), [
    ({"lives": []}, "stored without their trials"),
    ({"lives": [LIVES[0], LIVES[4]]}, "Nothing tried left more"),
    ({"lives": [*LIVES[:5], life("held out: found", 44.0)]}, "(-1.0)"),
    ({"lives": LIVES, "complete": False}, "cut short"),
])  # fmt: skip
def test_what_a_search_for_thousands_may_have_come_to(long_row, tiny_folder, changed, said_so):
    store_row(replace(long_row, evidence=LONG | changed, in_force=False))
    app = page_of(tiny_folder)
    assert said_so in words(app) and not errors(app) and any("not in use" in one.value for one in app.caption)


def test_edit_and_run_offer_the_settings_for_thousands(long_row, tiny_folder, monkeypatch):
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    store_row(replace(long_row, settings=FOUND | {"layers": [1, 2]}))
    app = opened("edit")
    visitor = app.session_state["visitor"]
    key = f"setting {visitor.lm.fingerprint} ENCORE tuned_for"
    assert visitor.session.settings.tuned_for == "few"
    app.segmented_control(key=key).set_value("thousands").run()
    settings = app.session_state["visitor"].session.settings
    assert (settings.tuned_for, settings.layers, settings.lambda_p) == ("thousands", (1, 2), 3000)
    # A row that is removed meanwhile leaves the settings for a few edits.
    forget_row(long_row.shape, "ENCORE", "thousands")
    app.run()
    assert not errors(app) and app.session_state["visitor"].session.settings.tuned_for == "few"
    store_row(replace(long_row, settings=FOUND | {"layers": [1, 2]}))
    app.selectbox(key="method").set_value("MEMIT").run()  # has none
    assert not errors(app) and not any(one.key == key.replace("ENCORE", "MEMIT") for one in app.segmented_control)

    app = opened("run")
    app.segmented_control(key="run ENCORE tuned_for").set_value("thousands").run()
    assert not errors(app) and app.text_input(key="run ENCORE lambda_p").placeholder == "3000"
