"""The page Downstream and its chart: on hand-made frames, and on runs of a tiny model that were really made."""

from __future__ import annotations

import html
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import tiny_runs
from refusals import NO_HUB
from streamlit.testing.v1 import AppTest
from tiny_pages import figures, opened, words

from dashboard.charts import downstream as charts
from dashboard.charts.palette import DASHES, LIGHT
from dashboard.charts.runs import Line
from encore_core.errors import InputError
from encore_core.measures import task_sets
from encore_core.runs import MeasurePlan, RunStore, series
from encore_core.runs.recorded import record
from encore_core.runs.worker import Worker

LINES = [Line("memit-1", "MEMIT", "MEMIT", (1,)), Line("encore-1", "ENCORE", "ENCORE", (1,))]


# -- the chart ---------------------------------------------------------------------------------------------------------


def downstream_frame(edits=(0, 50, 100), tasks=tuple(charts.TASKS)) -> pd.DataFrame:
    rows = [
        (line.run, at, task, metric, value, 40, value - 8, value + 8)
        for line in LINES
        for at in edits
        for place, task in enumerate(tasks)
        for metric in ("f1", "accuracy", "n")
        for value in [10.0 * place + at / 10 + (metric == "accuracy")]
    ]
    return pd.DataFrame(rows, columns=["run", "edits", "task", "metric", "value", "n", "low", "high"])


def measures_frame(last: float = 1.2) -> pd.DataFrame:
    rows = [(line.run, at, "perplexity_ratio", 1.0 if at == 0 else last) for line in LINES for at in (0, 100)]
    rows += [("memit-1", 0, "generation_entropy", 600.0)]
    return pd.DataFrame(rows, columns=["run", "edits", "metric", "value"])


def test_a_panel_a_task_their_mean_and_perplexity():
    frame = charts.in_panels(downstream_frame(), measures_frame(), "f1")
    titles = charts.titles_of(frame)
    assert list(titles) == [*charts.TASKS, "mean", "perplexity_ratio"]
    chart = charts.chart(frame, LINES, titles, LIGHT)
    assert [note.text for note in chart.figure.layout.annotations] == [f"<b>{title}</b>" for title in titles.values()]
    traces = {(trace.xaxis, trace.legendgroup): trace for trace in chart.figure.data}
    assert list(traces["x2", "memit-1"].y) == [10, 15, 20]
    assert list(traces["x7", "encore-1"].y) == [25, 30, 35]  # the mean of 0 to 50
    assert list(traces["x8", "memit-1"].y) == [1, 1.2]
    assert {traces["x", line.run].line.dash for line in LINES} == {DASHES["MEMIT"], DASHES["ENCORE"]}
    assert chart.figure.layout.yaxis.range == (-4, 104)


def test_the_mean_is_of_all_tasks_or_none():
    frame = downstream_frame()
    frame = frame[~((frame["edits"] == 50) & (frame["task"] == "mmlu"))]
    shown = charts.in_panels(frame, measures_frame(), "f1")
    assert sorted(shown.loc[(shown["metric"] == "mean") & (shown["run"] == "memit-1"), "edits"]) == [0, 100]


@pytest.mark.parametrize("last", [1.01, 1_000.0])
def test_the_ratio_of_perplexities_has_a_logarithmic_axis_that_does_not_blow_up_what_is_small(last):
    frame = charts.in_panels(downstream_frame(), measures_frame(last), "accuracy")
    chart = charts.chart(frame, LINES, charts.titles_of(frame), LIGHT)
    axis = chart.figure.layout.yaxis8
    assert axis.type == chart.narrow.yaxis8.type == "log"
    assert axis.range[0] <= math.log10(0.8) and axis.range[1] >= math.log10(max(2.0, last))


def test_of_runs_without_tasks_perplexity_is_left():
    frame = charts.in_panels(downstream_frame().iloc[:0], measures_frame(), "f1")
    assert list(charts.titles_of(frame)) == ["perplexity_ratio"]
    assert charts.titles_of(charts.in_panels(downstream_frame().iloc[:0], measures_frame().iloc[:0], "f1")) == {}


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory) -> Path:
    return tiny_runs.small_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def made(roomy_folder, statistics_text, tasks_folder, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A store with two runs that asked the tasks and one that did not, and their ids."""
    folder = tmp_path_factory.mktemp("with-tasks") / "runs"
    store = RunStore(folder)
    asking = MeasurePlan(
        subsets=(), generate=False, perplexity=False, generation_entropy=False, contributions=False, share_cap=None,
        downstream=str(tasks_folder), downstream_tests=3,
    )  # fmt: skip
    ids = {}
    for name, values in {
        "memit": {"method": "MEMIT", "measure": asking},
        "encore": {"method": "ENCORE", "measure": asking},
        "silent": {"method": "ENCORE", "seed": 3, "n_edits": 4},
    }.items():
        [ids[name]] = store.submit([tiny_runs.prepared(roomy_folder, statistics_text, **values)])
    Worker(store, "cpu", idle_seconds=0.0).serve()
    assert {store.get(run).status for run in ids.values()} == {"done"}
    return folder, ids


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, surroundings) -> Path:
    """An empty data folder and no recorded runs, to begin with."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    return tmp_path


@pytest.fixture
def ids(made, places) -> dict[str, str]:
    """The runs as the visitor's own."""
    shutil.copytree(made[0], places / "home" / "runs")
    return made[1]


def rows_of(app: AppTest) -> dict[str, list[str]]:
    """The table's rows by their first cell."""
    found = {}
    for element in app.get("html"):
        for row in re.findall(r"<tr>(.*?)</tr>", element.proto.body, re.DOTALL):
            cells = [
                html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)
            ]
            if cells:
                found[cells[0]] = cells[1:]
    return found


def test_an_empty_store_and_no_recorded_runs():
    app = opened("downstream")
    assert "first checkpoint" in words(app) and not figures(app)
    assert app.button(key="fetch_tasks")


def test_curves_and_table_hold_what_the_store_holds(made, ids):
    app = opened("downstream")
    assert app.multiselect(key="chosen_runs").value == [ids["memit"], ids["encore"]]
    store = RunStore(made[0])
    frame = series.downstream(store, [ids["memit"]])
    last = int(frame["edits"].max())
    for metric in ("f1", "accuracy"):
        app.segmented_control(key="downstream_metric").set_value(metric).run()
        [spec] = figures(app)
        titles = [note["text"] for note in spec["layouts"]["wide"]["annotations"]]
        assert titles[0] == "<b>SST-2</b>" and titles[6] == "<b>Mean of the tasks</b>" and len(titles) == 7
        values = frame[frame["metric"] == metric].pivot(index="edits", columns="task", values="value")
        before, after = values.loc[0, "sst2"], values.loc[last, "sst2"]
        assert rows_of(app)["SST-2"][0].startswith(f"{before:.1f} → {after:.1f}")
        assert f"{values.loc[last].mean():.1f}" in rows_of(app)["Mean of the tasks"][0]
    assert rows_of(app)["Edits"] == [f"0 → {last}"] * 2
    assert "of 18" in rows_of(app)["Answers that are no option"][0]
    assert "3 tests per task: one test is 33.3 points" in words(app)
    assert app.query_params["metric"] == ["accuracy"] or app.query_params["metric"] == "accuracy"


def test_runs_without_tasks_are_named(ids):
    app = opened("downstream", run=[ids["memit"], ids["silent"]])
    assert f"No downstream task was run in ENCORE ({ids['silent']})" in words(app)
    assert rows_of(app)["SST-2"][1] == "–" and len(figures(app)) == 1
    alone = opened("downstream", run=ids["silent"])
    assert "No downstream task was run" in words(alone) and not figures(alone)


def test_a_link_brings_runs_and_measure_back(ids):
    app = opened("downstream", run=[ids["encore"]], metric="f1_nll")
    assert app.multiselect(key="chosen_runs").value == [ids["encore"]]
    assert app.segmented_control(key="downstream_metric").value == "f1_nll"


def test_a_link_that_asks_for_what_is_not_there(ids):
    app = opened("downstream", run=["gone-1", ids["encore"]], metric="beauty", nonsense="1")
    assert "gone-1" in words(app)
    assert app.segmented_control(key="downstream_metric").value == "f1" and figures(app)


def test_recorded_runs_only(made, places):
    record(RunStore(made[0]), {made[1]["memit"]: "recorded-memit", made[1]["encore"]: "recorded-encore"},
           places / "recorded")  # fmt: skip
    app = opened("downstream")
    assert app.multiselect(key="chosen_runs").value == ["recorded-memit", "recorded-encore"] and figures(app)


def test_a_run_in_progress(made, ids, places):
    import sqlite3

    with sqlite3.connect(places / "home" / "runs" / "runs.sqlite") as db:
        db.execute("UPDATE runs SET status = 'interrupted', done = 4, cursor = 4 WHERE id = ?", (ids["encore"],))
        db.execute("DELETE FROM downstream WHERE edits > 4 AND run = (SELECT number FROM runs WHERE id = ?)",
                   (ids["encore"],))  # fmt: skip
    app = opened("downstream", run=[ids["memit"], ids["encore"]])
    assert rows_of(app)["Edits"] == ["0 → 10", "0 → 4"]


# -- the tasks' data ---------------------------------------------------------------------------------------------------


def test_without_the_hub_the_button_says_so(monkeypatch):
    monkeypatch.setattr(task_sets, "hub_trouble", lambda: NO_HUB)
    app = opened("downstream")
    app.button(key="fetch_tasks").click().run()
    assert "the hub cannot be reached" in words(app) and not app.exception


def test_what_was_fetched_is_asked_by_the_next_run(monkeypatch, tasks_folder):
    def fetch(progress):
        progress("Fetching downstream task sst2", 0.0)
        return Path(shutil.copytree(tasks_folder, task_sets.hub_folder()))

    monkeypatch.setattr(task_sets, "fetch_tasks", fetch)
    app = opened("downstream")
    app.button(key="fetch_tasks").click().run()
    assert "Fetched into" in words(app) and app.session_state["run_downstream"] == "hub"
    assert not [button for button in app.button if button.key == "fetch_tasks"]


@pytest.mark.parametrize("error", [InputError("Downstream task 'mmlu' cannot be fetched."), RuntimeError("secret")])
def test_a_fetch_that_fails_is_one_line(monkeypatch, error):
    def fetch(progress):
        raise error

    monkeypatch.setattr(task_sets, "fetch_tasks", fetch)
    app = opened("downstream")
    app.button(key="fetch_tasks").click().run()
    assert ("'mmlu'" in words(app)) == isinstance(error, InputError)
    assert "secret" not in words(app) and "fetched" in words(app)
