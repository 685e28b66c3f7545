"""`encore run` and `encore runs …`: start long runs, watch them, and look after them.

A run is done by a worker, a process of its own (see `runs.worker`); what is done here is to submit and to watch. So
closing the terminal does not end a run. Ctrl-C does: it leaves the run interrupted with its state saved, to be resumed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encore_core.cli.fact_files import add_facts_options, facts_of
from encore_core.cli.options import add_model_options, overrides, positive, seed
from encore_core.cli.output import Bar, duration, notice
from encore_core.errors import InputError, quoted
from encore_core.methods import METHODS, find_method
from encore_core.models.editable import load_model
from encore_core.models.start_token import AUTO
from encore_core.runs.estimate import calibrate, estimate
from encore_core.runs.export import export_run, settings_of_run
from encore_core.runs.launch import start_worker
from encore_core.runs.plan import KNOWN, ORDERS, MeasurePlan, RunPlan
from encore_core.runs.preparing import PreparedRun, prepare
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore

POLL_SECONDS = 0.5
STARTS = 2
"""How often a worker is started for a run that nobody takes, before the user is told."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    run = commands.add_parser("run", help="hundreds to thousands of sequential edits, measured as they go")
    add_model_options(run)
    run.add_argument("--method", default="ENCORE", metavar="M,…", help=f"one or more of {', '.join(METHODS)}")
    add_facts_options(run, required=True)
    run.add_argument("--edits", type=positive, metavar="N", help="facts to edit (default: all of the file)")
    run.add_argument("--batch-size", type=positive, default=50, metavar="B", help="facts a batch (default 50)")
    run.add_argument(
        "--checkpoint-every", type=positive, metavar="K", help="edits between checkpoints (default: a tenth of the run)"
    )
    run.add_argument("--name", default="", help="what to call it (default: method and size)")
    run.add_argument("--order", choices=ORDERS, default="file", help="the first facts of the file, or drawn from all")
    run.add_argument("--seed", type=seed, default=0, metavar="S", help="of order, prefixes and samples (default 0)")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[METHOD:]NAME=VALUE",
        help="override a setting, of all methods or of one; repeatable",
    )
    run.add_argument("--known", choices=KNOWN, default="edit", help="facts that the model says already (default edit)")
    run.add_argument(
        "--statistics",
        "--statistics-text",
        dest="statistics_text",
        metavar="FILE",
        help='text for key statistics, or "bundled" (default: what encore statistics has gathered, else bundled)',
    )
    run.add_argument("--downstream", metavar="DIR", help='folder of downstream tasks, or "hub" to fetch them')
    run.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what is measured, for example sample_facts=100, contributions=false, share_cap=none; repeatable",
    )
    run.add_argument("--detach", action="store_true", help="do not wait: the run goes on by itself")
    run.add_argument("--dry-run", action="store_true", help="only say what it would cost")
    run.add_argument("--json", action="store_true", help="print one JSON array")
    _add_store(run)
    run.set_defaults(command=_run)

    runs = commands.add_parser("runs", help="list, show, resume, cancel, delete and export runs")
    actions = runs.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="which runs there are")
    listing.add_argument("search", nargs="*", help="words that occur in id, name, tags, method, model or status")
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    listing.set_defaults(command=_list)

    show = actions.add_parser("show", help="everything about a run, and the end of its log")
    show.add_argument("id")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(command=_show)

    resume = actions.add_parser("resume", help="go on with runs that were interrupted, cancelled or have failed")
    resume.add_argument("id", nargs="+")
    resume.add_argument("--detach", action="store_true", help="do not wait")
    resume.add_argument("--json", action="store_true", help="print one JSON array")
    resume.set_defaults(command=_resume)

    cancel = actions.add_parser("cancel", help="take runs out of the queue, or stop them within a batch")
    cancel.add_argument("id", nargs="+")
    cancel.set_defaults(command=_cancel)

    delete = actions.add_parser("delete", help="forget runs, their series and their files")
    delete.add_argument("id", nargs="+")
    delete.set_defaults(command=_delete)

    export = actions.add_parser(
        "export", help="write every series as CSV, the settings, the edits and the edited model"
    )
    export.add_argument("id")
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="must not exist or be empty")
    export.add_argument("--model", action="store_true", help="write the edited model's folder, too")
    export.add_argument("--edits", action="store_true", help="write the edits as a file for encore apply, too")
    export.set_defaults(command=_export)

    for parser in (listing, show, resume, cancel, delete, export):
        parser.add_argument("--verbose", action="store_true", help="log what is done")
        _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, metavar="DIR", help="folder of runs (default: runs in the data folder)")


# -- starting ----------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> None:
    plans = _plans(options)
    facts = facts_of(options)
    with Bar("Checking") as bar:
        ready = [prepare(plan, facts, bar.share) for plan in plans]
    for line in dict.fromkeys(line for run in ready for line in run.notices):
        notice(line)
    if options.dry_run:
        _tell_costs(ready, options.json)
        return
    store = RunStore(options.store)
    ids = store.submit(ready)
    workers = _Workers(store)
    workers.ensure(ready[0].plan.device)
    if options.detach:
        if not options.json:
            for run_id in ids:
                print(f"{run_id} is queued; `encore runs show {run_id}` says how far it is", file=sys.stderr)
    else:
        _watch(store, ids, workers)
    _print_ids(store, ids, options.json)
    _tell_ends(store, ids)


def _plans(options: argparse.Namespace) -> list[RunPlan]:
    """A plan for each method asked for, alike but for the method and its settings."""
    names = [find_method(name).name for name in options.method.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"--method {quoted(options.method)} names a method twice; name each once.")
    common, own = _settings(options.set, names)
    measure = MeasurePlan(downstream=options.downstream, **_measures(options.measure))
    return [
        RunPlan(
            method=name,
            model=options.model,
            facts=options.facts,
            n_edits=options.edits,
            batch_size=options.batch_size,
            checkpoint_every=options.checkpoint_every,
            name=f"{options.name} {name}" if options.name and len(names) > 1 else options.name,
            order=options.order,
            seed=options.seed,
            overrides=common | own.get(name, {}),
            known=options.known,
            device=options.device,
            dtype=options.dtype,
            start_token=options.start_token or AUTO,
            statistics_text=options.statistics_text,
            measure=measure,
        )
        for name in names
    ]


def _settings(pairs: Sequence[str], methods: Sequence[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Settings of all methods, and those of single ones ("METHOD:NAME=VALUE")."""
    common: list[str] = []
    own: dict[str, list[str]] = {}
    for pair in pairs:
        before, colon, rest = pair.partition(":")
        if colon and "=" not in before:
            name = find_method(before).name
            if name not in methods:
                raise InputError(
                    f"--set {quoted(pair)} is for {name}, which is not run; methods: {', '.join(methods)}."
                )
            own.setdefault(name, []).append(rest)
        else:
            common.append(pair)
    return overrides(common), {name: overrides(of_method) for name, of_method in own.items()}


def _measures(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields of `MeasurePlan` from "NAME=VALUE"."""
    usual = {name: value for name, value in vars(MeasurePlan()).items() if name != "downstream"}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or name not in usual:
            raise InputError(
                f"--measure {quoted(pair)} is not of the form NAME=VALUE with NAME one of {', '.join(usual)}."
            )
        found[name] = _measure_value(name, text, usual[name])
    return found


def _measure_value(name: str, text: str, usual: Any) -> Any:
    if isinstance(usual, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"--measure {name}={quoted(text)} is not a truth value; write true or false.")
        return text.lower() == "true"
    if isinstance(usual, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if name == "share_cap" and text.lower() == "none":
        return None
    try:
        return float(text) if isinstance(usual, float) else int(text)
    except ValueError as error:
        raise InputError(f"--measure {name}={quoted(text)} is not a number; give one.") from error


def _tell_costs(ready: Sequence[PreparedRun], as_json: bool) -> None:
    plan = ready[0].plan
    with Bar("Loading") as bar:
        lm = load_model(plan.model, plan.device, plan.dtype, bar.share, plan.start_token)
    for line in lm.notes:
        notice(line)
    rows = []
    for run in ready:
        with Bar("Timing a few edits") as bar:
            cost = estimate(run, calibrate(lm, run, bar.share))
        rows.append({"method": run.plan.method, "edits": len(run.facts), **vars(cost)})
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['method']:15}{row['edits']:>7} edits  {duration(row['seconds']):>10}"
            f"  ({duration(row['measuring_seconds'])} of it measuring at {row['n_checkpoints']} checkpoints"
            f"{', some of them in part' if row['capped'] else ''})"
            f"  memory {row['memory_bytes'] / 1e9:.1f} GB  disk {row['disk_bytes'] / 1e9:.2f} GB"
        )


# -- watching ----------------------------------------------------------------------------------------------------------


class _Workers:
    """Starts workers for a queue, and again when one ends before it has taken anything."""

    def __init__(self, store: RunStore):
        self.store = store
        self.processes: dict[str, subprocess.Popen | None] = {}
        self.starts: Counter[str] = Counter()

    def ensure(self, device: str) -> None:
        """See to it that a worker serves the device.

        Raises:
            InputError: when workers have been started and none lives, with what the last one said.
        """
        process = self.processes.get(device)
        # A worker takes some seconds to begin.
        if (process is not None and process.poll() is None) or self.store.has_worker(device):
            return
        if self.starts[device] == STARTS:
            file = self.store.worker_log(device)
            said = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file.is_file() else []
            raise InputError(
                f"The worker of {device} ends at once: {said[-1] if said else 'no word why'} (see {file})."
            )
        self.starts[device] += 1
        self.processes[device] = start_worker(self.store, device)


def _watch(store: RunStore, ids: Sequence[str], workers: _Workers) -> None:
    """A bar for each run until all have ended. Ctrl-C interrupts those that have not."""
    try:
        for run_id in ids:
            _follow(store, run_id, workers)
    except KeyboardInterrupt:
        _interrupt(store, ids)
        raise


def _follow(store: RunStore, run_id: str, workers: _Workers) -> None:
    run = store.get(run_id)
    with Bar(f"{run.method} ({run.id})", total=run.n_edits, unit="edit") as bar:
        while not run.ended:
            bar.at(run.done, _activity(run))
            if run.status == "queued":
                workers.ensure(run.device)
            time.sleep(POLL_SECONDS)
            run = store.get(run_id)
        bar.at(run.done, run.status)


def _activity(run: RunInfo) -> str:
    """What a run does, in a few words."""
    detail = run.detail
    if run.status == "queued":
        return f"place {run.position} in the queue"
    phase = detail.get("phase", "starting")
    phase = {"targets": "seeking targets", "update": "updating"}.get(phase, phase)
    words = [" ".join(str(part) for part in (phase, detail.get("what")) if part)]
    if "step" in detail and detail.get("phase") == "targets":
        words[0] += f", step {detail['step']}"
    if "seconds_per_edit" in detail:
        words.append(f"{detail['seconds_per_edit']:.2f} s an edit")
        words.append(f"{duration(detail['seconds_left'])} left")
    return " · ".join(words)


def _interrupt(store: RunStore, ids: Sequence[str]) -> None:
    """Stop runs so that they can be resumed, and say so."""
    waiting = []
    for run_id in ids:
        try:
            store.interrupt(run_id)
            waiting.append(run_id)
        except InputError:
            continue  # it has ended
    if not waiting:
        return
    notice("Stopping; the state is being saved. Ctrl-C once more leaves that to the worker.")
    while not all(store.get(run_id).ended for run_id in waiting):
        time.sleep(POLL_SECONDS)
    _tell_ends(store, waiting)


def _tell_ends(store: RunStore, ids: Sequence[str]) -> None:
    """Say which runs ended otherwise than done.

    Raises:
        InputError: when one has failed.
    """
    runs = [store.get(run_id) for run_id in ids]
    for run in runs:
        if run.status in ("interrupted", "cancelled"):
            notice(f"{run.id} is {run.status} at {run.cursor} of {run.n_edits} edits; encore runs resume {run.id}")
    for run in runs:
        if run.status == "failed":
            raise InputError(f"Run {run.id} failed: {run.error} What it had is kept: encore runs resume {run.id}")


# -- looking after them ------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> None:
    found = RunStore(options.store).runs(" ".join(options.search))
    if options.json:
        print(json.dumps([run.as_dict() for run in found]))
        return
    for run in found:
        status = f"{run.status} {run.position}" if run.position else run.status
        print(f"{run.id:22}{status:13}{run.done:>7} of {run.n_edits:<7}{_when(run.created):18}{run.name}")


def _show(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    run = store.get(options.id)
    if options.json:
        print(json.dumps(settings_of_run(run) | {"log": store.read_log(run.id, 50)}))
        return
    described = settings_of_run(run)
    rows = {
        "run": f"{run.id}  {run.name}",
        "status": f"{run.status}{f', place {run.position}' if run.position else ''}",
        "error": run.error,
        "edits": f"{run.done} of {run.n_edits}, {run.cursor} saved{f', {run.skipped} skipped' if run.skipped else ''}",
        "doing": _activity(run) if not run.ended else None,
        "model": f"{run.model} ({run.fingerprint or 'not loaded yet'}) on {run.device}",
        "from": run.versions.get("model"),
        "in front": f"of every text: {run.in_front}",
        "method": f"{run.method}, layers {', '.join(map(str, run.layers))}",
        "facts": f"{run.plan_json['facts']} ({run.facts_digest}), order {run.plan_json['order']}",
        "C0": run.key_statistics,
        "time": f"{duration(run.editing_seconds)} editing, {duration(run.measuring_seconds)} measuring",
        "tags": ", ".join(run.tags),
        "weights": run.weights_digest,
        "again": described["command"],
    }
    for name, value in rows.items():
        if value:
            print(f"{name:10}{value}")
    log = store.read_log(run.id, 10)
    if log:
        print(f"\n{log}")


def _resume(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    runs = [store.resume(run_id) for run_id in options.id]
    workers = _Workers(store)
    for device in {run.device for run in runs}:
        workers.ensure(device)
    if not options.detach:
        _watch(store, options.id, workers)
    _print_ids(store, options.id, options.json)
    _tell_ends(store, options.id)


def _cancel(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    for run_id in options.id:
        run = store.cancel(run_id)
        said = "cancelled" if run.ended else "being cancelled; the batch at hand is given up"
        print(f"{run.id} is {said}", file=sys.stderr)


def _delete(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    for run_id in options.id:
        store.delete(run_id)
        print(f"{run_id} is deleted", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    with Bar("Exporting") as bar:
        written = export_run(
            RunStore(options.store), options.id, options.out, options.model, bar.share, with_edits=options.edits
        )
    print(f"{len(written)} files written to {options.out}", file=sys.stderr)


def _print_ids(store: RunStore, ids: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps([store.get(run_id).as_dict() for run_id in ids]))
    else:
        for run_id in ids:
            print(run_id)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
