"""`encore cluster …`: a plan of many runs over several machines, by Ray (the extra `[ray]`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace

from encore_core import ray_core
from encore_core.cli.options import add_json_option, add_store_option, add_verbose_option, positive
from encore_core.cli.output import Bar, duration, notice
from encore_core.cli.places import store_of
from encore_core.cli.watching import Workers, activity, print_ids, tell_ends, watch
from encore_core.cluster import grid, nodes
from encore_core.cluster.cost import HARDWARE, find_hardware, run_cost, together
from encore_core.cluster.needs import sizes_of
from encore_core.cluster.plan_file import GridPlan, read_plan
from encore_core.errors import InputError
from encore_core.runs.fact_order import batch_ends, checkpoints
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore
from encore_core.storage import gigabytes
from encore_core.words import counted


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    cluster = commands.add_parser("cluster", help="a plan of many runs over several machines, with Ray")
    actions = cluster.add_subparsers(required=True, metavar="ACTION")

    run = actions.add_parser("run", help="do a plan's runs, or go on with them")
    run.add_argument("plan", metavar="PLAN", help="a TOML file; its fields stand in encore_core/cluster/plan_file.py")
    run.add_argument("--detach", action="store_true", help="do not wait: the runs go on by themselves")
    add_json_option(run, "array")
    run.set_defaults(command=_run)

    status = actions.add_parser("status", help="plans and how far they are, a plan's runs, or a cluster's nodes")
    status.add_argument("plan", nargs="?", metavar="PLAN", help="its name or its file (default: all, in short)")
    add_json_option(status)
    status.set_defaults(command=_status)

    cost = actions.add_parser("plan", help="what a plan would cost on given hardware, from measured constants")
    cost.add_argument("plan", metavar="PLAN", help="a TOML file")
    cost.add_argument("--hardware", default="h100", metavar="H", help=f"one of {', '.join(h.name for h in HARDWARE)}")
    cost.add_argument("--devices", type=positive, default=1, metavar="N", help="devices of the cluster (default 1)")
    cost.add_argument(
        "--steps", type=positive, metavar="S", help="evaluations per fact (default: as many as the settings allow)"
    )
    add_json_option(cost)
    cost.set_defaults(command=_cost)

    cancel = actions.add_parser("cancel", help="cancel the runs of a plan that have not ended")
    cancel.add_argument("plan", metavar="PLAN", help="its name or its file")
    cancel.set_defaults(command=_cancel)

    for parser in (run, status):
        parser.add_argument(
            "--address", metavar="A", help='HOST:PORT, "auto" or "local" (default for run: the plan\'s, else "auto")'
        )
    for parser in (run, status, cancel):
        add_store_option(parser)
    for parser in (run, status, cancel, cost):
        add_verbose_option(parser)


def _run(options: argparse.Namespace) -> None:
    plan = _at(read_plan(options.plan), options.address)
    ray_core.ray_module()
    if plan.place.address != ray_core.LOCAL:
        with ray_core.connected(plan.place.address):  # before anything is queued
            pass
    store = RunStore(options.store)
    grid.refuse_a_second_driver(store, plan.name)
    with Bar("Checking") as bar:
        ready = grid.prepared_runs(plan.runs, bar.share)
    done = grid.submit(store, plan, ready)
    for line in done.notices:
        notice(line)
    print(
        f"plan {plan.name}: {counted(len(done.ids), 'run')}, {len(done.new)} new, {len(done.resumed)} resumed, "
        f"at {plan.place.address}",
        file=sys.stderr,
    )
    workers = Workers(store)
    if any(not store.get(run_id).ended for run_id in done.ids):
        workers.ensure(grid.queue_of(plan.name))
    if not options.detach:
        watch(store, done.ids, workers)
    print_ids(store, done.ids, options.json)
    tell_ends(store, done.ids)


def _at(plan: GridPlan, address: str | None) -> GridPlan:
    if address is None:
        return plan
    return replace(plan, place=replace(plan.place, address=ray_core.checked_address(address)))


def _status(options: argparse.Namespace) -> None:
    store = store_of(options)
    found = {
        name: grid.runs_of(store, name)
        for name in ([_name(store, options.plan)] if options.plan else grid.grid_names(store))
    }
    said = _nodes_at(ray_core.checked_address(options.address)) if options.address else None
    if options.json:
        plans = {name: [run.as_dict() for run in runs] for name, runs in found.items()}
        print(json.dumps({"plans": plans} | ({"nodes": [vars(node) for node in said]} if said is not None else {})))
        return
    for node in said or ():
        print(f"node {node.host:20}{nodes.describe(node.resources):40}{node.processor}")
    for name, runs in found.items():
        counts = Counter(run.status for run in runs)
        edits = f"{sum(run.done for run in runs):,} of {counted(sum(run.n_edits for run in runs), 'edit')}"
        idle = not store.has_worker(grid.queue_of(name)) and any(not run.ended for run in runs)
        print(f"{name:32}{', '.join(f'{n} {status}' for status, n in counts.items()):30}{edits}")
        if idle:
            notice(f"nobody works on {name}; encore cluster run with its file goes on")
        for run in runs if options.plan else ():
            print(f"  {run.id:22}{run.status:13}{run.done:>7} of {run.n_edits:<7}{_where(run):20}{_doing(run)}")
    if not found and said is None:
        print("no plan has been started; encore cluster run PLAN", file=sys.stderr)


def _cost(options: argparse.Namespace) -> None:
    plan, hardware = read_plan(options.plan), find_hardware(options.hardware)
    with Bar("Checking") as bar:
        ready = grid.prepared_runs(plan.runs, bar.share)
    sizes = {model: sizes_of(model) for model in {run.plan.model for run in ready}}
    costs = []
    for run in ready:
        points = checkpoints(batch_ends(run.facts, run.plan.batch_size), run.plan.checkpoint_every)
        costs.append(
            run_cost(
                sizes[run.plan.model],
                run.settings,
                len(run.facts),
                run.plan.batch_size,
                len(points),
                hardware,
                steps=options.steps,
            )
        )
    seconds = together(costs, options.devices)
    if options.json:
        rows = [{"name": run.plan.name, **vars(one)} for run, one in zip(ready, costs, strict=True)]
        print(json.dumps({"seconds": seconds, "hardware": hardware.name, "runs": rows}))
        return
    if any(run.plan.device == "cpu" for run in ready):
        notice(
            f"the plan asks for processors (gpus = 0), of which nothing has been measured: these are the figures of "
            f"{hardware.name} instead; encore run --dry-run times a run on this machine"
        )
    notice(f"computed from what {hardware.measured} reached; measuring and loading are not in it")
    notice(f"{gigabytes(hardware.link)} a second between machines and {gigabytes(hardware.disk)} to disk are assumed")
    for run, one in zip(ready, costs, strict=True):
        print(
            f"{run.plan.name:32}{counted(len(run.facts), 'edit', form='>9,'):15}  {duration(one.seconds):>12}  device "
            f"{gigabytes(one.device_bytes)} on {one.devices}  traffic {gigabytes(one.traffic)} a batch  disk "
            f"{gigabytes(one.disk)}  most time: {one.limit}"
        )
    disk = gigabytes(sum(one.disk for one in costs))
    print(f"together on {counted(options.devices, 'device')}: {duration(seconds)}, disk {disk}")


def _where(run: RunInfo) -> str:
    return str(run.detail.get("node", ""))


def _doing(run: RunInfo) -> str:
    return (run.error or "") if run.ended else activity(run)


def _nodes_at(address: str) -> list[nodes.NodeSays]:
    with ray_core.connected(address) as ray:
        return nodes.ask_nodes(ray, ())


def _cancel(options: argparse.Namespace) -> None:
    store = store_of(options)
    name = _name(store, options.plan)
    n_cancelled = 0
    for run in grid.runs_of(store, name):
        if run.status in ("queued", "running", "interrupted"):
            try:
                store.cancel(run.id)
                n_cancelled += 1
            except InputError:
                continue  # it has ended meanwhile
    are = "is" if n_cancelled == 1 else "are"
    print(f"{counted(n_cancelled, 'run')} of plan {name} {are} cancelled, or told to stop", file=sys.stderr)


def _name(store: RunStore, text: str) -> str:
    """The name of a plan that is in the store, from its name or its file.

    Raises:
        InputError: when there is none.
    """
    if text in grid.grid_names(store):
        return text
    name = read_plan(text).name if text.endswith(".toml") else text
    return grid.read_grid(store, name).name
