"""The page Norm growth: its chart of layers, what it says of them, and the page with all kinds of stores."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
import tiny_pages
from test_run_pages import names_in
from tiny_pages import IDS, address_of, errors, figures, opened, words

from dashboard.charts import norm_layers
from dashboard.charts.palette import DARK, LIGHT
from dashboard.charts.runs import Line
from dashboard.reading import findings

LINES = [Line("a", "MEMIT", "MEMIT", (1, 2)), Line("b", "ENCORE", "ENCORE", (1, 2))]
GROWTH = {"a": 4, "b": 1}


def norms_frame(checkpoints=(0, 50, 100), n_layers: int = 10) -> pd.DataFrame:
    """Layer 2 grows twice as much as layer 1, the others not at all."""
    rows = [
        (run, at, layer, 10 * ratio, ratio)
        for run, speed in GROWTH.items()
        for at in checkpoints
        for layer in range(n_layers)
        for ratio in [1 + speed * at * {1: 1, 2: 2}.get(layer, 0) / 1000]
    ]
    return pd.DataFrame(rows, columns=["run", "edits", "layer", "norm", "ratio"])


# -- the chart ---------------------------------------------------------------------------------------------------------


def lines_of(chart, axis: str) -> list:
    return [trace for trace in chart.figure.data if trace.xaxis == axis and trace.mode == "lines"]


def marks_of(chart, axis: str) -> list:
    return [trace for trace in chart.figure.data if trace.xaxis == axis and trace.mode == "markers"]


def test_a_run_whose_edited_layers_are_not_among_those_shown_is_drawn():
    """Its legend has no entry for edited matrices."""
    lines = [Line("a", "MEMIT", "MEMIT", (20, 21))]
    frame = norms_frame()
    chart = norm_layers.norms(frame[frame["run"] == "a"], lines, [0, 100], LIGHT)
    assert not any(trace.showlegend for trace in marks_of(chart, "x"))


@pytest.mark.parametrize("scale", ["ratio", "linear", "log"])
def test_every_layer_at_every_checkpoint_with_the_edited_ones_marked(scale):
    frame = norms_frame()
    chart = norm_layers.norms(frame, LINES, [0, 100], LIGHT, scale=scale)
    column = "ratio" if scale == "ratio" else "norm"
    for line, axis in zip(LINES, ("x", "x2"), strict=True):
        of_run = frame[frame["run"] == line.run]
        for trace, at in zip(lines_of(chart, axis), (0, 100), strict=True):
            assert list(trace.x) == list(range(10)) and list(trace.y) == list(of_run[of_run["edits"] == at][column])
        for marks in marks_of(chart, axis):
            assert list(marks.x) == [1, 2] and marks.marker.color == LIGHT.edited
            assert marks.marker.symbol.startswith("diamond")
    for layout in (chart.figure.layout, chart.narrow):
        assert list(layout.xaxis.tickvals) == [0, 4, 8] and layout.xaxis.title.text == "layer"
        assert layout.yaxis2.matches == "y" and layout.xaxis2.matches == "x"
        assert layout.yaxis.type == ("log" if scale == "log" else "linear")


def test_checkpoints_differ_by_dash_and_shade_and_stand_in_the_legend_once():
    checkpoints = [0, 10, 20, 50, 80, 100]
    chart = norm_layers.norms(norms_frame(checkpoints), LINES, checkpoints, DARK)
    drawn = lines_of(chart, "x")
    assert len({trace.line.dash for trace in drawn}) == len({trace.line.color for trace in drawn}) == 6
    assert (drawn[0].line.dash, drawn[-1].line.dash) == ("dot", "solid")
    shown = [trace.name for trace in chart.figure.data if trace.showlegend]
    assert sorted(shown) == sorted(["as loaded", *(f"after {at} edits" for at in checkpoints[1:]), "edited layer"])


@pytest.mark.parametrize("checkpoints", [[100], [0, 100], [0]])
def test_the_last_checkpoint_is_solid(checkpoints):
    chart = norm_layers.norms(norms_frame(), LINES, checkpoints, LIGHT)
    assert lines_of(chart, "x")[-1].line.dash == "solid"


def test_a_run_without_a_checkpoint_has_no_line_for_it():
    frame = norms_frame()
    frame = frame[(frame["run"] == "a") | (frame["edits"] < 100)]
    chart = norm_layers.norms(frame, LINES, [0, 100], LIGHT)
    assert len(lines_of(chart, "x")) == 2 and len(lines_of(chart, "x2")) == 1
    assert norm_layers.norms(frame[:0], LINES, [0], LIGHT).figure.data == ()


# -- what it says ------------------------------------------------------------------------------------------------------


def test_which_layer_grew_most_and_by_how_much():
    assert findings.growth(norms_frame(), LINES, 100) == (
        "Layer 2, the last one edited, grows most, to × 1.80 with MEMIT and × 1.20 with ENCORE after 100 edits."
    )
    assert "to × 1.40 with MEMIT and × 1.10 with" in findings.growth(norms_frame(), LINES, 50)
    assert "no matrix has grown" in findings.growth(norms_frame(), LINES, 0)


def test_it_says_so_when_runs_differ_in_layer_or_when_other_layers_move():
    frame = norms_frame()
    frame.loc[(frame["run"] == "b") & (frame["layer"] == 1) & (frame["edits"] == 100), "ratio"] = 1.5
    frame.loc[(frame["run"] == "b") & (frame["layer"] == 7) & (frame["edits"] == 100), "ratio"] = 1.003
    told = findings.growth(frame, LINES, 100)
    assert (
        told == "The edited layer that grows most is layer 2, × 1.80 with MEMIT after 100 edits; layer 1, × 1.50 with "
        "ENCORE after 100 edits."
    )
    grown = [findings.grown(frame, line, 100) for line in LINES]
    assert findings.unedited(grown) == "The layers that are not edited moved by at most 0.3 % (ENCORE)."
    assert findings.unedited(grown[:1]) == "The layers that are not edited did not move."


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_norm_that_is_no_number_is_said(broken):
    frame = norms_frame()
    frame.loc[(frame["run"] == "a") & (frame["layer"] == 1) & (frame["edits"] == 100), "ratio"] = broken
    assert "layer 1, whose norm is no longer a number" in findings.growth(frame, LINES, 100)


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch, surroundings, tiny_folder):
    """No runs of one's own, none recorded; a model that would do."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "none")


@pytest.fixture
def with_recorded(empty_store, recorded_folder, monkeypatch):
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", recorded_folder)


def test_an_empty_store_is_no_trouble():
    app = opened("norms")
    assert "first checkpoint" in words(app) and not errors(app) and not figures(app)


def test_recorded_runs_are_seen_at_once(with_recorded):
    app = opened("norms")
    assert app.multiselect(key="chosen_runs").value == list(IDS)
    assert app.multiselect(key="norms_at").value == [0, 4, 10]
    over_edits, by_layer = figures(app)
    assert {"layer 0", "layer 1"} <= names_in(over_edits)
    assert names_in(by_layer) == {"as loaded", "after 4 edits", "after 10 edits", "edited layer"}
    assert "after 10 edits" in words(app) and "The layers that are not edited did not move." in words(app)
    assert "visitor" not in app.session_state


@pytest.mark.parametrize(("scale", "layers"), [("ratio", "edited"), ("log", "all"), ("linear", "last")])
def test_the_files_hold_what_is_drawn(with_recorded, monkeypatch, scale, layers):
    found = tiny_pages.cards(monkeypatch)
    opened("norms", scale=scale, layers=layers, at=["0", "8"])
    value = "ratio" if scale == "ratio" else "norm"
    for key, x in (("norms over edits", "edits"), ("norms by layer", "layer")):
        chart, frame = found[key]
        assert list(frame.columns) == ["run", "edits", "layer", "edited", value]
        assert tiny_pages.points(chart) == tiny_pages.rows(frame, x, value) and len(frame)
    assert set(found["norms by layer"][1]["edits"]) == {0, 8}
    assert set(found["norms over edits"][1]["layer"]) == {"edited": {0, 1}, "last": {1}, "all": set(range(5))}[layers]


def test_a_link_brings_back_exactly_this_view(with_recorded):
    app = opened("norms")
    assert "at" not in address_of(app)  # the usual checkpoints go along with a run that goes on
    app.segmented_control(key="norms_scale").set_value("log")
    app.segmented_control(key="norms_layers").set_value("some").run()
    app.multiselect(key="norms_layer").set_value([0, 3])
    app.multiselect(key="norms_at").set_value([0, 8]).run()
    query = address_of(app)
    assert query == {"run": list(IDS), "scale": ["log"], "layers": ["some"], "layer": ["0", "3"], "at": ["0", "8"]}
    assert figures(opened("norms", **query)) == figures(app)


def test_a_link_that_leaves_out_a_choice_brings_back_the_usual_one(with_recorded):
    app = opened("norms", run=list(IDS), scale="log", layers="all", at=["0"])
    app.query_params.clear()
    app.query_params["run"] = list(IDS)
    app.run()
    usual = opened("norms", run=list(IDS))
    for name in ("norms_scale", "norms_layers", "norms_at"):
        assert app.session_state[name] == usual.session_state[name]


def test_nonsense_in_a_link_is_left_out(with_recorded):
    app = opened("norms", run=[IDS[1], "nobody-2345"], at=["x", "-1", "9" * 5000, "7"], scale="cubic", layer="9" * 5000)
    assert "nobody-2345" in words(app) and not errors(app)
    assert app.multiselect(key="norms_at").value == [0, 4, 10] and len(figures(app)) == 2


def test_layers_that_no_run_has(with_recorded):
    app = opened("norms", layers="some", layer="99")
    assert not errors(app) and len(figures(app)) == 2  # the edited ones are drawn when none is chosen


def test_nothing_chosen(with_recorded):
    app = opened("norms")
    app.multiselect(key="chosen_runs").set_value([]).run()
    assert not app.exception and "Pick one to four runs" in words(app) and not figures(app)


def test_a_run_in_progress(with_recorded, tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text, checkpoints=1)
    app = opened("norms", run=run_id)
    assert app.multiselect(key="norms_at").value == [0] and "no matrix has grown yet" in words(app)
    app = opened("norms", run=[run_id, IDS[1]])
    assert not errors(app) and len(figures(app)) == 2
    assert re.search(r"no checkpoint after [\d, and]*10 edits, so no line", words(app))


def test_the_usual_checkpoints_go_along_with_a_run(empty_store, tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text, checkpoints=3)
    app = opened("norms", run=run_id)
    assert app.multiselect(key="norms_at").value == [0, 4, 8]
    assert "Layer 0 grows most, to × 1.80 with MEMIT after 8 edits." in words(app)


def test_a_damaged_store_is_told(tmp_path):
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "runs.sqlite").write_bytes(b"no database" * 100)
    assert any("damaged" in text for text in errors(opened("norms")))
