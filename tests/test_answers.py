"""What pages answer: made-up runs with known properties, and the sentences that they must come to."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from dashboard.charts import downstream as charts
from dashboard.charts import runs as run_charts
from dashboard.charts import small_multiples
from dashboard.charts.contributions import Pair
from dashboard.charts.palette import LIGHT
from dashboard.charts.runs import Line
from dashboard.reading import findings, paper_tables, recorded_choice, run_words, start_content, verdicts
from dashboard.reading.answers import dominance, landing, lost, order, published, stopping, survival
from dashboard.reading.answers.answer import Answer, listed, percent, times
from dashboard.reading.answers.courses import Lines, courses
from dashboard.reading.answers.crossings import Crossing, crossing, span_words
from dashboard.reading.run_words import MEASURES
from dashboard.reading.scores_at_checkpoint import Score
from encore_core.measures.contributions import sublayer_names
from encore_core.measures.intervals import Interval
from encore_core.measures.tasks import load_tasks
from encore_core.methods import METHODS

LINES = Lines()
COLUMNS = ["run", "edits", "metric", "value", "n", "low", "high"]


def run_like(name: str, done: int, planned: int | None = None, **values) -> SimpleNamespace:
    """What the answers read of a run."""
    usual = {
        "id": name, "method": name, "done": done, "n_edits": planned or done, "ended": True, "layers": (6, 7),
        "model": "m", "recorded": True, "measuring_seconds": 1.0, "created": 0, "device": "cpu", "plan_json": {},
        "facts_digest": "f", "order_digest": "o", "statistics": "s", "status": "done",
    }  # fmt: skip
    return SimpleNamespace(**(usual | values))


def health_of(ratios: dict[str, dict[int, float]], tasks: dict[str, dict[int, tuple]] | None = None) -> pd.DataFrame:
    """Perplexity ratios, and means of the tasks with their intervals, by run and edits."""
    rows = [(run, at, "perplexity_ratio", value, None, None, None) for run, of in ratios.items()
            for at, value in of.items()]  # fmt: skip
    for run, of_run in (tasks or {}).items():
        for at, found in of_run.items():
            value, low, high = found if isinstance(found, tuple) else (found, None, None)
            rows.append((run, at, "mean", value, 600, low, high))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"n": float, "low": float, "high": float})


def survivors(runs, frame, **values):
    names = [run.id for run in runs]
    return survival.answer(courses(runs, names, frame, LINES), LINES, [run.model for run in runs], **values)


# -- figures in words --------------------------------------------------------------------------------------------------


def test_figures_in_words():
    assert [times(value) for value in (1.174, 12.34, 128.4, 5023)] == ["× 1.17", "× 12.3", "× 128", "× 5,023"]
    assert times(math.inf) == "beyond all numbers" and times(math.nan) == "not a number"
    assert [percent(value) for value in (0.0468, 0.0083, -0.05)] == ["4.7 %", "0.83 %", "−5.0 %"]
    assert [listed(parts) for parts in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


# -- where a measure crosses a line ------------------------------------------------------------------------------------


def of(values: dict[int, float], ends: dict[int, tuple[float, float]] | None = None) -> pd.DataFrame:
    found = ends or {}
    rows = [(at, value, *found.get(at, (math.nan, math.nan))) for at, value in values.items()]
    return pd.DataFrame(rows, columns=["edits", "value", "low", "high"])


def test_a_crossing_lies_between_the_checkpoints_around_it():
    found = crossing(of({0: 1, 100: 1.5, 200: 2.5, 300: 4}), 2)
    assert (found.after, found.by, found.crosses, span_words(found)) == (100, 200, True, "100 to 200")
    assert crossing(of({0: 40, 100: 30, 200: 10}), 20, falls=True).span == (100, 200)


def test_what_never_crosses_is_not_within_its_edits():
    found = crossing(of({0: 1, 100: 1.5, 200: 1.9}), 2)
    assert found.span == (200, math.inf) and span_words(found) == "not within 200" and not found.crosses


def test_a_measure_that_goes_to_and_fro_crosses_where_it_stays_beyond():
    found = crossing(of({0: 1, 100: 2.5, 200: 1.5, 300: 2.5, 400: 3}), 2)
    assert (found.after, found.by) == (0, 300)
    back = crossing(of({0: 1, 100: 2.5, 200: 1.5}), 2)
    assert not back.crosses and back.came_back and "had been beyond" in span_words(back)


def test_an_infinite_perplexity_is_beyond_every_line():
    assert crossing(of({0: 1, 100: 1.1, 200: math.inf}), 10).span == (100, 200)


def test_a_perplexity_that_is_no_number_any_more_is_beyond_every_line():
    """A checkpoint at which it was left out has no row at all."""
    broken = crossing(of({0: 1, 500: 1.5, 600: math.nan, 700: math.nan}), 2)
    assert (broken.span, broken.value) == ((500, 600), math.inf)
    assert crossing(of({0: 40, 500: 35, 600: math.nan}), 20, falls=True).span == (500, math.inf)


def test_intervals_widen_the_span_and_may_leave_it_open():
    values = {0: 40, 100: 30, 200: 19, 300: 15, 400: 10}
    ends = {0: (36, 44), 100: (19, 41), 200: (9, 29), 300: (8, 19), 400: (5, 15)}
    # After 100 edits the interval holds the line already; after 200 it still does.
    assert crossing(of(values, ends), 20, falls=True).span == (0, 300)
    unsure = crossing(of({0: 40, 100: 19}, {100: (9, 29)}), 20, falls=True)
    assert not unsure.crosses and "not significant" in span_words(unsure)


def test_nothing_measured_after_an_edit_is_no_crossing():
    assert crossing(of({}), 2) is None is crossing(of({0: 1}), 2) and span_words(None) == "not measured"


def test_one_outlasts_another_where_their_spans_are_apart():
    early, late, overlapping = Crossing(300, 100, 200, 3), Crossing(300, 200, 300, 3), Crossing(300, 150, 250, 3)
    assert late.outlasts(early) and not early.outlasts(late)
    assert not overlapping.outlasts(early) and not late.outlasts(overlapping)


# -- Compare: which method survives? -----------------------------------------------------------------------------------

GOOD = {0: 1, 500: 1.05, 1000: 1.17}
BAD = {0: 1, 500: 1.6, 1000: 3.0}


def test_the_one_that_survives_is_named_with_where_the_other_breaks():
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 1000)]
    said = survivors(runs, health_of({"MEMIT": BAD, "ENCORE": GOOD}))
    assert said.outcome == "some survive"
    assert said.text.startswith(
        "ENCORE survives 1,000 edits; perplexity passes twice its starting value between 500 and 1,000 edits with MEMIT"
    )
    assert "× 1.17 with ENCORE and × 3.00 with MEMIT" in said.text
    # Nothing in it is written for these names.
    turned = survivors(runs, health_of({"MEMIT": GOOD, "ENCORE": BAD}))
    assert turned.text.startswith("MEMIT survives 1,000 edits") and "without loss in its downstream" in turned.aside


def test_where_all_break_the_one_that_lasts_longest_is_named_only_if_the_spans_are_apart():
    runs = [run_like("MEMIT", 3000), run_like("ENCORE", 3000)]
    early, late = {0: 1, 1000: 2.5, 3000: 9}, {0: 1, 1000: 1.2, 3000: 2.2}
    said = survivors(runs, health_of({"MEMIT": early, "ENCORE": late}))
    assert said.outcome == "one lasts longest"
    assert said.text.startswith("Neither MEMIT nor ENCORE survives, but ENCORE lasts longer: ")
    same = survivors(runs, health_of({"MEMIT": late, "ENCORE": late}))
    assert same.outcome == "none survives" and "it is unclear which lasts longest" in same.text


def test_where_none_breaks_that_is_said_with_the_figures():
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 1000)]
    said = survivors(runs, health_of({"MEMIT": GOOD, "ENCORE": GOOD}))
    assert said.outcome == "all survive" and said.text.startswith("Both MEMIT and ENCORE survive the 1,000")
    assert survivors(runs[:1], health_of({"MEMIT": GOOD})).text.startswith("MEMIT survives its 1,000 edits")


@pytest.mark.parametrize(("ratios", "tasks", "words"), [
    (GOOD, {0: 40, 1000: 38}, "does not reach a threshold (perplexity × 2, or tasks halved)"),
    (GOOD, None, "does not reach the threshold (perplexity × 2; no tasks were run)"),
    (None, {0: 40, 1000: 38}, "does not reach the threshold (tasks halved; perplexity was not measured)"),
])  # fmt: skip
def test_only_lines_that_were_measured_are_said_not_to_be_reached(ratios, tasks, words):
    health = health_of({"MEMIT": ratios} if ratios else {}, {"MEMIT": tasks} if tasks else None)
    assert words in survivors([run_like("MEMIT", 1000)], health).text


def test_lines_that_not_every_run_was_measured_by_are_told():
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 1000)]
    health = health_of({"MEMIT": GOOD, "ENCORE": GOOD}, {"MEMIT": {0: 40, 1000: 38}})
    assert "none reaches a threshold (perplexity × 2, or tasks halved; not both were" in survivors(runs, health).text


def test_without_recorded_answers_the_number_of_tests_widens_the_span():
    """120 tests: the mean of 100 is off by up to 8.9 points."""
    plan = {"measure": {"downstream_tests": 20}}
    run = run_like("MEMIT", 5000, plan_json=plan)
    means = {0: 35.8, 1000: 30.3, 2000: 18.3, 3000: 12.3, 5000: 1.4}
    health = health_of({}, {"MEMIT": means})
    tasks = [("MEMIT", at, f"task{n}", 1.0, None, None, None) for n in range(6) for at in means]
    frame = pd.concat([health, pd.DataFrame(tasks, columns=COLUMNS)], ignore_index=True)
    [found] = courses([run], ["MEMIT"], frame, LINES)
    assert found.tasks.span == (1000, 5000)


def test_tasks_that_are_perhaps_halved_are_not_said_to_stand():
    said = survivors(
        [run_like("MEMIT", 1000)],
        health_of({"MEMIT": {0: 1, 500: 1.5, 1000: 3}}, {"MEMIT": {0: (43, 40, 46), 1000: (20, 15, 25)}}),
    )
    assert "With MEMIT the tasks are perhaps halved (not significant)." in said.text and "not halved" not in said.text


def test_too_few_edits_are_too_few():
    runs = [run_like("MEMIT", 40), run_like("ENCORE", 40)]
    said = survivors(runs, health_of({"MEMIT": {0: 1, 40: 1.004}, "ENCORE": {0: 1, 40: 1.001}}))
    assert said.outcome == "too few edits" and said.text.startswith("Too few edits to tell: after 40")


def test_a_short_run_is_not_said_to_outlast_a_long_one():
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 5000)]
    said = survivors(runs, health_of({"MEMIT": GOOD, "ENCORE": {0: 1, 2000: 1.5, 5000: 4}}))
    assert said.outcome == "cannot be told" and "whether MEMIT lasts longer cannot be known without more" in said.text


def test_without_perplexity_and_tasks_nothing_is_told():
    runs = [run_like("MEMIT", 1000)]
    assert survivors(runs, health_of({})).outcome == "not measured"
    assert survivors(runs, health_of({"MEMIT": {0: 1}})).outcome == "not measured"


def test_tasks_count_too_and_chance_does_not():
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 1000)]
    fell = {0: (40, 36, 44), 1000: (5, 2, 8)}
    perhaps = {0: (40, 36, 44), 1000: (19, 12, 26)}
    stood = {0: (40, 36, 44), 1000: (38, 34, 42)}
    good = {"MEMIT": GOOD, "ENCORE": GOOD}
    said = survivors(runs, health_of(good, {"MEMIT": fell, "ENCORE": stood}))
    assert said.outcome == "some survive"
    assert "ENCORE survives 1,000 edits; tasks fall below half their starting score between 0 and 1,000" in said.text
    said = survivors(runs, health_of(good, {"MEMIT": fell, "ENCORE": perhaps}))
    assert (
        said.outcome == "cannot be told" and "whether ENCORE lasts longer is uncertain at the 95 % level" in said.text
    )
    said = survivors(runs, health_of(good, {"MEMIT": stood, "ENCORE": perhaps}))
    assert said.outcome == "cannot be told" and said.text.startswith(
        "These runs cannot answer that for their 1,000 edits."
    )
    assert said.text.endswith("With ENCORE a threshold may have been crossed by 1,000 edits (not significant).")


def test_a_run_that_may_have_crossed_a_line_survives_up_to_there_alone():
    tasks = {0: (40, 36, 44), 500: (38, 34, 42), 1000: (19, 12, 26)}
    said = survivors([run_like("ENCORE", 1000)], health_of({"ENCORE": GOOD}, {"ENCORE": tasks}))
    assert said.outcome == "all survive" and said.text.startswith("ENCORE survives 500 edits: it does not reach")
    assert "With ENCORE a threshold may have been crossed by 1,000 edits (not significant)." in said.text
    fallen = {"MEMIT": {0: 1, 500: 3, 1000: 9}, "ENCORE": GOOD}
    beside = survivors([run_like("MEMIT", 1000), run_like("ENCORE", 1000)], health_of(fallen, {"ENCORE": tasks}))
    assert beside.text.startswith("ENCORE survives 500 edits; perplexity passes twice its starting value between 0 ")


def test_a_run_that_was_beyond_a_line_and_came_back_is_not_said_never_to_have_reached_it():
    back = health_of({"ENCORE": GOOD}, {"ENCORE": {0: 40, 500: 15, 1000: 30}})
    said = survivors([run_like("ENCORE", 1000)], back).text
    assert "at the end it is not beyond a threshold (perplexity × 2, or tasks halved), though it had been." in said
    both = health_of({"MEMIT": {0: 1, 500: 3, 1000: 9}, "ENCORE": GOOD}, {"ENCORE": {0: 40, 500: 15, 1000: 30}})
    said = survivors([run_like("MEMIT", 1000), run_like("ENCORE", 1000)], both).text
    assert "ENCORE had been beyond a threshold, and came back." in said and "not halved" not in said


def test_a_line_that_is_looked_at_less_often_may_have_been_crossed_first():
    """Tasks asked only at the end leave open when they fell, so that run cannot be said to last longer."""
    runs = [run_like("MEMIT", 2000), run_like("ENCORE", 2000)]
    early, late = {0: 1, 500: 2.5, 2000: 9}, {0: 1, 500: 1.2, 1000: 1.5, 2000: 2.2}
    asked_late = {0: 40, 2000: 5}
    said = survivors(runs, health_of({"MEMIT": early, "ENCORE": late}, {"ENCORE": asked_late}))
    assert said.outcome == "none survives" and "unclear which lasts longest" in said.text
    assert "between 1,000 and 2,000 edits with ENCORE and between 0 and 500 with MEMIT" in said.text
    assert "The tasks fall below half their starting score between 0 and 2,000 edits with ENCORE." in said.text


@pytest.mark.parametrize(("status", "said"), [
    ("interrupted", "MEMIT was stopped after 1,000 of 5,000 edits. "), ("failed", "MEMIT failed after 1,000 of 5,000"),
    ("cancelled", "MEMIT was stopped after"), ("running", "The paper's results"),
])  # fmt: skip
def test_a_run_that_was_stopped_is_told_from_one_that_failed_and_one_that_goes_on(status, said):
    runs = [run_like("MEMIT", 1000, 5000, status=status), run_like("ENCORE", 1000, 5000, status="running")]
    aside = survivors(runs, health_of({"MEMIT": GOOD, "ENCORE": GOOD})).aside
    assert aside.startswith(said) and "ENCORE was" not in aside


def test_the_reader_sets_the_line():
    runs = [run_like("MEMIT", 1000)]
    frame = health_of({"MEMIT": BAD})
    strict, loose = Lines(perplexity=1.5), Lines(perplexity=5)
    said = [survival.answer(courses(runs, ["MEMIT"], frame, one), one).text for one in (strict, loose)]
    assert (
        "perplexity passes 1.5 times its starting value between 0 and 500" in said[0]
        and "MEMIT survives its 1,000" in said[1]
    )


# -- Start -------------------------------------------------------------------------------------------------------------


def norms_of(growth: dict[str, float], at: int = 1000) -> pd.DataFrame:
    rows = [(run, edits, layer, 1 + (ratio - 1) * (edits > 0) * (layer == 7))
            for run, ratio in growth.items() for edits in (0, at) for layer in (6, 7)]  # fmt: skip
    return pd.DataFrame(rows, columns=["run", "edits", "layer", "ratio"])


@pytest.mark.parametrize(("memit", "encore", "first"), [
    (BAD, GOOD, "With some methods it breaks. ENCORE survives"),
    (BAD, BAD, "It breaks. Neither"), (GOOD, GOOD, "It holds, so far. Both"),
])  # fmt: skip
def test_start_says_what_these_runs_show(memit, encore, first):
    runs = [run_like("MEMIT", 1000), run_like("ENCORE", 1000)]
    said = start_content.answer(norms_of({"MEMIT": 2.1, "ENCORE": 1.2}), health_of({"MEMIT": memit, "ENCORE": encore}),
                                runs, ["MEMIT", "ENCORE"])  # fmt: skip
    assert said.text.startswith(first) and "× 1.20 with ENCORE and × 2.10 with MEMIT" in said.text


def test_start_says_nothing_before_the_first_edit():
    runs = [run_like("MEMIT", 0)]
    assert start_content.answer(norms_of({"MEMIT": 1.0}, at=0), health_of({}), runs, ["MEMIT"]) is None


def test_start_draws_the_tasks_from_zero_as_far_as_they_go():
    health = health_of({"MEMIT": GOOD}, {"MEMIT": {0: (36.0, 33.0, 40.0), 1000: 12.0}})
    line = Line("MEMIT", "MEMIT", "MEMIT", (1,))
    layout = run_charts.scores(health, [line], start_content.panels(health), LIGHT, fitted=True).layouts[0]
    assert layout["yaxis2"]["range"] == pytest.approx([-1.6, 42.4])
    whole = run_charts.scores(health, [line], start_content.panels(health), LIGHT).layouts[0]
    assert whole["yaxis2"]["range"] == [-4, 104]


def test_a_checkpoint_that_was_not_measured_is_named_with_the_reason():
    rows = [("a", 4000, '{"entropy": "cost", "downstream": "cost"}'), ("a", 2000, '{"downstream": "cost"}'),
            ("b", 1000, '{"perplexity": "No text."}'), ("b", 2000, "{}")]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["run", "edits", "left_out"])
    names = {"a": "MEMIT", "b": "ENCORE"}
    assert run_words.gaps(frame, names, run_words.HEALTH_PARTS) == (
        "With ENCORE, perplexity was not measured after 1,000 edits: No text. With MEMIT, the tasks were not measured "
        "after 2,000 and 4,000 edits: measuring would have exceeded its share of the run's time."
    )
    many = pd.DataFrame([("a", at, '{"scores": "cost"}') for at in range(100, 600, 100)], columns=frame.columns)
    assert "With MEMIT, the scores were not measured at 5 checkpoints: " in run_words.gaps(many, names, run_words.PARTS)
    assert run_words.gaps(many, names, run_words.HEALTH_PARTS) == ""


# -- Norm growth: where does it land? ----------------------------------------------------------------------------------

LINE = Line("a", "MEMIT", "MEMIT", (1, 2))


@pytest.mark.parametrize(("ratios", "at", "outcome"), [
    ({1: 1.1, 2: 1.4}, 1000, "edited layers"), ({1: 1.1, 2: 1.4, 5: 1.2}, 1000, "elsewhere, too"),
    ({2: 1.004}, 40, "too few edits"), ({2: 1.004}, 1000, "hardly anywhere"), ({}, 0, "nothing edited"),
])  # fmt: skip
def test_where_growth_lands(ratios, at, outcome):
    rows = [("a", edits, layer, ratios.get(layer, 1.0) if edits else 1.0) for edits in {0, at} for layer in range(8)]
    said = landing.answer(pd.DataFrame(rows, columns=["run", "edits", "layer", "ratio"]), [LINE], at)
    assert said.outcome == outcome
    assert said.text.startswith("Layer 2, the last one edited, grows most") == (outcome == "edited layers")


def test_a_lower_edited_layer_that_grows_most_is_not_called_the_last():
    rows = [("a", edits, layer, 1 + 0.5 * (layer == 1) * (edits > 0)) for edits in (0, 600) for layer in range(8)]
    said = landing.answer(pd.DataFrame(rows, columns=["run", "edits", "layer", "ratio"]), [LINE], 600)
    assert said.text.startswith("Layer 1 grows most, to × 1.50 with MEMIT after 600 edits. The layers")


# -- Contributions: do the edited layers dominate? ---------------------------------------------------------------------


def standing(name: str, after: float, before: float = 0.047, at: int = 5000, top: float = 0.15) -> findings.Standing:
    """61 sublayers; the MLPs of layers 6 and 7 share what the edited ones have, and the last MLP has the most."""
    line = Line(name, name, name, (6, 7))
    rows = []
    for edits, share in ((0, before), (at, after)):
        for place, (label, layer, kind) in enumerate(sublayer_names(30)):
            edited = kind == "MLP" and layer in line.layers
            value = share / 2 if edited else top if layer == 29 and kind == "MLP" else (1 - share - top) / 58
            rows.append((name, edits, place, label, kind, layer, value))
    columns = ["run", "edits", "sublayer", "label", "kind", "layer", "share"]
    frame = pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})
    return findings.standing(frame, Pair(line, 0, at), "share")


def test_a_share_that_is_still_below_an_even_one_is_not_called_dominant():
    said = dominance.answer([standing("MEMIT", 0.055), standing("ENCORE", 0.048)], ["smollm2-135m"] * 2)
    assert said.outcome == "no" and said.text.startswith("No, not on this model: as loaded the edited MLPs")
    assert "write 4.7 % of the stream; after 5,000 edits, 5.5 % with MEMIT and 4.8 % with ENCORE. " in said.text
    assert "An even share for 2 of 61 sublayers is 3.3 %; the largest edited one, MLP 6 with MEMIT, ranks" in said.text
    assert "outvote the rest, which it calls importance hacking" in said.aside and "may explain why" not in said.aside


@pytest.mark.parametrize(("after", "outcome"), [(0.4, "yes"), (0.6, "yes"), (0.048, "no growth"), (0.02, "no growth")])
def test_dominance_is_told_from_the_figures(after, outcome):
    said = dominance.answer([standing("MEMIT", after)])
    assert said.outcome == outcome and said.text.startswith("Yes, with MEMIT" if outcome == "yes" else "No, and")
    assert bool(said.aside) == (outcome != "yes")


def test_few_edits_no_edits_and_broken_states():
    assert dominance.answer([standing("MEMIT", 0.05, at=40)]).text.startswith("Too few edits to tell")
    assert dominance.answer([standing("MEMIT", 0.4, at=40)]).outcome == "yes"
    assert dominance.answer([standing("MEMIT", math.nan)]).outcome == "broken"
    both = dominance.answer([standing("MEMIT", math.nan), standing("ENCORE", 0.05)])
    assert both.outcome == "no growth" and "With MEMIT the model's states are no longer finite numbers" in both.text


# -- Downstream: what did the model lose? ------------------------------------------------------------------------------


def asked(f1: dict[str, tuple[float, float]], *, at: int = 1000, n: int = 20, odd: dict[str, int] | None = None,
          right: float = 80.0) -> tuple[pd.DataFrame, list[Line]]:  # fmt: skip
    """The series of runs whose tasks all have these scores before and after."""
    rows = []
    for run, scores in f1.items():
        for edits, value in zip((0, at), scores, strict=True):
            for task in charts.TASKS:
                unparsable = (odd or {}).get(run, 0) if edits else 0
                found = {"f1": value, "n": n, "accuracy": right, "unparsable": unparsable}
                rows += [(run, edits, task, metric, value, None, None, None) for metric, value in found.items()]
    columns = ["run", "edits", "task", "metric", "value", "n", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns).astype({"n": float, "low": float, "high": float})
    return frame, [Line(run, run, run, (1,)) for run in f1]


def loss_of(f1, gaps=None, **values):
    raw, lines = asked(f1, **values)
    frame = charts.in_panels(raw, health_of({}).iloc[:0], "f1")
    return lost.answer(lost.losses(frame, raw, lines, gaps or {}), frame, lines, raw)


def test_a_loss_is_told_run_by_run():
    said = loss_of({"MEMIT": (70.0, 2.0), "ENCORE": (70.0, 69.0)}, odd={"MEMIT": 19})
    assert said.outcome == "some lost"
    assert "nearly all of its mean F1 with MEMIT and nothing significant with ENCORE" in said.text
    assert (
        "2.0 with MEMIT (−68.0) and 69.0 with ENCORE (−1.0)" in said.text
        and "114 of 120 answers are none of the allowed options with MEMIT; before editing, none were" in said.text
    )


def test_within_chance_nothing_is_lost_and_few_edits_are_too_few():
    assert loss_of({"MEMIT": (70.0, 63.0)}).text.startswith("In the tasks, nothing significant.")
    assert loss_of({"MEMIT": (70.0, 63.0)}, at=40).outcome == "too few edits"
    assert loss_of({"MEMIT": (70.0, 2.0)}, at=40).outcome == "lost"


def test_recorded_answers_make_the_interval():
    gaps = {(task, "MEMIT"): (1000, Interval(-7.0, -12.0, -2.0, 100)) for task in charts.TASKS}
    said = loss_of({"MEMIT": (70.0, 63.0)}, gaps, n=100)
    # The mean of six differences, each ± 5, is known to ± 5 / √6.
    assert said.outcome == "lost" and "(−7.0, 95 %: −9.0 to −5.0)" in said.text
    few = {key: (1000, Interval(-7.0, -7.0, -7.0, 2)) for key in gaps}
    assert "−7.0 to −7.0" not in loss_of({"MEMIT": (60.0, 53.0)}, few).text, "two tests that agree are no certainty"
    zero = {key: (1000, Interval(-7.0, -30.0, 16.0, 100)) for key in gaps}
    assert loss_of({"MEMIT": (70.0, 63.0)}, zero, n=100).outcome == "nothing lost"


def test_a_model_that_stops_answering_has_lost_something_whatever_its_mean():
    assert loss_of({"ENCORE": (36.0, 30.0)}, odd={"ENCORE": 7}).outcome == "lost"


def test_without_tasks_that_is_said_with_the_perplexity():
    raw, lines = asked({})
    frame = charts.in_panels(raw, health_of({"MEMIT": {0: 1, 40: 1.01}}), "f1")
    said = lost.answer([], frame, [Line("MEMIT", "MEMIT", "MEMIT", (1,))], raw)
    assert said.outcome == "no tasks" and said.text.endswith("Perplexity after 40 edits: × 1.01 with MEMIT.")
    assert not lines


def test_a_model_that_guesses_is_said_to():
    chance = sum(lost.GUESSED.values()) / len(lost.GUESSED)
    assert "guessing gives 46 %" in lost.guesses(asked({"MEMIT": (36.0, 36.0)}, right=chance + 2)[0])
    assert lost.guesses(asked({"MEMIT": (70.0, 70.0)}, right=80.0)[0]) == ""


def test_guessing_is_right_as_often_as_there_are_options(tmp_path):
    import tiny_runs

    for name, task in load_tasks(tiny_runs.small_tasks(tmp_path)).items():
        assert lost.GUESSED[name] == 100 / len(task.options)


def test_the_mean_of_the_tasks_has_an_interval_where_all_of_them_have():
    raw, _ = asked({"MEMIT": (60.0, 50.0)})
    raw.loc[raw["metric"] == "f1", "low"] = raw["value"] - 6
    raw.loc[raw["metric"] == "f1", "high"] = raw["value"] + 12
    [before, _] = charts.in_panels(raw, health_of({}).iloc[:0], "f1").query("metric == 'mean'").itertuples()
    assert before.low == pytest.approx(60 - 6 / math.sqrt(6)) and before.high == pytest.approx(60 + 12 / math.sqrt(6))
    raw.loc[raw.index[0], "low"] = math.nan
    assert charts.in_panels(raw, health_of({}).iloc[:0], "f1").query("metric == 'mean'")["low"].isna().iloc[0]


# -- Overfitting: why stop early? --------------------------------------------------------------------------------------


def targets(without: list[float], stopped: list[float]) -> pd.DataFrame:
    rows = [("w", fact, p, 18) for fact, p in enumerate(without)] + [
        ("s", fact, p, 7) for fact, p in enumerate(stopped)
    ]
    return pd.DataFrame(rows, columns=["run", "fact", "probability", "steps"])


def test_stopping_early_is_answered_from_the_facts_of_both():
    arms = {"without": "w", "stopped": "s"}
    sure, unsure = [0.95, 0.97, 0.99, 0.96, 0.98, 0.94] * 3, [0.6, 0.7, 0.8, 0.75, 0.65, 0.72] * 3
    known = [0.4, 0.5, 0.6] * 30
    said = stopping.answer(targets(sure, unsure), arms, known)
    assert (
        said.outcome == "overfits"
        and "stopping (MPES), 0.70 with it. The difference is +0.26 (95 %" in said.text
        and "n 18); a fact takes" in said.text
    )
    assert (
        "so it is surer of edited ones with and without MPES" in said.text
        and "0.77 without MPES and 0.41 with it" in said.aside
    )
    above = stopping.answer(targets(sure, unsure), arms, [0.8, 0.85, 0.9] * 30).text
    assert above.endswith("so it is surer of edited ones without MPES; with it, not significantly.")
    near = stopping.answer(targets(sure, unsure), arms, [0.5, 0.95, 0.99, 1.0, 1.0, 0.99]).text
    assert near.endswith("that it is surer of edited ones is not significant, with or without MPES.")
    assert stopping.answer(targets(unsure, sure), arms).outcome == "the other way"
    mixed = stopping.answer(targets([0.2, 0.9, 0.4, 0.8, 0.5, 0.7], [0.9, 0.3, 0.5, 0.6, 0.8, 0.4]), arms, known)
    assert mixed.outcome == "no difference"
    rows = targets(sure, unsure)
    for steps, why in ((15, "goes on after the answer"), (18, "though not by more steps")):
        told = stopping.answer(rows.assign(steps=rows["steps"].where(rows["run"] == "w", steps)), arms).text
        assert why in told and "long after" not in told
    assert stopping.answer(targets(sure[:3], unsure[:3]), arms, known).outcome == "too few facts"
    assert stopping.answer(targets(sure, []), {"without": "w"}, known).outcome == "one run alone"


@pytest.mark.parametrize(("text", "parts"), [
    ("No: 4.5 % of it. More of it. And more.", ("No:", " 4.5 % of it.", "More of it. And more.")),
    ("It breaks. At × 1.5: badly. Yes.", ("It breaks.", " At × 1.5: badly.", "Yes.")),
    ("Too few edits to tell: 40", ("Too few edits to tell:", " 40", "")),
    ("Nothing", ("Nothing", "", "")),
    ("", ("", "", "")),
])  # fmt: skip
def test_an_answers_first_sentence_is_told_apart(text, parts):
    assert Answer("any", text).parts == parts


# -- what else an answer says ------------------------------------------------------------------------------------------


def test_how_much_of_the_edits_is_left():
    runs = [run_like("MEMIT", 5000), run_like("ENCORE", 5000)]
    rows = [("MEMIT", 1000, "accuracy", 80.0, 50), ("MEMIT", 5000, "accuracy", 14.0, 50),
            ("ENCORE", 5000, "accuracy", 12.0, 50), ("ENCORE", 5000, "edit_score", 82.0, 50)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["run", "edits", "metric", "value", "n"])
    said = survival.retained(frame, runs, ["MEMIT", "ENCORE"])
    assert said == (
        "In a sample of 50 of the 5,000 facts edited by then, the new answer is the most probable of all for 14 % with "
        "MEMIT and 12 % with ENCORE."
    )
    every = survival.retained(frame.assign(n=5000), runs, ["MEMIT", "ENCORE"])
    assert every.startswith("Of the 5,000 facts edited by then, the new answer")
    unequal = frame.assign(n=[50, 50, 40, 50])
    assert survival.retained(unequal, runs, ["MEMIT", "ENCORE"]).startswith("Of the facts edited by then, ")
    sure = frame.assign(low=5.0, high=25.4)
    assert "14 % (95 %: 5 to 25) with MEMIT and 12 % (5 to 25) with ENCORE" in survival.retained(
        sure, runs, ["MEMIT", "ENCORE"]
    )
    both = [(run, 5000, metric, value, 50) for run in ("MEMIT", "ENCORE") for metric, value in
            (("edit_score", 70.0), ("magnitude", 0.5))]  # fmt: skip
    more = pd.concat([frame[frame["metric"] == "accuracy"], pd.DataFrame(both, columns=frame.columns)])
    told = survival.retained(more, runs, ["MEMIT", "ENCORE"])
    assert (
        "is ahead of the true one for 70 % with MEMIT and 70 % with ENCORE, and the most probable of all for 14" in told
    )
    no_true = survival.retained(more[more["metric"] != "magnitude"], runs, ["MEMIT", "ENCORE"])
    assert "ahead of the true one" not in no_true and "most probable of all for 14 %" in no_true
    assert survival.retained(frame[frame["run"] == "MEMIT"], runs, ["MEMIT", "ENCORE"]) == ""
    frame.loc[1, "edits"] = 4000
    assert survival.retained(frame, runs, ["MEMIT", "ENCORE"]) == ""


def test_a_run_that_went_further_is_told():
    shown, longer = run_like("ENCORE", 5000), run_like("further", 10000, method="ENCORE")
    health = health_of({"further": {5000: 4.5, 10000: 32.0}})
    said = survival.further(survival.furthest([shown], [shown, longer]), health)
    assert said == "Another recorded run of ENCORE went on to 10,000 edits: perplexity × 32.0."
    assert survival.furthest([longer], [shown, longer]) == []
    assert survival.furthest([shown, longer], [shown, longer]) == []  # it is on the page already
    assert survival.furthest([shown], [shown, run_like("other", 9000)]) == []


def fates_of(*values: tuple[str, float, float]) -> str:
    runs = [run_like(name, 1000) for name, *_ in values]
    rows = [(name, 1000, metric, value) for name, growth, ratio in values
            for metric, value in (("norm_ratio", growth), ("perplexity_ratio", ratio))]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["run", "edits", "metric", "value"])
    return order.answer(*order.fates([*runs, run_like("lone", 50)], frame))


def test_growth_orders_the_damage_or_does_not():
    said = fates_of(("AlphaEdit", 1.58, 1.44), ("MEMIT", 1.41, 1.78), ("EMMET", 1.39, 2.13), ("ENCORE", 1.15, 1.17))
    assert said.startswith(
        "Growth alone does not tell which model loses most: after 1,000 edits of m, the norm grows most with AlphaEdit "
        "(× 1.58; perplexity × 1.44), but perplexity rises most with EMMET (× 2.13; norm × 1.39). "
    )
    # Fisher's z of 0.2 is 0.2027, and its standard error with 4 pairs √1.02.
    assert said.endswith("over 4 methods is 0.20 (95 %: −0.94 to 0.97): 4 methods are too few to tell an order.")
    said = fates_of(("AlphaEdit", 1.1, 1.1), ("MEMIT", 1.4, 1.8), ("EMMET", 1.3, 1.7), ("ENCORE", 1.05, 1.01))
    assert (
        said == "The more a model grows, the more it loses: after 1,000 edits of m, the norm grows most with MEMIT "
        "(× 1.40), and so does perplexity (× 1.80). The rank correlation of growth and perplexity over 4 methods is "
        "1.00."
    )
    many = [(f"m{n}", 1 + n / 20, 1 + n / 10) for n in range(1, 12)]
    assert fates_of(*many).startswith("The more a model grows, the more it loses: ")
    # Nearly in order, but for which loses most.
    said = fates_of(*many, ("other", 1.53, 3.0))
    assert said.startswith("Models that grow more tend to lose more, but growth alone does not tell which model loses")
    assert fates_of(("MEMIT", 1.4, 1.8), ("ENCORE", 1.1, 1.1)) == ""
    assert fates_of(*((name, 1.0, 1.0) for name in "abcd")) == ""
    runs = [run_like("a", 1000), run_like("b", 1000), run_like("c", 1000, facts_digest="other facts")]
    rows = [(name, 1000, metric, 1.5) for name in "abc" for metric in ("norm_ratio", "perplexity_ratio")]
    edits, _, found = order.fates(runs, pd.DataFrame(rows, columns=["run", "edits", "metric", "value"]))
    assert edits == 1000 and [fate.method for fate in found] == ["a", "b"]  # other facts are not mixed in
    against = fates_of(("a", 1.4, 1.1), ("b", 1.3, 1.2), ("c", 1.2, 1.3), ("d", 1.1, 1.4))
    assert against.endswith("over 4 methods is −1.00.")


def test_models_that_stop_answering_come_before_their_mean():
    runs = [lost.Loss("MEMIT", "MEMIT", 5000, 36.0, 1.0, -47.0, -22.0, 120, True, (0, 118)),
            lost.Loss("ENCORE", "ENCORE", 5000, 36.0, 26.0, -23.0, 3.0, 120, True, (0, 39))]  # fmt: skip
    raw = pd.DataFrame(columns=["run", "edits", "task", "metric"])
    said = lost.answer(runs, health_of({}), [], raw).text
    assert said.startswith(
        "With MEMIT the model stops answering: after 5,000 edits, 118 of 120 answers are none of the allowed options "
        "with MEMIT and 39 with ENCORE; before editing, none were. The model loses nearly all of its mean F1 with "
        "MEMIT and nothing significant with ENCORE."
    )
    said = lost.answer(runs[1:], health_of({}), [], raw).text
    assert said.startswith(
        "The model answers less often: after 5,000 edits, 39 of 120 answers are none of the allowed options with "
        "ENCORE; before editing, none were."
    )
    assert "Its mean F1 does not fall significantly." in said
    further = dataclasses.replace(runs[0], name="further", edits=9000, no_option=(2, 119))
    said = lost.answer([further, runs[1]], health_of({}), [], raw).text
    assert (
        "119 of 120 answers are none of the allowed options with further after 9,000 edits (2 before) and 39 of 120 "
        "with ENCORE after 5,000 edits (0 before)." in said
    )


def test_why_a_loss_differs_from_the_papers_is_guessed_only_where_it_does():
    memit = lost.Loss("MEMIT", "MEMIT", 5000, 36.0, 1.0, -47.0, -22.0, 120, True, (0, 118))
    encore = lost.Loss("ENCORE", "ENCORE", 5000, 36.0, 26.0, -23.0, 3.0, 120, True, (0, 39))
    frame, raw = health_of({}), pd.DataFrame(columns=["run", "edits", "task", "metric"])
    within = lost.answer([memit, encore], frame, [], raw, ["smollm2-135m"]).aside
    assert within.startswith("The paper's ENCORE keeps its scores in the tasks") and "explain" not in within
    beyond = lost.answer([dataclasses.replace(encore, high=-1.0)], frame, [], raw, ["smollm2-135m"]).aside
    assert beyond.endswith("That may explain why ENCORE loses skill in them here and not in the paper.")
    ours = dataclasses.replace(encore, name="ENCORE-N", method="ENCORE-N", high=-1.0)
    assert "explain" not in lost.answer([memit, ours], frame, [], raw, ["smollm2-135m"]).aside


def test_that_the_unedited_model_guesses_comes_before_what_was_lost():
    raw, lines = asked({"MEMIT": (36.0, 2.0)}, odd={"MEMIT": 19}, right=47.0)
    frame = charts.in_panels(raw, health_of({}).iloc[:0], "f1")
    said = lost.answer(lost.losses(frame, raw, lines, {}), frame, lines, raw)
    assert said.parts[2].startswith("As loaded, this model gives 47 % right answers") and not said.aside.count("guess")


# -- Paper: does it match? ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alike", "n", "outcome"), [
    (5, 5, "yes"), (8, 10, "mostly"), (6, 10, "in part"), (5, 10, "no"), (0, 0, "cannot be told"),
])  # fmt: skip
def test_a_match_is_told_from_what_is_beyond_chance(alike, n, outcome):
    about = {"table": 4, "models": ["small", "small"], "about_mpes": False}
    said = published.answer([("M", 12, 20)], [("M", alike, n)] if n else [], 1000, **about)
    assert said.outcome == outcome and "20" in said.text
    assert said.text.endswith(" The paper's table 4 is of M, these runs are of small.")
    chance = "so it may be chance that 12 come out as in the paper and 8 the other way round."
    assert (chance in said.text) == (outcome == "cannot be told")
    few = published.answer([("M", 12, 20)], [("M", alike, n)] if n else [], 40, **about)
    assert few.outcome == "too few edits" and few.text.startswith("Too few edits to tell: 40 here")


def test_nothing_compared_is_nothing_said():
    assert published.answer([], [], 1000, table=1, models=[], about_mpes=True) is None


def test_differences_within_chance_are_not_compared():
    columns = ["run", "row", "quantity", "value", "edits", "n", "low", "high"]
    here = pd.DataFrame([
        ("a", "A", "edit_score", 90.0, 100, 50, 85.0, 95.0), ("b", "B", "edit_score", 50.0, 100, 50, 40.0, 60.0),
        ("c", "C", "edit_score", 86.0, 100, 50, 80.0, 92.0),
        ("a", "A", "neighborhood_score", 60.0, 100, None, None, None),
        ("b", "B", "neighborhood_score", 52.0, 100, None, None, None),
        ("c", "C", "neighborhood_score", 5.0, 100, None, None, None),
        ("a", "A", "generation_entropy", 600.0, 100, None, None, None),
        ("b", "B", "generation_entropy", 1.0, 100, None, None, None),
    ], columns=columns).astype({"n": float, "low": float, "high": float})  # fmt: skip
    sure = paper_tables.beyond_chance(4, here, {"a": 50, "b": 50, "c": 50})
    score, near, entropy = "edit_score", "neighborhood_score", "generation_entropy"
    assert sure(("A", score), ("B", score)) and sure(("B", score), ("A", score))
    assert not sure(("A", score), ("C", score)) and not sure(("A", near), ("B", near))
    assert sure(("A", near), ("C", near)) and not sure(("A", entropy), ("B", entropy))
    assert paper_tables.beyond_chance(1, here, {})(("A", score), ("C", score))


def test_rows_of_ours_are_not_taken_for_the_papers():
    for method in ("ENCORE-N", "ENCORE+NAS"):
        assert not published.survival("all fall", [method], ["smollm2-135m"])
        assert published.lost("lost", [method], [], ["smollm2-135m"]).startswith("The paper's ENCORE keeps")
    assert published.survival("all fall", ["ENCORE-N", "ENCORE"], ["smollm2-135m"]).startswith("The paper reports")


# -- Compare: which run is ahead in the tasks, and the small multiples -------------------------------------------------

TASKS = next(measure for measure in MEASURES if measure.name == charts.MEAN)


@pytest.mark.parametrize(("others", "best", "words"), [
    ((50, 46, 54), 0, "A − B: +20.0 (at least +14.3)"), ((66, 62, 70), None, "not significant"),
    ((50, None, None), None, "undecided: recorded without the answers"),
])  # fmt: skip
def test_a_run_is_best_in_the_tasks_only_beyond_both_intervals(others, best, words):
    found = [Score(70.0, 100, 600, 66.0, 74.0), Score(others[0], 100, 600, *others[1:])]
    said = verdicts.of_means(TASKS, ["A", "B"], found)
    assert said.best == best and words in said.words
    assert verdicts.of_means(TASKS, ["A", "B"], [found[0], None]) == verdicts.Verdict()


EDITS = next(measure for measure in MEASURES if measure.name == "edit_score")


def test_the_least_certain_lead_is_the_one_that_is_told():
    runs = [Score(value, 100, 50, value - 5, value + 5) for value in (90.0, 80.0, 70.0)]
    narrow, wide = Interval(10.0, 4.0, 16.0, 50), Interval(20.0, -2.0, 42.0, 50)
    found = {("edit_score", "a", "b"): narrow, ("edit_score", "a", "c"): wide}
    said = verdicts.of_scores(EDITS, ["a", "b", "c"], ["A", "B", "C"], runs, found)
    assert said.best is None and said.words == "A − C: +20.0 (−2.0 to +42.0): not significant"


def test_figures_after_other_edits_are_not_compared():
    early, late, unedited = (Score(40.0 + at, at, None, None, None) for at in (1000, 10_000, 0))
    assert "different numbers of edits" in verdicts.of_other_edits([early, late], 10_000).words
    assert verdicts.of_other_edits([early, early, None], 1000) is None
    assert verdicts.of_other_edits([unedited, unedited], 50) == verdicts.Verdict()
    assert verdicts.of_other_edits([unedited, unedited], 0) is None


def test_a_score_without_a_difference_says_which_reason():
    sure, bare = Score(50.0, 100, 50, 36.0, 64.0), Score(40.0, 100, None, None, None)
    said = [verdicts.of_scores(EDITS, ["a", "b"], ["A", "B"], [sure, other], {}).words for other in (sure, bare)]
    assert "no fact in common" in said[0] and "recorded without values per fact" in said[1]


def test_a_minus_sign_leaves_names_alone():
    gap = Interval(-5.0, -8.0, -2.0, 50)
    runs = [Score(50.0, 100, 50, 36.0, 64.0), Score(55.0, 100, 50, 40.0, 70.0)]
    said = verdicts.of_scores(EDITS, ["a", "b"], ["ENCORE-N", "run-a"], runs, {("edit_score", "b", "a"): gap})
    assert "run-a − ENCORE-N: −5.0 (−8.0 to −2.0)" in said.words


@pytest.mark.parametrize(("name", "values", "best"), [
    ("perplexity", [52.8, 52.8, 73.9], None), ("perplexity", [52.8, 52.9], 0),
    ("norm_ratio", [1.001, 0.999, 1.2], None), ("norm_ratio", [1.2, 0.9, None], 1),
])  # fmt: skip
def test_of_two_equal_figures_neither_is_ahead(name, values, best):
    measure = next(measure for measure in MEASURES if measure.name == name)
    said = verdicts.of_figures(measure, values)
    assert said.best == best and bool(said.mark) == (best is not None)


def test_small_multiples_share_a_rows_axis_and_are_never_too_narrow():
    lines = [Line(run, run, run, (1,)) for run in ("MEMIT", "ENCORE")]
    frame = health_of({"MEMIT": {0: 1, 40: 1.004}, "ENCORE": {0: 1, 40: 1.001}}, {"MEMIT": {0: (40, 36, 44), 40: 30}})
    rows = [small_multiples.Row("perplexity_ratio", "Perplexity", is_score=False), small_multiples.Row("mean", "Tasks")]
    chart = small_multiples.grid(frame, lines, rows, LIGHT, at=40, limits={("mean", "MEMIT"): 20.0})
    assert [note.text.count(line.name) for note, line in
            zip(chart.figure.layout.annotations, lines * 2, strict=True)] == [1] * 4  # fmt: skip
    for layout in (chart.figure.layout, chart.narrow, chart.slim):
        low, high = layout.yaxis.range
        assert layout.yaxis.type == "log" and low <= math.log10(0.8) and high >= math.log10(2)
        assert (layout.yaxis2.matches, layout.yaxis3.matches, layout.yaxis4.matches) == ("y", None, "y3")
        assert [layout[f"xaxis{n}"].matches for n in (2, 3, 4)] == ["x"] * 3
        assert layout.yaxis.title.text == "Perplexity" and layout.yaxis3.title.text == "Tasks"
    colours = {trace.xaxis: trace.line.color for trace in chart.figure.data if trace.name == "Perplexity"}
    assert colours == {"x": LIGHT.method("MEMIT"), "x2": LIGHT.method("ENCORE")}
    [across] = [trace for trace in chart.figure.data if trace.line.color == LIGHT.bad]
    assert list(across.y) == [20, 20] and across.xaxis == "x3"


# -- which runs a page opens with --------------------------------------------------------------------------------------


def test_the_longest_comparable_recorded_runs_are_opened():
    short = [run_like(name, 1000, id=f"{name}-1") for name in ("MEMIT", "EMMET", "ENCORE")]
    long = [run_like(name, 5000, 10000, id=f"{name}-2") for name in ("MEMIT", "ENCORE")]
    alone = run_like("ENCORE", 10000, id="alone", device="cuda:0")
    mine = [run_like(name, 40, id=f"own-{name}", recorded=False) for name in ("MEMIT", "ENCORE")]
    for runs in ([*mine, *short, *long, alone], [alone, *long, *short, *mine]):
        assert {run.id for run in recorded_choice.at_first(runs)} == {"MEMIT-2", "ENCORE-2"}
        assert {run.id for run in recorded_choice.broadest(runs)} == {"MEMIT-1", "EMMET-1", "ENCORE-1"}
        with_tasks = recorded_choice.at_first(runs, lambda run: run.id.endswith("-1"))
        assert {run.id for run in with_tasks} == {"MEMIT-1", "EMMET-1", "ENCORE-1"}
        assert {run.id for run in recorded_choice.own(runs)} == {"own-MEMIT", "own-ENCORE"}
    assert recorded_choice.at_first([alone]) == [alone] and recorded_choice.at_first([]) == []
    assert {run.id for run in recorded_choice.at_first(mine)} == {"own-MEMIT", "own-ENCORE"}
    # Where no recorded run has what is needed, recorded ones are shown all the same.
    assert len(recorded_choice.at_first([*mine, *long], lambda run: False)) == 2


def test_what_the_recorded_runs_leave_out_is_told():
    runs = [run_like(name, 1000, plan_json={"seed": 0}) for name in METHODS if name not in ("SPHERE", "LyapLock")]
    said = recorded_choice.missing(runs)
    assert said.startswith("No recorded run yet by SPHERE, LyapLock:") and "one seed each" in said
    own = run_like("SPHERE", 1000, recorded=False)
    assert "by SPHERE, LyapLock:" in recorded_choice.missing([*runs, own]) and recorded_choice.missing([own]) == ""
    again = run_like("MEMIT", 1000, id="again", plan_json={"seed": 1})
    every = [*runs, again, run_like("SPHERE", 1000), run_like("LyapLock", 1000)]
    assert recorded_choice.missing(every) == ""


def test_no_more_runs_than_can_be_compared():
    runs = [run_like(name, 1000) for name in ("MEMIT", "AlphaEdit", "EMMET", "ENCORE", "MEMIT+MPES")]
    assert [run.id for run in recorded_choice.longest(runs)] == ["MEMIT", "AlphaEdit", "EMMET", "ENCORE"]
    assert len(recorded_choice.broadest(runs)) == 5


def test_of_sets_as_broad_the_preferred_one_is_taken():
    named = {"on paper": "counterfact_10k.jsonl", "own": "long"}
    runs = [
        run_like(name, done, id=f"{name}, {facts}", facts_digest=facts, plan_json={"facts": file})
        for name in ("MEMIT", "ENCORE")
        for (facts, file), done in zip(named.items(), (500, 1000), strict=True)
    ]
    assert {run.facts_digest for run in recorded_choice.broadest(runs)} == {"own"}  # went further
    rather = recorded_choice.broadest(runs, rather=paper_tables.has_its_facts)
    assert {run.facts_digest for run in rather} == {"on paper"} and len(rather) == 2
    more = [*runs, run_like("EMMET", 1000, facts_digest="own", plan_json={"facts": "long"})]
    assert len(recorded_choice.broadest(more, rather=paper_tables.has_its_facts)) == 3
