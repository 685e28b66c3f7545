"""What every colour means, in the sidebar: the table of the palette as a list with its marks."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from dashboard.charts.palette import DASHES, MEANINGS, Palette
from dashboard.elements import theme

MAIN = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")
_STROKES = {"solid": (1, 0), "dash": (9, 5), "dot": (3, 3), "dashdot": (9, 3, 3, 3)}
"""Dashes of the main methods: lengths of strokes and gaps in turn, in pixels."""


def offer() -> None:
    """A button that shows the list."""
    with st.popover("Colours", icon=":material/palette:", width="stretch", key="colours"):
        st.html(markup(theme.palette()))


def markup(colours: Palette) -> str:
    """The list: the main methods with their dashes, then everything else that has a colour of its own."""
    methods = "".join(
        f'<li><i class="es-dashes" style="background:{_dashed(colours.method(name), _STROKES[DASHES[name]])}" '
        f'aria-hidden="true"></i><span>{name}</span></li>'
        for name in MAIN
    )
    others = "".join(
        _row(getattr(colours, name), f"{means}; also by {marks}") for name, (means, marks) in MEANINGS.items()
    )
    said = "Each colour means one thing on every page, and a dash, a mark or a hatch says the same without it."
    return (
        f'<p class="es-aside">{said}</p><ul class="es-colours" aria-label="Colours">{methods}{others}'
        "<li><span>Other methods have colours and dashes of their own, named in each legend.</span></li></ul>"
    )


def _row(colour: str, words: str) -> str:
    return f'<li><i style="background:{colour}" aria-hidden="true"></i><span>{html.escape(words)}</span></li>'


def _dashed(colour: str, strokes: Sequence[int]) -> str:
    """A dashed line as a background."""
    stops, at = [], 0
    for number, length in enumerate(strokes):
        stops.append(f"{'transparent' if number % 2 else colour} {at}px {at + length}px")
        at += length
    return f"repeating-linear-gradient(90deg,{','.join(stops)})"
