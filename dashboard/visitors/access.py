"""What this session may do: start runs once it has given the access code, and name files where that is allowed.

Checked by the code that starts such work. The field that asks for the code is in `elements.access_code`.
"""

from __future__ import annotations

import os
import re

import streamlit as st

from dashboard.server import limits, requester
from dashboard.visitors.models import DEFAULT_MODEL
from encore_core.errors import InputError, quoted
from encore_core.measures.judging import Judge
from encore_core.models.catalogue import CATALOGUE
from encore_core.runs import RunStore

GIVEN = "access code given"  # in the session state, which never leaves the server


def may_start() -> bool:
    """Whether this session may start runs. A session that gave the code loses this when the code changes.

    Raises:
        InputError: when the limits cannot be read.
    """
    return not limits.needs_code() or limits.is_code(st.session_state.get(GIVEN, ""))


def check_start() -> None:
    """Check that this session may start runs and other long work.

    Raises:
        InputError: when it has not given the access code.
    """
    if not may_start():
        raise InputError("Starting runs needs the access code of this server; give it on the Run page first.")


def check_runs(store: RunStore, n_edits: list[int]) -> None:
    """Check that this session may queue runs.

    Args:
        store: where they would go.
        n_edits: of each run.

    Raises:
        InputError: without the access code, and when they go beyond a limit.
    """
    check_start()
    limits.check_runs(n_edits, sum(not run.ended for run in store.runs()))


def may_name_files() -> bool:
    """Whether this visitor may name files and folders of this machine."""
    return limits.may_name_files(_at_the_machine())


def check_files(what: str) -> None:
    """Check that this visitor may name files and folders of this machine.

    Args:
        what: the thing to be named, for the message.

    Raises:
        InputError: when the visitor may not.
    """
    if not may_name_files():
        raise InputError(
            f"{what} cannot be named here: this server is reached from other machines and takes no names of its own "
            "files. Its operator can allow that, with machine_files in encore.toml."
        )


def may_name_judge() -> bool:
    """Whether this visitor may name a judge of generated answers."""
    return limits.may_name_judge(_at_the_machine())


def _at_the_machine() -> bool:
    return requester.is_at_the_machine(st.get_option("server.address"), st.context.headers)


def check_judge(judge: Judge) -> None:
    """Check that a judge may be asked: that of the server, or one that the visitor may name.

    A visitor who names an address makes this machine ask it, and one who names a command makes it run that. So both are
    for visitors at this machine, and commands for those who may also name files.

    Raises:
        InputError: when it may not.
    """
    if judge == limits.judge_of_server():
        return
    if not may_name_judge():
        raise InputError(
            "A judge cannot be named here: this server is reached from other machines, and does not ask addresses that "
            "its visitors name. Its operator can give one for everybody, with [judge] in encore.toml."
        )
    if not judge.is_address:
        check_files("A judge that is a command")


def check_model(name: str) -> None:
    """Check that a model may be loaded by this name: one that is known, or from the hub; a folder only if allowed.

    Raises:
        InputError: for a folder where folders may not be named.
    """
    visitor = st.session_state.get("visitor")
    known = (*CATALOGUE, DEFAULT_MODEL, os.environ.get("ENCORE_MODEL"), visitor and visitor.lm.name)
    if name in known or not _is_path(name):
        return
    check_files(f"The folder {quoted(name)}")


def _is_path(name: str) -> bool:
    """Whether a name is a folder and not a hub id, which is one or two words and an optional revision."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@\w[\w./+-]*)?", name) is None or os.path.lexists(name)
