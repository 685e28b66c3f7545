"""What a visitor sees while waiting for the device: the place in line, about how long it takes, and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from dashboard.elements import widgets
from dashboard.server import device_queue
from dashboard.server.device_queue import Place, ordinal


@contextmanager
def shown() -> Iterator[None]:
    """While the block waits, show the visitor's place in line, in a box that stays in sight."""
    with st.container(key="place_in_line"):
        box = _Box()
    visitor = st.session_state.get("visitor")
    if visitor is not None and visitor.left_line:
        box.offer_return(visitor)
    device_queue.tell_waiting(box.tell)
    try:
        yield
    finally:
        # A button's callback runs before the next page is drawn; it must not write to this one.
        device_queue.tell_waiting(None)


class _Box:
    """The box: words, and a button below them."""

    def __init__(self) -> None:
        self._words, self._button = st.empty(), st.empty()
        self._times = 0
        self._told = False

    def tell(self, place: Place | None) -> None:
        """Show a place; None clears the box.

        Raises:
            InputError: when the visitor no longer wants to wait.
        """
        if place is None:
            self._words.empty()
            self._button.empty()
            self._told = False
            return
        visitor = st.session_state.get("visitor")
        if visitor is not None:
            visitor.check_waiting(place)
        # Redrawn each time, even with the same words: that is when Streamlit ends the script of a visitor who has left,
        # or has clicked on something.
        left = str(place).partition(" · ")[2]
        self._words.html(
            widgets.rich(
                '<div class="es-place"><span role="status">The model is busy. You are {place} in the queue</span>'
                '<span aria-hidden="true">{left}</span></div>',
                place=ordinal(place.number),
                left=f" · {left}" if left else "",
            )
        )
        if not self._told and visitor is not None:
            self._times += 1
            # A widget's key may be used once per run, and a page may wait more than once.
            self._button.button("Stop waiting", key=f"stop_waiting_{self._times}", on_click=visitor.leave_line)
            self._told = True

    def offer_return(self, visitor) -> None:
        """Say that the line was left, with a button to go back."""
        self._words.html(
            '<div class="es-place"><span role="status">You have left the queue for the model.</span></div>'
        )
        self._button.button("Ask again", key="ask_again", on_click=visitor.ask_again)
