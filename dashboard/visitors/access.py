"""What this session may do: start runs once it has given the access code, and name files where that is allowed.

Asked where things begin, by whoever begins them. The field that asks for the code is in `elements.access_code`.
"""

from __future__ import annotations

import os
import re

import streamlit as st

from dashboard.server import limits
from dashboard.visitors.models import DEFAULT_MODEL
from encore_core.errors import InputError, quoted
from encore_core.models.catalogue import CATALOGUE
from encore_core.runs import RunStore

GIVEN = "access code given"  # in the session state, which never leaves the server


def may_start() -> bool:
    """Whether this session may start runs. One that gave the code may not any more when the code has changed.

    Raises:
        InputError: when the limits cannot be read.
    """
    return not limits.needs_code() or limits.is_code(st.session_state.get(GIVEN, ""))


def check_start() -> None:
    """Whether this session may start runs, and other work that goes on for long.

    Raises:
        InputError: when it has not given the access code.
    """
    if not may_start():
        raise InputError("Starting runs needs the access code of this server; give it on the Run page first.")


def check_runs(store: RunStore, n_edits: list[int]) -> None:
    """Whether this session may queue runs.

    Args:
        store: where they would go.
        n_edits: of each.

    Raises:
        InputError: without the access code, and when they go beyond a limit.
    """
    check_start()
    limits.check_runs(n_edits, sum(not run.ended for run in store.runs()))


def check_files(what: str) -> None:
    """Whether visitors may name files and folders of this machine.

    Args:
        what: is to be named, for the message.

    Raises:
        InputError: when they may not.
    """
    if not limits.may_name_files(st.get_option("server.address")):
        raise InputError(
            f"{what} cannot be named here: this server serves other machines and takes no names of its own files. "
            "Whoever runs it can allow that, with machine_files in encore.toml."
        )


def check_model(name: str) -> None:
    """Whether a model may be loaded by this name: one that is known, or from the hub; a folder as far as allowed.

    Raises:
        InputError: for a folder where folders may not be named.
    """
    visitor = st.session_state.get("visitor")
    known = (*CATALOGUE, DEFAULT_MODEL, os.environ.get("ENCORE_MODEL"), visitor and visitor.lm.name)
    if name in known or not _is_path(name):
        return
    check_files(f"The folder {quoted(name)}")


def _is_path(name: str) -> bool:
    """Whether a name is of a folder rather than of the hub, where names are one or two words, and a revision."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@\w[\w./+-]*)?", name) is None or os.path.lexists(name)
