"""One press of a button, one action.

A browser sends a press with its next message, and clears it once that is sent. A page that polls (a fragment with a
timer) sends its own messages in between, and they contain the press, too: a busy browser, whose timer is overdue,
delivers the press twice, and Streamlit acts twice. So presses are removed from the timers' messages; they still arrive
with the browser's own.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

PRESSES = ("trigger_value", "string_trigger_value", "chat_input_value", "json_trigger_value")
"""Streamlit's names for values that are set for one message only."""


class SinglePresses:
    """Middleware between the browsers' sockets and Streamlit."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return

        async def without_stray_presses() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and message.get("bytes"):
                message = {**message, "bytes": of_timer_without_presses(message["bytes"])}
            return message

        await self.app(scope, without_stray_presses, send)


def of_timer_without_presses(sent: bytes) -> bytes:
    """A browser's message; without presses if a timer sent it, and unchanged if it cannot be read."""
    try:
        message = BackMsg.FromString(sent)
    except DecodeError:
        return sent  # Streamlit says what is wrong with it
    if message.WhichOneof("type") != "rerun_script" or not message.rerun_script.is_auto_rerun:
        return sent
    widgets = message.rerun_script.widget_states.widgets
    kept = [widget for widget in widgets if widget.WhichOneof("value") not in PRESSES]
    if len(kept) == len(widgets):
        return sent
    del widgets[:]
    widgets.extend(kept)
    return message.SerializeToString()
