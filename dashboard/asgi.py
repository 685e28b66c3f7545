"""The server: `streamlit run dashboard/asgi.py` serves `app.py` with what a page alone cannot do.

headers     what a browser may load and who may frame the app, see `HEADERS`
libraries   torch and transformers are imported while the server waits for its first visitor, not by that visitor
plotly.js   has its own address, which browsers cache
first paint shows something while scripts are being read (see `browser.first_paint`), unless it is switched off
cookie      a secret by which a browser finds its edits again after a reload (see `server.browser_cookie`)
clicks      count once, however often a browser delivers them (see `browser.click_deduplication`)
errors      inside a page are logged under a number; the visitor sees only the number
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
from dashboard.server.browser_cookie import BrowserCookie
from dashboard.server.garbage import set_aside_what_lives
from dashboard.server.security import SecurityHeaders

log = logging.getLogger(__name__)


async def plotly(request: Request) -> FileResponse:
    """plotly.js. Its name contains its version, so browsers may keep it for good."""
    return FileResponse(
        figure.LIBRARY,
        media_type="text/javascript",
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


def tell(error: Exception) -> bool:
    """Log an error inside a page under a number, and show the visitor that number."""
    from dashboard.elements import widgets
    from dashboard.visitors.messages import Message as Notice

    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    words = f"Something went wrong inside the program (error {number}); the reason is in the server's log. "
    widgets.notice(Notice("error", f"{words}Your edits are as they were: reload the page to go on."))
    return True


def import_libraries() -> None:
    """Import the slow libraries, so that the first visitor does not wait for them."""
    for name in (
        "dashboard.reading.run_frames",
        "dashboard.visitors.browser_session",
        "encore_core.measures.sublayers",
    ):
        importlib.import_module(name)
    if first_paint.is_on():
        from dashboard.browser.first_paint import first_look

        first_look.make_ready()
    set_aside_what_lives()


@asynccontextmanager
async def warm(app: st.App) -> AsyncIterator[None]:
    threading.Thread(target=import_libraries, name="imports", daemon=True).start()
    yield


figure.serve_library()
app = st.App(
    Path(dashboard.__file__).parent / "app.py",
    lifespan=warm,
    middleware=[
        Middleware(SecurityHeaders),
        Middleware(BrowserCookie),
        *first_paint.middleware(),
        Middleware(SinglePresses),
    ],
    routes=[Route(f"/{figure.ADDRESS}", plotly)],
    on_script_error=tell,
)
