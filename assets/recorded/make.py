"""Makes the recorded runs again: starts those that are missing with `encore run`, and records those that are done.

    python assets/recorded/make.py --counterfact FILE --downstream DIR [--store DIR] [--only ID,…] [--start] [--stopped]

Without --start nothing is run: what the store has finished is recorded, and what is missing is listed with its command.
Runs go on by themselves (`encore runs list`); call this again when they are done. CounterFact and the tasks' data are
not part of the program: give a file and a folder, see the README beside this.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from encore_core.errors import InputError
from encore_core.runs import RunInfo, RunStore
from encore_core.runs.recorded import RECORDED, record
from encore_core.runs.rows import RESUMABLE


@dataclass(frozen=True)
class Recorded:
    """A run to record.

    Attributes:
        id: that it is recorded by.
        method: of the run.
        facts: "bundled" or "long", which come with the program, or "counterfact" for the file given.
        n_edits: how many.
        options: further words of `encore run`.
    """

    id: str
    method: str
    facts: str
    n_edits: int
    options: tuple[str, ...]

    def option(self, name: str) -> int:
        """The whole number given for an option; 0 for one that is not given."""
        return int(self.options[self.options.index(name) + 1]) if name in self.options else 0


LONG = ("--order", "shuffled", "--batch-size", "100", "--checkpoint-every", "100",
        "--measure", "generate=false")  # fmt: skip
SHARES = {"UltraEdit": 8, "StableEdit": 8, "CrispEdit": 1,
          **dict.fromkeys(("ENCORE-N", "AlphaEdit+NAS", "SPHERE", "BetaEdit", "LyapLock"), 0.12)}  # fmt: skip
"""Share of the edits' time that measuring may take, if not 0.6. Where edits take less time than measuring, 0.6 would
leave curves empty; runs with 0.12 have few scores between the first checkpoint and the last."""

COUNTERFACT = ("--batch-size", "50", "--checkpoint-every", "50", "--measure", "share_cap=0.3")
LONGEST = ("--batch-size", "100", "--checkpoint-every", "1000", "--measure", "share_cap=0.4")
ON_CPU = ("--batch-size", "100", "--checkpoint-every", "500", "--measure", "share_cap=0.12", "--device", "cpu")
BUNDLED = ("--batch-size", "50", "--checkpoint-every", "50", "--measure", "share_cap=0.3", "--order", "shuffled",
           "--measure", "generation_entropy=false", "--measure", "trajectory_facts=100")  # fmt: skip
PLANNED = [
    *[
        Recorded(f"recorded-{name}-1000", method, "counterfact", 1000, COUNTERFACT)
        for name, method in {
            "encore": "ENCORE",
            "memit": "MEMIT",
            "alphaedit": "AlphaEdit",
            "emmet": "EMMET",
            "memit-mpes": "MEMIT+MPES",
            "memit-norm": "MEMIT+norm",
        }.items()
    ],
    *[
        Recorded(
            f"recorded-{method.lower().replace('+', '-')}-long",
            method,
            "long",
            1000,
            (*LONG, "--measure", f"share_cap={SHARES.get(method, 0.6)}"),
        )
        for method in (
            "ENCORE",
            "MEMIT",
            "AlphaEdit",
            "EMMET",
            "MEMIT+MPES",
            "MEMIT+norm",
            "ENCORE-N",
            "ENCORE+NAS",
            "AlphaEdit+NAS",
            "SPHERE",
            "BetaEdit",
            "LyapLock",
            "UltraEdit",
            "StableEdit",
            "CrispEdit",
        )
    ],
    Recorded("recorded-memit-10000", "MEMIT", "counterfact", 10_000, LONGEST),
    Recorded("recorded-encore-10000", "ENCORE", "counterfact", 10_000, LONGEST),
    Recorded("recorded-encore-10000-cpu", "ENCORE", "counterfact", 10_000, ON_CPU),
    *[
        Recorded(f"recorded-{name}-bundled{ending}", method, "bundled", 100, (*BUNDLED, "--seed", str(seed)))
        for seed, ending in enumerate(("", "-seed-1", "-seed-2"))
        for name, method in {"memit": "MEMIT", "memit-mpes": "MEMIT+MPES"}.items()
    ],
]


def words(planned: Recorded, counterfact: Path, downstream: Path) -> list[str]:
    """The command of a run, without where its store is."""
    facts = str(counterfact) if planned.facts == "counterfact" else planned.facts
    return [
        *("run", "--method", planned.method, "--facts", facts, "--edits", str(planned.n_edits)),
        *planned.options,
        *(("--downstream", str(downstream)) if planned.facts != "bundled" else ()),
    ]


def found(store: RunStore, planned: Recorded, counterfact: Path, stopped: bool) -> RunInfo | None:
    """The newest run of the store that is the planned one and is not given up, unless stopped ones are wanted, too."""
    wanted = ("done", "running", "queued", *(RESUMABLE if stopped else ()))
    name = counterfact.name if planned.facts == "counterfact" else planned.facts
    asked = (planned.method, planned.n_edits, *map(planned.option, ("--checkpoint-every", "--seed")))
    for run in store.runs():
        plan = run.plan_json
        same = asked == (run.method, run.n_edits, plan.get("checkpoint_every"), plan.get("seed"))
        if same and Path(run.plan_json["facts"]).name == name and run.status in wanted:
            return run
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counterfact", type=Path, required=True, help="facts of the long runs")
    parser.add_argument("--downstream", type=Path, required=True, help="folder with the data of the six tasks")
    parser.add_argument("--store", type=Path, help="folder of runs (default: runs in the data folder)")
    parser.add_argument("--only", help="ids, with commas between")
    parser.add_argument("--start", action="store_true", help="start what is missing")
    parser.add_argument("--stopped", action="store_true", help="record stopped runs, too, up to their last checkpoint")
    arguments = parser.parse_args()
    store = RunStore(arguments.store)
    wanted = arguments.only.split(",") if arguments.only else [planned.id for planned in PLANNED]
    for planned in PLANNED:
        if planned.id not in wanted:
            continue
        run = found(store, planned, arguments.counterfact, arguments.stopped)
        command = words(planned, arguments.counterfact, arguments.downstream)
        if run is not None and run.ended:
            record(store, {run.id: planned.id}, RECORDED)
            print(f"{planned.id}: recorded from {run.id}, {run.done} of {run.n_edits} edits done")
        elif run is not None:
            print(f"{planned.id}: {run.id} is {run.status}, {run.done} of {run.n_edits} edits")
        elif arguments.start:
            print(f"{planned.id}: starting")
            place = ["--store", str(store.folder)]
            subprocess.run([sys.executable, "-m", "encore_core.cli", *command, "--detach", *place], check=True)
        else:
            print(f"{planned.id}: missing; encore {shlex.join(command)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
