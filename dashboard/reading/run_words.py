"""Runs in words: their names on the pages, their state, and which belong together. Knows no streamlit."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboard.charts.downstream import MEAN
from encore_core.errors import InputError
from encore_core.measures.scores import SHARE_AHEAD
from encore_core.methods import METHODS, PAPER
from encore_core.runs import RunInfo
from encore_core.runs.export import command_line

MAIN_METHODS = ("MEMIT", "AlphaEdit", "EMMET", "ENCORE")
MOST_COMPARED = 4
COSTLY = "cost"  # the reason that a part was left out, see `encore_core.runs.measuring`


def method_label(name: str) -> str:
    """A method in a list to choose from: those that are not the paper's four say what they are."""
    if name in MAIN_METHODS or name not in METHODS:
        return name
    source = METHODS[name].source
    return f"{name} · ablation" if source == PAPER else f"{name} · {source or 'ours'}"


STATUS = {
    "queued": ("○", "queued", ""),
    "running": ("▶", "running", "good"),
    "interrupted": ("▲", "interrupted", "warn"),
    "cancelled": ("■", "cancelled", ""),
    "failed": ("✗", "failed", "bad"),
    "done": ("✓", "done", "good"),
}
"""Status → symbol, word, tone."""

RECORDED_MARK = "◆ recorded"
"""Shown instead of the status of a run that comes with the program."""

PHASES = {
    "loading": "loading the model",
    "getting ready": "getting ready",
    "targets": "finding targets",
    "keys": "reading keys",
    "update": "updating matrices",
    "saving": "saving the state",
    "measuring": "measuring",
}
"""Phase of a worker, or of a batch → what it does."""

EDITING = ("targets", "keys", "update")
"""Phases of an edit; saving and measuring are not."""

SUBSETS = {
    "sample": "all edited so far (a sample)",
    "newest": "the newest batch",
    "first": "the first batch",
}
"""Subset of facts that is scored → which facts these are."""


@dataclass(frozen=True)
class Measure:
    """Something measured at checkpoints that can be compared.

    Attributes:
        name: as in the store.
        title, about: for readers.
        best: "high", "low", "one" for nearest to 1, or "" where neither is better.
        digits: after the decimal point.
        series: table of the store: "scores", "measures", "downstream" or "norms".
    """

    name: str
    title: str
    about: str
    best: str = "high"
    digits: int = 0
    series: str = "scores"


MEASURES = (
    Measure("edit_score", "Edit score", SHARE_AHEAD),
    Measure("paraphrase_score", "Paraphrase score", "the same for paraphrases"),
    Measure("neighborhood_score", "Neighbourhood score", "share of neighbours whose own answer beats the new one"),
    Measure("overall_score", "Overall score", "harmonic mean of the three"),
    Measure(
        "portability_score", "Portability", "share of the tokens of portability answers that are the most probable ones"
    ),
    Measure("accuracy", "Accuracy", "share of facts whose new answer is the most probable"),
    Measure("generation_efficacy", "Generation efficacy", "share of facts whose new answer is generated"),
    Measure(
        "generated_edit_contained",
        "Generated: edited",
        "share of edited prompts after which the model writes the new answer",
    ),
    Measure("generated_edit_exact", "Generated: edited, exact", "the same, with nothing else in the text"),
    Measure("generated_edit_judged", "Generated: edited, judged", "the same in the judge's eyes"),
    Measure(
        "generated_paraphrase_contained",
        "Generated: paraphrases",
        "share of paraphrases after which the model writes the new answer",
    ),
    Measure("generated_neighborhood_contained", "Generated: neighbours", "share of neighbours with their own answer"),
    Measure(
        "generated_portability_contained",
        "Generated: portability",
        "share of portability questions answered with what follows from the edit",
    ),
    Measure(MEAN, "Tasks", "mean F1 of the downstream tasks, × 100", "high", 0, "downstream"),
    Measure(
        "perplexity_ratio",
        "Perplexity ratio",
        "perplexity of a fixed text, as a multiple of the unedited model's; lower is better",
        "low",
        3,
        "measures",
    ),
    Measure(
        "perplexity", "Perplexity", "how much a fixed text surprises the model; lower is better", "low", 1, "measures"
    ),
    Measure(
        "foretold_damage",
        "Estimated damage",
        "to general text, in nats per token, from statistics alone",
        "low",
        4,
        "measures",
    ),
    Measure("generation_entropy", "Generation entropy", "of sampled continuations, × 100 bits", "", 0, "measures"),
    Measure(
        "norm_ratio", "‖W‖ / ‖W₀‖", "largest growth among the edited layers; nearer to 1 is better", "one", 3, "norms"
    ),
)
STRIP = (
    "edit_score", "generated_edit_contained", "paraphrase_score", "neighborhood_score", "portability_score",
    "perplexity_ratio",
)  # fmt: skip
"""The measures drawn over edits, side by side."""

WILSON = "Wilson's interval, from the share and n alone: recorded without values per fact"
TASKS_UNSURE = "no interval: recorded without the answers to each test"
BY_TASKS = "95 % interval from those of the tasks, a bootstrap over tests each"
BOOTSTRAP = "95 % bootstrap interval over facts"
"""How sure a score is, in words."""


def status_line(run: RunInfo) -> str:
    """The state of a run, in a few words with a symbol."""
    if run.recorded:
        return RECORDED_MARK
    symbol, word, _ = STATUS[run.status]
    if run.status == "running" and run.stop:
        return f"◌ {'cancelling' if run.stop == 'cancel' else 'stopping'}: ends with this batch"
    place = f", number {run.position}" if run.position is not None else ""
    return f"{symbol} {word}{place}"


def doing(run: RunInfo) -> str:
    """What a run is doing right now; empty unless it is running."""
    if run.status != "running":
        return ""
    detail = run.detail
    phase = str(detail.get("phase", ""))
    words = PHASES.get(phase, phase or "starting")
    if phase in ("measuring", "getting ready", "loading") and detail.get("what"):
        words += f": {detail['what']}"
    if isinstance(detail.get("share"), float):
        words += f", {100 * detail['share']:.0f} %"
    if phase == "targets" and detail.get("step"):
        words += f", step {detail['step']}"
        if isinstance(detail.get("loss"), float):
            words += f", loss {detail['loss']:.3f}"
    return words


def reached(run: RunInfo) -> float:
    """Edits made, and of the batch under way the share that is done."""
    share, size = run.detail.get("batch_share"), run.detail.get("batch_total")
    if run.status != "running" or not isinstance(share, int | float) or not isinstance(size, int):
        return float(run.done)
    # Layers are counted while matrices are updated, so the size of the batch comes from the plan then.
    planned = run.plan_json.get("batch_size")
    size = min(planned if isinstance(planned, int) else size, run.n_edits - run.done)
    return run.done + share * size


def written(run: RunInfo) -> str:
    """How many edits are in the matrices, while a batch is under way."""
    under_way = reached(run) - run.done
    return f"of {run.n_edits:,}" + (f", {run.done:,} written to the matrices" if under_way >= 1 else "")


def seconds_an_edit(seconds: float) -> str:
    """Seconds per edit, or of one of its phases, with one more digit where a fast machine needs it."""
    return f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"


def label(run: RunInfo) -> str:
    """A run's name for a list: method, edits, its own name, its status unless done, id."""
    stopped = run.status not in ("done", "queued", "running")
    parts = [run.method, f"{f'{run.done:,} of ' if stopped else ''}{run.n_edits:,} edit{'s' * (run.n_edits != 1)}"]
    parts += [own] if (own := _own_name(run)) else []
    parts += ["recorded"] if run.recorded else [STATUS[run.status][1]] if run.status != "done" else []
    return " · ".join([*parts, run.id])


def named(run: RunInfo) -> str:
    """A run's name for a table with the rest in other columns: method, its own name, id."""
    return " · ".join([run.method, *([own] if (own := _own_name(run)) else []), run.id])


def listed(runs: Sequence[RunInfo]) -> str:
    """Runs named in a sentence, by method and by the id under which the list of runs has them."""
    return ", ".join(f"{run.method} ({run.id})" for run in runs)


def facts_label(run: RunInfo) -> str:
    """Where a run's facts are from, in a word or two: a set that comes with the program, or the file's name."""
    facts = str(run.plan_json["facts"])
    return {"bundled": "bundled", "long": "long set"}.get(facts, Path(facts).stem)


def _own_name(run: RunInfo) -> str:
    """What the name of a run says beyond its method and size, such as its seed."""
    return run.name.removeprefix(f"{run.method}, {run.n_edits} edits").removeprefix(", ")


def command_of(run: RunInfo) -> str:
    """The command that repeats a run; for a run that another version wrote, a comment that says why there is none."""
    try:
        return command_line(run.plan)
    except InputError as error:
        return f"# {run.id}: {error}"


def belongs(run: RunInfo) -> tuple[object, ...]:
    """What runs of one comparison have in common: all but the method, its settings and its key statistics.

    Methods that follow gradients have no key statistics; where those of the others differ, the page says so.
    """
    plan = run.plan_json
    return (
        run.model,
        run.facts_digest,
        run.order_digest,
        run.n_edits,
        plan.get("seed"),
        plan.get("batch_size"),
        plan.get("known"),
        plan.get("dtype"),
    )


def newest_comparison(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The newest finished runs that belong together, one per method, in the methods' order; else those begun.

    Args:
        runs: the newest first.
    """
    begun = [run for run in runs if run.status == "done"] or [run for run in runs if run.measuring_seconds or run.done]
    if not begun:
        return []
    # A lone newest run must not hide the comparison before it.
    groups: dict[tuple[object, ...], dict[str, RunInfo]] = {}
    for run in begun:
        groups.setdefault(belongs(run), {}).setdefault(run.method, run)
    chosen = next((group for group in groups.values() if len(group) > 1), next(iter(groups.values())))
    return in_order(list(chosen.values()))[:MOST_COMPARED]


def together_with(run: RunInfo, runs: Sequence[RunInfo]) -> list[RunInfo]:
    """A run and the newest ones that belong to it, one per method, in the methods' order.

    Args:
        run: one of them.
        runs: the newest first.
    """
    group = {run.method: run}
    for other in runs:
        if belongs(other) == belongs(run):
            group.setdefault(other.method, other)
    others = [other for other in group.values() if other.id != run.id][: MOST_COMPARED - 1]
    return in_order([run, *others])


def in_order(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Runs in the order of their methods: ENCORE after the other main ones, then ablations."""
    place = {method: number for number, method in enumerate(MAIN_METHODS)}
    return sorted(runs, key=lambda run: (place.get(run.method, len(place)), run.method, run.created))


def left_out(told: Sequence[str]) -> list[str]:
    """What was not measured, one line for each part and reason.

    Args:
        told: for each checkpoint, `left_out` from `series.checkpoints`.
    """
    counts: dict[tuple[str, str], int] = {}
    for text in told:
        for part, reason in json.loads(text).items():
            counts[part, reason] = counts.get((part, reason), 0) + 1
    return [
        f"{part}: left out at {count} of {len(told)} checkpoints"
        + (", because measuring would have exceeded its cap." if reason == COSTLY else f": {reason}")
        for (part, reason), count in counts.items()
    ]


HEALTH_PARTS = {"perplexity": "perplexity", "downstream": "the tasks"}
"""What a checkpoint measures of a model's health: name in the store → in words."""

PARTS = HEALTH_PARTS | {"scores": "the scores", "generated": "what the model generates"}
MOST_NAMED = 4
"""Checkpoints; more are counted."""


def gaps(checkpoints: pd.DataFrame, names: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """Where lines of a chart break because something was not measured at a checkpoint, and why; "" for nowhere.

    Args:
        checkpoints: run, edits, left_out, as in `series.checkpoints`.
        names: run → what the chart calls it.
        parts: those that the chart shows, of `PARTS`.
    """
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in checkpoints.sort_values("edits").itertuples():
        for part, reason in json.loads(row.left_out).items():
            if part in parts and row.run in names:
                found.setdefault((part, names[row.run], reason), []).append(int(row.edits))
    told = []
    for (part, name, reason), edits in found.items():
        *first, last = (f"{at:,}" for at in edits)
        after = f"after {', '.join(first)}{' and ' * bool(first)}{last} edits" if len(edits) <= MOST_NAMED else \
            f"at {len(edits)} checkpoints"  # fmt: skip
        why = "measuring would have exceeded its share of the run's time" if reason == COSTLY else reason.rstrip(".")
        told.append(f"With {name}, {parts[part]} {'was' if part in ('perplexity', 'generated') else 'were'} not "
                    f"measured {after}: {why}.")  # fmt: skip
    return " ".join(told)


def duration(seconds: float | None) -> str:
    """Seconds as text: "42 s", "3 min 20 s", "2 h 05 min", "1 d 4 h"."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 60:
        return f"{minutes} min {seconds % 60:02d} s"
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(n_bytes: float) -> str:
    """Bytes as text, in decimal units: "840 MB", "2.4 GB", "0 kB"."""
    if not n_bytes:
        return "0 kB"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}" if n_bytes < 10 else f"{n_bytes:.0f} {unit}"
    return f"{n_bytes / 1000:.1f} TB"


def moment(at: float | None) -> str:
    """A time of day, with the date unless it is today; "–" for never."""
    if at is None:
        return "–"
    then = time.localtime(at)
    return time.strftime("%H:%M" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", then)


def short_model(name: str) -> str:
    """The last part of a model's name or folder."""
    return name.rstrip("/").rpartition("/")[2] or name
