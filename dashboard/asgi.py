"""The server: `streamlit run dashboard/asgi.py` serves `app.py` with what a page alone cannot give.

headers     what a browser may load and who may frame the app, see `HEADERS`
libraries   torch and transformers are imported while the server waits for its first visitor, not by that visitor
plotly.js   from an address of its own, which browsers keep, and which the page names
scripts     of Streamlit that the pages need are named by the page, too
first look  what is to be seen while these are read (see `first_look`)
presses     are done once, however often a browser delivers them (see `presses`)
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
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import dashboard
from dashboard.browser import first_look, preload
from dashboard.browser.click_deduplication import SinglePresses
from dashboard.elements import figure
from dashboard.server.security import SecurityHeaders

log = logging.getLogger(__name__)

ROOT = b'<div id="root">'
"""Where Streamlit puts the app."""


class EarlyPage:
    """Puts into Streamlit's page what is to be seen first (see `first_look`).

    And names there what will be asked for, so that it is read while the page is being made: plotly.js, and the scripts
    of the elements that pages have (see `preloading`).
    """

    TAGS = f'{preload.tags()}<script defer src="./{figure.ADDRESS}"></script>'.encode()

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = b""

        async def with_tag(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                kind = MutableHeaders(scope=message).get("content-type", "")
                if message["status"] == 200 and kind.startswith("text/html"):
                    start = message
                    return
            elif start is not None:
                body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                if ROOT not in body:  # a file that somebody downloads
                    await send(start)
                    await send({"type": "http.response.body", "body": body})
                    start = None
                    return
                look = first_look.markup(scope["path"], scope["query_string"].decode("latin-1"))
                page = body.replace(b"</head>", self.TAGS + b"</head>", 1)
                page = page.replace(ROOT, look.encode() + ROOT, 1)
                headers = MutableHeaders(scope=start)
                # The page is another one than Streamlit's file, and changes with the library.
                for name in ("etag", "last-modified", "accept-ranges"):
                    del headers[name]
                headers["content-length"] = str(len(page))
                await send(start)
                message = {"type": "http.response.body", "body": page}
                start = None
            await send(message)

        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or "text/html" not in Headers(scope=scope).get("accept", "")
        ):
            await self.app(scope, receive, send)
            return
        # Streamlit's own middleware would pack the page before it comes here; it is small.
        unpacked = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.app({**scope, "headers": unpacked}, receive, with_tag)


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
    from dashboard.visitors.state import Message as Notice

    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    words = f"Something went wrong inside the program (error {number}); the reason is in the server's log. "
    widgets.notice(Notice("error", f"{words}Your edits are as they were: reload the page to go on."))
    return True


def import_libraries() -> None:
    """Import what takes seconds, so that the first visitor does not wait for it."""
    for name in ("dashboard.reading.run_frames", "dashboard.visitors.state", "encore_core.measures.sublayers"):
        importlib.import_module(name)
    first_look.make_ready()


@asynccontextmanager
async def warm(app: st.App) -> AsyncIterator[None]:
    threading.Thread(target=import_libraries, name="imports", daemon=True).start()
    yield


figure.serve_library()
app = st.App(
    Path(dashboard.__file__).parent / "app.py",
    lifespan=warm,
    middleware=[Middleware(SecurityHeaders), Middleware(EarlyPage), Middleware(SinglePresses)],
    routes=[Route(f"/{figure.ADDRESS}", plotly)],
    on_script_error=tell,
)
