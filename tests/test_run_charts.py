"""Charts of runs: what is drawn for which run, on which axes, in both arrangements."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dashboard.charts import runs as run_charts
from dashboard.charts.chart import Chart
from dashboard.charts.palette import DARK, DASHES, LIGHT
from dashboard.charts.runs import Line
from encore_core.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
LINES = [Line(f"{method.lower()}-1", method, method, (1, 2)) for method in ("MEMIT", "AlphaEdit", "EMMET", "ENCORE")]


def norms_frame(lines=LINES, edits=range(0, 101, 20), layers=range(4)) -> pd.DataFrame:
    rows = [
        (line.run, at, layer, 10.0 * (1 + at * layer / 1000), 1 + at * layer / 1000)
        for line in lines
        for layer in layers
        for at in edits
    ]
    return pd.DataFrame(rows, columns=["run", "edits", "layer", "norm", "ratio"])


def scores_frame(metrics=("edit_score", "perplexity")) -> pd.DataFrame:
    rows = [(line.run, at, metric, 50.0 + at / 10) for line in LINES for metric in metrics for at in (0, 50, 100)]
    return pd.DataFrame(rows, columns=["run", "edits", "metric", "value"])


def drawn(chart, axis: str, name: str | None = None) -> list:
    return [trace for trace in chart.figure.data if trace.xaxis == axis and (name is None or trace.name == name)]


def overlap(a, b) -> bool:
    return min(a[1], b[1]) - max(a[0], b[0]) > 1e-9


@pytest.mark.parametrize("scale", run_charts.SCALES)
def test_one_panel_a_run_with_the_values_of_its_layers(scale):
    frame = norms_frame()
    chart = run_charts.norms(frame, LINES, LIGHT, scale=scale)
    column = "ratio" if scale == "ratio" else "norm"
    for number, line in enumerate(LINES):
        axis = f"x{number + 1}" if number else "x"
        for layer in line.layers:
            (trace,) = drawn(chart, axis, f"layer {layer}")
            wanted = frame[(frame["run"] == line.run) & (frame["layer"] == layer)]
            assert list(trace.x) == wanted["edits"].tolist() and list(trace.y) == wanted[column].tolist()
        assert not drawn(chart, axis, "layer 3")  # not edited, and not asked for
    kinds = {chart.figure.layout[f"yaxis{n or ''}"].type for n in ("", 2, 3, 4)}
    assert kinds == {"log" if scale == "log" else "linear"}


def test_panels_share_their_axes_and_never_overlap():
    chart = run_charts.norms(norms_frame(), LINES, LIGHT)
    for layout, n_rows in ((chart.figure.layout, 1), (chart.narrow, 2), (chart.slim, 4)):
        boxes = [(layout[f"xaxis{n}"].domain, layout[f"yaxis{n}"].domain) for n in ("", 2, 3, 4)]
        for one, (x, y) in enumerate(boxes):
            assert not any(overlap(x, x2) and overlap(y, y2) for x2, y2 in boxes[one + 1 :])
        assert len({y for _, y in boxes}) == n_rows
        assert {layout[f"{kind}axis{n}"].matches for n in (2, 3, 4) for kind in "xy"} == {"x", "y"}
        assert [note.text.count(line.method) for note, line in zip(layout.annotations, LINES, strict=True)] == [1] * 4


def test_each_layer_is_in_the_legend_once():
    chart = run_charts.norms(norms_frame(), LINES, LIGHT, layers=[0, 1, 2, 3])
    named = [trace.name for trace in chart.figure.data if trace.showlegend]
    assert sorted(named) == ["as loaded", "layer 1", "layer 2", "other layers"]
    colours = {trace.name: trace.line.color for trace in chart.figure.data if trace.name in ("layer 1", "layer 2")}
    assert colours["layer 1"] != colours["layer 2"] != LIGHT.line


def test_methods_differ_by_dash_and_colour_and_runs_of_one_method_by_marks():
    assert set(DASHES) == set(METHODS) == set(LIGHT.methods) == set(DARK.methods)
    assert len(set(DASHES.values())) == len(DASHES)
    for palette in (LIGHT, DARK):
        assert len(set(palette.methods.values())) == len(METHODS)
    two = [Line("a", "ENCORE", "ENCORE · a", (1,)), Line("b", "ENCORE", "ENCORE · b", (1,), repeat=1)]
    frame = pd.DataFrame([(r, e, "edit_score", 50.0) for r in "ab" for e in (0, 9)],
                         columns=["run", "edits", "metric", "value"])  # fmt: skip
    first, second = run_charts.scores(frame, two, {"edit_score": "Edit score"}, LIGHT).figure.data
    assert first.line.dash == second.line.dash and first.marker.symbol != second.marker.symbol


def relative_luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_stand_out_from_the_page(palette):
    """WCAG asks for 3, of lines as of large bold text; methods' names stand above their panels in their colours."""
    page = relative_luminance(palette.page)
    for colour in palette.methods.values():
        low, high = sorted((relative_luminance(colour), page))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_the_ramp_goes_from_end_to_end():
    assert LIGHT.layers(5)[0] == LIGHT.ramp[0] and LIGHT.layers(5)[-1] == LIGHT.ramp[-1]
    assert LIGHT.layers(5)[2] == LIGHT.ramp[1] and LIGHT.layers(1) == [LIGHT.ramp[-1]]
    light = [relative_luminance(colour) for colour in LIGHT.layers(7)]
    assert light == sorted(light, reverse=True)


def test_scores_share_their_axis_and_perplexity_has_its_own():
    chart = run_charts.scores(scores_frame(), LINES, {"edit_score": "Edit score", "perplexity": "Perplexity"}, LIGHT)
    assert list(chart.figure.layout.yaxis.range) == [-4, 104] and chart.figure.layout.yaxis2.range is None
    assert len(drawn(chart, "x")) == len(drawn(chart, "x2")) == len(LINES)
    assert sum(bool(trace.showlegend) for trace in chart.figure.data) == len(LINES)


@pytest.mark.parametrize("at", [0, 60])
def test_the_chosen_checkpoint_is_marked_in_every_panel(at):
    chart = run_charts.norms(norms_frame(), LINES, LIGHT, at=at)
    marks = [trace for trace in chart.figure.data if trace.x is not None and list(trace.x) == [at, at]]
    assert [trace.xaxis for trace in marks] == ["x", "x2", "x3", "x4"]
    assert not shapes(chart)  # a line of the layout would stretch the range of a logarithmic axis


def shapes(chart) -> list:
    return list(chart.figure.layout.shapes) + list(chart.narrow.shapes)


def test_a_band_breaks_where_a_checkpoint_was_left_out():
    edits = [0, 10, 20, 60, 70, 80]  # nothing at 30 to 50
    frame = pd.DataFrame({"run": LINES[0].run, "edits": edits, "metric": "edit_score", "value": 50.0, "low": 40.0,
                          "high": 60.0, "n": 50})  # fmt: skip
    chart = run_charts.scores(frame, LINES[:1], {"edit_score": "Edit"}, LIGHT)
    (band,) = [trace for trace in chart.figure.data if trace.fill == "toself"]
    first, second = (list(map(float, text.split())) for text in " ".join(map(str, band.x)).split("None"))
    assert first == [0, 10, 20, 20, 10, 0] and second == [60, 70, 80, 80, 70, 60]


def test_a_norm_that_is_no_number_leaves_a_gap_and_no_trouble():
    frame = norms_frame()
    frame.loc[frame["edits"] == 100, ["norm", "ratio"]] = math.nan
    for scale in run_charts.SCALES:
        chart = run_charts.norms(frame, LINES, LIGHT, scale=scale, at=100)
        assert math.isnan(drawn(chart, "x", "layer 1")[0].y[-1])
    frame[["norm", "ratio"]] = math.inf
    run_charts.norms(frame, LINES, LIGHT, at=100)


def test_runs_without_points_have_their_panel_all_the_same():
    chart = run_charts.norms(norms_frame(LINES[:2]), LINES, LIGHT)
    assert len(chart.figure.layout.annotations) == 4
    assert not drawn(chart, "x4")
    assert run_charts.norms(norms_frame([]), LINES, LIGHT, at=5).figure.data == ()


def test_on_a_phone_the_legend_stands_above_the_panels():
    """Its rows by what plotly surely fits into a phone's width, one panel below the other."""
    chart = run_charts.norms(norms_frame(), LINES, LIGHT, layers=[0, 1, 2, 3])
    named = [trace.name for trace in chart.figure.data if trace.showlegend]
    rows = sum(48 + 8 * len(name) for name in named) / 240
    assert chart.slim.margin.t >= 70 + 28 * rows > chart.figure.layout.margin.t
    assert {chart.slim[f"xaxis{n}"].domain for n in ("", 2, 3, 4)} == {(0, 1)}
    assert Chart([], {}, {"height": 90}).slim.height == 90  # one that needs none of its own


def test_long_names_fit_above_their_panels_on_narrow_pages():
    lines = [Line(line.run, line.method, "a very long name of a run, indeed", (1,)) for line in LINES]
    chart = run_charts.norms(norms_frame(), lines, LIGHT)
    wide, narrow = (
        re.sub(r"<[^>]+>", "", layout.annotations[0].text) for layout in (chart.figure.layout, chart.narrow)
    )
    assert len(narrow) < len(wide) <= 36 and len(narrow) <= 24
    frame = scores_frame(["edit_score"])
    tall, low = (
        run_charts.scores(frame, which, {"edit_score": "Edit score"}, LIGHT).narrow for which in (lines, LINES)
    )
    assert tall.margin.t > low.margin.t and tall.height - tall.margin.t == low.height - low.margin.t


@pytest.mark.parametrize("name", ["<b>x</b>", "$y^2$", "<script>alert(1)</script>", "a\nb", "{x}"])
def test_names_are_literal(name):
    lines = [Line("r", "ENCORE", name, (1,))]
    frame = scores_frame().assign(run="r")
    for chart in (run_charts.scores(frame, lines, {"edit_score": "Edit score"}, LIGHT),
                  run_charts.norms(norms_frame(lines), lines, LIGHT)):  # fmt: skip
        text = json.dumps(json.loads(chart.figure.to_json()), ensure_ascii=False)
        assert "<script>" not in text and "<b>x" not in text and "$" not in text


def test_charts_of_runs_know_neither_streamlit_nor_torch():
    code = "import sys, dashboard.charts.runs; print({'streamlit', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
