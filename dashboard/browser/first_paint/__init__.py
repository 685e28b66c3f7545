"""The first paint: what a browser shows before Streamlit's scripts have been read.

    page            the middleware that puts it into Streamlit's page
    first_look      the list of pages and the title and, on Start, the recorded curves
    static_chart    curves as markup

One switch turns it off: ENCORE_FIRST_PAINT=off serves Streamlit's page as it is. `benchmarks/pages.py` measures what it
gains (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import os

from starlette.middleware import Middleware

SWITCH = "ENCORE_FIRST_PAINT"


def is_on() -> bool:
    """Whether pages come with a first look."""
    return os.environ.get(SWITCH, "on").strip().lower() not in ("off", "0", "no", "false")


def middleware() -> list[Middleware]:
    """The middleware that it needs around Streamlit; none when it is switched off."""
    if not is_on():
        return []
    from dashboard.browser.first_paint.page import EarlyPage

    return [Middleware(EarlyPage)]
