"""What a grid will cost on given hardware: time, memory, traffic and disk, before anything is started.

Computed from measured constants. Of a device: how fast it does the products of the target search and the update of a
layer. Of a model: its sizes. Per fact

    targets    steps · 4 · (weights above the last edited block + output matrix) · tokens / rate
    keys       ∝ weights up to the last edited block
    update     per batch and layer, ∝ d_mlp² n

Workers of one run (see `editing.team`) share targets and keys, shard by shard; the update is done once. A run with more
workers than its batches have shards leaves the rest idle, and what takes its time is then said to be the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core import checks
from encore_core.editing.helpers import SHARD_FACTS, shards
from encore_core.editing.team import planned_traffic
from encore_core.methods import Settings
from encore_core.models.memory import Sizes, estimate_of

FLOP_PER_WEIGHT = 4
"""Per token and step of the search: a product and a sum forward, and the same for the gradient of the input."""


@dataclass(frozen=True)
class Hardware:
    """A device, as measured; see benchmarks/RESULTS.md.

    Attributes:
        name: as on the command line.
        measured: when, and on what.
        rate: FLOP/s that the target search reaches.
        tokens: per fact and step, of the facts with which the rate was measured.
        least: seconds per fact for targets below which no model comes: small ones do not reach the rate.
        key_rate: weights per second and fact that reading keys goes through.
        update: seconds per batch of 100 facts and layer at d_mlp 14,336.
        dtype: of the weights.
        memory: bytes of the device.
        link: bytes per second between machines; assumed, not measured.
        disk: bytes per second to the disk of checkpoints; assumed, not measured.
    """

    name: str
    measured: str
    rate: float
    tokens: float
    least: float
    key_rate: float
    update: float
    dtype: str
    memory: float
    link: float
    disk: float


HARDWARE = (
    # Llama 3 8B's shape in bfloat16, ENCORE: 0.0661 s for 24.8 evaluations of 560 GFLOP, keys 0.0022 s, update 4.7 ms.
    # SmolLM2-135M: 0.017 s.
    Hardware(
        "h100", "one H100 80 GB, 2026-11-26", 210e12, 25.3, 0.017, 0.91e12, 0.0047, "bfloat16", 80e9, 1.25e9, 200e6
    ),
)


@dataclass(frozen=True)
class RunCost:
    """What one run costs.

    Attributes:
        seconds: of editing in all, without measuring and loading.
        parts: of them by part: "targets", "keys", "update", "traffic", "checkpoints".
        limit: what takes most of the time, or keeps it from falling with more devices, in words.
        device_bytes: memory of a worker's device at least, if everything is on one.
        devices: that a worker needs for that.
        workers: that have something to do.
        traffic: bytes per batch between the workers.
        disk: bytes of the run's files at most, and of them of one checkpoint.
    """

    seconds: float
    parts: dict[str, float]
    limit: str
    device_bytes: float
    devices: int
    workers: int
    traffic: float
    disk: float


def find_hardware(name: str) -> Hardware:
    """Hardware by name.

    Raises:
        InputError: for an unknown name.
    """
    for one in HARDWARE:
        if one.name == name:
            return one
    raise checks.unknown("Unknown hardware", name, [one.name for one in HARDWARE])


def run_cost(
    sizes: Sizes,
    settings: Settings,
    n_edits: int,
    batch_size: int,
    n_checkpoints: int,
    hardware: Hardware,
    n_devices: int = 1,
    steps: float | None = None,
) -> RunCost:
    """The cost of one run on so many devices.

    Args:
        sizes: of the model.
        settings: of the method on it.
        n_edits, batch_size, n_checkpoints: of the run.
        hardware: of every device.
        n_devices: for this run.
        steps: evaluations of the loss per fact; by default as many as the settings allow, which is the most.
    """
    steps = settings.steps if steps is None else steps
    n_layers, n = len(settings.layers), min(batch_size, n_edits)
    # Of a shard: where memory is short, facts are run in smaller groups (see `group_size.default_max_tokens`).
    memory = estimate_of(sizes, getattr(torch, hardware.dtype), settings, min(n, SHARD_FACTS["cuda"]), "cuda")
    devices = math.ceil(memory.total / hardware.memory)
    n_shards = len(shards(n, SHARD_FACTS["cuda"]))
    workers = max(1, min(n_devices // devices, n_shards))
    block = (sizes.n_weights - 2 * sizes.n_head) / sizes.n_layers
    above = block * (sizes.n_layers - 1 - settings.layers[-1]) + sizes.n_head
    fact_targets = max(hardware.least, steps * FLOP_PER_WEIGHT * above * hardware.tokens / hardware.rate)
    fact_keys = block * (settings.layers[-1] + 1) / hardware.key_rate
    # The busiest worker has so many shards; all its facts are done one after the other.
    share = math.ceil(n_shards / workers) / n_shards
    batches = math.ceil(n_edits / n)
    traffic = planned_traffic(n, workers, sizes.d_model, sizes.d_mlp, n_layers, SHARD_FACTS["cuda"])
    moved = traffic.sent + traffic.received if workers > 1 else 0
    state = n_layers * (8 * sizes.d_mlp**2 + 4 * sizes.d_model * sizes.d_mlp)
    parts = {
        "targets": n_edits * fact_targets * share,
        "keys": n_edits * fact_keys * share,
        "update": batches * n_layers * hardware.update * (sizes.d_mlp / 14336) ** 2 * n / 100,
        "traffic": batches * moved / hardware.link,
        "checkpoints": n_checkpoints * 2 * state / hardware.disk,
    }
    return RunCost(
        seconds=sum(parts.values()),
        parts=parts,
        limit=_limit(parts, workers, n_devices // devices, n_shards, devices, n_devices),
        device_bytes=memory.total,
        devices=devices,
        workers=workers,
        traffic=moved,
        disk=3 * state + 1500 * n_edits,
    )


def _limit(parts: dict[str, float], workers: int, room: int, n_shards: int, devices: int, n_devices: int) -> str:
    """What keeps a run from being faster."""
    if devices > n_devices:
        return f"memory: needs {devices} devices"
    largest = max(parts, key=parts.get)
    if largest == "targets" and room > n_shards:
        return f"the batch: {n_shards} shards for {room} workers"
    return largest


def together(costs: Sequence[RunCost], n_devices: int) -> float:
    """Seconds until all runs are done, each on devices of its own that hold its workers, the longest first.

    Args:
        costs: of the runs, each on its own devices.
        n_devices: of the cluster.
    """
    rooms = [0.0] * max(1, n_devices // max((one.devices * one.workers for one in costs), default=1))
    for cost in sorted(costs, key=lambda one: -one.seconds):
        first = rooms.index(min(rooms))
        rooms[first] += cost.seconds
    return max(rooms)
