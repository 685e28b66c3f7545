"""One press of a button, one deed.

A browser sends a press with its next message, and takes it back when that has gone. A page that looks for news by
itself (a fragment with a timer) sends messages of its own in between, and what has been pressed stands in them, too: a
busy browser, whose timer is overdue, delivers the press twice, and Streamlit does twice what the button is for. So
presses are taken out of the timers' messages; they come with the browser's own.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

PRESSES = ("trigger_value", "string_trigger_value", "chat_input_value", "json_trigger_value")
"""How Streamlit calls what is true for one message."""


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
    """A browser's message, and if a timer sent it, without what has been pressed; what cannot be read, as it is."""
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
