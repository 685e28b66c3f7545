"""What runs would cost, before they start: calibrations on this server, and what the machine has free."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dashboard.reading.run_words import size
from encore_core.models.editable import EditableModel
from encore_core.runs import PreparedRun
from encore_core.runs.estimate import Calibration, Estimate, calibrate, estimates, known_calibration

Show = Callable[[str, float], None]


@dataclass(frozen=True)
class Cost:
    """What some runs of one queue cost together.

    Attributes:
        each: of every run, in order.
        seconds: one after the other.
        memory_bytes: at most at a time.
        disk_bytes: all of them.
    """

    each: tuple[Estimate, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.each)

    @property
    def memory_bytes(self) -> int:
        return max(one.memory_bytes for one in self.each)

    @property
    def disk_bytes(self) -> int:
        return sum(one.disk_bytes for one in self.each)


def fits(lm: EditableModel, run: PreparedRun) -> bool:
    """Whether a run would use this very model, on this device and in this number format."""
    plan = run.plan
    device = f"cuda:{lm.device.index or 0}" if lm.device.type == "cuda" else str(lm.device)
    # A prepared plan has the folder of its model from the root.
    names = (lm.name, str(Path(lm.name).expanduser().absolute()))
    return plan.model in names and (plan.device, plan.dtype) == (device, str(lm.dtype).removeprefix("torch."))


def known_cost(lm: EditableModel, runs: Sequence[PreparedRun]) -> Cost | None:
    """The cost of some runs when all their calibrations have been made before; None otherwise, at once.

    Raises:
        InputError: when the facts or the settings cannot be used.
    """
    found = [known_calibration(lm, run) for run in runs]
    return None if None in found else Cost(tuple(estimates(runs, found)))


def measured_cost(lm: EditableModel, runs: Sequence[PreparedRun], show: Show) -> Cost:
    """The cost of some runs, making the missing calibrations now, see `calibrate`.

    Args:
        lm: their model, loaded.
        runs: which.
        show: gets the progress.

    Raises:
        InputError: when the facts or the settings cannot be used.
    """
    found: list[Calibration] = []
    for number, run in enumerate(runs):
        found.append(
            calibrate(
                lm,
                run,
                lambda what, share, n=number, run=run: show(
                    f"{run.plan.method}: {what.lower()}", (n + share) / len(runs)
                ),
            )
        )
    return Cost(tuple(estimates(runs, found)))


def shortages(cost: Cost, folder: Path) -> list[str]:
    """What this machine has too little of, one line per shortage.

    Args:
        cost: of the runs.
        folder: where they are stored.
    """
    lines = []
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if cost.memory_bytes > memory:
        lines.append(
            f"Needs {size(cost.memory_bytes)} of memory, and {size(memory)} is free: end other programs, or "
            "edit fewer layers or a smaller model."
        )
    if cost.disk_bytes > disk:
        lines.append(
            f"Needs {size(cost.disk_bytes)} of disk, and {size(disk)} is free in {folder}: delete old runs, "
            "or set ENCORE_HOME to another disk."
        )
    return lines
