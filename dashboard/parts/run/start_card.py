"""From the fields of a plan to runs: notices, their cost, and Start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.run import live
from dashboard.reading import costs
from dashboard.reading.run_words import duration, short_model, size
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core import ray_core
from encore_core.cluster import grid
from encore_core.cluster.plan_file import GridPlan, Place
from encore_core.errors import InputError
from encore_core.runs import MeasurePlan, PreparedRun, RunPlan, RunStore, prepare, start_worker
from encore_core.runs.folders import slug
from encore_core.runs.seeds import seeds_of, tag_of_seeds, with_seeds

SHOWN_NOTICES = 4
MARK = " \0 "  # stands for the method in a notice; facts cannot hold it


def pick_seeds() -> list[int] | None:
    """Pick several seeds; empty for the one of the plan, None on a problem."""
    remembered("run_seeds", "")
    text = st.text_input(
        "Seeds (optional)",
        key="run_seeds",
        placeholder="the one seed",
        help="Several with commas between, such as 1, 2, 3: every method is run once with each. Compare then shows how "
        "far the scores spread.",
        **KEEP,
    )
    try:
        return seeds_of(text) if text.strip() else []
    except InputError as error:
        widgets.problem(error)
        return None


def pick_place() -> Place | bool:
    """Pick where the runs go: a Ray cluster, True for this machine, False on a problem."""
    remembered("run_where", "")
    left, right = st.columns([2, 1], width=480)
    address = left.text_input(
        "Where",
        key="run_where",
        placeholder="this machine",
        help="Empty for this machine. Or the address of a Ray cluster, HOST:PORT as `ray start --head` printed it, or "
        '"auto" for the one that this machine is a part of; each run then goes to a node that has room for it.',
        **KEEP,
    ).strip()
    remembered("run_gpus", 0)
    if not address:
        return True
    gpus = right.number_input("GPUs per run", 0, 8, key="run_gpus", **KEEP)
    try:
        access.check_files("A Ray cluster")
        ray_core.ray_module()
        return Place(ray_core.checked_address(address), gpus=int(gpus))
    except InputError as error:
        widgets.problem(error)
        return False


def prepared(
    model: dict[str, Any], facts: dict[str, Any], measure: MeasurePlan, seeds: Sequence[int] = ()
) -> list[PreparedRun]:
    """The runs that Start would queue; made again only when a field has changed.

    Args:
        model, facts, measure: the fields.
        seeds: a run for each of them and each method; the plan's own if there are none.

    Raises:
        InputError: for fields that do not fit together.
    """
    fields = dict(facts)
    found = fields.pop("found")
    read_as = {"facts": found.name, "find_subjects": found.by_rule, "skip_bad": found.without_bad}
    shared = {key: model[key] for key in ("model", "device", "dtype", "statistics_text")}
    plans = [
        RunPlan(method=method, **read_as, overrides=overrides, measure=measure, **fields, **shared)
        for method, overrides in model["methods"].items()
    ]
    if seeds:
        plans = [one for plan in plans for one in with_seeds(plan, seeds)]
    key = (tuple(str(plan.to_json()) for plan in plans), found.token)
    kept = st.session_state.get("run_prepared")
    if kept is None or kept[0] != key:
        st.session_state["run_prepared"] = kept = (key, [prepare(plan, found.facts) for plan in plans])
    return kept[1]


def notices(runs: Sequence[PreparedRun]) -> None:
    """What to know before the start: duplicates, facts put off, untested settings."""
    # A notice that concerns several methods is shown once, with their names.
    of_methods: dict[str, list[str]] = {}
    for run in runs:
        for line in run.notices:
            named = of_methods.setdefault(line.replace(f" {run.plan.method} ", MARK, 1), [])
            named += [run.plan.method] if run.plan.method not in named else []
    lines = [line.replace(MARK, f" {', '.join(methods)} ", 1) for line, methods in of_methods.items()]
    if not lines:
        return
    widgets.notice(Message("warning", "\n".join(lines[:SHOWN_NOTICES])))
    if len(lines) > SHOWN_NOTICES:
        with st.expander(f"{len(lines) - SHOWN_NOTICES} more notices", key="more_notices"):
            st.text("\n".join(lines[SHOWN_NOTICES:]))


def cost(visitor: Visitor, runs: Sequence[PreparedRun], store: RunStore) -> None:
    """The cost of the runs: shown at once if it is known, and after a press of a button otherwise."""
    if not all(costs.fits(visitor.lm, run) for run in runs):
        widgets.notice(
            Message(
                "info",
                f"Load {short_model(runs[0].plan.model)} in the sidebar, with this device and "
                "number format, to have the cost estimated before the start.",
            )
        )
        return
    try:
        found = _found_cost(visitor, runs)
    except InputError as error:
        widgets.problem(error)
        return
    if found is None:
        return
    _cost_table(runs, found)
    for line in costs.shortages(found, store.folder):
        widgets.notice(Message("warning", line))


def _found_cost(visitor: Visitor, runs: Sequence[PreparedRun]) -> costs.Cost | None:
    """The cost if it is known or has just been measured at a press of the button; None until then.

    Raises:
        InputError: when the facts cannot be edited or scored.
    """
    found = costs.known_cost(visitor.lm, runs)
    if found is not None:
        return found
    asked = st.button("Estimate time, memory and disk", icon=":material/timer:", key="estimate")
    place = st.empty()
    place.caption(
        "Runs a short timing test of every method. On two cores it takes a few minutes per method if texts are "
        "generated or tasks are run."
    )
    if not asked:
        return None
    found = costs.measured_cost(
        visitor.lm, runs, lambda what, share: place.progress(min(1.0, max(0.0, share)), text=f"{what} …")
    )
    place.empty()
    return found


def _cost_table(runs: Sequence[PreparedRun], found: costs.Cost) -> None:
    """A row per run, and one for all together."""
    several = len({run.plan.seed for run in runs}) > 1
    rows = [
        (
            f"{run.plan.method}, seed {run.plan.seed}" if several else run.plan.method,
            duration(one.seconds),
            duration(one.editing_seconds),
            duration(one.measuring_seconds) + (", capped" if one.capped else ""),
            f"{one.n_checkpoints}",
            size(one.memory_bytes),
            size(one.disk_bytes),
        )
        for run, one in zip(runs, found.each, strict=True)
    ]
    rows.append(
        (
            "together, one after the other",
            duration(found.seconds),
            "",
            "",
            "",
            size(found.memory_bytes),
            size(found.disk_bytes),
        )
    )
    columns = [
        ("Estimated cost", ""),
        ("Time", "right"),
        ("editing", "right"),
        ("measuring", "right"),
        ("checkpoints", "right"),
        ("Memory", "right"),
        ("Disk", "right"),
    ]
    widgets.table(columns, rows if len(runs) > 1 else rows[:1], "Estimated cost of the runs")


def start(store: RunStore, runs: Sequence[PreparedRun], place: Place | bool = True) -> None:
    """Queue the runs, and make sure that a worker takes them.

    Args:
        store: where to.
        runs: prepared.
        place: from `pick_place`.
    """
    try:
        access.check_runs(store, [len(run.facts) for run in runs])
        several = len({run.plan.seed for run in runs}) > 1
        if isinstance(place, Place):
            ids = _to_cluster(store, runs, place)
        else:
            ids = store.submit(runs, [tag_of_seeds()] if several else ())
            for device in dict.fromkeys(run.plan.device for run in runs):
                start_worker(store, device)
    except InputError as error:
        st.session_state["start_message"] = Message("error", str(error))
        return
    st.session_state["watched"] = live.FOLLOW
    st.session_state["new_runs"] = False  # what was started is in sight then
    st.session_state["start_message"] = Message(
        "success", f"Queued: {', '.join(ids)}. They run on without this page; come back whenever you like."
    )


def _to_cluster(store: RunStore, runs: Sequence[PreparedRun], place: Place) -> Sequence[str]:
    """Queue the runs for a cluster. Those that were started there before go on; none is there twice."""
    ray_core.check_answers(place.address)
    name = f"page-{slug(place.address)}"[:30].strip("-")
    ready = [grid.for_nodes(run, place.gpus) for run in runs]
    plan = GridPlan(name, store.folder, tuple(run.plan for run in ready), place)
    ids = grid.submit(store, plan, ready, join=True).ids
    start_worker(store, grid.queue_of(name))
    return ids
