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
    assert links["Edit"].startswith("edit?") and links["Paper"].startswith("paper?")
    assert links["Compare"].startswith("compare?")
    assert re.findall(r"run=([\w-]+)", links["Compare"]) == list(tiny_pages.IDS)


def test_without_any_runs_it_says_so_and_points_to_run():
    app = opened("start")
    assert not figures(app) and "No runs have been recorded" in words(app) and not errors(app)
    assert links_of(app)["Start a run"].startswith("run?")
    assert "Importance hacking" in words(app) and links_of(app)["Compare"].startswith("compare?")


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
    names = page_functions("start")
    Run = type("Run", (), {})
    first, second = Run(), Run()
    first.id, first.method, first.layers = "a", "MEMIT", (3, 4)
    second.id, second.method, second.layers = "b", "ENCORE", (3,)
    norms = pd.DataFrame(
        [("a", 0, 3, 1.0), ("a", 50, 3, 1.5), ("a", 50, 4, 1.75), ("a", 50, 9, 8.0), ("a", 100, 3, 9.0),
         ("b", 0, 3, 1.0), ("b", 50, 3, 1.25)],
        columns=["run", "edits", "layer", "ratio"],
    )  # fmt: skip
    at, growth = names["growth_at_end"](norms, [first, second])
    assert (at, growth) == (50, [("MEMIT", 1.75), ("ENCORE", 1.25)])
    assert "1.75 × with MEMIT and 1.25 × with ENCORE" in names["answer"](at, growth, "m")
    assert names["growth_at_end"](norms[norms["edits"] == 0], [first, second]) == (0, [])
    assert names["answer"](0, [], "m") == ""
    assert len(names["IMPORTANCE_HACKING"]) == 4


def test_most_methods_are_shown_and_the_longest_runs_are_linked():
    start = page_functions("start")
    four, pair, alone = (
        [SimpleNamespace(method=f"M{number}", done=done) for number in range(n)]
        for n, done in ((4, 1000), (2, 5000), (1, 9000))
    )
    for groups in ([alone, pair, four], [four, pair, alone]):
        assert start["shown_runs"](groups) == (four, True)
        assert start["longest_runs"](groups, four) is pair
    assert start["shown_runs"]([pair, alone]) == (pair, True)
    assert start["longest_runs"]([alone], four) == start["longest_runs"]([], four) == four
