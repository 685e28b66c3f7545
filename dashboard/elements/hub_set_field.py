"""Data sets of facts from the hub: which there are, fetching one, and its facts."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.elements.fact_rows import Given
from dashboard.reading.run_words import size
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES
from encore_core.facts.hub_sets import (
    ELSEWHERE,
    HUB_SETS,
    Fetched,
    fetch_set,
    fetched,
    find_set,
    listed,
    sets_folder,
    size_on_hub,
)


def pick(key: str) -> None:
    """Pick a data set and fetch it; all are listed with licence, revision and size.

    Args:
        key: of the session state; it holds the name of the data set that is picked, or None.
    """
    try:
        rows = _listed(_stamp())
    except InputError as error:
        widgets.problem(error)
        return
    known = {row["name"]: row for row in rows}
    st.selectbox("Data set", list(HUB_SETS), key=key, index=None, placeholder="none",
                 format_func=lambda name: _words(known[name]), **KEEP)  # fmt: skip
    name = st.session_state.get(key)
    if name:
        _offer(name, key)
    with st.popover("All data sets", icon=":material/list:", key=f"{key}_all"):
        _table(rows)


def given(name: str) -> Given:
    """The facts of a data set that was fetched.

    Raises:
        InputError: when it was not, or is too large for a page.
    """
    here = _fetched(name, _stamp())
    if here is None:
        raise InputError(f"Data set {name} is not here yet: fetch it first.")
    if here.bytes > MAX_BYTES:
        raise InputError(
            f"Data set {name} has {size(here.bytes)}, and pages read files of facts up to {size(MAX_BYTES)}. Larger "
            f"ones are for the command line: encore facts get {name} says where its file is, for encore run --facts."
        )
    return Given.file(here.path)


def _offer(name: str, key: str) -> None:
    """What is picked: where it is from, or the button that fetches it."""
    wanted = find_set(name)
    here = _fetched(name, _stamp())
    if here is not None:
        what = f"{here.repo} at {here.revision[:8]}, {size(here.bytes)}, {wanted.licence}"
        st.caption(f"{what}; SHA-256 {here.sha256[:16]}…")
        return
    newest = "the newest revision, to which the name is then pinned"
    pinned = f"revision {wanted.revision[:8]}" if wanted.revision else newest
    st.caption(f"{wanted.repo}, {wanted.file}: {pinned}; {wanted.licence}.")
    # Not a callback: a callback could not show the progress.
    if st.button("Fetch it from the hub", icon=":material/download:", key=f"{key}_fetch"):
        _fetch(name)


def _fetch(name: str) -> None:
    place = st.empty()
    try:
        access.check_start()
        wanted = find_set(name)
        place.progress(0.0, text="Asking the hub …")
        total = size_on_hub(wanted)

        def received(n_bytes: int) -> None:
            of = f" of {size(total)}" if total else ""
            place.progress(min(1.0, n_bytes / total) if total else 0.0, text=f"Fetching: {size(n_bytes)}{of}")

        found = fetch_set(wanted, received)
    except InputError as error:
        place.empty()
        widgets.problem(error)
        return
    place.empty()
    pinned = "the pinned revision" if wanted.revision else f"revision {found.revision[:8]}, recorded for this name"
    known = "as known before" if wanted.sha256 else "recorded; another file is refused from now on"
    widgets.notice(
        Message("success", f"Fetched {size(found.bytes)}: {pinned}. SHA-256 {found.sha256[:16]}… ({known}).")
    )


def _words(row: dict) -> str:
    return f"{row['name']} · {row['about']}{' · here' if row['fetched'] else ''}"


def _table(rows: list[dict]) -> None:
    shown = []
    for row in rows:
        here = row["fetched"]
        revision = row["revision"] or (here["revision"] if here else None)
        state = size(here["bytes"]) if here else "by hand, see below" if row["where"] else "not fetched"
        shown.append((row["name"], row["about"], row["licence"], revision[:8] if revision else "–", state))
    columns = [
        ("Name", "name"),
        ("What it holds", "about"),
        ("Licence", "name"),
        ("Revision", "name"),
        ("Size here", "right"),
    ]
    widgets.table(columns, shown, "Data sets of facts that are known by name")
    for other in ELSEWHERE.values():
        widgets.remark(str(other))


def _stamp() -> tuple[object, ...]:
    """What changes when a data set comes, goes or changes."""
    files = sorted(sets_folder().glob("*"))
    return (tuple(HUB_SETS), *((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@st.cache_data(show_spinner=False, max_entries=4)
def _listed(stamp: tuple[object, ...]) -> list[dict]:
    return listed()


@st.cache_data(show_spinner=False, max_entries=20)
def _fetched(name: str, stamp: tuple[object, ...]) -> Fetched | None:
    """A data set that is here; its digest is taken once."""
    return fetched(find_set(name))
