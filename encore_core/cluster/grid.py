"""The runs of a plan in the store: submitted once, resumed, and known again.

    RUNS/ray-NAME.json      the grid's address and what each of its runs needs, for its driver
    RUNS/ray-NAME.lock      held while a plan is being submitted

A plan is known by its name, and a run by all that decides what it does. So the same plan, started again, goes on with
its runs; one that has got another seed adds that seed's runs; and one that says something else gets runs of its own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from encore_core.cluster.needs import Needs, needs_of, sizes_of
from encore_core.cluster.plan_file import GridPlan, Place, checked_name
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.device_map import BALANCED
from encore_core.runs import RunInfo, RunPlan, RunStore, key_statistics
from encore_core.runs.carried import identity
from encore_core.runs.database import as_json
from encore_core.runs.launch import CLUSTER
from encore_core.runs.preparing import PreparedRun, prepare, read_as
from encore_core.runs.rows import RESUMABLE
from encore_core.storage import replacing
from encore_core.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grid:
    """What a driver must know of its queue.

    Attributes:
        name: of the plan.
        place: where its runs go.
        needs: by run, what a node must have.
    """

    name: str
    place: Place
    needs: Mapping[str, Needs]

    @property
    def queue(self) -> str:
        """The queue of its runs in the store."""
        return queue_of(self.name)


@dataclass(frozen=True)
class Submitted:
    """What became of a plan's runs.

    Attributes:
        ids: of all its runs, in the plan's order.
        new, resumed: those that were added, and put back into the queue.
        notices: what the user should know, one line each.
    """

    ids: tuple[str, ...]
    new: tuple[str, ...]
    resumed: tuple[str, ...]
    notices: tuple[str, ...]


def queue_of(name: str) -> str:
    """The queue of a plan's runs in the store, by the plan's name."""
    return f"{CLUSTER}{checked_name(name)}"


def for_nodes(run: PreparedRun, gpus: int) -> PreparedRun:
    """A run that was prepared for this machine, for nodes with so many GPUs for it."""
    device = "cpu" if not gpus else "cuda" if gpus == 1 else BALANCED
    return replace(run, plan=replace(run.plan, device=_on_node(device)))


def prepared_runs(plans: Sequence[RunPlan], tell: Callable[[str, float], None]) -> list[PreparedRun]:
    """Plans prepared for nodes: checked here, but for their device, which only a node has.

    Raises:
        InputError: as `runs.preparing.prepare`.
    """
    read: dict[str, list[Fact]] = {}
    ready = []
    for number, plan in enumerate(plans):
        tell("Checking", number / len(plans))
        if plan.facts not in read:
            read[plan.facts] = read_as(plan)
        one = prepare(replace(plan, device="cpu"), read[plan.facts])
        ready.append(replace(one, plan=replace(one.plan, device=_on_node(plan.device))))
    return ready


def _on_node(device: str | None) -> str:
    """A device as it is called on a node, where Ray lets a task see only its own GPUs."""
    if device in (None, "cpu", BALANCED):
        return device or "cpu"
    if device in ("cuda", "cuda:0"):
        return "cuda:0"
    raise InputError(f'device "{device}" is not one of a node; give "cpu", "cuda" or "balanced", and gpus = N.')


def submit(store: RunStore, plan: GridPlan, runs: Sequence[PreparedRun], join: bool = False) -> Submitted:
    """Put a plan's runs into the queue of its name: those that are not there, and those that are to be resumed.

    Args:
        store: where to.
        plan: as read.
        runs: its runs, prepared, in order.
        join: let a driver that is at work on the plan take them, instead of refusing.

    Raises:
        InputError: when a driver is at work on the plan, another process submits it, or the store cannot be written.
    """
    queue = queue_of(plan.name)
    sizes = {model: sizes_of(model) for model in {run.plan.model for run in runs}}
    wanted = [key_statistics.of_size(run.statistics_wanted, sizes[run.plan.model].d_mlp) for run in runs]
    runs = [replace(run, statistics_wanted=rows) for run, rows in zip(runs, wanted, strict=True)]
    needs = [needs_of(run, sizes[run.plan.model], plan.place.cpus, plan.place.gpus, plan.place.memory) for run in runs]
    lock = FileLock(store.folder / f"ray-{plan.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Plan {plan.name} is being submitted by another process; see encore cluster status."
        ) from error
    try:
        if not (join and store.has_worker(queue)):
            refuse_a_second_driver(store, plan.name)
            store.abandon(queue)
        known = {_key(run): run for run in reversed(store.runs()) if run.device == queue}
        found = [known.get(_key_of(run)) for run in runs]
        missing = [run for run, there in zip(runs, found, strict=True) if there is None]
        before = _needs_before(store, plan.name)
        new = iter(store.submit(missing, [f"grid-{plan.name}"], queue))
        ids = [there.id if there else next(new) for there in found]
        resumed = [there.id for there in found if there and there.status in RESUMABLE]
        for run_id in resumed:
            store.resume(run_id)
        _write(store, Grid(plan.name, plan.place, before | dict(zip(ids, needs, strict=True))))
    finally:
        lock.release()
    there = {run.id for run in found if run}
    notices = dict.fromkeys(line for run in runs for line in run.notices)
    others = [] if join else [run for run in known.values() if run.id not in ids]
    if others:
        n_edits = sum(run.cursor for run in others)
        notices[
            f"{counted(len(others), 'earlier run')} under the name {plan.name} ({counted(n_edits, 'edit')}) "
            f"{'is' if len(others) == 1 else 'are'} not in the plan as it is now, and kept: encore cluster status "
            "shows such runs, encore runs delete removes them."
        ] = None
    return Submitted(tuple(ids), tuple(one for one in ids if one not in there), tuple(resumed), tuple(notices))


def refuse_a_second_driver(store: RunStore, name: str) -> None:
    """Refuse while a driver is at work on a plan.

    Raises:
        InputError: naming the process.
    """
    queue = queue_of(name)
    if store.has_worker(queue):
        owners = {(run.host, run.pid) for run in store.runs() if run.device == queue and run.status == "running"}
        [(host, pid), *_] = owners or [(None, None)]
        who = f"process {pid} on {host}" if pid else "another process"
        raise InputError(
            f"Plan {name} is being worked on by {who}; encore cluster status {name} shows it, and encore cluster "
            f"cancel {name} stops it."
        )


def read_grid(store: RunStore, name: str) -> Grid:
    """What was written when a plan was submitted.

    Raises:
        InputError: when no such plan was.
    """
    file = _file(store, name)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        needs = {run_id: Needs(**one) for run_id, one in values["needs"].items()}
        return Grid(values["name"], Place(**values["place"]), needs)
    except FileNotFoundError as error:
        names = ", ".join(grid_names(store)) or "none"
        raise InputError(f"There is no plan {name!r} in the store {store.folder}; plans there: {names}.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); start the plan again with encore cluster run.") from error


def grid_names(store: RunStore) -> list[str]:
    """The names of the plans in a store."""
    return sorted(file.stem.removeprefix("ray-") for file in store.folder.glob("ray-*.json"))


def runs_of(store: RunStore, name: str) -> list[RunInfo]:
    """The runs of a plan, in the order in which they were submitted."""
    queue = queue_of(name)
    return [run for run in reversed(store.runs()) if run.device == queue]


def _file(store: RunStore, name: str) -> Path:
    return store.folder / f"ray-{checked_name(name)}.json"


def _needs_before(store: RunStore, name: str) -> dict[str, Needs]:
    """What is known of the needs of a plan's runs; nothing where the file is missing or cannot be read."""
    if not _file(store, name).exists():
        return {}
    try:
        return dict(read_grid(store, name).needs)
    except InputError as error:
        log.warning("%s", error)
        return {}


def _write(store: RunStore, grid: Grid) -> None:
    values: dict[str, Any] = {
        "name": grid.name,
        "written": time.time(),
        "place": asdict(grid.place),
        "needs": {run_id: one.as_dict() for run_id, one in grid.needs.items()},
    }
    with replacing(_file(store, grid.name)) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _key(run: RunInfo) -> str:
    return as_json(identity(run) | {"device": run.plan_json["device"]})


def _key_of(run: PreparedRun) -> str:
    """The same of a run that is not in the store yet."""
    plan = {name: one for name, one in run.plan.to_json().items() if name not in ("name", "device")}
    return as_json(
        {
            "plan": json.dumps(plan, sort_keys=True),
            "settings": json.dumps(json.loads(as_json(vars(run.settings))), sort_keys=True),
            "facts": run.order_digest,
            "device": run.plan.device,
        }
    )
