"""What the edits on the model cost general text, foretold from statistics, before anybody reads text with it."""

from __future__ import annotations

import math

import streamlit as st

from dashboard.elements import compute_button, widgets
from dashboard.visitors.visitor import Visitor


def show(visitor: Visitor) -> None:
    """A button that works it out, and what came of it: a sentence and a row per edited layer."""
    st.write(
        "What these edits take from text that has nothing to do with them, foretold from statistics of general text: "
        "no text is read for it."
    )
    found = compute_button.ask("foretold", "Foretell the damage", "foretold", _work)
    if found is None:
        st.caption("The first time it gathers gradients of general text, which takes up to a minute; they are kept.")
        return
    total = sum(found.values())
    widgets.remark(sentence(total))
    rows = [
        (layer, f"{one:.2e}", f"{one / total:.0%}" if total else "–")
        for layer, one in sorted(found.items(), reverse=True)
    ]
    widgets.table(
        [("Layer", "right"), ("Nats per token", "right"), ("Share", "right")], rows, "Foretold damage by edited layer"
    )
    st.caption(
        "½ tr(F Δ C₀ Δᵀ) of each layer: Δ is what the edits changed, C₀ the second moment of its inputs and F that of "
        "the gradients at its block's output, over general text. It is an estimate to second order."
    )


def sentence(total: float) -> str:
    """The damage in words.

    Args:
        total: in nats per token.
    """
    if not total:
        return "Nothing is on the model, so nothing is lost."
    rise = math.expm1(total)
    size = f"about {100 * rise:.1f} %" if rise >= 0.001 else "less than 0.1 %"
    return f"Foretold: {total:.2e} nats per token, so perplexity on general text rises by {size}."


def _work(visitor: Visitor, show: compute_button.Show) -> dict[int, float]:
    return visitor.session.foretold_damage(show)
