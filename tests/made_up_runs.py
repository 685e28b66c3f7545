"""Runs that nobody made: their figures are written into a store as a worker would, so that what they show is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tiny_runs

from dashboard.charts.downstream import TASKS
from encore_core.measures.contributions import sublayer_names
from encore_core.runs import RunStore
from encore_core.runs.recorded import record
from encore_core.runs.rows import BatchRecord, CheckpointRecord, TargetRow

N_LAYERS = 5  # of the tiny model; layers 0 and 1 are edited
BATCH = 2


@dataclass(frozen=True)
class MadeUp:
    """A run, by what is measured at its checkpoints.

    Attributes:
        method: its name.
        perplexity: edits → ratio to the unedited model's; none are measured where it is empty.
        tasks: edits → F1 of every task, × 100; none are asked where it is empty.
        share: edits → what the two edited MLPs give of the residual stream together.
        growth: ratio of the second edited matrix at the end; the first grows by half as much.
        p: probability of every answer when its search stopped.
        planned: edits; by default those it has.
    """

    method: str
    perplexity: Mapping[int, float] = field(default_factory=dict)
    tasks: Mapping[int, float] = field(default_factory=dict)
    share: Mapping[int, float] = field(default_factory=dict)
    growth: float = 1.5
    p: float = 0.9
    planned: int | None = None

    @property
    def checkpoints(self) -> list[int]:
        return sorted({0, *self.perplexity, *self.tasks, *self.share})


def write(store: RunStore, run: MadeUp, folder: Path, text: Path) -> str:
    """Write a run that has ended; its id.

    Args:
        store: where to.
        run: what it shows.
        folder, text: of the tiny model, as for `tiny_runs.plan`.
    """
    last = run.checkpoints[-1]
    wanted = run.planned or last
    facts = [tiny_runs.FACTS[place % len(tiny_runs.FACTS)] for place in range(wanted)]
    plan = tiny_runs.plan(folder, text, method=run.method, n_edits=wanted, batch_size=last, checkpoint_every=last)
    [run_id] = store.submit([tiny_runs.prepare(plan, facts)])
    claim = store.claim("cpu")
    for edits in run.checkpoints:
        if edits == last:
            rows = [TargetRow(fact, 7 if "MPES" in run.method else 18, "loss", 0.1, 0.1, 0.0, 0.0,
                              run.p - 0.001 * (fact % 7), 0.01) for fact in range(last)]  # fmt: skip
            phases = {"targets": 1.0, "keys": 0.1, "update": 0.1}
            store.record_batch(claim, BatchRecord(last, last, 0, phases, rows, [], 0, 0, None))
        store.record_checkpoint(claim, _checkpoint(run, edits, last))
    store.finish(claim, "done" if wanted == last else "cancelled")
    return run_id


def recorded(home: Path, runs: Sequence[MadeUp], folder: Path, text: Path) -> Path:
    """A recorded store of some runs, whose ids are "recorded-" and their methods."""
    store = RunStore(home / "made-up")
    ids = {write(store, run, folder, text): f"recorded-{run.method.lower().replace('+', '-')}" for run in runs}
    record(store, ids, home / "recorded")
    return home / "recorded"


def _checkpoint(run: MadeUp, edits: int, last: int) -> CheckpointRecord:
    grown = (run.growth - 1) * edits / last
    ratios = [1 + grown * {0: 0.5, 1: 1.0}.get(layer, 0.0) for layer in range(N_LAYERS)]
    norms = [(layer, 10 * ratio, ratio) for layer, ratio in enumerate(ratios)]
    parts = []
    if edits in run.share:
        names = list(sublayer_names(N_LAYERS))
        for place, (label, layer, kind) in enumerate(names):
            edited = kind == "MLP" and layer in (0, 1)
            share = run.share[edits] / 2 if edited else (1 - run.share[edits]) / (len(names) - 2)
            parts.append((place, label, kind, layer, share, share))
    measures = [("perplexity", 40 * run.perplexity[edits])] if edits in run.perplexity else []
    tasks = [
        (task, metric, value, None, None, None)
        for task in TASKS
        for metric, value in (("f1", run.tasks.get(edits)), ("accuracy", run.tasks.get(edits)), ("n", 100.0),
                              ("unparsable", 0.0))
        if edits in run.tasks
    ]  # fmt: skip
    return CheckpointRecord(edits, norms, [], parts, measures, tasks, {"norms": 0.1}, {})
