"""Charts are made once: the next visitor or rerun that asks for the same one gets the finished chart.

A chart of many lines takes some hundredths of a second to make and to write as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette

KEPT = 200
MOST_ROWS = 50_000
"""Streamlit compares longer frames by a sample of their rows, so their charts are always made again."""


def chart(make: partial[Chart], colours: Palette) -> Chart:
    """A chart in some colours, from the cache if the same function has drawn the same values before.

    Args:
        make: a function of `dashboard.charts` with everything that it needs but `colours`.
        colours: of the theme.

    Returns:
        the chart. Others may be shown the same one, so do not change it.
    """
    if any(len(frame) > MOST_ROWS for frame in _frames([*make.args, *make.keywords.values()])):
        return make(colours=colours)
    return _made(f"{make.func.__module__}.{make.func.__qualname__}", make.args, make.keywords, colours, make)


def _frames(values: Sequence[Any]) -> list[pd.DataFrame]:
    return [value for value in values if isinstance(value, pd.DataFrame)]


@st.cache_resource(show_spinner=False, max_entries=KEPT, hash_funcs={Palette: lambda palette: palette.page})
def _made(function: str, args: tuple[Any, ...], keywords: dict[str, Any], colours: Palette, _make: partial) -> Chart:
    return _make(colours=colours)
