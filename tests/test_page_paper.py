"""The Paper page: the published figures as data and as charts, and what of them was measured here beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import tiny_pages
from test_run_pages import names_in
from tiny_pages import address_of, errors, figures, opened, words

from dashboard.charts import paper as paper_charts
from dashboard.charts.palette import DARK, LIGHT
from dashboard.reading import mpes_pairs, paper_tables, run_frames
from encore_core.methods import METHODS
from encore_core.runs.recorded import RECORDED, recorded_runs

SHARED = Path(__file__).parents[2] / "shared" / "data" / "paper_tables.csv"


@pytest.fixture(scope="module")
def kept(tiny_folder, statistics_text, tmp_path_factory) -> Path:
    return tiny_pages.recorded_folder(tiny_folder, statistics_text, tmp_path_factory.mktemp("paper"))


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch, tmp_path, tiny_folder, surroundings):
    """No runs of the visitor's own and none recorded, unless a test asks for them."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "nothing")


@pytest.fixture
def recorded(kept, monkeypatch) -> Path:
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", kept)
    return kept


@pytest.fixture
def cards(monkeypatch) -> dict:
    """Key → chart and frame of each card that a page shows."""
    return tiny_pages.cards(monkeypatch)


def marks(cards: dict, ours: bool, number: int = paper_tables.DEFAULT_TABLE) -> list[float]:
    """The values of all published marks of a table's chart, or of those measured here; the same as in its frame."""
    chart, frame = cards[f"paper table {number}"]
    found = sorted(x for trace in chart.figure.data if ("measured here" in trace.name) == ours for x in trace.x)
    source = paper_tables.HERE if ours else paper_tables.PUBLISHED
    assert found == sorted(frame.loc[frame["source"] == source, "value"])
    return found


# -- the paper's figures as data ---------------------------------------------------------------------------------------


def value(table: int, model: str, method: str, quantity: str) -> float:
    frame = paper_tables.published()
    rows = frame[(frame[["table", "model", "method", "quantity"]] == [table, model, method, quantity]).all(axis=1)]
    [found] = rows["value"]
    return found


def test_the_figures_are_those_of_the_paper():
    frame = paper_tables.published()
    assert len(frame) == 338 and set(frame["table"]) == set(paper_tables.TABLES) == set(range(1, 15))
    assert set(frame["quantity"]) == set(paper_tables.QUANTITIES) and frame["value"].notna().all()
    assert not frame.duplicated(["table", "dataset", "model", "method", "quantity"]).any()
    assert value(1, "Llama3-8B", "MEMIT", "seconds_per_edit_with_mpes") == 3.31
    assert value(3, "Llama3-8B", "ENCORE", "overall_score") == 73.707
    assert value(4, "GPT2-XL", "Norm-Constraint", "neighborhood_score") == 58.0
    assert value(8, "Llama2-7B", "ENCORE", "lambda_n") == 10
    assert value(14, "Llama3-8B", "ENCORE", "edit_score") > 0


@pytest.mark.skipif(not SHARED.is_file(), reason="the file that the figures were copied from is not here")
def test_the_copy_is_the_original():
    assert paper_tables.FILE.read_bytes() == SHARED.read_bytes()


def test_methods_go_by_this_programs_names():
    rows = set(paper_tables.published()["row"])
    assert rows - set(METHODS) == {"EMMET baseline", "EMMET best-editing", "EMMET best-downstream"}
    assert paper_tables.choices(3) == (["Llama2-7B", "Llama3-8B"], ["MEMIT", "MEMIT+MPES", "MEMIT+norm", "ENCORE"])
    assert paper_tables.tables_of("zsRE") == [9, 10, 11, 12, 13, 14] and len(paper_tables.tables_of("")) == 14


def test_the_overall_score_of_the_paper_is_the_harmonic_mean_of_the_three():
    """So that it is the same quantity as ours, to the rounding of what was printed and three slips of 0.2 at most."""
    wide = paper_tables.published().pivot_table(index=["table", "model", "method"], columns="quantity", values="value")
    wide = wide.dropna(subset=["overall_score"])
    three = wide[["edit_score", "paraphrase_score", "neighborhood_score"]]
    assert ((3 / (1 / three).sum(axis=1)) - wide["overall_score"]).abs().max() < 0.3


# -- what was measured here --------------------------------------------------------------------------------------------


def frame_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["row", "quantity", "value"])


def test_agreement_counts_orders_and_nothing_else():
    paper = frame_of(("A", "edit_score", 1.0), ("B", "edit_score", 2.0), ("C", "edit_score", 2.0)).assign(model="M")
    here = frame_of(("A", "edit_score", 50.0), ("B", "edit_score", 40.0), ("C", "edit_score", 60.0))
    # A below B is not so here, A below C is; B and C are equal in the paper.
    assert paper_tables.agreement(2, paper, here) == [("M", 1, 2)]
    assert paper_tables.agreement(6, paper, here) == []
    # Runs on other facts, or in other batches, are not compared: B is here on its own.
    named = here.assign(run=["a", "b", "c"])
    assert paper_tables.agreement(2, paper, named, groups={"a": 1, "b": 2, "c": 1}) == [("M", 1, 1)]
    names = ("edited_fact_prob_without_mpes", "edited_fact_prob_with_mpes")
    table = frame_of(("A", names[0], 0.9), ("A", names[1], 0.5), ("B", names[0], 0.8)).assign(model="M")
    assert paper_tables.agreement(1, table, frame_of(("A", names[0], 0.7), ("A", names[1], 0.6))) == [("M", 1, 1)]


@pytest.fixture
def runs(recorded) -> list:
    return recorded_runs().runs()


def measured(number: int, runs) -> dict[tuple[str, str], float]:
    scores, targets = run_frames.scores(runs, "sample"), run_frames.read("targets", runs)
    seconds = {run.id: run_frames.seconds_of_edits(run) for run in runs}
    frame = paper_tables.measured(number, runs, scores, targets, seconds, paper_tables.choices(number)[1])
    return {(row.row, row.quantity): row.value for row in frame.itertuples()}


def test_scores_are_the_last_ones_of_the_run(runs):
    found = measured(4, runs)
    assert {row for row, _ in found} == {"MEMIT", "ENCORE"}
    scores = run_frames.scores(runs, "sample")
    for run in runs:
        rows = scores[(scores["run"] == run.id) & (scores["metric"] == "edit_score") & (scores["edits"] == 10)]
        assert found[run.method, "edit_score"] == rows["value"].item()
    assert measured(12, runs) == {}  # zsRE


def test_settings_are_told_where_the_method_uses_them(runs):
    assert measured(8, runs) == {
        ("ENCORE", name): pytest.approx(next(run.settings[name] for run in runs if run.method == "ENCORE"))
        for name in ("lambda_p", "lambda_n", "mpes_extra_steps")
    }
    assert measured(6, runs) == {} == measured(7, runs)


def test_table_1_takes_targets_and_seconds(runs, monkeypatch):
    monkeypatch.setattr(mpes_pairs, "known_facts", lambda run: ("here", pd.Series([0.5, 0.7])))
    found = measured(1, runs)
    [memit] = [run for run in runs if run.method == "MEMIT"]
    targets = run_frames.read("targets", [memit])
    assert found == {
        ("MEMIT", "original_fact_prob"): pytest.approx(0.6),
        ("MEMIT", "edited_fact_prob_without_mpes"): pytest.approx(targets["probability"].mean()),
        ("MEMIT", "seconds_per_edit_without_mpes"): run_frames.seconds_of_edits(memit),
    }


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_the_chart_holds_every_figure_once_and_ours_hollow(colours):
    frame = pd.DataFrame(
        [
            ("MEMIT", "edit_score", "M, published", 80.0, "80"),
            ("ENCORE", "edit_score", "M, published", 90.0, "90"),
            ("ENCORE", "edit_score", "<b>$x$</b>, measured here", 70.0, "70.0"),
        ],
        columns=["row", "quantity", "source", "value", "shown"],
    )
    sources = {"M, published": False, "<b>$x$</b>, measured here": True}
    panels = [paper_charts.Panel("edit_score", "Edit score", "hundred")]
    chart = paper_charts.dots(frame, panels, ["MEMIT", "ENCORE"], sources, colours)
    theirs, ours = chart.figure.data
    assert list(theirs.x) == [80, 90] and list(ours.x) == [70]
    assert ours.marker.symbol.endswith("-open") and not theirs.marker.symbol.endswith("-open")
    assert theirs.y[0] > theirs.y[1] and round(ours.y[0]) == round(theirs.y[1]) == 0 and ours.y[0] != theirs.y[1]
    assert "<b>$" not in ours.name and "<b>$" not in ours.hovertemplate
    for layout in (chart.figure.layout, chart.narrow):
        assert tuple(layout.xaxis.range) == (-4, 104) and layout.xaxis.matches is None
        assert [text.strip("\u2068\u2069") for text in layout.yaxis.ticktext] == ["ENCORE", "MEMIT"]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_with_nothing_measured_the_papers_figures_are_there(cards):
    app = opened("paper")
    frame = paper_tables.filtered(paper_tables.DEFAULT_TABLE)
    assert marks(cards, ours=False) == sorted(frame["value"]) and marks(cards, ours=True) == []
    assert "Nothing has been measured here yet" in words(app) and not errors(app)


def test_the_runs_that_the_page_opens_with_are_of_the_papers_methods(monkeypatch):
    """Another set of recorded runs has more methods, of which the paper has fewer."""
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", RECORDED)
    shown = set(opened("paper").session_state["paper_runs"])
    methods = ("memit", "emmet", "alphaedit", "encore", "memit-mpes", "memit-norm")
    assert shown == {f"recorded-{method}-1000" for method in methods}


def test_every_table_is_shown_whole(recorded, cards):
    app = opened("paper")
    for number, table in paper_tables.TABLES.items():
        app.selectbox(key="paper_table").set_value(number).run()
        assert not app.exception and not errors(app)
        assert marks(cards, False, number) == sorted(paper_tables.filtered(number)["value"])
        assert table.title in words(app)


def test_recorded_runs_stand_beside_the_paper(recorded, runs, cards):
    app = opened("paper")
    assert app.multiselect(key="paper_runs").value == list(tiny_pages.IDS)
    [spec] = figures(app)
    ours = [value for (_, quantity), value in measured(4, runs).items()]
    assert marks(cards, ours=True) == sorted(ours) and len(ours) >= 8
    assert names_in(spec) == {"GPT2-XL, published", "tiny-gpt2, measured here"}
    said = " ".join(words(app).split())
    assert "What differs" in said and "up to 10,000" in said and "a processor" in said
    assert "Too few edits to tell: 10 here, 10,000 in the paper." in said and "comparisons of two methods" in said
    assert "Not among the runs here: EMMET" in said


def test_filters_and_the_link_to_them(recorded, cards):
    app = opened("paper", table="3", model="Llama2-7B", method=["ENCORE", "MEMIT"], run=tiny_pages.IDS[1])
    frame = paper_tables.filtered(3, ["Llama2-7B"], ["MEMIT", "ENCORE"])
    assert len(frame) == 10 and marks(cards, False, 3) == sorted(frame["value"])
    assert app.multiselect(key="paper_runs").value == [tiny_pages.IDS[1]]
    query = address_of(app)
    assert query["table"] == ["3"] and query["model"] == ["Llama2-7B"] and query["run"] == [tiny_pages.IDS[1]]
    assert figures(opened("paper", **query)) == figures(app)
    app.selectbox(key="paper_dataset").set_value("zsRE").run()
    assert not app.exception and app.selectbox(key="paper_table").value == 9
    assert "zsRE" in words(app)


def test_a_link_to_what_is_gone_or_nonsense_is_no_trouble(recorded):
    app = opened("paper", table="99", dataset="x", model="<b>", method="ROME", run=["nobody-2345", tiny_pages.IDS[0]])
    assert app.selectbox(key="paper_table").value == paper_tables.DEFAULT_TABLE
    assert app.multiselect(key="paper_runs").value == [tiny_pages.IDS[0]]
    assert "nobody-2345" in words(app) and not errors(app)
    app = opened("paper", table="-1", run="nobody-2345")
    assert len(figures(app)) == 1 and not errors(app)


def test_a_run_in_progress_stands_there_as_far_as_it_has_come(tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text)
    app = opened("paper", table="6", run=run_id)
    assert not errors(app) and len(figures(app)) == 1
    assert not errors(opened("paper", table="1", run=run_id)) and not errors(opened("paper", run=run_id))


def test_a_damaged_store_leaves_the_papers_figures(tmp_path):
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "runs.sqlite").write_bytes(b"no database" * 100)
    app = opened("paper")
    assert any("damaged" in text for text in errors(app)) and len(figures(app)) == 1
