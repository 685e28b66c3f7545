"""The look: which theme the browser shows, and the style sheet in its colours."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.palette import DARK, LIGHT, Palette

STYLE = Path(__file__).resolve().parent.parent / "assets" / "style" / "studio.css"


def palette() -> Palette:
    """The colours of the theme that the visitor's browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def apply() -> None:
    """Put the style sheet on the page."""
    st.html(f"<style>{palette().css()}\n{STYLE.read_text(encoding='utf-8')}</style>")
