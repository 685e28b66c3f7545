"""What is to be seen before any script has run: each page's title, and on Start the curves of the recorded runs."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboard import page_list
from dashboard.browser.first_paint import first_look, static_chart
from dashboard.charts import runs as run_charts
from dashboard.charts.palette import LIGHT
from dashboard.charts.runs import Line
from dashboard.reading import run_frames, start_content

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch):
    monkeypatch.setattr(first_look, "_drawn", {})


def paths_of(panel: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)"', panel)


# -- the pages ---------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_list_and_asks_the_question_that_stands_there():
    assert set(page_list.ENTRIES) == {path.stem for path in (ROOT / "pages").glob("*.py")}
    for name in page_list.ENTRIES:
        source = (ROOT / "pages" / f"{name}.py").read_text(encoding="utf-8")
        assert f'st.title(page_list.question("{name}")' in source


@pytest.mark.parametrize("name", page_list.ENTRIES)
def test_a_page_shows_its_title_and_all_pages_in_one_of_which_one_is(name):
    look = first_look.markup("/" if name == "start" else f"/{name}")
    assert f"<h1>{html.escape(page_list.question(name))}</h1>" in look
    titles = re.findall(r"<b[^>]*>(.*?)</b>", look.split('class="es-first-page"')[0])
    assert [html.unescape(title) for title in titles] == [entry.title for entry in page_list.ENTRIES.values()]
    assert re.findall(r'<b class="es-here">(.*?)</b>', look) == [page_list.ENTRIES[name].title]
    assert look.count("<script>") == 1 and first_look.SCRIPT in look
    assert 'id="es-first" inert' in look  # neither pressed nor heard


@pytest.mark.parametrize("address", [
    ("/no-such-page", ""), ("/_stcore/health", ""), ("/norms/", "embed=true"), ("/norms", "embed_options=dark_theme"),
    ("/norms", "present=1"), ("/", "tour=3"), ("/compare", "run=a&give=collapse"), ("/", "predict="),
])  # fmt: skip
def test_where_the_app_looks_otherwise_there_is_none(address):
    assert first_look.markup(*address) == ""


@pytest.mark.parametrize("query", ["", "run=recorded-encore-1000&run=<script>", "\u00ff=%00", "&&==", "tour"])
def test_an_address_of_any_kind_is_none_the_worse(query):
    look = first_look.markup("/compare", query)
    assert ("<h1>Which method survives?</h1>" in look) == (query != "tour")
    assert "run=" not in look


def test_start_shows_the_recorded_curves_and_says_what_they_come_to():
    first_look.make_ready()
    look = first_look.markup("/")
    runs = start_content.recorded()
    panels = re.split(r'<div class="es-still-panel es-still-\d">', look)[1:]
    assert len(panels) == len(start_content.PANELS)
    health = run_frames.health(runs)
    for metric, panel in zip(start_content.PANELS, panels, strict=True):
        assert html.escape(start_content.PANELS[metric]) in panel
        lines = [path for path in paths_of(panel) if path.startswith("M") and "h0" not in path]
        measured = health[(health["metric"] == metric) & health["value"].notna()]
        # A line breaks where a checkpoint was left out.
        parts = [run_charts.with_gaps(part) for _, part in measured.groupby("run")]
        assert len(lines) == sum(1 + part["value"].isna().sum() for part in parts)
    assert len(re.findall(r'class="es-still-y"[^>]*>× \d', panels[0])) >= 2  # powers of ten
    [answer] = re.findall(r'<div class="es-answer".*?</div>', look)
    assert "sequential edits of" in answer and runs[0].method in answer
    # Every colour that is used is there in both themes.
    used = set(re.findall(r"var\((--es-line\d+)\)", look))
    assert used and all(look.count(f"{name}:#") == 3 for name in used)  # light, chosen dark, dark by the system


def test_nobody_waits_for_the_curves():
    """The first visitor after the server's start has the title at once: libraries are still being imported."""
    assert "<h1>What happens to a model" in first_look.markup("/")
    assert "es-first-ways" not in first_look.markup("/").split("</style>")[1]


def test_without_recorded_runs_there_is_the_page_without_curves(monkeypatch, tmp_path):
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path)
    first_look.make_ready()
    look = first_look.markup("/start")
    assert "What happens to a model" in look and "es-first-ways" in look and 'class="es-still-panel' not in look


@pytest.mark.parametrize("damaged", [True, False])
def test_whatever_goes_wrong_leaves_the_title(damaged, monkeypatch, tmp_path, caplog):
    if damaged:
        (tmp_path / "runs.sqlite").write_bytes(b"no database" * 100)
        monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path)
    else:
        monkeypatch.setattr(static_chart, "ticks", lambda *args, **named: 1 / 0)
    first_look.make_ready()
    assert "has no curves" in caplog.text
    look = first_look.markup("/")
    assert "What happens to a model" in look and 'class="es-still-panel' not in look


# -- a chart without a script ------------------------------------------------------------------------------------------

EDITS = [0, 50, 100]
RATIOS = {6: [1.0, 1.25, 1.5], 7: [1.0, np.nan, 2.0]}


@pytest.fixture
def chart():
    rows = [
        ("a", edits, layer, 9.0, ratio)
        for layer, ratios in RATIOS.items()
        for edits, ratio in zip(EDITS, ratios, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["run", "edits", "layer", "norm", "ratio"])
    return run_charts.norms(frame, [Line("a", "MEMIT", "MEMIT", (6, 7))], LIGHT)


def drawn(chart) -> str:
    return static_chart.markup(
        chart, ["<b>MEMIT</b>"], [f"c{number}" for number in range(len(chart.figure.data))], 760, 420
    )


def test_lines_go_through_their_points_and_break_where_there_are_none(chart):
    panel = drawn(chart)
    first, second, loaded = re.findall(r'<g style="stroke:c\d">(.*?)</g>', panel)
    [line] = [path for path in paths_of(first) if "h0" not in path]
    points = np.array([float(value) for value in line[1:].split()]).reshape(-1, 2)
    # Alike in the box as in the data: x from 0, y as far as the lines go.
    assert points[0, 0] == 0 and points[1, 0] == pytest.approx(points[2, 0] / 2, abs=0.1)
    assert points[1, 1] == pytest.approx((points[0, 1] + points[2, 1]) / 2, abs=0.1)
    assert 0 < points[2, 1] < points[0, 1] < static_chart.BOX and points[2, 0] < static_chart.BOX
    assert sum("h0" not in path for path in paths_of(second)) == 2  # before and after the missing value
    assert "stroke-dasharray" in loaded and "stroke-dasharray" not in first
    assert paths_of(first)[-1].count("h0") == 3  # a dot each


def test_lines_without_dots_go_to_the_end_of_the_axis(chart):
    for trace in chart.figure.data:
        trace.mode = "lines"
    line = paths_of(re.findall(r'<g style="stroke:c\d">(.*?)</g>', drawn(chart))[0])
    assert len(line) == 1 and float(line[0].split()[-2]) == static_chart.BOX


def test_panels_stand_where_the_layouts_have_them(chart):
    style = drawn(chart).split("</style>")[0]
    wide, narrow, slim = re.split(r"@container still \(max-width:(?:759|419)px\)", style)
    for text, layout in ((wide, chart.figure.layout), (narrow, chart.narrow), (slim, chart.slim)):
        assert f".es-still{{height:{layout.height}px}}" in text
        assert f"left:calc({layout.margin.l}px + 0.0000*" in text and f"top:{layout.margin.t:.1f}px" in text
    assert re.findall(r'<b class="es-still-x"[^>]*>(.*?)</b>', drawn(chart)) == ["0", "50", "100"]


@pytest.mark.parametrize(("low", "high", "most", "places"), [
    (0, 1078, 5, [0, 500, 1000]), (0.96, 1.61, 6, [1, 1.2, 1.4, 1.6]), (0, 4.9, 5, [0, 1, 2, 3, 4]),
    (-0.1, 0.1, 4, [-0.1, -0.05, 0, 0.05, 0.1]), (0, 10_000, 5, [0, 2000, 4000, 6000, 8000, 10_000]),
])  # fmt: skip
def test_ticks_are_round(low, high, most, places):
    assert static_chart.ticks(low, high, most) == pytest.approx(places)


def test_a_run_that_has_only_begun_is_drawn():
    frame = pd.DataFrame({"run": ["a"], "edits": [0], "layer": [6], "norm": [9.0], "ratio": [1.0]})
    assert 'class="es-still-panel' in drawn(run_charts.norms(frame, [Line("a", "MEMIT", "MEMIT", (6,))], LIGHT))
