"""Whether an edit costs as much after hundreds of edits as at first: the same batches, edited in turns by a fresh
session and by one that has a run's state, so that a machine that slows down slows both.

    python benchmarks/lifelong.py STATE.safetensors FACTS [--from 950] [--batch 20] [--rounds 3]

STATE is a state file of a run that has not ended yet (the folder of the run, see `encore_core.runs.folders`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from safetensors import safe_open

from encore_core import EditSession, load_model, read_facts
from encore_core.editing.session_state import SessionState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("facts", help="file of facts, or bundled, or long")
    parser.add_argument("--from", dest="start", type=int, default=0, help="place of the first fact to edit")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    lm = load_model(options.model)
    with safe_open(options.state, "pt") as file:
        values = json.loads(file.metadata()["session"])
        settings = {"steps": values["steps"]}
        fresh, late = (EditSession(lm, values["method"], settings=settings, keep_history=False) for _ in range(2))
        for session in (fresh, late):
            session.prepare()
        late.restore(SessionState({name: file.get_tensor(name) for name in file.keys()}, values))  # noqa: SIM118
    facts = read_facts(options.facts)[options.start :]
    found: dict[str, list[dict[str, float]]] = {"fresh": [], "late": []}
    for number in range(options.rounds):
        batch = facts[number * options.batch : (number + 1) * options.batch]
        for name, session in (("fresh", fresh), ("late", late)):
            report = session.edit(batch, known="edit", measure=False)
            steps = sum(item.target.steps for item in report.edited)
            row = {"targets_a_step": report.seconds["targets"] / steps, "steps": steps / len(batch)}
            row |= {phase: report.seconds[phase] / len(batch) for phase in ("keys", "update")}
            found[name].append(row)
            print(name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    for key in found["fresh"][0]:
        first, last = (statistics.median(row[key] for row in found[name]) for name in ("fresh", "late"))
        print(f"{key:16} {first:.4f} → {last:.4f}  × {last / first:.2f}")


if __name__ == "__main__":
    main()
