"""`encore run`: start long runs, or say what they would cost.

A worker, a separate process (see `runs.worker`), does the run; this command only submits and watches it. So closing the
terminal does not end a run. Ctrl-C does: it leaves the run interrupted with its state saved, so that it can be resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from encore_core.cli.evaluating import add_protocol_options, protocols_of, seconds_of
from encore_core.cli.fact_files import add_facts_options, facts_of
from encore_core.cli.options import add_model_options, add_store_option, overrides, path_or_name, positive, seed
from encore_core.cli.output import Bar, duration, notice
from encore_core.cli.watching import Workers, print_ids, tell_ends, watch
from encore_core.errors import InputError, quoted
from encore_core.measures.generated import CHATS
from encore_core.measures.generated_scores import PROTOCOLS
from encore_core.methods import METHODS, find_method
from encore_core.models.editable import load_model
from encore_core.models.start_token import AUTO
from encore_core.runs.estimate import calibrate, estimates, known_calibration
from encore_core.runs.plan import KNOWN, ORDERS, WITH_OPTIONS, MeasurePlan, RunPlan
from encore_core.runs.preparing import PreparedRun, prepare
from encore_core.runs.seeds import seeds_of, tag_of_seeds, with_seeds
from encore_core.runs.store import RunStore
from encore_core.words import counted


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    run = commands.add_parser("run", help="hundreds to thousands of sequential edits, measured as they go")
    add_model_options(run)
    run.add_argument("--method", default="ENCORE", metavar="M,…", help=f"one or more of {', '.join(METHODS)}")
    add_facts_options(run, required=True)
    run.add_argument("--edits", type=positive, metavar="N", help="facts to edit (default: all of the file)")
    run.add_argument("--batch-size", type=positive, default=50, metavar="B", help="facts per batch (default 50)")
    run.add_argument(
        "--checkpoint-every", type=positive, metavar="K", help="edits between checkpoints (default: a tenth of the run)"
    )
    run.add_argument("--name", default="", help="its name (default: method and size)")
    run.add_argument("--order", choices=ORDERS, default="file", help="the first facts of the file, or a shuffle of all")
    seeds = run.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=seed, metavar="S", help="of order, prefixes and samples (default 0)")
    seeds.add_argument("--seeds", type=_seeds, metavar="S,…", help="one run for each seed, tagged alike")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[METHOD:]NAME=VALUE",
        help="override a setting, for all methods or for one; repeatable",
    )
    run.add_argument(
        "--known",
        choices=KNOWN,
        default="edit",
        help="what to do with facts that the model already says (default edit)",
    )
    run.add_argument(
        "--statistics", "--statistics-text", dest="statistics_text", type=path_or_name, metavar="FILE",
        help='text for key statistics, or "bundled" (default: what encore statistics has gathered, else bundled)',
    )  # fmt: skip
    add_protocol_options(run, ",".join(PROTOCOLS))
    run.add_argument(
        "--downstream", type=path_or_name, metavar="DIR", help='folder of downstream tasks, or "hub" to fetch them'
    )
    run.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what to measure, for example sample_facts=100, contributions=false, share_cap=none; repeatable",
    )
    run.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share every batch, each with the model: on the GPUs or cores of this machine, or on the "
        "Ray cluster that RAY_ADDRESS names (default 1; more need the extra [ray])",
    )
    run.add_argument("--detach", action="store_true", help="do not wait: the run goes on by itself")
    run.add_argument("--dry-run", action="store_true", help="only say what it would cost")
    run.add_argument("--json", action="store_true", help="print one JSON array")
    add_store_option(run)
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    plans = plans_of(options)
    facts = facts_of(options)
    with Bar("Checking") as bar:
        ready = [prepare(plan, facts, bar.share) for plan in plans]
    for line in dict.fromkeys(line for run in ready for line in run.notices):
        notice(line)
    if options.dry_run:
        _tell_costs(ready, options.json)
        return
    store = RunStore(options.store)
    ids = store.submit(ready, [tag_of_seeds()] if options.seeds else ())
    workers = Workers(store)
    workers.ensure(ready[0].plan.device)
    if options.detach:
        if not options.json:
            for run_id in ids:
                print(f"{run_id} is queued; `encore runs show {run_id}` says how far it is", file=sys.stderr)
    else:
        watch(store, ids, workers)
    print_ids(store, ids, options.json)
    tell_ends(store, ids)


def _seeds(text: str) -> list[int]:
    try:
        return seeds_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def plans_of(options: argparse.Namespace) -> list[RunPlan]:
    """A plan for each method and seed asked for; they differ only in these and the method's settings."""
    names = [find_method(name).name for name in options.method.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"--method {quoted(options.method)} names a method twice; name each once.")
    common, own = _settings(options.set, names)
    measure = MeasurePlan(
        downstream=options.downstream,
        protocols=protocols_of(options),
        chat=options.chat or CHATS[0],
        max_tokens=options.max_tokens,
        judge=options.judge,
        judge_model=options.judge_model,
        judge_seconds=seconds_of(options),
        **_measures(options.measure),
    )
    plans = [
        RunPlan(
            method=name,
            model=options.model,
            facts=options.facts,
            find_subjects=options.find_subjects,
            skip_bad=options.skip_bad,
            n_edits=options.edits,
            batch_size=options.batch_size,
            checkpoint_every=options.checkpoint_every,
            name=f"{options.name} {name}" if options.name and len(names) > 1 else options.name,
            order=options.order,
            seed=options.seed or 0,
            overrides=common | own.get(name, {}),
            known=options.known,
            device=options.device,
            dtype=options.dtype,
            start_token=options.start_token or AUTO,
            workers=options.workers,
            statistics_text=options.statistics_text,
            measure=measure,
        )
        for name in names
    ]
    return [one for plan in plans for one in with_seeds(plan, options.seeds)] if options.seeds else plans


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
    usual = {name: value for name, value in vars(MeasurePlan()).items() if name not in WITH_OPTIONS}
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
    calibrations = []
    for number, run in enumerate(ready, start=1):
        if known_calibration(lm, run) is None:
            of = f"{run.plan.method} ({number} of {len(ready)})"
            notice(f"timing a few edits with {of}, for some seconds to some minutes; the times are kept")
        with Bar("Timing a few edits") as bar:
            calibrations.append(calibrate(lm, run, bar.share))
    rows = [
        {"method": run.plan.method, "seed": run.plan.seed, "edits": len(run.facts), **vars(cost)}
        for run, cost in zip(ready, estimates(ready, calibrations), strict=True)
    ]
    if as_json:
        print(json.dumps(rows))
        return
    if plan.workers > 1:
        notice(
            f"the times are those of one process; {plan.workers} workers share the batches and take less. The memory "
            "is that of all of them"
        )
    if plan.measure.judge is not None:
        notice("the judge is not asked for this, so its time is not in these figures")
    for row in rows:
        print(
            f"{row['method']:15}{counted(row['edits'], 'edit', form='>7'):13}  {duration(row['seconds']):>10}"
            f"  ({duration(row['measuring_seconds'])} of it measuring at {row['n_checkpoints']} checkpoints"
            f"{', some of them in part' if row['capped'] else ''})"
            f"  memory {row['memory_bytes'] / 1e9:.1f} GB  disk {row['disk_bytes'] / 1e9:.2f} GB"
        )
