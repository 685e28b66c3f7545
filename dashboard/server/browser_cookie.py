"""The secret by which a browser is known again after a reload.

The server gives every browser a cookie of 32 random bytes. It proves nothing and opens nothing but what this very
browser has left on the server (see `visitors.kept_visitors`), so it needs no signature: a made-up one leads to an
empty shelf. The server keeps only its hash; the secret is never logged, shown, or put into an address, and no script
in the browser can read it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = "encore_browser"
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""32 bytes in base64 for addresses."""


def key_of(cookies: Mapping[str, str]) -> bytes | None:
    """The hash of the secret in a browser's cookies; None without one, or for a text that this server never gave."""
    secret = str(cookies.get(NAME, ""))
    return hashlib.sha256(secret.encode()).digest() if _SECRET.fullmatch(secret) else None


class BrowserCookie:
    """Middleware that gives a browser its secret with the first page, unless it has one.

    The cookie ends with the browser. It is "lax" and not "strict": a strict one would stay away when somebody follows
    a link from another site, the browser would be given another one, and its edits could not be found again. Requests
    that another site makes behind the visitor's back, sockets included, carry neither.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _opens_page(scope) or key_of(cookie_parser(Headers(scope=scope).get("cookie", ""))) is not None:
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("set-cookie", _fresh(scope))
                    # What carries a secret must not be kept by a proxy for others.
                    headers["cache-control"] = "no-store"
            await send(message)

        await self.app(scope, receive, with_cookie)


def _opens_page(scope: Scope) -> bool:
    return (
        scope["type"] == "http" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
    )


def _fresh(scope: Scope) -> str:
    """A new cookie, for the app's own path; over https, for https only."""
    path = "/" + (st.get_option("server.baseUrlPath") or "").strip("/")
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{NAME}={secrets.token_urlsafe(32)}; Path={path}; HttpOnly; SameSite=Lax{secure}"
