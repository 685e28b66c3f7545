"""An OpenAI-compatible server of the tests' own, on loopback: a judge that says what it is told to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # by default 5 connections may wait, and others are reset


@contextmanager
def judge_server() -> Iterator[dict[str, object]]:
    """Its address, what it is to reply, and what it has seen.

    `content` is the text of a reply, or makes it from what was asked; `raw` is sent as it is; `status`; `location` of a
    redirect; `wait`, an event that each reply waits for; `seen` holds (path, body, authorisation) of every question.
    """
    replies: dict[str, object] = {"content": "Yes.", "seen": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(body)

        def do_GET(self) -> None:
            self._reply(None)

        def _reply(self, body: object) -> None:
            replies["seen"].append((self.path, body, self.headers.get("Authorization")))
            if (waits := replies.get("wait")) is not None:
                waits.wait(20)
            self.send_response(int(replies.get("status", 200)))
            if "location" in replies:
                self.send_header("Location", str(replies["location"]))
            self.end_headers()
            said = replies["content"](body) if callable(replies["content"]) else replies["content"]
            self.wfile.write(
                str(replies.get("raw") or json.dumps({"choices": [{"message": {"content": said}}]})).encode()
            )

        def log_message(self, *_: object) -> None:
            pass

    serving = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    replies["address"] = f"http://127.0.0.1:{serving.server_port}/v1"
    try:
        yield replies
    finally:
        serving.shutdown()
        serving.server_close()
