"""A thousand SIGKILLs: runs of a tiny model are killed at random moments, resumed until they end, and must end as the
run that nobody killed, bit for bit.

    python benchmarks/kills.py --folder FOLDER [--kills 1000] [--seed 0]

A run is killed some times and then left alone. Of the kills two in five come at a moment drawn from the worker's whole
life; the others are aimed: they come within a phase drawn beforehand (see `killed_life`), so that short phases are hit
as well as long ones. After each kill the database and the saved state are looked at, and at the end of each run its
weights and every row of its series are compared. What the worker was doing when it was killed is read from memory that
it shared with this program, so the table counts phases that were hit and not those that were aimed at.

A run is a line of FOLDER/kills.jsonl; what is there is not done again, so a campaign can be stopped and gone on with.
Moments are drawn from the seed and the run's number; what exactly a kill hits is the machine's affair.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import killed_life  # noqa: E402
import tiny_models  # noqa: E402
import tiny_runs  # noqa: E402
import torch  # noqa: E402

from encore_core.models.editable import load_model  # noqa: E402
from encore_core.runs import RunStore  # noqa: E402
from encore_core.runs.schema import BY_EDITS  # noqa: E402
from encore_core.storage import append_line  # noqa: E402

METHODS = ("ENCORE", "MEMIT", "AlphaEdit", "EMMET")
SAVE_SECONDS = (0.0, 300.0)
"""State is saved after each batch, or at checkpoints alone."""

EDITS = 8
KILLS_A_RUN = (3, 20)
AIMED = 0.6
RESUMING_KILLED = 0.15
"""How often the command that puts a run back into the queue is killed, too."""

FOREVER = 300.0


class Campaign:
    """Runs of one variant after the other, killed and compared.

    Args:
        folder: for the model, the store and the results.
        seed: of all moments.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.model, self.text = folder / "model", folder / "statistics.txt"
        if not self.model.exists():
            # In a process of its own: gradients must not have been used where workers are forked.
            killed_life.in_fork(self._make_model)
        # What the libraries make once in a process is made here, once for all that are forked.
        load_model(str(self.model), "cpu")
        shutil.rmtree(folder / "runs", ignore_errors=True)
        self.store = RunStore(folder / "runs")
        self.whole: dict[tuple[str, float], tuple[dict[str, Any], float]] = {}
        self.durations: dict[str, float] = {}

    def _make_model(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tiny_runs.save_model(tiny_models.gpt2(), self.model)
        tiny_models.statistics_text(self.folder)

    def submit(self, method: str) -> str:
        ready = tiny_runs.prepared(
            self.model, self.text, method=method, n_edits=EDITS, batch_size=2, checkpoint_every=4,
        )  # fmt: skip
        return self.store.submit([ready])[0]

    def unharmed(self, method: str, save_seconds: float) -> tuple[dict[str, Any], float]:
        """What a run comes to that nobody kills, and how long a worker lives for it."""
        key = (method, save_seconds)
        if key not in self.whole:
            run_id = self.submit(method)
            began = time.monotonic()
            ended = killed_life.live(self.store, save_seconds, FOREVER)
            took = time.monotonic() - began
            if ended.code != 0:
                raise SystemExit(f"A run that nobody killed has ended with {ended}.")
            for phase, seconds in ended.durations.items():
                self.durations[phase] = max(seconds, self.durations.get(phase, 0.0))
            self.whole[key] = content(self.store, run_id), took
            self.store.delete(run_id)
        return self.whole[key]

    def run(self, number: int) -> dict[str, Any]:
        """Kill one run some times, let it end, and compare it. Returns its line of the results."""
        draw = random.Random(f"{self.seed} {number}")
        method, save_seconds = draw.choice(METHODS), draw.choice(SAVE_SECONDS)
        wanted, took = self.unharmed(method, save_seconds)
        run_id, kills, faults, lives = self.submit(method), Counter(), [], 0
        beating = 0
        began = time.monotonic()
        for _ in range(draw.randint(*KILLS_A_RUN)):
            left = 1 - self.store.get(run_id).cursor / EDITS
            life = killed_life.live(self.store, save_seconds, *self._moment(draw, took * left))
            lives += 1
            if life.code not in (0, "killed"):
                faults.append(f"the worker ended with {life.code} in {life.phase}: {life.said}")
            kills[life.phase] += life.code == "killed"
            beating += life.beating
            faults += unsound(self.store, run_id)
            if self.store.get(run_id).status == "done":
                break
            faults += self._resume(run_id, draw, kills)
        # A worker that is let alone also tidies up what the killed ones have left.
        if self.store.get(run_id).status not in ("done", "queued"):
            self.store.resume(run_id)
        life = killed_life.live(self.store, save_seconds, FOREVER)
        lives += 1
        if life.code != 0:
            faults.append(f"the worker ended with {life.code} in {life.phase}: {life.said}")
        found = content(self.store, run_id)
        line = {
            "number": number, "seed": self.seed, "method": method, "save_seconds": save_seconds,
            "kills": {phase: n for phase, n in kills.items() if n}, "beating": beating, "lives": lives,
            "faults": faults,
            "differences": [name for name in wanted if found.get(name) != wanted[name]],
            "seconds": round(time.monotonic() - began, 2),
        }  # fmt: skip
        if not line["faults"] and not line["differences"]:
            self.store.delete(run_id)  # others are kept to be looked at
        return line

    def _moment(self, draw: random.Random, took: float) -> tuple[float, str | None, int]:
        """When to kill: after so many seconds, counted from the fork or from the nth time a phase is entered."""
        if draw.random() >= AIMED:
            return draw.uniform(0.0, took), None, 0
        phase = draw.choice(killed_life.PHASES)
        return draw.uniform(0.0, self.durations.get(phase, 0.01)), phase, draw.randint(1, 2)

    def _resume(self, run_id: str, draw: random.Random, kills: Counter) -> list[str]:
        """Put a run back into the queue, in a process that may be killed while it does so."""
        if self.store.get(run_id).status != "interrupted":  # killed before it was taken, it is still in the queue
            return []
        if draw.random() < RESUMING_KILLED:
            killed = killed_life.killed_after(draw.uniform(0.0, 0.006), lambda: self.store.resume(run_id))
            kills["resume command"] += killed
            faults = unsound(self.store, run_id)
            if self.store.get(run_id).status == "queued":
                return faults
        else:
            faults = []
        self.store.resume(run_id)
        return faults


def unsound(store: RunStore, run_id: str) -> list[str]:
    """What is wrong right after a kill; nothing should be."""
    with sqlite3.connect(store.file) as db:
        said = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.close()
    found = [] if said == "ok" else [f"integrity_check: {said}"]
    run, states = store.get(run_id), store.states(run_id)
    if run.status not in ("interrupted", "queued", "done"):
        found.append(f"the run is {run.status}: {run.error}")
    if run.status != "done" and not run.cursor == (states[0].edits if states else 0) <= run.done:
        found.append(f"cursor {run.cursor}, done {run.done}, states {[state.edits for state in states]}")
    for state in states[:1]:
        path = store.folder_of(run_id) / state.file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != state.digest:
            found.append(f"{state.file} is not what the cursor points to")
    return found


def content(store: RunStore, run_id: str) -> dict[str, Any]:
    """All that a run has left, but for seconds and memory: by name, what can be compared."""
    run = store.get(run_id)
    found: dict[str, Any] = {
        "run": [run.status, run.done, run.cursor, run.skipped, run.weights_digest, run.error],
        "statistics": [dict(row) for row in run.statistics_used],
        "files": sorted(path.name for path in store.folder_of(run_id).iterdir()),
    }
    for table in BY_EDITS:
        names, rows = store.query(f"SELECT * FROM {table} WHERE run = ?", (run.number,))
        kept = [n for n, name in enumerate(names) if name not in ("run", "seconds") and not name.endswith("_bytes")]
        # State is saved oftener in a run that was stopped, so how long that took stands in more places.
        lines = [[row[n] for n in kept] for row in rows if "saving" not in row]
        found[table] = sorted(map(json.dumps, lines))
    return found


def table(lines: list[dict[str, Any]], seed: int) -> str:
    """The results as Markdown."""
    kills: Counter = Counter()
    for line in lines:
        kills.update(line["kills"])
    bad = [line for line in lines if line["faults"] or line["differences"]]
    rows = [f"| {phase} | {n} |" for phase, n in sorted(kills.items(), key=lambda pair: -pair[1])]
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}, {machine()}, torch {torch.__version__}, seed {seed}: "
            f"{sum(kills.values())} kills of {len(lines)} runs in {sum(line['lives'] for line in lines)} lives of "
            f"workers, {sum(line['seconds'] for line in lines):,.0f} s. Runs that ended otherwise than the run that "
            f"nobody killed: {sum(bool(line['differences']) for line in lines)}. Faults seen right after a kill: "
            f"{sum(len(line['faults']) for line in lines)}. {sum(line['beating'] for line in lines)} kills fell into a "
            "sign of life as well, which another thread writes.",
            "",
            "| what the process was doing | kills |",
            "|---|---:|",
            *rows,
            *(f"\nRun {line['number']}: {line['differences']} {line['faults']}" for line in bad),
        ]
    )


def machine() -> str:
    """The processor, and how many of its cores there are."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{os.cpu_count()} cores of an {name.replace('(R)', '')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the tiny model, its runs and the results")
    parser.add_argument("--kills", type=int, default=1000, help="how many, all in all (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ENCORE_HOME"] = str(folder / "home")
    torch.set_num_threads(1)
    logging.getLogger("encore_core").setLevel(logging.ERROR)  # that each killed run is interrupted is no news here
    results = folder / "kills.jsonl"
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.is_file() else []
    lines = [line for line in lines if line["seed"] == options.seed]
    campaign = Campaign(folder, options.seed)
    while (done := sum(sum(line["kills"].values()) for line in lines)) < options.kills:
        line = campaign.run(len(lines))
        lines.append(line)
        append_line(results, json.dumps(line))
        wrong = line["faults"] or line["differences"]
        print(f"{done + sum(line['kills'].values())} kills {line['kills']} {wrong or ''}", file=sys.stderr, flush=True)
    print(table(lines, options.seed))


if __name__ == "__main__":
    main()
