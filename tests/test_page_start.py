"""The Start page: the recorded curves at once, the sentence that they come to, and three ways in."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny_pages
from test_run_pages import page_functions
from tiny_pages import errors, figures, opened, words

from dashboard.reading import run_frames, start_content
from encore_core.runs.recorded import RECORDED, recorded_runs


@pytest.fixture(scope="module")
def kept(tiny_folder, statistics_text, tmp_path_factory) -> Path:
    return tiny_pages.recorded_folder(tiny_folder, statistics_text, tmp_path_factory.mktemp("start"))


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch, tmp_path, surroundings):
    """No runs of the visitor's own and none recorded, unless a test asks for them; no model either."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tmp_path / "no-model"))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "nothing")


@pytest.fixture
def recorded(kept, monkeypatch) -> Path:
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", kept)
    return kept


def links_of(app) -> dict[str, str]:
    """Label → page and query of each link to a page."""
    return {
        element.proto.label.strip("*"): f"{element.proto.page}?{element.proto.query_string}"
        for element in app.get("page_link")
    }


def test_the_recorded_curves_and_their_sentence_are_there_without_a_model(recorded, monkeypatch):
    cards = tiny_pages.cards(monkeypatch)
    app = opened("start")
    [(chart, frame)] = cards.values()
    grown = frame[frame["metric"] == "norm_ratio"]
    assert len(grown) == 2 * 4  # runs, checkpoints; nothing else was measured of these
    assert tiny_pages.points(chart) == tiny_pages.rows(grown, "edits", "value")
    assert [note.text for note in chart.figure.layout.annotations] == [f"<b>{start_content.PANELS['norm_ratio']}</b>"]
    norms = run_frames.read("norms", recorded_runs().runs())
    for run in recorded_runs().runs():
        at_end = norms[(norms["run"] == run.id) & (norms["edits"] == 10) & norms["layer"].isin(run.layers)]
        assert f"× {at_end['ratio'].max():.2f} with {run.method}" in words(app)
    assert "After 10 sequential edits of tiny-gpt2" in words(app) and not errors(app)
    assert "neither perplexity nor tasks were measured" in words(app)


def test_three_ways_in(recorded):
    links = links_of(opened("start"))
    assert links["Edit one fact"].startswith("edit?") and links["Read the method"].startswith("paper?")
    assert links["Watch a collapse"].startswith("compare?")
    assert re.findall(r"run=([\w-]+)", links["Watch a collapse"]) == list(tiny_pages.IDS)


def test_without_any_runs_it_says_so_and_points_to_run():
    app = opened("start")
    assert not figures(app) and "No runs have been recorded" in words(app) and not errors(app)
    assert links_of(app)["Start a run"].startswith("run?")
    assert "Importance hacking" in words(app) and links_of(app)["Watch a collapse"].startswith("compare?")


def test_without_recorded_runs_the_visitors_own_are_shown(tiny_folder, statistics_text):
    tiny_pages.run_in_progress(tiny_folder, statistics_text, checkpoints=2)
    app = opened("start")
    assert len(figures(app)) == 1 and "your newest runs" in words(app)
    assert "After 4 sequential edits" in words(app) and "× 1.40 with MEMIT" in words(app)


def test_a_run_that_has_just_begun_has_nothing_to_tell(tiny_folder, statistics_text):
    tiny_pages.run_in_progress(tiny_folder, statistics_text)
    app = opened("start")
    assert len(figures(app)) == 1 and "sequential edits" not in words(app)


def test_a_damaged_store_of_ones_own_does_not_hide_the_recorded_runs(recorded, tmp_path):
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "runs.sqlite").write_bytes(b"no database" * 100)
    app = opened("start")
    assert len(figures(app)) == 1 and not errors(app)


def test_a_damaged_recorded_store_is_told(tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "runs.sqlite").write_bytes(b"no database" * 100)
    app = opened("start", run="nonsense", at="-1")
    assert errors(app) and not figures(app) and "Importance hacking" in words(app)


def test_growth_is_compared_where_all_runs_have_come_to():
    first = SimpleNamespace(id="a", method="MEMIT", layers=(3, 4), model="m")
    second = SimpleNamespace(id="b", method="ENCORE", layers=(3,), model="m")
    norms = pd.DataFrame(
        [("a", 0, 3, 1.0), ("a", 50, 3, 1.5), ("a", 50, 4, 1.75), ("a", 50, 9, 8.0), ("a", 100, 3, 9.0),
         ("b", 0, 3, 1.0), ("b", 50, 3, 1.25)],
        columns=["run", "edits", "layer", "ratio"],
    )  # fmt: skip
    both = [first, second]
    assert start_content.growth_at_end(norms, both) == (50, [("ENCORE", 1.25), ("MEMIT", 1.75)])
    at_first = norms[norms["edits"] == 0]
    assert start_content.growth_at_end(at_first, both) == (0, [])
    assert len(page_functions("start")["IMPORTANCE_HACKING"]) == 4


def test_perplexity_tasks_and_norms_share_the_edits(monkeypatch):
    """The runs that come with the program, whichever they are: what the models lost stands beside the growth."""
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", RECORDED)
    cards = tiny_pages.cards(monkeypatch)
    app = opened("start")
    [(chart, frame)] = cards.values()
    assert set(frame["metric"]) == set(start_content.PANELS)
    titles = [note.text for note in chart.figure.layout.annotations]
    assert titles == [f"<b>{title}</b>" for title in start_content.PANELS.values()]
    for layout in (chart.figure.layout, chart.narrow):
        assert (layout.xaxis2.matches, layout.xaxis3.matches, layout.yaxis.type) == ("x", "x", "log")
    runs = start_content.recorded()
    found = start_content.answer(run_frames.read("norms", runs), run_frames.health(runs), runs,
                                 [line.name for line in run_frames.lines(runs)])  # fmt: skip
    assert found.text in " ".join(words(app).split()) and not errors(app)
    assert page_functions("start")["shown_runs"](runs) == (runs, True)
