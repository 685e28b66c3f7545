"""`encore runs …`: list, show, resume, cancel, delete, export and import runs."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from encore_core.cli.options import add_json_option, add_store_option, add_verbose_option, path
from encore_core.cli.output import Bar, duration
from encore_core.cli.places import store_of
from encore_core.cli.watching import Workers, activity, print_ids, tell_ends, watch
from encore_core.runs.carried import import_runs
from encore_core.runs.export import export_run, sample_scores, settings_of_run
from encore_core.runs.fact_values import NO_INTERVAL, protocol
from encore_core.runs.queue import check_resumable
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore
from encore_core.words import counted


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    runs = commands.add_parser("runs", help="list, show, resume, cancel, delete, export and import runs")
    actions = runs.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list the runs")
    listing.add_argument("search", nargs="*", help="words that occur in id, name, tags, method, model or status")
    add_json_option(listing, "array")
    listing.set_defaults(command=_list)

    show = actions.add_parser("show", help="everything about a run, and the end of its log")
    show.add_argument("id")
    add_json_option(show)
    show.set_defaults(command=_show)

    resume = actions.add_parser("resume", help="go on with runs that were interrupted, cancelled or have failed")
    resume.add_argument("id", nargs="+")
    resume.add_argument("--detach", action="store_true", help="do not wait")
    add_json_option(resume, "array")
    resume.set_defaults(command=_resume)

    cancel = actions.add_parser("cancel", help="take runs out of the queue, or stop them within the current batch")
    cancel.add_argument("id", nargs="+")
    cancel.set_defaults(command=_cancel)

    delete = actions.add_parser("delete", help="forget runs, their series and their files")
    delete.add_argument("id", nargs="+")
    delete.set_defaults(command=_delete)

    export = actions.add_parser(
        "export", help="write every series as CSV, the settings, the edits and the edited model"
    )
    export.add_argument("id")
    export.add_argument("--out", required=True, type=path, metavar="DIR", help="must not exist or be empty")
    export.add_argument("--model", action="store_true", help="write the edited model's folder, too")
    export.add_argument("--edits", action="store_true", help="write the edits as a file for encore apply, too")
    export.set_defaults(command=_export)

    importing = actions.add_parser("import", help="import the runs of another folder; nothing is added twice")
    importing.add_argument("folder", type=path, metavar="FOLDER")
    add_json_option(importing, "array")
    importing.set_defaults(command=_import)

    for parser in (listing, show, resume, cancel, delete, export, importing):
        add_verbose_option(parser)
        add_store_option(parser)


def _list(options: argparse.Namespace) -> None:
    found = store_of(options).runs(" ".join(options.search))
    if options.json:
        print(json.dumps([run.as_dict() for run in found]))
        return
    for run in found:
        status = f"{run.status} {run.position}" if run.position else run.status
        print(f"{run.id:22}{status:13}{run.done:>7} of {run.n_edits:<7}{_when(run.created):18}{run.name}")


def _show(options: argparse.Namespace) -> None:
    store = store_of(options)
    run = store.get(options.id)
    if options.json:
        print(json.dumps(settings_of_run(run) | {"log": store.read_log(run.id, 50), "scores": _scores(store, run)}))
        return
    described = settings_of_run(run)
    rows = {
        "run": f"{run.id}  {run.name}",
        "status": f"{run.status}{f', place {run.position}' if run.position else ''}",
        "error": run.error,
        "edits": f"{run.done} of {run.n_edits}, {run.cursor} saved{f', {run.skipped} skipped' if run.skipped else ''}",
        "doing": activity(run) if not run.ended else None,
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
    _print_scores(_scores(store, run))
    log = store.read_log(run.id, 10)
    if log:
        print(f"\n{log}")


def _scores(store: RunStore, run: RunInfo) -> dict[str, Any]:
    """Scores of the sample at the last checkpoint that has some, as plain JSON values; empty before the first one."""
    found = sample_scores(store, run)
    if not found:
        return {}
    last = max(found)
    scores = {
        name: one._asdict() | {"protocol": protocol(name, run.protocols)}
        for name, one in found[last].items()
        if one is not None and not math.isnan(one.value)
    }
    return {"edits": last, "subset": "sample", "scores": scores}


def _print_scores(found: Mapping[str, Any]) -> None:
    if not found:
        return
    print(f"\nScores of a sample of the facts after {found['edits']:,} edits, with 95 % intervals over facts")
    by_protocol: dict[str, list[str]] = {}
    for name, one in found["scores"].items():
        digits = 3 if name == "magnitude" else 1
        between = "" if one["low"] is None else f"{one['low']:.{digits}f} to {one['high']:.{digits}f}"
        n = counted(one["n"], "fact") if one["n"] else NO_INTERVAL
        line = f"  {name:34}{one['value']:>8.{digits}f}   {between:18}{n}"
        by_protocol.setdefault(one["protocol"], []).append(line)
    for words, lines in by_protocol.items():
        print("\n".join((words, *lines)))


def _resume(options: argparse.Namespace) -> None:
    store = store_of(options)
    ids = list(dict.fromkeys(options.id))
    for run_id in ids:  # so that none is put into the queue, and left there, where another is refused
        check_resumable(store.get(run_id))
    runs = [store.resume(run_id) for run_id in ids]
    workers = Workers(store)
    for device in {run.device for run in runs}:
        workers.ensure(device)
    if not options.detach:
        watch(store, ids, workers)
    print_ids(store, ids, options.json)
    tell_ends(store, ids)


def _cancel(options: argparse.Namespace) -> None:
    store = store_of(options)
    for run_id in options.id:
        run = store.cancel(run_id)
        said = "cancelled" if run.ended else "being cancelled; the current batch is dropped"
        print(f"{run.id} is {said}", file=sys.stderr)


def _delete(options: argparse.Namespace) -> None:
    store = store_of(options)
    for run_id in options.id:
        store.delete(run_id)
        print(f"{run_id} is deleted", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    with Bar("Exporting") as bar:
        written = export_run(
            store_of(options), options.id, options.out, options.model, bar.share, with_edits=options.edits
        )
    print(f"{len(written)} files written to {options.out}", file=sys.stderr)


def _import(options: argparse.Namespace) -> None:
    taken = import_runs(RunStore(options.store), options.folder)
    if options.json:
        print(json.dumps([vars(one) | {"changed": one.changed} for one in taken]))
        return
    for one in taken:
        said = "nothing new" if not one.changed else f"{one.before} to {one.after} edits"
        print(f"{one.id}: {said}{', done' if one.is_done else ''}", file=sys.stderr)
    if not taken:
        print(f"{options.folder} holds no run", file=sys.stderr)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
