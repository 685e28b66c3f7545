"""The server: `streamlit run dashboard/asgi.py` serves `app.py` with what a page alone cannot give.

headers     what a browser may load and who may frame the app, see `HEADERS`
libraries   torch and transformers are imported while the server waits for its first visitor, not by that visitor
plotly.js   from an address of its own, which browsers keep
first paint what is to be seen while scripts are being read (see `browser.first_paint`), unless it is switched off
clicks      are done once, however often a browser delivers them (see `browser.click_deduplication`)
errors      what goes wrong inside a page is logged under a number; the visitor is shown the number and nothing else
"""

from __future__ import annotations

import importlib
import logging
import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

import dashboard
from dashboard.browser import first_paint
from dashboard.browser.click_deduplication import SinglePresses
from dashboard.elements import figure
from dashboard.server.security import SecurityHeaders

log = logging.getLogger(__name__)


async def plotly(request: Request) -> FileResponse:
    """plotly.js. Its name carries its version, so browsers may keep it for good."""
    return FileResponse(
        figure.LIBRARY,
        media_type="text/javascript",
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


def tell(error: Exception) -> bool:
    """Log what went wrong inside a page under a number, and show the visitor that number."""
    from dashboard.elements import widgets
    from dashboard.visitors.messages import Message as Notice

    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    words = f"Something went wrong inside the program (error {number}); the reason is in the server's log. "
    widgets.notice(Notice("error", f"{words}Your edits are as they were: reload the page to go on."))
    return True


def import_libraries() -> None:
    """Import what takes seconds, so that the first visitor does not wait for it."""
    for name in (
        "dashboard.reading.run_frames",
        "dashboard.visitors.browser_session",
        "encore_core.measures.sublayers",
    ):
        importlib.import_module(name)
    if first_paint.is_on():
        from dashboard.browser.first_paint import first_look

        first_look.make_ready()


@asynccontextmanager
async def warm(app: st.App) -> AsyncIterator[None]:
    threading.Thread(target=import_libraries, name="imports", daemon=True).start()
    yield


figure.serve_library()
app = st.App(
    Path(dashboard.__file__).parent / "app.py",
    lifespan=warm,
    middleware=[Middleware(SecurityHeaders), *first_paint.middleware(), Middleware(SinglePresses)],
    routes=[Route(f"/{figure.ADDRESS}", plotly)],
    on_script_error=tell,
)
