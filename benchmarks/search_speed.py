"""How long an edit takes by two rows, batch about, so that both have the machine in the same hour.

    python benchmarks/search_speed.py FACTS.jsonl [--methods ENCORE,ENCORE-N] [--batch 40] [--rounds 5]

Each round edits one batch by each method, each on a session of its own; printed are seconds an edit by phase, medians
over rounds, and the ratio to the first method, round by round.
"""

from __future__ import annotations

import argparse
from statistics import median

from machine import machine

from encore_core import load_model, read_facts
from encore_core.editing.session import EditSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("facts_file")
    parser.add_argument("--methods", default="ENCORE,ENCORE-N")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--first", type=int, default=6000, help="facts of the file that are left out")
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    machine()
    lm = load_model(options.model)
    sessions = {name: EditSession(lm, name, keep_history=False) for name in options.methods.split(",")}
    for session in sessions.values():
        session.prepare()
    facts = list({fact.key: fact for fact in read_facts(options.facts_file)[options.first :]}.values())
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in sessions}
    steps: dict[str, list[int]] = {name: [] for name in sessions}
    for number in range(options.rounds + 1):
        batch = facts[number * options.batch :][: options.batch]
        for name, session in sessions.items():
            report = session.edit(batch, known="edit", measure=False)
            if number:  # the first round warms up
                seconds[name].append({phase: taken / len(batch) for phase, taken in report.seconds.items()})
                steps[name] += [item.steps for item in report.edited]
    totals = {name: [sum(one.values()) for one in rounds] for name, rounds in seconds.items()}
    first = next(iter(sessions))
    for name, rounds in seconds.items():
        middle = {phase: median(one[phase] for one in rounds) for phase in ("targets", "keys", "update")}
        phases = ", ".join(f"{phase} {taken:.3f}" for phase, taken in middle.items())
        ratios = [mine / other for mine, other in zip(totals[name], totals[first], strict=True)]
        n_steps = sum(steps[name]) / len(steps[name])
        print(
            f"{name}: {median(totals[name]):.3f} s an edit ({phases}), {n_steps:.1f} steps, "
            f"{median(ratios):.2f} × {first} ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds)"
        )


if __name__ == "__main__":
    main()
