"""What browsers may do with the app: the headers that every answer of the server carries."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encore_core.resources import ASSETS

OURS = tuple(ASSETS / "first_look" / name for name in ("script.js", "theme.js", "address.js"))


def inline_scripts(page: Path) -> list[str]:
    """Digests of the page's inline scripts, Streamlit's and ours, as a content security policy names them."""
    found = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    found += [script.read_text(encoding="utf-8") for script in OURS]
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]


def content_security_policy() -> str:
    """Nothing is loaded from other servers, no text becomes a script, and only this server's own pages frame it.

    Streamlit loads the scripts of components as blobs; it and Plotly write styles into the page.
    """
    own_page = Path(st.__file__).parent / "static" / "index.html"
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "blob:", *inline_scripts(own_page)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


HEADERS = {
    "Content-Security-Policy": content_security_policy(),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
