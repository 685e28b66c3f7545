"""What a run keeps of every fact and test: from it the scores, their intervals, and differences between runs follow."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
import tiny_runs
from refusals import refusal

from encore_core.measures import intervals
from encore_core.measures.downstream import weighted_f1
from encore_core.measures.judging import contains, matches
from encore_core.measures.scores import PROTOCOL
from encore_core.runs import RunStore, fact_values, series
from encore_core.runs.export import command_line, series_csv
from encore_core.runs.paired import RunAt, between, of_task
from encore_core.runs.recorded import RECORDED, record, recorded_runs
from encore_core.runs.schema import SINCE
from encore_core.runs.seeds import same_but_seed, seeds_of, with_seeds

JUDGE = f"{sys.executable} -c \"import json,sys; print('yes' if 'a' in json.load(sys.stdin)['said'] else 'no')\""


@pytest.fixture(scope="module")
def made(roomy_folder, statistics_text, tmp_path_factory) -> tuple[RunStore, list[str]]:
    """Two methods on the same facts, and one of them with another seed; a judge looks for the letter a."""
    folder = tmp_path_factory.mktemp("facts")
    measure = replace(tiny_runs.EVERYTHING, generation_entropy=False, perplexity=False, max_tokens=3, judge=JUDGE,
                      downstream=str(tiny_runs.small_tasks(folder)), downstream_tests=3)  # fmt: skip
    store = RunStore(folder / "runs")
    runs = [
        tiny_runs.prepared(
            roomy_folder, statistics_text, n_edits=6, checkpoint_every=6, measure=measure, facts="mine.jsonl", **values
        )
        for values in ({"method": "MEMIT"}, {"method": "ENCORE"}, {"method": "ENCORE", "seed": 1})
    ]
    ids = store.submit(runs, ["all alike"])
    tiny_runs.worker(store).serve()
    assert [store.get(run_id).status for run_id in ids] == ["done"] * 3
    return store, ids


def test_scores_and_intervals_follow_from_the_facts(made):
    store, ids = made
    scores = series.scores(store, ids[:1])
    assert set(scores["metric"]) == {*fact_values.FORCED, *fact_values.GENERATED}
    values = RunAt(store, ids[0], 6).values
    assert len(values) == 4
    for row in scores[(scores["edits"] == 6) & (scores["subset"] == "sample")].itertuples():
        found = fact_values.interval(row.metric, list(values.values()))
        if found is None:
            assert row.value != row.value and row.n == 0
        else:
            assert (row.value, row.n) == (found.value, found.n)
            assert (row.low, row.high) == (found.low, found.high) or found.low is None
    [edit] = scores[(scores["edits"] == 6) & (scores["subset"] == "sample") & (scores["metric"] == "edit_score")].value
    assert edit == pytest.approx(25 * sum(of_fact["edit_score"] for of_fact in values.values()))


def test_texts_are_kept_and_their_scores_follow_from_them(made):
    store, ids = made
    texts, facts = series.answers(store, ids[1:2], [6]), store.facts(ids[1])
    assert set(texts["part"]) == {"edit", "paraphrase", "neighborhood"}
    for row in texts.itertuples():
        answers = json.loads(row.answers)
        assert (row.exact, row.contained) == (matches(row.text, answers), contains(row.text, answers))
        assert row.judged == ("a" in row.text) and row.unjudged == ""
        assert row.part != "edit" or (row.prompt, answers) == (facts[row.fact].text, [facts[row.fact].target_new])
    by_fact = texts[texts["part"] == "edit"].set_index("fact")["judged"]
    values = RunAt(store, ids[1], 6).values
    assert {place: of_fact["generated_edit_judged"] for place, of_fact in values.items()} == {
        place: by_fact[place] for place in values
    }


def test_protocols_are_in_the_row_the_files_and_the_command(made):
    store, ids = made
    run = store.get(ids[0])
    assert run.protocols["teacher-forced"] == PROTOCOL and "at most 3 tokens" in run.protocols["generated"]
    assert run.protocols["generated"].endswith("judged by " + sys.executable) and run.tags == ("all alike",)
    [head, *lines] = series_csv(store, "scores", ids[:1]).decode("utf-8-sig").splitlines()
    assert head == "run,edits,subset,metric,value,n,low,high,protocol"
    assert all("teacher-forced: " in line or "generated: " in line for line in lines)
    assert any("contains the answer" in line for line in lines if "generated_edit_contained" in line)
    assert "answers" in series.ALL and b"prompt,answers,text" in series_csv(store, "answers", ids[:1])
    assert "--max-tokens 3" in command_line(run.plan) and "--judge " in command_line(run.plan)
    assert "--protocol" not in command_line(run.plan)


def test_differences_are_paired_on_the_same_facts(made):
    store, ids = made
    memit, encore, other_seed = (RunAt(store, run_id, 6) for run_id in ids)
    values = [at.values for at in (memit, encore)]
    for metric in ("magnitude", "edit_score", "overall_score", "generated_paraphrase_contained"):
        found = between(memit, encore, metric)
        assert found == fact_values.difference(metric, *(list(of_run.values()) for of_run in values))
    found = between(memit, encore, "magnitude")
    gaps = [values[0][place]["magnitude"] - values[1][place]["magnitude"] for place in values[0]]
    assert found.value == pytest.approx(sum(gaps) / 4) and found.n == 4
    # Another seed draws another sample of the same facts.
    shared = set(values[1]) & set(other_seed.values)
    found = between(encore, other_seed, "magnitude")
    assert (found.n if found else 0) == len(shared)
    assert between(memit, encore, "no such score") is None


def test_tasks_keep_every_answer(made):
    store, ids = made
    frame, answers = series.downstream(store, ids[:1]), RunAt(store, ids[0], 6).answers["sst2"]
    assert len(answers) == 3
    truth, said, likelier = zip(*answers.values(), strict=True)
    rows = frame[(frame["edits"] == 6) & (frame["task"] == "sst2")].set_index("metric")
    assert rows.value["f1"] == pytest.approx(100 * weighted_f1(truth, said))
    assert rows.value["f1_nll"] == pytest.approx(100 * weighted_f1(truth, likelier))
    wanted = intervals.of_weighted_f1(truth, likelier).times(100)
    assert (rows.low["f1_nll"], rows.high["f1_nll"], rows.n["f1_nll"]) == pytest.approx(wanted[1:])
    same = of_task(RunAt(store, ids[0], 0), RunAt(store, ids[1], 0), "sst2", "f1_nll")
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, 3)  # nothing has been edited
    assert of_task(RunAt(store, ids[0], 6), RunAt(store, ids[1], 6), "no such task", "f1") is None


def test_runs_that_differ_in_their_seed_alone_belong_together(made):
    store, ids = made
    runs = [store.get(run_id) for run_id in ids]
    assert [run.id for run in same_but_seed(runs[1], runs)] == [ids[1], ids[2]]
    assert [run.id for run in same_but_seed(runs[0], runs)] == [ids[0]]


def test_recording_keeps_the_facts_scores_but_no_prompts_of_users(made, tmp_path):
    store, ids = made
    record(store, {ids[0]: "recorded-memit-6"}, tmp_path / "recorded")
    kept = RunStore(tmp_path / "recorded", read_only=True)
    assert RunAt(kept, "recorded-memit-6", 6).values == RunAt(store, ids[0], 6).values
    assert between(RunAt(kept, "recorded-memit-6", 6), RunAt(store, ids[0], 6), "accuracy").value == 0
    assert series.answers(kept, ["recorded-memit-6"]).empty and kept.get("recorded-memit-6").plan.measure.judge is None


def test_recorded_runs_of_an_earlier_version_have_no_intervals(tmp_path):
    shutil.copytree(RECORDED, tmp_path / "kept")
    for store in (recorded_runs(), RunStore(tmp_path / "kept")):  # as it is, and brought up to date
        run = store.get("recorded-encore-1000")
        scores = series.scores(store, [run.id])
        assert len(scores) and scores["value"].notna().any() and scores[["n", "low", "high"]].isna().all(axis=None)
        assert all(series.ALL[name](store, [run.id]).empty for name in SINCE) and run.protocols == {}
        assert run.plan.measure.protocols == ("teacher-forced",)
        at = RunAt(store, run.id, run.done)
        assert between(at, at, "edit_score") is None
        assert b"teacher-forced: " in series_csv(store, "scores", [run.id])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "Seed ''"),
        ("1,,2", "Seed ''"),
        ("1,two", "'two'"),
        ("-1", "'-1'"),
        ("1.5", "'1.5'"),
        ("٣", "'٣'"),
        (str(2**63), "whole number"),
        ("1, 2, 1", "Seed 1 is given twice"),
        ("1,01", "given twice"),
        (",".join(map(str, range(21))), "21 seeds are too many"),
    ],
)
def test_bad_seeds_are_refused(text, wanted):
    assert wanted in refusal(seeds_of, text)


def test_seeds_name_their_runs_alike(tiny_folder, statistics_text):
    plan = tiny_runs.plan(tiny_folder, statistics_text)
    plans = with_seeds(plan, seeds_of(" 3, 0"))
    assert [(each.seed, each.name) for each in plans] == [
        (3, "ENCORE, 10 edits, seed 3"),
        (0, "ENCORE, 10 edits, seed 0"),
    ]
    assert with_seeds(replace(plan, name="mine"), [1])[0].name == "mine, seed 1"
    assert replace(plans[1], name="") == plan
