"""The server around the pages: headers, plotly.js, and what a visitor is told when something goes wrong."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import logging
import re
import urllib.error
import urllib.request

import pytest
import served

from dashboard import asgi
from dashboard.browser import first_paint
from dashboard.browser.first_paint.page import EarlyPage
from dashboard.elements import figure, widgets
from dashboard.server import security

PAGES = ("", "edit", "norms", "no-such-page")


@pytest.fixture(scope="module")
def address():
    with served.app() as found:
        yield found


def asked(url: str, **headers: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer, as a browser that opens a page would get them."""
    request = urllib.request.Request(url, headers={"Accept": "text/html", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return {name.lower(): value for name, value in error.headers.items()}, error.read()


@pytest.mark.parametrize("path", [*PAGES, "_stcore/health", figure.ADDRESS, "static/none.js"])
def test_every_answer_carries_the_headers(address, path):
    headers, _ = asked(f"{address}/{path}")
    for name, value in security.HEADERS.items():
        assert headers[name.lower()] == value


def test_no_text_becomes_a_script_and_nothing_is_loaded_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in security.HEADERS["Content-Security-Policy"].split("; "))
    assert "unsafe" not in rules["script-src"] and "data:" not in rules["script-src"]
    assert rules["frame-ancestors"] == rules["default-src"] == "'self'" and rules["object-src"] == "'none'"
    assert not re.search(r"https?:|\*", " ".join(rules.values()))


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_page_names_plotly_once_and_has_no_script_that_its_policy_forbids(address, path, encoding):
    headers, body = asked(f"{address}/{path}", **{"Accept-Encoding": encoding})
    page = (gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body).decode()
    assert int(headers["content-length"]) == len(body) and "etag" not in headers
    assert page.count(f'<script defer src="./{figure.ADDRESS}"></script></head>') == 1
    inline = [text for text in re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) if text.strip()]
    for text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in headers["content-security-policy"]
    assert inline


def test_a_file_that_is_downloaded_is_left_as_it_is():
    """The chart as one HTML file is served by the same server."""
    file = b"<html><head></head><body>a chart</body></html>"

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", b"text/html"), (b"etag", b"x")]})  # fmt: skip
        await send({"type": "http.response.body", "body": file[:20], "more_body": True})
        await send({"type": "http.response.body", "body": file[20:]})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/media/x.html", "query_string": b"",
             "headers": [(b"accept", b"text/html")]}  # fmt: skip
    asyncio.run(EarlyPage(app)(scope, None, send))
    assert b"".join(message.get("body", b"") for message in sent) == file
    assert (b"etag", b"x") in sent[0]["headers"]


def test_one_switch_takes_the_first_paint_away(monkeypatch):
    assert [one.cls for one in first_paint.middleware()] == [EarlyPage]
    for word in ("off", "0", " No "):
        monkeypatch.setenv(first_paint.SWITCH, word)
        assert first_paint.middleware() == [] and not first_paint.is_on()


def test_plotly_is_kept_by_browsers(address):
    headers, body = asked(f"{address}/{figure.ADDRESS}")
    assert body == figure.LIBRARY.read_bytes() and headers["content-type"].startswith("text/javascript")
    assert "immutable" in headers["cache-control"]


def test_an_error_is_shown_as_a_number_and_logged_with_it(monkeypatch, caplog):
    told = []
    monkeypatch.setattr(widgets, "notice", told.append)
    with caplog.at_level(logging.ERROR):
        assert asgi.tell(ValueError("/secret/path <script>")) is True
    [message] = told
    number = re.search(r"error ([0-9a-f]{6})\)", message.text).group(1)
    assert "secret" not in message.text and "ValueError" not in message.text and message.kind == "error"
    [record] = caplog.records
    assert number in record.message and record.exc_info[1].args == ("/secret/path <script>",)
