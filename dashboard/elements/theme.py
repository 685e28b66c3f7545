"""The look: which theme the browser shows, and the style sheet in its colours."""

from __future__ import annotations

import streamlit as st

from dashboard.charts.palette import DARK, LIGHT, Palette
from encore_core.resources import ASSETS

STYLES = ASSETS / "style"


def palette() -> Palette:
    """The colours of the theme that the visitor's browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def apply() -> None:
    """Put the style sheet on the page."""
    st.html(f"<style>{palette().css()}\n{_sheet('studio')}</style>")


def add(name: str) -> None:
    """Put on the page the style sheet that only some states need: `presenting`, `folded` or `tour`."""
    st.html(f"<style>{_sheet(name)}</style>")


def _sheet(name: str) -> str:
    return (STYLES / f"{name}.css").read_text(encoding="utf-8")
