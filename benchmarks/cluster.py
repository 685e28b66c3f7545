"""Several workers on one run against one process, and what a grid costs on paper.

    python benchmarks/cluster.py [--model M] [--workers 2] [--facts 32] [--pairs 3]      measures
    python benchmarks/cluster.py --table                                                 computes, see `cluster.cost`

Measured: how far the edited matrices of N workers lie from those of one worker, which does the same shards, and from
those of one process, which does whole batches, both relative to what the edits changed; time per edit of N workers with
one thread each against one process with N threads, in alternation, so that both meet the same machine; and bytes
between the processes per batch against those planned.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from machine import machine

from encore_core.cluster.cost import find_hardware, run_cost
from encore_core.editing.helpers import SHARD_FACTS
from encore_core.editing.session import EditSession
from encore_core.editing.team import Team, Traffic, planned_traffic, team_of
from encore_core.editing.team_member import LoadAs
from encore_core.facts import Fact, read_facts
from encore_core.methods import settings_for
from encore_core.models.editable import load_model
from encore_core.models.memory import Sizes

LLAMA = {
    "Llama-3-8B": Sizes(8_030_261_248, 32, 4096, 14336, 128_256, 4096, 2048),
    "Llama-3-70B": Sizes(70_553_706_496, 80, 8192, 28672, 128_256, 8192, 2048),
}
STEPS = 24.8
"""Evaluations per fact of the measured run, on random weights, which never stop early."""


def seconds_of(session: EditSession, facts: list[Fact], threads: int) -> float:
    torch.set_num_threads(threads)
    began = time.perf_counter()
    session.edit(facts, known="edit", measure=False)
    return time.perf_counter() - began


def difference(one: EditSession, other: EditSession) -> float:
    """Largest ‖ΔW − ΔW'‖ / ‖ΔW‖ over the edited layers."""
    found = []
    with one.pristine() as lm:
        for layer, W in one.matrices().items():
            changed = W.double() - lm.parameter(layer).data.double()
            found.append(float((W.double() - other.matrices()[layer].double()).norm() / changed.norm()))
    return max(found)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One process and a team, batch after batch in turn."""
    lm = load_model(options.model, options.device)
    facts = list(read_facts(options.facts_file))
    alone, shared, single = (EditSession(lm, options.method, keep_history=False) for _ in range(3))
    torch.set_num_threads(1)
    for session in (alone, shared, single):
        session.prepare()
    pairs = []
    with team_of(LoadAs(options.model, str(lm.device), "float32", "auto", 1), lm, options.workers) as team:
        shared.helpers = team
        single.helpers = Team(team.ray, lm, [])
        # The first batch warms up all processes, and is the one whose bytes are counted.
        team.traffic = Traffic()
        for number in range(options.pairs + 1):
            some = facts[number * options.facts : (number + 1) * options.facts]
            several = seconds_of(shared, some, 1)
            team.keep()
            if number == 0:
                traffic, team.traffic = team.traffic, None
                seconds_of(alone, some, options.workers)
                seconds_of(single, some, 1)
                first = {"one worker": difference(single, shared), "one process": difference(alone, shared)}
                continue
            pairs.append((seconds_of(alone, some, options.workers) / len(some), several / len(some)))
        team.check(shared.matrices())
    planned = planned_traffic(options.facts, options.workers, lm.d_model, lm.d_mlp, len(shared.settings.layers),
                              SHARD_FACTS[lm.device.type])  # fmt: skip
    one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "machine": machine(),
        "model": options.model,
        "method": options.method,
        "workers": options.workers,
        "facts_per_batch": options.facts,
        "difference_after_first_batch": first,
        "difference_from_one_process_at_the_end": difference(alone, shared),
        "seconds_per_edit": {"one process": one, "workers": many},
        "ratios": [several / single for single, several in pairs],
        "ratio": many / one,
        "traffic": vars(traffic),
        "planned": vars(planned),
        "traffic_of_planned": (traffic.sent + traffic.received) / (planned.sent + planned.received),
    }


def table() -> None:
    """Markdown: models × edits × devices."""
    hardware = find_hardware("h100")
    print("| model | edits | GPUs | workers busy | hours | of them targets / traffic / checkpoints | what limits |")
    print("|---|---|---|---|---|---|---|")
    for name, sizes in LLAMA.items():
        settings = settings_for(
            "ENCORE", model_type="llama", n_layers=sizes.n_layers, d_model=sizes.d_model, n_vocab=sizes.n_vocab
        )
        for n_edits in (10_000, 100_000, 1_000_000):
            for n_devices in (1, 8, 64):
                cost = run_cost(sizes, settings, n_edits, 100, 11, hardware, n_devices, STEPS)
                if cost.devices > n_devices:
                    print(f"| {name} | {n_edits:,} | {n_devices} | – | – | – | {cost.limit} |")
                    continue
                parts = " / ".join(f"{cost.parts[part] / 3600:.2f}" for part in ("targets", "traffic", "checkpoints"))
                print(
                    f"| {name} | {n_edits:,} | {n_devices} | {cost.workers} | {cost.seconds / 3600:.2f} | {parts} | "
                    f"{cost.limit} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--method", default="ENCORE")
    parser.add_argument("--facts-file", default="bundled")
    parser.add_argument("--facts", type=int, default=32, help="per batch")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3, help="batches that are timed")
    options = parser.parse_args()
    if options.table:
        table()
    else:
        print(json.dumps(measured(options), indent=1))


if __name__ == "__main__":
    main()
