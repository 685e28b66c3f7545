"""Drawing the Runs page anew while runs go on."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.reading import run_frames
from encore_core.errors import InputError
from encore_core.runs import RunInfo

POLL_SECONDS = 2.0


def follow(runs: Sequence[RunInfo]) -> None:
    """Draw the page anew whenever one of the runs that are shown has come further, as long as any goes on."""
    if not all(run.ended for run in runs):
        _followed([_stand(run) for run in runs])


@st.fragment(run_every=POLL_SECONDS)
def _followed(shown: list[tuple[object, ...]]) -> None:
    try:
        now = [_stand(run) for run in run_frames.all_runs()]
    except InputError:
        return  # the page says so when it is drawn the next time
    if now != shown:
        st.rerun()


def _stand(run: RunInfo) -> tuple[object, ...]:
    return run.id, run.status, run.done, run.stop, run.position, run.name, run.tags
