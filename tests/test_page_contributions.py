"""The page Contributions: its bars, what it says of them, the page with all kinds of stores, and the live part."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny_pages
from test_run_pages import names_in
from tiny_pages import IDS, address_of, errors, figures, markup, opened, words

from dashboard.charts import contributions as charts
from dashboard.charts.contributions import Moment, Pair
from dashboard.charts.palette import LIGHT
from dashboard.charts.runs import Line
from dashboard.reading import findings
from encore_core.editing.edited_matrices import EditedMatrices, Sums
from encore_core.editing.session_contents import Contents
from encore_core.measures.contributions import sublayer_names
from encore_core.measures.sublayers import measure_contributions
from encore_core.models.editable import load_model
from encore_core.runs import series
from encore_core.runs.recorded import recorded_runs

LINES = [Line("a", "MEMIT", "MEMIT", (1, 2)), Line("b", "ENCORE", "ENCORE", (1, 2))]
PAIRS = [Pair(line, 0, 100) for line in LINES]
FORM = "contributions_live"


def shares_frame(n_layers: int = 30) -> pd.DataFrame:
    """All sublayers alike; but after 100 edits the edited MLPs of run a have 0.3 each."""
    even = 1 / (2 * n_layers + 1)
    rows = []
    for run in "ab":
        for at in (0, 100):
            for place, (label, layer, kind) in enumerate(sublayer_names(n_layers)):
                grown = run == "a" and at == 100
                edited = kind == "MLP" and layer in (1, 2)
                share = (0.3 if edited else 0.4 / (2 * n_layers - 1)) if grown else even
                rows.append((run, at, place, label, kind, layer, share, share * 2 - even))
    columns = ["run", "edits", "sublayer", "label", "kind", "layer", "share", "signed_share"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


# -- the charts --------------------------------------------------------------------------------------------------------


def bars_of(chart, axis: str) -> dict[str, object]:
    return {trace.name: trace for trace in chart.figure.data if trace.xaxis == axis}


@pytest.mark.parametrize("n_layers", [30, 32])
def test_two_l_plus_one_bars_with_the_edited_ones_red_and_hatched(n_layers):
    frame = shares_frame(n_layers)
    panels = charts.moments(frame, PAIRS[:1])
    chart = charts.bars(charts.shown(frame, panels, "share"), panels, LIGHT)
    assert panels == [Moment(LINES[0], 0), Moment(LINES[0], 100)]
    for axis in ("x", "x2"):
        found = bars_of(chart, axis)
        assert sum(len(trace.x) for trace in found.values()) == 2 * n_layers + 1
        edited = found["edited MLP"]
        assert list(edited.x) == [4, 6] and list(edited.customdata) == ["MLP 1", "MLP 2"]
        assert edited.marker.color == LIGHT.edited and edited.marker.pattern.shape == "/"
        assert not any(trace.marker.pattern.shape for name, trace in found.items() if name != "edited MLP")
    assert list(bars_of(chart, "x2")["edited MLP"].y) == [0.3, 0.3]


def test_before_stands_above_after_on_the_same_axes():
    frame = shares_frame()
    panels = charts.moments(frame, PAIRS[:1])
    chart = charts.bars(charts.shown(frame, panels, "share"), panels, LIGHT)
    for layout in (chart.figure.layout, chart.narrow):
        above, below = layout.yaxis.domain, layout.yaxis2.domain
        assert above[0] > below[1] and layout.xaxis.domain == layout.xaxis2.domain
        assert (layout.xaxis2.matches, layout.yaxis2.matches) == ("x", "y")
        assert list(layout.xaxis.ticktext) == [str(layer) for layer in range(0, 30, 4)]
        assert list(layout.xaxis.tickvals)[1] == 9.5  # between attention 4 and MLP 4
        assert "as loaded" in layout.annotations[0].text and "after 100 edits" in layout.annotations[1].text


def test_what_is_before_is_drawn_once_when_it_is_one_for_all():
    frame = shares_frame()
    assert charts.moments(frame, PAIRS) == [Moment(LINES[0], 0, True), *(Moment(line, 100) for line in LINES)]
    other = [PAIRS[0], Pair(LINES[1], 100, 0)]
    assert [(panel.line.run, panel.edits) for panel in charts.moments(frame, other)] == [
        ("a", 0), ("a", 100), ("b", 100), ("b", 0)
    ]  # fmt: skip
    assert charts.moments(frame, [Pair(LINES[0], 0, 0)]) == [Moment(LINES[0], 0)]


def test_the_sum_of_the_signed_shares_is_said():
    frame = shares_frame()
    panels = charts.moments(frame, PAIRS)
    chart = charts.bars(charts.shown(frame, panels, "signed_share"), panels, LIGHT, value="signed_share")
    sums = [re.search(r"sum (-?[\d.]+|nan)", note.text).group(1) for note in chart.figure.layout.annotations]
    assert sums == ["1.0000", "1.0000", "1.0000"]
    frame.loc[5, "signed_share"] = math.nan
    chart = charts.bars(charts.shown(frame, panels, "signed_share"), panels, LIGHT, value="signed_share")
    assert "sum nan" in chart.figure.layout.annotations[0].text


def test_the_difference_is_after_minus_before():
    frame = shares_frame()
    rows = charts.differences(frame, PAIRS, "share")
    assert len(rows) == 2 * 61 and rows[rows["run"] == "b"]["difference"].abs().max() == 0
    chart = charts.change(rows, PAIRS, LIGHT)
    assert list(bars_of(chart, "x")["edited MLP"].y) == pytest.approx([0.3 - 1 / 61] * 2)
    assert "after 100 edits minus as loaded" in chart.figure.layout.annotations[0].text


def test_names_are_literal():
    line = Line("a", "MEMIT", "<img src=x> $y^2$", (1, 2))
    frame = shares_frame()
    panels = [Moment(line, 0)]
    chart = charts.bars(charts.shown(frame, panels, "share"), panels, LIGHT)
    assert "<img" not in chart.figure.to_json() and "$" not in chart.figure.layout.annotations[0].text


# -- what it says ------------------------------------------------------------------------------------------------------


def test_how_much_the_edited_layers_make_up():
    frame = shares_frame()
    told = findings.dominance(findings.standing(frame, PAIRS[0], "share"), "share")
    assert told == (
        "MEMIT: the edited MLPs of layers 1–2 make up 60.0 % of the stream after 100 edits, 3.3 % as loaded "
        "(2 of 2 gained). MLP 1, edited, has the largest share of all 61 sublayers."
    )
    found = findings.standing(frame, PAIRS[1], "share")
    assert (found.place, found.sublayers, found.largest) == (5, 61, "input")
    assert "(0 of 2 gained). The largest of them, MLP 1, is number 5 of 61 sublayers" in findings.dominance(
        found, "share"
    )


def test_shares_that_are_no_numbers_are_said():
    frame = shares_frame()
    frame.loc[(frame["run"] == "a") & (frame["edits"] == 100), "share"] = math.nan
    assert "no longer finite numbers after 100 edits" in findings.dominance(
        findings.standing(frame, PAIRS[0], "share"), "share"
    )
    panels = charts.moments(frame, PAIRS)
    charts.bars(charts.shown(frame, panels, "share"), panels, LIGHT)


@pytest.mark.parametrize(
    ("layers", "told"), [((5,), "layer 5"), ((6, 7, 8), "layers 6–8"), ((3, 8, 5), "layers 3, 5, 8")]
)
def test_layers_in_words(layers, told):
    assert findings.blocks(layers) == told


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch, surroundings, tiny_folder):
    """No runs of one's own, none recorded; the tiny model as the Edit page's."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "none")


@pytest.fixture
def with_recorded(empty_store, recorded_folder, monkeypatch):
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", recorded_folder)


def test_an_empty_store_is_no_trouble():
    app = opened("contributions")
    assert "first checkpoint" in words(app) and not errors(app) and not figures(app)
    assert "On your own text" in words(app)


def test_recorded_runs_are_seen_at_once_and_no_model_is_loaded(with_recorded):
    app = opened("contributions")
    before_and_after, difference = figures(app)
    assert names_in(before_and_after) == {"input", "attention", "MLP", "edited MLP"} == names_in(difference)
    first, second = before_and_after["layouts"]["wide"]["annotations"]
    assert "as loaded" in first["text"] and "after 10 edits" in second["text"] and "MEMIT" in second["text"]
    assert "as loaded the edited MLPs (layers 0–1) write" in words(app)
    assert "visitor" not in app.session_state


@pytest.mark.parametrize("value", ["share", "signed_share"])
def test_the_files_hold_what_is_drawn_and_that_is_what_the_store_holds(with_recorded, monkeypatch, value):
    found = tiny_pages.cards(monkeypatch)
    opened("contributions", value=value, show="all", before="4", after="8")
    chart, frame = found["contributions before and after"]
    assert tiny_pages.points(chart) == tiny_pages.rows(frame, "sublayer", value) and len(frame) == 4 * 11
    stored = series.contributions(recorded_runs(), IDS, [4, 8])
    assert tiny_pages.rows(frame, "sublayer", value) == tiny_pages.rows(stored, "sublayer", value)
    assert frame["edited"].sum() == 4 * 2 and set(frame["edits"]) == {4, 8}
    chart, frame = found["contributions difference"]
    assert tiny_pages.points(chart) == tiny_pages.rows(frame, "sublayer", "difference") and len(frame) == 2 * 11


def test_the_signed_shares_sum_to_one(with_recorded):
    app = opened("contributions", value="signed_share", show="all")
    titles = [note["text"] for note in figures(app)[0]["layouts"]["wide"]["annotations"]]
    assert len(titles) == 3 and all("sum 1.0000" in title for title in titles)


def test_a_link_brings_back_exactly_this_view(with_recorded):
    app = opened("contributions")
    app.segmented_control(key="contributions_value").set_value("signed_share")
    app.segmented_control(key="contributions_run").set_value(IDS[1])
    app.selectbox(key="contributions_before").set_value(4)
    app.selectbox(key="contributions_after").set_value(8).run()
    query = address_of(app)
    assert query == {"run": list(IDS), "value": ["signed_share"], "show": [IDS[1]], "before": ["4"], "after": ["8"]}
    assert figures(opened("contributions", **query)) == figures(app)


def test_nonsense_in_a_link_is_left_out(with_recorded):
    app = opened(
        "contributions", run=[IDS[0], "nobody-2345"], show="nobody", value="cubed", before="9" * 5000, after="77",
        text="x" * 5000,
    )  # fmt: skip
    assert "nobody-2345" in words(app) and not errors(app) and len(figures(app)) == 2
    assert app.selectbox(key="contributions_before").value == 0
    assert app.selectbox(key="contributions_after").value == "last"
    assert len(app.text_area(key="contributions_text").value) == 1000


def test_the_same_checkpoint_twice_has_no_difference(with_recorded):
    app = opened("contributions", before="4", after="4")
    [only] = figures(app)
    assert len(only["layouts"]["wide"]["annotations"]) == 1 and not errors(app)


def test_nothing_chosen(with_recorded):
    app = opened("contributions")
    app.multiselect(key="chosen_runs").set_value([]).run()
    assert not app.exception and "Pick one to four runs" in words(app) and not figures(app)


def test_a_run_in_progress(with_recorded, tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text)
    app = opened("contributions", run=run_id)
    assert not errors(app) and len(figures(app)) == 1
    assert "as loaded the edited MLPs (layers 0–1) write 18.2 %" in words(app)
    app = opened("contributions", run=[run_id, IDS[1]], show="all")
    assert not errors(app) and len(figures(app)) == 2


def test_a_run_without_contributions(with_recorded, tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text, contributions=False)
    app = opened("contributions", run=run_id)
    assert f"Contributions were not measured in MEMIT ({run_id})" in words(app) and not figures(app) and not errors(app)
    assert len(figures(opened("contributions", run=[run_id, IDS[1]]))) == 2


def test_a_damaged_store_is_told_and_the_live_part_stands(tmp_path):
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "runs.sqlite").write_bytes(b"no database" * 100)
    app = opened("contributions")
    assert any("damaged" in text for text in errors(app)) and "On your own text" in words(app)


# -- live --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_loading(monkeypatch):
    """Loading gathers statistics for the default method; not needed to look at a model."""
    monkeypatch.setattr("encore_core.editing.session.EditSession.prepare", lambda self, progress=None: None)


def measured(app, text: str):
    app.text_area(key="contributions_text").set_value(text)
    [button] = [button for button in app.button if button.label in ("Measure", "Load the model and measure")]
    button.click().run()
    assert not app.exception, app.exception
    return app


def test_any_text_on_the_model_as_loaded(quick_loading, tiny_folder, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    text = "The capital of France is Paris"
    app = measured(opened("contributions"), text)
    assert not errors(app) and "no edits on your model" in words(app)
    chart, frame = found["your text before and after"]
    wanted = measure_contributions(load_model(str(tiny_folder)), [text])
    assert frame["share"].tolist() == [part.share for part in wanted.parts]
    assert tiny_pages.points(chart) == tiny_pages.rows(frame, "sublayer", "share")
    assert f"on {wanted.n_tokens} tokens" in markup(app)
    assert address_of(app)["text"] == [text]


def test_before_is_without_the_visitors_edits_and_after_with_them(quick_loading, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    text = "The capital of France is Paris"
    app = measured(opened("contributions"), text)
    loaded = found["your text before and after"][1]["share"].tolist()
    edit_by_hand(app.session_state["visitor"])
    app.run()
    assert "have changed since" in words(app) and not figures(app)
    app = measured(app, text)
    frame = found["your text before and after"][1]
    before, after = (frame[frame["edits"] == at]["share"].tolist() for at in (0, 3))
    assert before == loaded and after != before
    assert "after 3 edits" in words(app) and len(figures(app)) == 2
    visitor = app.session_state["visitor"]
    with visitor.lm.lock:  # nothing of it stays in the shared model
        assert measure_contributions(visitor.lm, [text]).parts[0].share == loaded[0]


NO_BATCH = SimpleNamespace(
    updates={}, all_updates=[], ended=(), is_retraction=False, report=SimpleNamespace(edited=(), retracted=())
)


def edit_by_hand(visitor) -> None:
    """Three edits' worth of change to one matrix, without the time that edits take."""
    session, layer = visitor.session, visitor.session.settings.layers[-1]
    sums = Sums.of(visitor.lm, {layer: visitor.lm.parameter(layer).data * 3})
    session._contents = Contents(EditedMatrices(visitor.lm, False, sums), history=(NO_BATCH,), n_edits=3)
    visitor._edits_changed()


@pytest.mark.parametrize(("text", "told"), [("  ", "blank"), ("word " * 190, "takes at most 96")])
def test_a_text_that_cannot_be_measured_is_told(quick_loading, text, told):
    app = measured(opened("contributions"), text)
    [error] = errors(app)
    assert told in error and not figures(app)


def test_a_model_that_cannot_be_loaded_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_MODEL", str(tmp_path / "no-model"))
    app = measured(opened("contributions"), "Paris")
    [error] = errors(app)
    assert "does not exist" in error and not figures(app)
