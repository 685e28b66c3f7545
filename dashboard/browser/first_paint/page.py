"""Streamlit's page with the first look in it, the theme that was chosen, and the name of plotly.js, which is then read
while the page is made.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.browser.first_paint import first_look
from dashboard.elements import figure

ROOT = b'<div id="root">'
"""Where Streamlit puts the app."""


class EarlyPage:
    """Middleware that puts the first look into Streamlit's page, and names plotly.js there."""

    TAG = f'<script defer src="./{figure.ADDRESS}"></script>'.encode()
    # Before any script of Streamlit's, which asks for both when it begins.
    BEFORE = f"<script>{first_look.THEME}</script><script>{first_look.ADDRESS}</script>".encode()

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
                if ROOT not in body:  # a download
                    await send(start)
                    await send({"type": "http.response.body", "body": body})
                    start = None
                    return
                look = first_look.markup(scope["path"], scope["query_string"].decode("latin-1"))
                page = body.replace(b"<head>", b"<head>" + self.BEFORE, 1)
                page = page.replace(b"</head>", self.TAG + b"</head>", 1)
                page = page.replace(ROOT, look.encode() + ROOT, 1)
                headers = MutableHeaders(scope=start)
                # The page differs from Streamlit's file, and changes with the library.
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
        # Streamlit's own middleware would compress the page before it comes here; it is small.
        unpacked = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.app({**scope, "headers": unpacked}, receive, with_tag)
