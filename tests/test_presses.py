"""Presses in messages of a page's timers are not delivered; everything else is, as it was sent."""

from __future__ import annotations

import asyncio

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg

from dashboard.browser.click_deduplication import SinglePresses, of_timer_without_presses


def message(is_timer: bool, **pressed) -> BackMsg:
    """A message with a text, a press of each kind that is given, and a number behind them."""
    sent = BackMsg()
    request = sent.rerun_script
    request.query_string, request.fragment_id, request.is_auto_rerun = "run=a", "f", is_timer
    request.widget_states.widgets.add(id="text", string_value="Rome")
    for number, (kind, value) in enumerate(pressed.items()):
        state = request.widget_states.widgets.add(id=f"press {number}")
        if isinstance(value, str) and kind != "json_trigger_value":
            getattr(state, kind).data = value
        else:
            setattr(state, kind, value)
    request.widget_states.widgets.add(id="number", int_value=3)
    return sent


EVERY_KIND = {
    "trigger_value": True, "string_trigger_value": "a", "chat_input_value": "b", "json_trigger_value": "[1]",
}  # fmt: skip


def test_a_timer_presses_nothing():
    kept = BackMsg.FromString(of_timer_without_presses(message(True, **EVERY_KIND).SerializeToString()))
    assert kept == message(True)


@pytest.mark.parametrize(
    "sent",
    [
        message(False, **EVERY_KIND).SerializeToString(),
        message(True).SerializeToString(),
        BackMsg(stop_script=True).SerializeToString(),
        b"",
        b"\xff\xff not a message",
    ],
    ids=["a browser's own", "a timer without presses", "another kind", "empty", "unreadable"],
)
def test_all_else_is_as_it_was_sent(sent):
    assert of_timer_without_presses(sent) is sent


@pytest.mark.parametrize("kind", ["websocket", "http"])
def test_only_what_comes_through_a_socket_is_looked_at(kind):
    sent = message(True, trigger_value=True).SerializeToString()
    heard = []

    async def app(scope, receive, send):
        for _ in range(3):
            heard.append(await receive())

    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "bytes": sent},
                     {"type": "websocket.receive", "bytes": None, "text": "hello"}])  # fmt: skip

    async def receive():
        return next(messages)

    asyncio.run(SinglePresses(app)({"type": kind}, receive, None))
    assert [each["type"] for each in heard] == ["websocket.connect", "websocket.receive", "websocket.receive"]
    assert (heard[1]["bytes"] == sent) == (kind == "http") and heard[2]["text"] == "hello"
