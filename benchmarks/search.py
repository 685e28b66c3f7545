"""A row's long life: thousands of sequential edits, and what they do to the model, checkpoint by checkpoint.

    python benchmarks/search.py run FOLDER FACTS.jsonl --method ENCORE-N --edits 2000 [--set NAME=VALUE] [--name NAME]
    python benchmarks/search.py table FOLDER [--at 2000]

`run` edits in batches of 100. At every checkpoint it scores the first 100 facts, the last 100, and 100 drawn from all
so far; it measures perplexity on the fixed text, and KL(unedited ‖ edited) per token on the end of the bundled sample,
which is in no statistics. With --tasks DIR it ends with the downstream tasks. What is measured goes into
FOLDER/NAME.jsonl, a line per checkpoint; beside it stands the session's state, from which an interrupted run continues.
`table` prints the runs of a folder at one checkpoint, with 95 % intervals (bootstrap over facts, seeded), and each
against ENCORE's (--against): differences of scores on the same facts, and ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import machine

from encore_core import Fact, load_model, read_facts
from encore_core.editing.batch import batched
from encore_core.editing.covariance import SAMPLED_TEXT, read_text, windows_of
from encore_core.editing.session import EditSession
from encore_core.forward.prompts import pad
from encore_core.forward.tracing import run
from encore_core.measures import intervals
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.measures.tasks import load_tasks
from encore_core.models.editable import EditableModel
from encore_core.runs.resume_state import load_state, save_state
from encore_core.runs.rows import SavedState

BATCH, SAMPLE = 100, 100
KL_TOKENS = 4000
SCORES = {"edit": "edit", "paraphrase": "paraphrase", "neighbourhood": "neighborhood", "accuracy": "accuracy"}


def held_out(lm: EditableModel, n_statistics: int, n_tokens: int = KL_TOKENS) -> list[list[int]]:
    """Windows of the bundled sample behind those that statistics are made from, of `n_tokens` or a few more."""
    content = read_text(SAMPLED_TEXT)
    used = len(windows_of(lm, content, n_statistics))
    found, total = [], 0
    for window in windows_of(lm, content, 10**9)[used + 1 :]:
        found.append(window)
        total += len(window)
        if total >= n_tokens:
            break
    return found


@torch.no_grad()
def log_probs(lm: EditableModel, rows: list[list[int]]) -> torch.Tensor:
    """Of every next token of some windows, (n, n_vocab) float32."""
    batch = pad(lm, rows)
    at = batch.mask[:, 1:].nonzero(as_tuple=True)
    return run(lm, batch.ids, batch.mask, logits_at=at).float().log_softmax(-1)


def groups_of(windows: list[list[int]]) -> list[list[list[int]]]:
    """Windows that are run at a time."""
    return [windows[start : start + 4] for start in range(0, len(windows), 4)]


@torch.no_grad()
def divergence(session: EditSession, windows: list[list[int]], before: list[torch.Tensor] | None = None) -> float:
    """Mean KL(unedited ‖ edited) of the next token, in nats.

    Args:
        session: with the edits.
        windows: token sequences.
        before: `log_probs` of the unedited model for each of `groups_of` the windows, if they are known.
    """
    total = n = 0.0
    for number, rows in enumerate(groups_of(windows)):
        with session.pristine() as lm:
            first = log_probs(lm, rows) if before is None else before[number]
        with session.edited() as lm:
            after = log_probs(lm, rows)
        total += float((first.exp() * (first - after)).sum())
        n += len(first)
    return total / n


def measured(session: EditSession, facts: list[Fact], windows: list[list[int]], of_all: list[Fact]) -> dict[str, Any]:
    """What is measured at a checkpoint; scores fact by fact."""
    with session.edited() as lm:
        scored = {
            name: [asdict(one) for one in evaluate(lm, some, generate=False).per_fact]
            for name, some in (("first", facts[:SAMPLE]), ("last", facts[-SAMPLE:]), ("all", of_all))
        }
        found = perplexity(lm)
    norms = {layer: after / before for layer, (before, after) in session.norms().items()}
    return {"scores": scored, "perplexity": found, "kl": divergence(session, windows), "norms": norms}


def without_contradictions(batch: list[Fact]) -> list[Fact]:
    """A batch without facts that want another answer to a question that is in it already."""
    return list({fact.key: fact for fact in reversed(batch)}.values())[::-1]


def life(options: argparse.Namespace) -> None:
    folder, name = options.folder, options.name or options.method
    folder.mkdir(parents=True, exist_ok=True)
    states = folder / f"{name}-states"
    states.mkdir(exist_ok=True)
    out = folder / f"{name}.jsonl"
    lm = load_model(options.model)
    of_file = read_facts(options.facts)
    facts = [*of_file[options.first :], *of_file[: options.first]][: options.edits]
    session = EditSession(
        lm, options.method, settings=dict(pair.split("=", 1) for pair in options.set), keep_history=False
    )
    session.prepare()
    windows = held_out(lm, session.settings.statistics_tokens)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.is_file() else []
    done = rows[-1]["edits"] if rows else 0
    saved = [row["state"] for row in rows if row["state"] is not None]
    if saved:
        load_state(states, [SavedState(*saved[-1])], session)
    seconds, steps = [], []

    def note(**more: Any) -> None:
        with out.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(more) + "\n")

    if not rows:
        with session.pristine():
            base = perplexity(lm)
        settings = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(session.settings).items()}
        note(edits=0, state=None, perplexity=base, settings=settings, machine=machine(), first=options.first)
    for number, batch in enumerate(batched(facts, BATCH), start=1):
        if number * BATCH <= done:
            continue
        began = time.perf_counter()
        report = session.edit(without_contradictions(batch), known="edit", measure=False)
        seconds.append((time.perf_counter() - began) / len(batch))
        steps += [item.steps for item in report.edited if item.is_edited]
        edits = min(number * BATCH, len(facts))
        print(f"{name}: {edits} edits, {seconds[-1]:.2f} s each", flush=True)
        if edits % options.every == 0 or edits == len(facts):
            of_all = random.Random(edits).sample(facts[:edits], min(SAMPLE, edits))
            row = measured(session, facts[:edits], windows, of_all)
            saved = save_state(states, edits, session)
            spent = {"seconds": sorted(seconds)[len(seconds) // 2], "steps": sum(steps) / max(1, len(steps))}
            note(edits=edits, state=list(asdict(saved).values()), **spent, **row)
            print(f"{name}: perplexity {row['perplexity']:.2f}, KL {row['kl']:.4f}", flush=True)
            for old in states.glob("state-*"):
                if old.name != saved.file and not options.keep_states:
                    old.unlink()
            seconds, steps = [], []
    if options.tasks and not any("tasks" in row and row["edits"] == len(facts) for row in rows):
        with session.edited():
            found = evaluate_tasks(lm, load_tasks(options.tasks))
        note(edits=len(facts), state=None, tasks={one: score.f1 for one, score in found.items()})


def _said(interval: intervals.Interval | None, scale: float = 100) -> str:
    if interval is None:
        return "–"
    return f"{scale * interval.value:.0f} ({scale * interval.low:.0f} to {scale * interval.high:.0f})"


def _scores(rows: list[dict]) -> str:
    columns = [[row[field] for row in rows] for field in SCORES.values()]
    parts = [_said(intervals.of_mean(column)) for column in (*columns[:3],)]
    overall = intervals.of_harmonic_mean(columns[:3])
    return " / ".join([*parts, _said(overall, 100 if overall.value <= 1 else 1), _said(intervals.of_mean(columns[3]))])


def table(options: argparse.Namespace) -> None:
    """Print the runs of a folder at one checkpoint."""
    files = sorted(options.folder.glob("*.jsonl"), key=lambda file: (file.stem != options.against, file.stem))
    runs = {file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}
    first = None
    for name, rows in runs.items():
        base = rows[0]["perplexity"]
        row = next((row for row in rows if row["edits"] == options.at and "scores" in row), None)
        if row is None:
            print(f"{name}: nothing at {options.at} edits")
            continue
        print(f"\n{name}, {options.at} edits (edit / paraphrase / neighbourhood / overall / accuracy)")
        for subset, scored in row["scores"].items():
            print(f"  {subset} {len(scored)}: {_scores(scored)}")
        grown = max(row["norms"].values()) - 1
        print(
            f"  perplexity {row['perplexity']:.2f} of {base:.2f}, KL {row['kl']:.4f}, largest growth {grown:.1%}, "
            f"{row['steps']:.1f} steps, {row['seconds']:.2f} s an edit"
        )
        if first is None:
            first = name, row, base
            continue
        other, their, their_base = first
        print(
            f"  against {other}: log perplexity "
            f"{math.log(row['perplexity'] / base) / math.log(their['perplexity'] / their_base):.2f} ×, "
            f"KL {row['kl'] / their['kl']:.2f} ×, growth {grown / (max(their['norms'].values()) - 1):.2f} ×, "
            f"steps {row['steps'] / their['steps']:.2f} ×, seconds {row['seconds'] / their['seconds']:.2f} ×"
        )
        for subset, scored in row["scores"].items():
            said = []
            for title, field in SCORES.items():
                pairs = [[one[field] for one in rows] for rows in (scored, their["scores"][subset])]
                found = intervals.of_difference(*pairs)
                said.append(
                    f"{title} {100 * found.value:+.0f} ({100 * found.low:+.0f} to {100 * found.high:+.0f})"
                    if found else f"{title} –"
                )  # fmt: skip
            print(f"    {subset}: {', '.join(said)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run_one = commands.add_parser("run")
    run_one.add_argument("folder", type=Path)
    run_one.add_argument("facts", type=Path)
    run_one.add_argument("--method", default="ENCORE")
    run_one.add_argument("--name", default="", help="of the file (default: the method)")
    run_one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    run_one.add_argument("--model", default="smollm2-135m")
    run_one.add_argument("--first", type=int, default=3000, help="facts of the file that come last, if at all")
    run_one.add_argument("--edits", type=int, default=2000)
    run_one.add_argument("--every", type=int, default=200, help="edits between checkpoints")
    run_one.add_argument("--tasks", type=Path, help="folder of downstream tasks, asked at the end")
    run_one.add_argument("--keep-states", action="store_true", help="keep the state of every checkpoint")
    run_one.set_defaults(command=life)
    of_folder = commands.add_parser("table")
    of_folder.add_argument("folder", type=Path)
    of_folder.add_argument("--at", type=int, default=2000)
    of_folder.add_argument("--against", default="ENCORE", help="the run that the others are compared with")
    of_folder.set_defaults(command=table)
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
