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

from dashboard.reading import start_content
from encore_core.runs.recorded import recorded_runs


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
    assert len(frame) == 2 * 2 * 4  # runs, edited layers, checkpoints
    assert tiny_pages.points(chart) == tiny_pages.rows(frame, "edits", "ratio")
    panels = [note.text for note in chart.figure.layout.annotations]
    assert ["MEMIT" in panels[0], "ENCORE" in panels[1]] == [True, True]
    for run in recorded_runs().runs():
        largest = frame.loc[(frame["run"] == run.id) & (frame["edits"] == 10), "ratio"].max()
        assert f"{largest:.2f} × with {run.method}" in words(app)
    assert "After 10 sequential edits of tiny-gpt2" in words(app) and not errors(app)


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
    assert "After 4 sequential edits" in words(app) and "1.40 × with MEMIT" in words(app)


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
    assert start_content.growth_at_end(norms, both) == (50, [("MEMIT", 1.75), ("ENCORE", 1.25)])
    said = start_content.answer(norms, both)
    assert "After 50 sequential edits of m," in said and "1.75 × with MEMIT and 1.25 × with ENCORE" in said
    at_first = norms[norms["edits"] == 0]
    assert start_content.growth_at_end(at_first, both) == (0, []) and start_content.answer(at_first, both) == ""
    assert len(page_functions("start")["IMPORTANCE_HACKING"]) == 4


def test_most_methods_are_shown_and_the_longest_runs_are_linked():
    four, pair, alone = (
        [SimpleNamespace(method=f"M{number}", done=done) for number in range(n)]
        for n, done in ((4, 1000), (2, 5000), (1, 9000))
    )
    for groups in ([alone, pair, four], [four, pair, alone]):
        assert start_content.broadest(groups) is four
        assert page_functions("start")["shown_runs"](groups) == (four, True)
        assert start_content.longest(groups, four) is pair
    assert start_content.broadest([pair, alone]) is pair and start_content.broadest([]) == []
    assert start_content.longest([alone], four) is start_content.longest([], four) is four
