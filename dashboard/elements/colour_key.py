"""What every colour means, in the sidebar: the table of the palette as a list with its marks."""

from __future__ import annotations

import html

import streamlit as st

from dashboard.charts.palette import DASHES, MEANINGS, Palette
from dashboard.elements import theme

MAIN = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")
_STROKES = {"solid": "", "dash": "9 6", "dot": "2 4", "dashdot": "9 4 2 4"}
"""Dashes of the main methods, as SVG writes them."""


def offer() -> None:
    """A button that shows the list."""
    with st.popover("Colours", icon=":material/palette:", width="stretch", key="colours"):
        st.html(markup(theme.palette()))


def markup(colours: Palette) -> str:
    """The list: the main methods with their dashes, then everything else that has a colour of its own."""
    methods = "".join(
        f'<li><svg viewBox="0 0 40 8" width="40" height="8" aria-hidden="true"><path d="M0 4H40" '
        f'stroke="{colours.method(name)}" stroke-width="3" stroke-dasharray="{_STROKES[DASHES[name]]}"/></svg>'
        f"<span>{name}</span></li>"
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
