"""The page Overfitting and its charts: on hand-made frames, and on runs of a tiny model that were really made."""

from __future__ import annotations

import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny_runs
from tiny_models import Snapshot
from tiny_pages import figures, markup, opened, words

from dashboard.charts import overfitting as charts
from dashboard.charts.overfitting import Arm
from dashboard.charts.palette import DARK, LIGHT
from dashboard.parts.overfitting import search_pairs
from dashboard.reading import mpes_pairs
from encore_core.editing.session import EditSession
from encore_core.facts import Fact
from encore_core.runs import RunStore, prepare, series
from encore_core.runs.folders import recorded_facts_file
from encore_core.runs.recorded import RECORDED, record

WITHOUT, STOPPING, KNOWN = Arm("without", "no MPES", False), Arm("stopped", "MPES", True), Arm("known", "known", None)
HOSTILE = "<img src=x onerror=alert(1)> $y^2$"


# -- the charts --------------------------------------------------------------------------------------------------------


def trajectory() -> pd.DataFrame:
    """Six steps without MPES, three with it."""
    rows = [
        (arm.key, step, 1 - nll / 4, nll + 0.2, nll, 0.1, 0.1)
        for arm, last in ((WITHOUT, 5), (STOPPING, 2))
        for step, nll in enumerate(4 - 0.7 * step for step in range(last + 1))
    ]
    return pd.DataFrame(rows, columns=["arm", "step", "probability", "loss", "nll", "kl", "decay"])


def test_each_term_has_a_panel_and_each_arm_its_stopping_point():
    frame = trajectory()
    chart = charts.steps(frame, [WITHOUT, STOPPING], LIGHT)
    for number, term in enumerate(charts.TERMS):
        axis = f"x{number + 1}" if number else "x"
        lines = [trace for trace in chart.figure.data if trace.xaxis == axis and trace.mode == "lines"]
        [marks] = [trace for trace in chart.figure.data if trace.xaxis == axis and trace.mode == "markers"]
        for arm, line, x, y, colour in zip(
            (WITHOUT, STOPPING), lines, marks.x, marks.y, marks.marker.color, strict=True
        ):
            wanted = frame[frame["arm"] == arm.key]
            assert list(line.x) == wanted["step"].tolist() and list(line.y) == wanted[term].tolist()
            assert (x, y) == (wanted["step"].iloc[-1], wanted[term].iloc[-1]) and colour == line.line.color
        assert lines[0].line.dash != lines[1].line.dash and lines[0].line.color != lines[1].line.color
    assert chart.figure.layout.xaxis.title.text == "step"
    assert chart.figure.layout.yaxis.range == chart.narrow.yaxis.range == (-0.04, 1.04)
    named = [trace.name for trace in chart.figure.data if trace.showlegend]
    assert named == ["\u2068no MPES\u2069", "\u2068MPES\u2069"]  # a star there would have one arm's colour
    alone = charts.steps(frame, [STOPPING], LIGHT).figure.data
    assert [trace.name for trace in alone if trace.showlegend] == ["\u2068MPES\u2069", "stopping point"]


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_a_hill_for_each_group_with_its_mean(colours):
    groups = [(WITHOUT, pd.Series([0.9, 1.0])), (STOPPING, pd.Series([0.4, 0.6])), (KNOWN, pd.Series([0.1, 0.2, 0.6]))]
    chart = charts.distributions(groups, colours)
    hills = [trace for trace in chart.figure.data if trace.fill == "toself"]
    means = [trace for trace in chart.figure.data if trace.fill is None]
    assert [(min(hill.x), max(hill.x)) for hill in hills] == [
        (values.min(), values.max()) for _, values in reversed(groups)]  # fmt: skip
    assert all(min(hill.y) == place and max(hill.y) == place + charts.HILL for place, hill in enumerate(hills))
    assert [mean.x[0] for mean in means] == pytest.approx([0.3, 0.5, 0.95])
    assert [mean.text[0] for mean in means] == ["mean 0.30", "mean 0.50", "mean 0.95"]
    # The first group stands on top, and each is named beside its hill.
    axis = chart.figure.layout.yaxis
    named = dict(zip(axis.tickvals, axis.ticktext, strict=True))
    assert ["MPES" in named[0], "3 facts" in named[0], "no MPES" in named[2], "2 facts" in named[2]] == [
        False, True, True, True]  # fmt: skip
    assert len({hill.line.color for hill in hills}) == 3


def test_a_hill_is_highest_where_values_are_dense():
    at, height = charts.hill(pd.Series([0.1, 0.5, 0.5, 0.51, 0.9, None]))
    assert abs(at[height.argmax()] - 0.503) < 0.01 and height.max() == 1
    # Two kernels apart, a lone value stands a third as high as three that coincide nearly.
    assert height[0] == pytest.approx(1 / 3, abs=0.02)


def test_steps_are_counted_as_shares_of_facts():
    groups = [(WITHOUT, pd.Series([19, 19, 19, 7])), (STOPPING, pd.Series([3, 3, 4]))]
    chart = charts.step_counts(groups, LIGHT)
    no, yes = chart.figure.data
    assert dict(zip(no.x, no.y, strict=True)) == {7: 25, 19: 75}
    assert dict(zip(yes.x, yes.y, strict=True)) == pytest.approx({3: 200 / 3, 4: 100 / 3})
    assert no.marker.pattern.shape and not yes.marker.pattern.shape  # told apart without colour


# -- which runs are set against each other -----------------------------------------------------------------------------


def run_like(method: str, name: str = "", digest: str = "a", done: int = 10) -> SimpleNamespace:
    """What `pairs_of` reads of a run."""
    return SimpleNamespace(
        id=name or method, method=method, model="m", facts_digest=digest, order_digest=digest, statistics="s",
        n_edits=10, done=done, plan_json={"seed": 0}, settings={"mpes": "MPES" in method or method == "ENCORE"},
    )  # fmt: skip


def keys(*runs: SimpleNamespace) -> list[str]:
    return [pair.key for pair in mpes_pairs.pairs_of(runs)]


def test_runs_of_the_same_facts_are_paired_clean_pairs_first():
    runs = [run_like(m) for m in ("MEMIT", "ENCORE", "MEMIT+MPES", "MEMIT+norm", "EMMET", "AlphaEdit+MPES")]
    pairs = mpes_pairs.pairs_of(runs)
    assert [(pair.key, pair.clean) for pair in pairs] == [
        ("MEMIT MEMIT+MPES", True),
        ("MEMIT+norm ENCORE", True),
        ("MEMIT ENCORE", False),
        ("EMMET", True),
        ("AlphaEdit+MPES", True),
    ]
    assert pairs[4].without is None and pairs[3].stopped is None


def test_runs_that_differ_in_more_than_stopping_are_no_clean_pair():
    without, stopped = run_like("SPHERE"), run_like("AlphaEdit+MPES")
    without.settings["sphere_strength"], stopped.settings["sphere_strength"] = 0.5, 0.0
    assert keys(without, stopped) == ["SPHERE", "AlphaEdit+MPES"]
    stopped.settings |= {"sphere_strength": 0.5, "mpes_extra_steps": 2}
    assert keys(without, stopped) == ["SPHERE AlphaEdit+MPES"]


def test_a_run_of_an_earlier_version_is_paired_with_one_of_today():
    """Settings that came later stand in the newer one as they always were."""
    old, new = run_like("MEMIT"), run_like("MEMIT+MPES")
    new.settings |= {"most_change": 0.0, "nas": False, "search": "adam", "tuned_for": "few"}
    assert keys(old, new) == ["MEMIT MEMIT+MPES"]
    new.settings["nas"] = True
    assert keys(old, new) == ["MEMIT", "MEMIT+MPES"]


def test_methods_that_search_for_no_targets_are_not_offered():
    assert keys(run_like("UltraEdit"), run_like("CrispEdit"), run_like("MEMIT")) == ["MEMIT"]


def test_other_facts_or_nothing_done_make_no_pair():
    assert keys(run_like("MEMIT"), run_like("ENCORE", digest="b")) == ["MEMIT", "ENCORE"]
    assert keys(run_like("MEMIT"), run_like("ENCORE", done=0)) == ["MEMIT"]
    assert keys() == []


def test_only_facts_of_both_runs_are_compared():
    pair = mpes_pairs.Pair(run_like("MEMIT"), run_like("MEMIT+MPES"))
    rows = [("MEMIT", 0, 0.9), ("MEMIT", 1, 0.8), ("MEMIT", 2, None), ("MEMIT+MPES", 0, 0.4), ("MEMIT+MPES", 2, 0.5)]
    frame = pd.DataFrame(rows, columns=["run", "fact", "probability"])
    assert set(mpes_pairs.common_facts(frame, pair)["fact"]) == {0}
    alone = mpes_pairs.Pair(run_like("MEMIT"), None)
    assert set(mpes_pairs.common_facts(frame[frame["run"] == "MEMIT"], alone)["fact"]) == {0, 1}


def test_seconds_are_those_of_editing():
    rows = [
        ("a", 5, "targets", 10.0, 5),
        ("a", 10, "targets", 20.0, 5),
        ("a", 15, "targets", 900.0, 5),  # the machine slept
        ("a", 10, "saving", 99.0, 5),
        ("b", 5, "keys", 1.0, 5),
    ]
    frame = pd.DataFrame(rows, columns=["run", "edits", "phase", "seconds", "facts"])
    assert mpes_pairs.seconds_by_phase(frame, "a") == {"targets": 4.0}
    assert mpes_pairs.seconds_by_phase(frame, "c") == {}


def test_known_facts_are_those_of_the_same_model_and_kind(monkeypatch, tmp_path):
    file = tmp_path / "known_facts.csv"
    file.write_text("dataset,n_tokens,probability\ncounterfact_10k,1,0.2\nbundled,2,0.7\nbundled,1,0.5\n", "utf-8")
    monkeypatch.setattr(mpes_pairs, "KNOWN_FACTS", file)

    def of(model: str, facts: str) -> list[float] | None:
        found = mpes_pairs.known_facts(SimpleNamespace(model=model, plan_json={"facts": facts}))
        return None if found is None else list(found[1])

    assert of("smollm2-135m", "bundled") == of("smollm2-135m", "long") == [0.7, 0.5]
    assert of("smollm2-135m", "/some/counterfact_10k.jsonl") == [0.2]
    assert of("gpt2-xl", "bundled") is None
    file.unlink()
    assert of("smollm2-135m", "bundled") is None


def test_the_recorded_known_facts_are_probabilities():
    frame = pd.read_csv(mpes_pairs.KNOWN_FACTS)
    assert list(frame.columns) == ["dataset", "n_tokens", "probability"]
    assert set(frame["dataset"]) == {"counterfact_10k", "bundled"}
    assert frame["probability"].between(0, 1).all() and (frame["n_tokens"] > 0).all()


# -- targets without an edit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["MEMIT", "ENCORE"])
def test_targets_can_be_found_without_editing(gpt2, new_session, method):
    session = new_session(gpt2, method)
    weights = Snapshot.of(gpt2)
    fact = tiny_runs.FACTS[0]
    told = []
    [plain] = session.find_targets([fact], mpes=False, on_progress=told.append)
    [early] = session.find_targets([fact], mpes=True)
    assert weights.holds(gpt2) and session.n_edits == 0 and not session.history
    assert early.steps <= plain.steps and early.loss == plain.loss[: len(early.loss)]
    assert plain.stopped in ("loss", "steps") and told[0].phase == "targets"
    # What an edit begins with is what was found, and with edits on the model it is something else.
    [usual] = session.find_targets([fact])
    report = session.edit([fact], known="edit")
    assert report.edited[0].target.loss == usual.loss == (early if session.settings.mpes else plain).loss
    [again] = session.find_targets([fact])
    assert again.probability[0] > usual.probability[0]


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny_folder, statistics_text, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A store with three runs on the same facts and one on others, and their ids."""
    folder = tmp_path_factory.mktemp("overfitting") / "runs"
    store = RunStore(folder)
    quick = replace(tiny_runs.QUICK, subsets=(), contributions=False, trajectory_facts=3)
    hostile = [replace(tiny_runs.FACTS[0], target_new=HOSTILE), *tiny_runs.FACTS[1:10]]
    ids = {}
    for name, method, seed in (("memit", "MEMIT", 0), ("mpes", "MEMIT+MPES", 0), ("encore", "ENCORE", 0),
                               ("alone", "EMMET", 5)):  # fmt: skip
        plan = tiny_runs.plan(tiny_folder, statistics_text, method=method, measure=quick, seed=seed, facts="ours.jsonl")
        plan = replace(plan, overrides=plan.overrides | {"steps": 6})
        [ids[name]] = store.submit([prepare(plan, hostile)])
    tiny_runs.worker(store).serve()
    assert {store.get(run).status for run in ids.values()} == {"done"}
    return folder, ids


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, surroundings) -> Path:
    """An empty data folder, no recorded runs to begin with, and the tiny model as the Edit page's."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    return tmp_path


@pytest.fixture
def ids(made, places) -> dict[str, str]:
    """The runs as the visitor's own."""
    shutil.copytree(made[0], places / "home" / "runs")
    return made[1]


def test_an_empty_store_leaves_the_live_search():
    app = opened("overfitting")
    assert "No run has edited anything yet" in words(app) and not figures(app)
    assert app.button(key="overfitting_try") and "visitor" not in app.session_state


def test_the_page_opens_with_a_clean_pair_and_says_what_the_store_holds(made, ids):
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_pair").value == f"{ids['memit']} {ids['mpes']}"
    assert "visitor" not in app.session_state  # no model was loaded
    steps, hills, bars = figures(app)
    store = RunStore(made[0])
    place = app.selectbox(key="overfitting_fact").value
    kept = series.trajectories(store, [ids["memit"], ids["mpes"]], [place])
    ends = kept.groupby("run", observed=True)["probability"].last()
    for run, part in kept.groupby("run", observed=True):
        assert f"p of the answer after {part['step'].max()} step" in words(app)
        assert f"{ends[run]:.2f}" in words(app)
    assert len(steps["data"]) == 5 * (2 + 1) and len(hills["data"]) == 2 * 2
    assert len(bars["data"]) == 2
    means = series.targets(store, [ids["memit"], ids["mpes"]]).groupby("run", observed=True)["probability"].mean()
    row = next(r for r in re.findall(r"<tr>(.*?)</tr>", markup(app), re.DOTALL) if ", here" in r)
    cells = re.findall(r"<td.*?>(.*?)</td>", row)
    assert cells[3:5] == [f"{means[ids['memit']]:.2f}", f"{means[ids['mpes']]:.2f}"]
    assert "GPT2-XL" in words(app) and "0.98" in words(app)  # the paper's figures below it
    assert cells[2] == "–"  # what a tiny model knows was not recorded


def test_facts_are_shown_as_texts_and_never_as_markup(ids):
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_fact").options[0].endswith(" · fact 0")
    assert HOSTILE in words(app).replace("&lt;", "<") or "<img src=x" not in markup(app)
    assert "<img src=x" not in markup(app)


def test_another_fact_and_another_pair_are_in_the_address(ids):
    app = opened("overfitting")
    place = int(app.selectbox(key="overfitting_fact").options[-1].split()[-1])
    app.selectbox(key="overfitting_fact").set_value(place).run()
    app.selectbox(key="overfitting_pair").set_value(f"{ids['memit']} {ids['encore']}").run()
    assert "ENCORE is MEMIT with MPES and a norm constraint" in words(app)
    view = {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}
    assert view == {"run": [ids["memit"], ids["encore"]], "fact": [str(place)]}
    again = opened("overfitting", run=view["run"], fact=str(place))
    assert again.selectbox(key="overfitting_pair").value == f"{ids['memit']} {ids['encore']}"
    assert again.selectbox(key="overfitting_fact").value == place


def test_bad_links(ids):
    app = opened("overfitting", run=["gone-1"], fact="77")
    assert "gone-1" in words(app) and "The steps of fact 77 were not kept" in words(app) and figures(app)
    assert figures(opened("overfitting", run=[ids["mpes"]], fact="-3", junk="x"))


def test_a_run_without_a_counterpart_stands_alone(ids):
    app = opened("overfitting", run=ids["alone"])
    assert "There is no run with MPES on the same facts" in words(app)
    steps, _, bars = figures(app)
    assert len(steps["data"]) == 5 * 2 and len(bars["data"]) == 1


def test_runs_that_kept_no_steps(ids, places):
    with sqlite3.connect(places / "home" / "runs" / "runs.sqlite") as db:
        db.execute("DELETE FROM trajectories")
    app = opened("overfitting")
    assert "kept no optimisation step by step" in words(app) and len(figures(app)) == 2


def test_a_run_in_progress_is_compared_on_the_facts_both_have(ids, places):
    with sqlite3.connect(places / "home" / "runs" / "runs.sqlite") as db:
        number = "(SELECT number FROM runs WHERE id = ?)"
        for table in ("targets", "trajectories"):
            db.execute(f"DELETE FROM {table} WHERE edits > 4 AND run = {number}", (ids["mpes"],))
        db.execute("UPDATE runs SET status = 'interrupted', done = 4, cursor = 4 WHERE id = ?", (ids["mpes"],))
    app = opened("overfitting", run=[ids["memit"], ids["mpes"]])
    _, hills, _ = figures(app)
    assert ["4 facts" in text for text in hills["layouts"]["wide"]["yaxis"]["ticktext"]] == [True, True]


def test_recorded_runs_only(made, places, monkeypatch):
    folder = places / "recorded"
    record(RunStore(made[0]), {made[1]["memit"]: "recorded-memit", made[1]["mpes"]: "recorded-mpes"}, folder)
    assert not (folder / "recorded-memit").exists()  # the facts' file is not the program's own
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_pair").value == "recorded-memit recorded-mpes"
    assert app.selectbox(key="overfitting_fact").options[0].startswith("fact 0 · ends at p = ")
    assert len(figures(app)) == 3


def test_a_pair_whose_facts_can_be_read_comes_first(made, ids, places):
    (places / "home" / "runs" / ids["memit"] / "facts.jsonl").unlink()
    (places / "home" / "runs" / ids["alone"] / "facts.jsonl").unlink()
    folder = places / "recorded"
    record(RunStore(made[0]), {made[1]["memit"]: "recorded-memit", made[1]["mpes"]: "recorded-mpes"}, folder)
    for run in ("recorded-memit", "recorded-mpes"):
        digest = RunStore(folder, read_only=True).get(run).order_digest
        shutil.copyfile(made[0] / made[1]["memit"] / "facts.jsonl", recorded_facts_file(folder, digest))
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_pair").value.startswith("recorded-memit ")
    assert "facts by number only" not in app.selectbox(key="overfitting_pair").options[0]


def test_the_recorded_pair_that_the_page_opens_with_has_its_facts_texts(monkeypatch):
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", RECORDED)
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_pair").value == "recorded-memit-long recorded-memit-mpes-long"
    assert "→" in words(app) and "fact 0 · ends" not in app.selectbox(key="overfitting_fact").options[0]


def test_a_typical_fact_is_shown_first_and_follows_the_pair(ids, places):
    """The fact whose ends are nearest to their medians; another pair has another unless the visitor chose one."""
    ends = {"memit": (0.99, 0.9, 0.4), "mpes": (0.2, 0.6, 0.7), "encore": (0.5, 0.1, 0.6)}
    with sqlite3.connect(places / "home" / "runs" / "runs.sqlite") as db:
        for name, values in ends.items():
            kept = db.execute(
                "SELECT DISTINCT fact FROM trajectories JOIN runs ON run = number WHERE id = ? ORDER BY fact",
                (ids[name],),
            ).fetchall()
            for (fact,), value in zip(kept, values, strict=True):
                db.execute(
                    "UPDATE trajectories SET probability = ? WHERE fact = ? AND run = "
                    "(SELECT number FROM runs WHERE id = ?)",
                    (value, fact, ids[name]),
                )
    app = opened("overfitting")
    assert app.selectbox(key="overfitting_fact").value == 3
    app.selectbox(key="overfitting_pair").set_value(f"{ids['memit']} {ids['encore']}").run()
    assert app.selectbox(key="overfitting_fact").value == 0
    app.selectbox(key="overfitting_fact").set_value(6).run()
    app.selectbox(key="overfitting_pair").set_value(f"{ids['memit']} {ids['mpes']}").run()
    assert app.selectbox(key="overfitting_fact").value == 6
    linked = opened("overfitting", run=[ids["memit"], ids["encore"]], fact="3")
    assert linked.selectbox(key="overfitting_fact").value == 3


def test_tiles_have_their_lines_colours_and_count_steps_as_the_settings_do(monkeypatch):
    """A maximum of 20 counts the start: 19 steps are taken."""
    shown = []
    monkeypatch.setattr("dashboard.elements.widgets.tiles", shown.extend)
    frame = trajectory()
    search_pairs.fact_tiles(frame, {"without": "steps", "stopped": "mpes"})
    (without, _, why, tone), (stopped, _, other, other_tone) = shown
    assert (without, tone) == ("without MPES", "no_mpes") and (stopped, other_tone) == ("with MPES", "mpes")
    assert "after 5 steps: the maximum was reached (6, the start included)" in why
    assert "after 2 steps: the answer had become the most probable one in the contexts that count" in other


# -- live --------------------------------------------------------------------------------------------------------------


def test_a_fact_is_searched_twice_on_the_visitors_model(monkeypatch):
    app = opened("overfitting")
    app.segmented_control(key="overfitting_source").set_value("own").run()
    assert "Type a subject" in words(app) and app.button(key="overfitting_try").disabled
    app.text_input(key="overfitting_subject").set_value("France")
    app.text_input(key="overfitting_prompt").set_value("The capital of {} is")
    app.text_input(key="overfitting_answer").set_value("Rome").run()
    app.button(key="overfitting_try").click().run()
    assert not app.exception
    tried = app.session_state["overfitting_tried"]
    ends = tried.trajectory.groupby("arm")["step"].max()
    assert ends["stopped"] <= ends["without"] and tried.fact == Fact("France", "The capital of {} is", "Rome")
    [steps] = figures(app)
    assert len(steps["data"]) == 5 * (2 + 1) and "as loaded" in words(app)
    visitor = app.session_state["visitor"]
    assert visitor.session.n_edits == 0 and not visitor.session.history
    # It stands beside its own fact alone, and is there again when that one is.
    app.segmented_control(key="overfitting_source").set_value("example").run()
    assert not figures(app)
    app.segmented_control(key="overfitting_source").set_value("own").run()
    assert len(figures(app)) == 1
    visitor.begin([Fact("Spain", "The capital of {} is", "Oslo", "Madrid")], 1, "skip")
    visitor.work(lambda *_: None)
    app.run()
    assert not figures(app), "it was tried before this edit"


@pytest.mark.parametrize("error", [None, RuntimeError("secret")])
def test_a_search_that_fails_is_one_line(monkeypatch, error):
    if error is not None:
        monkeypatch.setattr(EditSession, "find_targets", lambda *_, **__: (_ for _ in ()).throw(error))
    app = opened("overfitting")
    app.segmented_control(key="overfitting_source").set_value("own").run()
    app.text_input(key="overfitting_subject").set_value("France")
    app.text_input(key="overfitting_prompt").set_value("The capital of {} is " + "long " * 200)
    app.text_input(key="overfitting_answer").set_value("Rome").run()
    app.button(key="overfitting_try").click().run()
    assert not app.exception and "secret" not in words(app) and not figures(app)
    assert 'role="alert"' in markup(app)
