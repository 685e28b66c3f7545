"""Who uses this server, and what does it hold? Visitors, the line for the device, memory, disk, limits, versions.

It shows how many other visitors there are and what they take together, but not what they do.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import streamlit as st

from dashboard import page_list
from dashboard.elements import widgets
from dashboard.reading.run_words import duration, short_model, size
from dashboard.server import limits
from dashboard.server.device_queue import EDIT, READ, QueueState
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.model_loading import Loading
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel
from encore_core.runs import RunStore
from encore_core.version import __version__

POLL_SECONDS = 2.0
DISK_SECONDS = 20.0
"""How long the size of a folder is remembered, because finding it visits every file."""

KINDS = {EDIT: "a batch of edits", READ: "reading answers"}
PACKAGES = ("torch", "transformers", "streamlit", "plotly", "safetensors", "tokenizers")
LIMITS = {
    "visitors": "Visitors at a time",
    "keep_minutes": "Minutes that edits are kept for a page that was closed",
    "edits": "Edits on a visitor's model",
    "facts": "Facts at once",
    "batch": "Facts per batch",
    "prompts": "Paraphrases and neighbours per fact",
    "characters": "Characters per text",
    "upload_mb": "Upload, MB",
}


# -- what is measured --------------------------------------------------------------------------------------------------


def weight_bytes(lm: EditableModel) -> int:
    """Bytes of the base weights; those used twice count once."""
    return sum(parameter.nbytes for parameter in lm.model.parameters())


def cost_of_one(visitors: Sequence[Visitor]) -> tuple[str, str, int]:
    """What a visitor costs: measured on those with edits, or else what edits would take.

    Returns:
        the memory and how we know it, in words; the most bytes that one takes, 0 if that is not known.
    """
    held = [n_bytes for n_bytes in (visitor.nbytes() for visitor in visitors) if n_bytes]
    if len(held) > 1:
        return (
            size(statistics.fmean(held)),
            f"mean of the {len(held)} with edits; the most: {size(max(held))}",
            max(held),
        )
    if held:
        return size(held[0]), "measured on the one visitor with edits", held[0]
    if visitors:
        session = visitors[0].session
        if session.holds_factors:
            return "–", "little memory is free: edits are kept as thin factors", 0
        needed = sum(session.lm.matrix(layer).nbytes for layer in session.settings.layers)
        return size(needed), f"with the first edit: {len(session.settings.layers)} matrices; nothing before", needed
    return "–", "no model is loaded yet", 0


def room(each: int, free: int, n_sessions: int, most: int) -> str:
    """For how many more visitors there is room, and what sets the bound. Each has one session.

    Args:
        each: bytes that one takes at most.
        free: bytes free on the device; half of them are left to the work itself.
        n_sessions: of all visitors now.
        most: sessions that the limits allow.
    """
    by_limit, by_memory = max(0, most - n_sessions), free // 2 // each
    if by_limit <= by_memory:
        return f"room for {by_limit:,} more, by the limit of {most:,}"
    return f"room for about {by_memory:,} more, by half of the free memory"


def _room_words(each: int, visitors: Sequence[Visitor], n_sessions: int) -> str:
    """The same for this server; empty where visitors are on several devices or a cost is not known."""
    devices = {str(visitor.lm.device) for visitor in visitors}
    if not each or len(devices) != 1:
        return ""
    try:
        most = limits.limits().visitors.visitors
    except InputError:  # the card of limits says what is wrong
        return ""
    return room(each, memory_of(devices.pop())[0], n_sessions, most)


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder; one that vanishes meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118  (many files, and Path is slow)
            except OSError:
                continue
    return total


@st.cache_data(show_spinner=False, ttl=DISK_SECONDS, max_entries=4)
def store_bytes(folder: str) -> int:
    return folder_bytes(Path(folder))


def memory_of(device: str) -> tuple[int, int]:
    """Free and total bytes of a device's memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def device_memory(device: str) -> str:
    """Free and total memory of a device, as text."""
    return "{} free of {}".format(*map(size, memory_of(device)))


def versions() -> list[tuple[str, str]]:
    """(name, version) of the packages that matter here."""
    rows = [("ENCORE Studio", __version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return rows


# -- what is shown -----------------------------------------------------------------------------------------------------


@st.fragment(run_every=POLL_SECONDS)
def now() -> None:
    """Everything that updates by itself."""
    shared = models()
    visitors, mine = list(shared.visitors), st.session_state.get("visitor")
    tiles(visitors, mine, shared.queues(), shared.kept.waiting(), shared.n_sessions())
    line(shared.queues())
    loaded(shared.loadings(), visitors)
    held(visitors, mine)


def tiles(visitors: Sequence[Visitor], mine: Visitor | None, queues: dict, n_away: int, n_sessions: int) -> None:
    """The answer at a glance; `n_away` of the visitors have closed their page, and their edits are kept."""
    states = [queue.state() for queue in queues.values()]
    n_waiting, n_running = sum(len(one.waiting) for one in states), sum(one.running is not None for one in states)
    cost, how, each = cost_of_one(visitors)
    who = "you are one of them" if mine in visitors else "you have not opened a model yet"
    if n_away:
        who = f"{n_away} of them left, with edits kept for their return; {who}"
    more = _room_words(each, visitors, n_sessions)
    widgets.tiles(
        [
            ("Visitors with a model", f"{len(visitors)}", who, ""),
            (
                "In the queue for the device",
                f"{n_waiting}",
                f"{n_running} at work" if n_running else "the device is free",
                "",
            ),
            ("Memory per visitor", cost, f"{how}; {more}" if more else how, ""),
            ("This program holds", size(psutil.Process().memory_info().rss), "resident memory in total", ""),
        ]
    )


def line(queues: dict) -> None:
    """Who waits for each device."""
    rows = []
    for device, queue in queues.items():
        now: QueueState = queue.state()
        running = "–" if now.running is None else f"{KINDS[now.running.kind]}, for {duration(now.running.seconds)}"
        longest = duration(now.waiting[0].seconds) if now.waiting else "–"
        expected = [f"{duration(now.expected[kind])} per {unit}" for kind, unit in ((EDIT, "fact"), (READ, "reading"))
                    if kind in now.expected]  # fmt: skip
        rows.append(
            (device, device_memory(device), running, f"{len(now.waiting)}", longest, " · ".join(expected) or "–")
        )
    with st.container(border=True, key="card_line"):
        widgets.heading("Device", "one batch of edits or one page's readings at a time, first come, first served")
        if not rows:
            widgets.notice(Message("info", f"No model is loaded yet. Memory: {device_memory('cpu')}."))
            return
        columns = [
            ("Device", "name"), ("Memory", "name"), ("At work", "name"), ("Waiting", "right"),
            ("Longest wait", "right"), ("Takes about", "about"),
        ]  # fmt: skip
        widgets.table(columns, rows, "The queue of each device")


def loaded(loadings: Sequence[Loading], visitors: Sequence[Visitor]) -> None:
    """Models that are loaded, one for all who use them."""
    rows = []
    for loading in loadings:
        lm = loading.lm
        users = sum(visitor.loading is loading for visitor in visitors)
        if lm is None:
            continue
        shared = sum(getattr(value, "nbytes", 0) for value in list(lm.shared.values()))
        dtype = str(lm.dtype).removeprefix("torch.")
        rows.append((short_model(lm.name), str(lm.device), dtype, size(weight_bytes(lm)), size(shared), f"{users}"))
    if not rows:
        return
    with st.container(border=True, key="card_models"):
        widgets.heading("Models", "loaded once for all visitors, without anybody's edits")
        columns = [
            ("Model", "name"), ("Device", "name"), ("Format", "name"), ("Weights", "right"),
            ("Shared statistics", "right"), ("Visitors", "right"),
        ]  # fmt: skip
        widgets.table(columns, rows, "Models that are loaded")


def held(visitors: Sequence[Visitor], mine: Visitor | None) -> None:
    """What edits take: your own, and those of all visitors together."""
    everybody = [visitor.nbytes() for visitor in visitors]
    edits = sum(visitor.n_edits for visitor in visitors)
    rows = [("All visitors", f"{edits:,}", size(sum(everybody)))]
    if mine is not None:
        rows.insert(0, ("You", f"{mine.n_edits:,}", size(mine.nbytes())))
    with st.container(border=True, key="card_held"):
        widgets.heading("Edits", "memory of the edited matrices and of what undo needs, counted now")
        widgets.table([("Whose", "name"), ("Edits", "right"), ("Memory", "right")], rows, "Memory that edits take")
        st.caption(
            "When a visitor leaves, the server keeps their edits for the same browser as long as the limits allow; "
            "then the memory is freed."
        )


def disk() -> None:
    """What runs take on the disk."""
    try:
        store = RunStore()
        n_runs = len(store.runs())
    except InputError as error:
        widgets.problem(error)
        return
    free = shutil.disk_usage(store.folder).free
    with st.container(border=True, key="card_disk"):
        widgets.heading("Store of runs")
        widgets.tiles(
            [
                ("Runs", f"{n_runs:,}", "in the store", ""),
                ("Size", size(store_bytes(str(store.folder))), "with their files", ""),
                ("Free disk", size(free), "where the store is", ""),
            ]
        )


def rules() -> None:
    """Limits and versions."""
    left, right = st.columns(2)
    with left, st.container(border=True, key="card_limits"):
        widgets.heading("Limits", "set in encore.toml")
        try:
            found = limits.limits()
        except InputError as error:
            widgets.problem(error)
        else:
            rows = [(LIMITS[name], f"{value:,}") for name, value in asdict(found.visitors).items()]
            rows += [
                ("Edits per run", f"{found.runs.edits:,}"),
                ("Runs that wait or run", f"{found.runs.queued:,}"),
                ("Access code for runs", "asked for" if found.runs.access_code else "none"),
                ("Files of this machine may be named", "yes" if access.may_name_files() else "no"),
                ("A judge of generated answers may be named", "yes" if access.may_name_judge() else "no"),
                ("Judge of this server", found.judge.model or "none"),
            ]
            widgets.table([("Limit", ""), ("", "right")], rows, "Limits for visitors")
    with right, st.container(border=True, key="card_versions"):
        widgets.heading("Versions")
        widgets.table([("", "name"), ("Version", "name")], versions(), "Versions")


def main() -> None:
    st.title(page_list.question("system"), anchor=False)
    now()
    disk()
    rules()


main()
