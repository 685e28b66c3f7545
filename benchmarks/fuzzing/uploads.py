"""What a browser sends to the server: requests, uploads, messages of its socket; and the limits on them."""

from __future__ import annotations

import asyncio
import io
import json
import random
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from fuzzing import mutate
from fuzzing.lesson_plans import SMALL
from fuzzing.readers import FRANCE, TABLES
from fuzzing.recipes import RecipeTarget
from fuzzing.target import Broken, attempt, check_line

MOST_SECONDS = 60  # of waiting for an answer
SESSION, BOUNDARY = "the-session", "fuzzing"
UPLOAD = f"/_stcore/upload_file/{SESSION}/file"
PART = {"name": "file", "filename": "facts.csv", "type": "text/csv", "content": TABLES[0]}
LIMITS = """[visitors]
visitors = 5
edits = 100
upload_mb = 2
[runs]
edits = 500
access_code = "open sesame"
machine_files = "no"
"""


class UploadsTarget(RecipeTarget):
    """Whatever is sent, the server answers with the headers of every answer and no error of its own; an upload that is
    taken is what was sent, and the pages read it or say in one line why not.

    A recipe has "kind": a request has "method", "path", "query", "headers" (pairs), "token" (whether it has the token
    of the server's pages), "parts" or "raw" for the body, and "size" of its chunks; a socket's message has "auto",
    "widgets" (pairs of an id and a kind of value) and "flip" (places and bytes); limits have "text"; a fact has "fact".
    """

    name = "uploads"
    about = "the server: requests, uploads, messages of the socket, limits"
    modules = (
        "dashboard.asgi", "dashboard.server.limits", "dashboard.browser.click_deduplication",
        "dashboard.server.security", "dashboard.browser.first_paint.first_look", "dashboard.parts.edit.fact_form",
        "dashboard.parts.run.fact_fields",
    )  # fmt: skip
    keys = ("kind", "method", "path", "query", "headers", "token", "parts", "raw", "size", "name", "filename", "type",
            "content", "auto", "widgets", "flip", "text", "fact", *FRANCE, "paraphrases", "neighbours")  # fmt: skip
    words = ("PUT", "GET", "DELETE", "OPTIONS", "POST", UPLOAD, "/", "/edit", "/compare", "/static/../x",
             "/media/x.html",
             "accept", "text/html", "content-length", "content-type", "range", "cookie", "origin", "host", "visitors",
             "upload_mb", "access_code", "machine_files", "loopback", "trigger_value", "string_value",
             "multipart/form-data; boundary=fuzzing", "multipart/form-data", "application/json", "99999999999",
             "json_trigger_value", "int_value")  # fmt: skip
    longest = 60_000

    def setup(self, folder: Path) -> None:
        from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string
        from streamlit.web.server.starlette.starlette_server_config import XSRF_COOKIE_NAME

        from dashboard import asgi
        from dashboard.browser import click_deduplication
        from dashboard.parts.edit import fact_form
        from dashboard.parts.run import fact_fields
        from dashboard.server import limits, security
        from dashboard.talk import lessons

        self._asgi, self._limits, self._presses, self._lessons = asgi, limits, click_deduplication, lessons
        self._form, self._plan = fact_form, fact_fields
        self._wanted = {name.lower().encode() for name in security.HEADERS}
        token = generate_xsrf_token_string().encode()
        self._token = [(b"x-xsrftoken", token), (b"cookie", XSRF_COOKIE_NAME.encode() + b"=" + token)]
        self._loop = asyncio.new_event_loop()
        self._asked({"method": "GET", "path": "/_stcore/health"})
        runtime = asgi.app._runtime
        runtime.is_active_session = lambda session: session == SESSION
        self._manager = runtime._uploaded_file_mgr

    def recipes(self) -> list[Any]:
        form = [["content-type", f"multipart/form-data; boundary={BOUNDARY}"]]
        put = {"kind": "request", "method": "PUT", "path": UPLOAD, "headers": form, "token": True}
        html = [["accept", "text/html"], ["accept-encoding", "gzip"]]
        return [
            {**put, "parts": [PART], "size": 50},
            {**put, "parts": [{**PART, "filename": "x.json", "content": json.dumps([FRANCE])}]},
            {**put, "parts": [{**PART, "filename": "../../x.toml", "content": SMALL}, PART]},
            {**put, "raw": f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx'},
            {**put, "headers": [*form, ["content-length", "99999999"]], "parts": [PART]},
            {**put, "token": False, "parts": [PART]},
            {"kind": "request", "method": "DELETE", "path": UPLOAD, "token": True, "headers": []},
            {"kind": "request", "method": "GET", "path": "/edit", "query": "subject=<script>alert(1)", "headers": html},
            {"kind": "request", "method": "GET", "path": "/", "query": "present=1", "headers": html},
            {"kind": "request", "method": "GET", "path": "/_stcore/host-config", "headers": []},
            {"kind": "socket", "auto": True, "widgets": [["a", "trigger_value"], ["b", "string_value"]]},
            {"kind": "socket", "auto": False, "widgets": [["a", "trigger_value"]], "flip": [[3, 9]]},
            {"kind": "limits", "text": LIMITS},
            {"kind": "fact", "fact": {**FRANCE, "paraphrases": ["a"], "neighbours": [["b", "c"]]}},
        ]

    def changed(self, recipe: Any, rng: random.Random) -> Any:
        if isinstance(recipe, dict) and isinstance(recipe.get("text"), str) and rng.random() < 0.7:
            recipe["text"] = mutate.text(recipe["text"], rng, self.words)
            return recipe
        return super().changed(recipe, rng)

    def try_recipe(self, recipe: Any) -> str:
        recipe = recipe if isinstance(recipe, dict) else {}
        kinds = {"socket": self._socket, "limits": self._limit, "fact": self._fact}
        kind = recipe.get("kind")
        return kinds.get(kind if isinstance(kind, str) else "", self._request)(recipe)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _request(self, recipe: dict[str, Any]) -> str:
        status, headers, body = self._asked(recipe)
        if status >= 500:
            raise Broken(f"the server answers {status}", body[:500])
        missing = self._wanted - {name.lower() for name, _ in headers}
        if missing:
            raise Broken("an answer has not the headers of every answer", missing)
        for leak in (b"Traceback", b"site-packages", b"alert(1)<"):
            if leak in body and "text/html" in dict(headers).get(b"content-type", b"").decode("latin-1"):
                raise Broken(f"an answer holds {leak.decode()}", body[:500])
        stored = self._manager.file_storage.get(SESSION, {})
        for record in list(stored.values()):
            self._read(record)
        stored.clear()
        return "taken" if status < 400 else "refused"

    def _asked(self, recipe: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the server's answer."""
        path, query = (str(recipe.get(name, "")) for name in ("path", "query"))
        headers = [
            (_bytes(one[0]).lower(), _bytes(one[1]))
            for one in _list(recipe.get("headers"))
            if isinstance(one, list) and len(one) == 2
        ]
        headers += self._token if recipe.get("token") else []
        body, size = self._body(recipe), recipe.get("size")
        size = size if type(size) is int and size > 0 else 10_000
        chunks = [body[start : start + size] for start in range(0, len(body), size)][:1_000] or [b""]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "method": str(recipe.get("method", "GET")).upper()[:20], "headers": headers, "client": ("127.0.0.1", 1),
            "path": path if path.startswith("/") else f"/{path}", "raw_path": _bytes(path),
            "query_string": query.encode("utf-8", "replace"), "server": ("127.0.0.1", 8501), "extensions": {},
        }  # fmt: skip
        sent = self._loop.run_until_complete(asyncio.wait_for(_answer(self._asgi.app, scope, chunks), MOST_SECONDS))
        starts = [message for message in sent if message["type"] == "http.response.start"]
        if len(starts) != 1 or sent[0] is not starts[0]:
            raise Broken("the server begins another number of answers than one", len(starts))
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return starts[0]["status"], list(starts[0]["headers"]), body

    @staticmethod
    def _body(recipe: dict[str, Any]) -> bytes:
        if isinstance(recipe.get("raw"), str):
            return _bytes(recipe["raw"])
        parts = [part for part in _list(recipe.get("parts")) if isinstance(part, dict)]
        told = b""
        for part in parts:
            name, filename, kind = (_bytes(part.get(key, "")) for key in ("name", "filename", "type"))
            told += b"--%b\r\nContent-Disposition: form-data; " % BOUNDARY.encode()
            told += b'name="%b"; filename="%b"\r\nContent-Type: %b\r\n\r\n' % (name, filename, kind)
            told += str(part.get("content", "")).encode("utf-8", "surrogatepass") + b"\r\n"
        return told + b"--%b--\r\n" % BOUNDARY.encode() if parts else b""

    def _read(self, record: Any) -> None:
        """What the pages make of an upload, whatever its name."""
        if len(record.data) > 21_000_000:
            raise Broken("an upload is larger than uploads may be", len(record.data))
        upload = _Upload(record)
        self._form.st = _Streamlit({"upload": upload, "limit": 100})
        found = attempt(self._form.table_rows)
        if not isinstance(found, InputError):
            for line in found.notices:
                check_line(line, "a notice")
            for fact in found.facts:
                self._limits.check_fact(fact)
        attempt(lambda: self._plan._parsed.__wrapped__(record.data, record.name))
        attempt(lambda: self._lessons.read(record.data, "The upload"))

    # -- messages, limits, facts ---------------------------------------------------------------------------------------

    def _socket(self, recipe: dict[str, Any]) -> str:
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        message.rerun_script.is_auto_rerun = bool(recipe.get("auto"))
        for one in _list(recipe.get("widgets")):
            if isinstance(one, list) and len(one) == 2:
                widget = message.rerun_script.widget_states.widgets.add()
                widget.id = str(one[0]).encode("utf-8", "replace").decode()
                _set(widget, one[1])
        sent = bytearray(message.SerializeToString())
        for one in _list(recipe.get("flip")):
            if isinstance(one, list) and len(one) == 2 and all(type(v) is int for v in one) and sent:
                sent[one[0] % len(sent)] = one[1] % 256
        passed = self._presses.of_timer_without_presses(bytes(sent))
        before, after = _parsed(BackMsg, bytes(sent)), _parsed(BackMsg, passed)
        if before is None or before.WhichOneof("type") != "rerun_script" or not before.rerun_script.is_auto_rerun:
            if passed != bytes(sent):
                raise Broken("a message that no timer sent is changed")
            return "taken"
        kept = [one for one in before.rerun_script.widget_states.widgets if one.WhichOneof("value") not in PRESSES]
        if after is None or list(after.rerun_script.widget_states.widgets) != kept:
            raise Broken("a timer's message has other values than its own without presses")
        return "taken"

    def _limit(self, recipe: dict[str, Any]) -> str:
        text = recipe.get("text")
        text = (text if isinstance(text, str) else "").encode("utf-8", "replace").decode()
        found = attempt(lambda: self._limits.parse(text))
        if isinstance(found, InputError):
            return "refused"
        numbers = [
            value for part in (found.visitors, found.runs) for value in vars(part).values() if type(value) is int
        ]
        if not all(1 <= value <= 10**9 for value in numbers) or found.visitors.upload_mb > 20:
            raise Broken("limits are taken that are out of range", found)
        if 0 < len(found.runs.access_code) < self._limits.CODE_LENGTH:
            raise Broken("a short access code is taken", len(found.runs.access_code))
        return "taken"

    def _fact(self, recipe: dict[str, Any]) -> str:
        from encore_core.facts import parse_facts

        try:
            row = json.dumps(recipe.get("fact"))
        except RecursionError:  # read from less deep in the stack than it is written
            return "refused"
        facts = attempt(lambda: parse_facts(row, "pasted"))
        if isinstance(facts, InputError):
            return "refused"
        most = self._limits.limits().visitors
        found = attempt(lambda: self._limits.check_edits(facts, 1, 0))
        texts = [text for fact in facts for text in (fact.text, fact.target_new, *fact.paraphrases)]
        if not isinstance(found, InputError) and max(map(len, texts)) > most.characters:
            raise Broken("a text is taken that is longer than texts may be", max(map(len, texts)))
        return "refused" if isinstance(found, InputError) else "taken"


async def _answer(app: Any, scope: dict[str, Any], chunks: list[bytes]) -> list[dict[str, Any]]:
    """What a server sends to a browser that sends a body in chunks and then listens to the end."""
    sent: list[dict[str, Any]] = []
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not chunks:
            await over.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            over.set()

    await app(scope, receive, send)
    return sent


PRESSES = ("trigger_value", "string_trigger_value", "chat_input_value", "json_trigger_value")


class _Streamlit:
    """What of streamlit the reading of an upload needs."""

    def __init__(self, values: dict[str, Any]):
        self.session_state = values


class _Upload(io.BytesIO):
    def __init__(self, record: Any):
        super().__init__(record.data)
        self.name, self.size = record.name, len(record.data)


def _bytes(value: Any) -> bytes:
    """A text as a header has it."""
    return str(value).encode("latin-1", "replace").replace(b"\r\n", b"  ") if value is not None else b""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _set(widget: Any, kind: Any) -> None:
    """Give a widget's state a value of a kind."""
    if kind in ("trigger_value", "bool_value"):
        setattr(widget, kind, True)
    elif kind in ("string_value", "json_value", "json_trigger_value"):
        setattr(widget, kind, "x")
    elif kind == "string_trigger_value":
        widget.string_trigger_value.data = "x"
    elif kind == "int_value":
        widget.int_value = 5


def _parsed(kind: Any, sent: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(sent)
    except DecodeError:
        return None


TARGETS = (UploadsTarget(),)
