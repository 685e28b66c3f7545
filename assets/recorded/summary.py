"""Prints the recorded runs as the table of the README: scores, perplexity, norms, seconds and memory.

    python assets/recorded/summary.py [--long] [--against RUN] [--store DIR RUN,…]

With --long the runs on the long set as a table of their own: both protocols, intervals, and the tasks. With --against
the differences from one run, on the facts of the last sample that both have, paired, with 95 % intervals.

"First" and "last tenth" are seconds of finding targets for a fact and step, so that methods and stretches that take
different numbers of steps can be compared; a run that was interrupted loaded its model anew, which memory shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from encore_core.runs import RunInfo, RunStore, fact_values, series
from encore_core.runs.recorded import recorded_runs

SCORES = ("edit_score", "paraphrase_score", "neighborhood_score", "overall_score")
HEAD = (
    "method", "edits", "edit / paraphrase / neighbourhood / overall", "the first batch", "perplexity",
    "largest ‖W‖/‖W₀‖", "steps", "s an edit", "s a step, first → last tenth", "resident memory, GB",
)  # fmt: skip
FORCED = (*SCORES, "accuracy")
GENERATED = ("generated_edit_contained", "generated_paraphrase_contained", "generated_neighborhood_contained")
LONG_HEAD = (
    "method", "n", "edit / paraphrase / neighbourhood / overall / accuracy",
    "generated: edit / paraphrase / neighbourhood",
    "the first batch, n 20: edit / paraphrase / neighbourhood / overall / accuracy",
    "perplexity, × unedited", "mean F1 of the tasks", "largest ‖W‖/‖W₀‖", "foretold damage, nats per token",
    "s an edit", "resident memory, GB, at most",
)  # fmt: skip


def long_row(store: RunStore, run: RunInfo) -> list[str]:
    """The cells of a run on the long set."""
    scores = series.scores(store, [run.id])
    last = scores[scores.edits == run.done]
    sample, first = (last[last.subset == subset].set_index("metric") for subset in ("sample", "first"))
    measures = series.measures(store, [run.id]).pivot(index="edits", columns="metric", values="value")
    norms = series.norms(store, [run.id])
    tasks = series.downstream(store, [run.id])
    mean_f1 = tasks[tasks.metric == "f1"].groupby("edits").value.mean()
    memory = series.memory(store, [run.id], max_points=None).resident_bytes / 1e9
    perplexity, damage = measures.perplexity, measures.get("foretold_damage")
    return [
        run.method,
        f"{sample.n[SCORES[0]]:.0f}",
        _with_intervals(sample, FORCED),
        _with_intervals(sample, GENERATED),
        _with_intervals(first, FORCED),
        f"{perplexity[run.done] / perplexity[0]:.3g}",
        f"{mean_f1[0]:.1f} → {mean_f1[run.done]:.1f}" if run.done in mean_f1.index else "–",
        f"{norms[norms.edits == run.done].ratio.max():.3f}",
        "–" if damage is None else f"{damage[run.done]:.3f}",
        f"{run.editing_seconds / run.done:.2f}",
        f"{memory.max():.2f}",
    ]


def against(store: RunStore, run: RunInfo, other: RunInfo) -> str:
    """How a run's scores at its end differ from another's."""
    sides = []
    for one in (run, other):
        scored = series.scored(store, [one.id])
        sample = scored[(scored.edits == one.done) & (scored.subset == "sample")].fact
        rows = series.fact_scores(store, [one.id], [one.done])
        sides.append(rows[rows.fact.isin(sample)].pivot(index="fact", columns="metric", values="value"))
    both = sides[0].index.intersection(sides[1].index)
    values = [[of_fact.dropna().to_dict() for _, of_fact in side.loc[both].iterrows()] for side in sides]
    found = {metric: fact_values.difference(metric, *values) for metric in (*FORCED, *GENERATED)}
    said = [f"{metric} {one.value:+.0f} ({one.low:+.0f} to {one.high:+.0f})" for metric, one in found.items() if one]
    return f"{run.method} − {other.method}, n {len(both)}: {', '.join(said)}"


def _with_intervals(scores: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Scores with their 95 % intervals."""
    found = (scores.loc[metric] for metric in metrics)
    return " / ".join(f"{one.value:.0f} ({one.low:.0f}–{one.high:.0f})" for one in found)


def row(store: RunStore, run: RunInfo) -> list[str]:
    """The cells of a run."""
    scores = series.scores(store, [run.id])
    measures = series.measures(store, [run.id])
    norms = series.norms(store, [run.id])
    memory = series.memory(store, [run.id], max_points=None).resident_bytes / 1e9
    targets = series.targets(store, [run.id])
    steps = targets.steps.mean()
    first, last = (step_seconds(store, run, targets, part) for part in ("first", "last"))
    perplexity = measures[measures.metric == "perplexity"].set_index("edits").value
    return [
        run.method,
        f"{run.done:,}",
        at_the_end(scores, "sample", run.done),
        at_the_end(scores, "first", run.done),
        f"{perplexity.get(0):.1f} → {perplexity.get(run.done):.1f}",
        f"{norms[norms.edits == run.done].ratio.max():.3f}",
        f"{steps:.1f}",
        f"{run.editing_seconds / run.done:.2f}",
        f"{first:.3f} → {last:.3f} (× {last / first:.2f})",
        f"{memory.iloc[0]:.2f} → {memory.iloc[-1]:.2f}",
    ]


def at_the_end(scores: pd.DataFrame, subset: str, edits: int) -> str:
    """The scores of a subset after the last edit."""
    found = scores[(scores.subset == subset) & (scores.edits == edits)].set_index("metric").value
    return " / ".join(f"{found[metric]:.0f}" for metric in SCORES)


def step_seconds(store: RunStore, run: RunInfo, targets: pd.DataFrame, part: str) -> float:
    """Median over the batches of a tenth of the run: seconds of its targets by facts and steps."""
    timings = series.every_row(store, "timings", [run.id])
    seconds = timings[timings.phase == "targets"].set_index("edits").seconds
    a_step = seconds / targets.groupby("edits").steps.sum()
    tenth = max(1, len(a_step) // 10)
    return float((a_step.iloc[:tenth] if part == "first" else a_step.iloc[-tenth:]).median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="another store than the recorded one")
    parser.add_argument("--long", action="store_true", help="the runs on the long set, as a table of their own")
    parser.add_argument("--against", help="id of the run that the others are compared with, fact by fact")
    parser.add_argument("runs", nargs="?", help="ids, with commas between")
    arguments = parser.parse_args()
    store = RunStore(arguments.store) if arguments.store else recorded_runs()
    if store is None:
        parser.exit(2, "There are no recorded runs; see make.py beside this.\n")
    wanted = arguments.runs.split(",") if arguments.runs else [
        run.id for run in store.runs() if run.n_edits >= 1000 and (run.plan_json["facts"] == "long") is arguments.long
    ]  # fmt: skip
    if arguments.against:
        other = store.get(arguments.against)
        print("\n".join(against(store, store.get(run_id), other) for run_id in wanted if run_id != other.id))
        return
    head, cells = (LONG_HEAD, long_row) if arguments.long else (HEAD, row)
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for run_id in wanted:
        print("| " + " | ".join(cells(store, store.get(run_id))) + " |")


if __name__ == "__main__":
    main()
