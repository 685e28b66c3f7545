"""What the edits on the model cost general text, foretold from statistics, before anybody reads text with it."""

from __future__ import annotations

import math

import streamlit as st

from dashboard.elements import compute_button, widgets
from dashboard.visitors.visitor import Visitor
from encore_core.editing.foretold_damage import perplexity_factor
from encore_core.words import decimal

HOW_FAR = (
    "An estimate to second order: it tells which edits cost more, not how much. On the embedded model KL was 1.2 to 8 "
    "times as large for 40 single facts edited by ENCORE (rank correlation 0.87, 95 %: 0.67 to 0.97), and 2.3 to 4.5 "
    "times over runs of ENCORE and ENCORE-N. Over runs of fifteen methods the log perplexity ratio was 0.5 to "
    "3.2 times as large."
)


def show(visitor: Visitor) -> None:
    """A button that works it out, and what came of it: a sentence and a row per edited layer."""
    st.write(
        "The estimated damage of these edits to unrelated text, computed from statistics of general text, without "
        "running the model on any."
    )
    found = compute_button.ask("foretold", "Estimate the damage", "foretold", _work)
    if found is None:
        st.caption("The first time it gathers gradients of general text, which takes up to a minute; they are kept.")
        return
    total = sum(found.values())
    widgets.remark(sentence(total))
    rows = [
        (layer, decimal(one), f"{one / total:.0%}" if total else "–")
        for layer, one in sorted(found.items(), reverse=True)
    ]
    widgets.table(
        [("Layer", "right"), ("Nats per token", "right"), ("Share", "right")], rows, "Estimated damage by edited layer"
    )
    st.caption(
        "½ tr(F Δ C₀ Δᵀ) of each layer: Δ is what the edits changed, C₀ the second moment of its inputs and F that of "
        f"the gradients at its block's output, over general text. {HOW_FAR}"
    )


def sentence(total: float) -> str:
    """The damage in words.

    Args:
        total: in nats per token.
    """
    if not total:
        return "Nothing is on the model, so nothing is lost."
    factor = perplexity_factor(total)
    if factor > 10:
        told = decimal(factor) if math.isfinite(factor) else "more than any number"
        return f"Estimated: {decimal(total)} nats per token, which multiplies perplexity on general text by {told}."
    size = f"about {100 * (factor - 1):.1f} %" if factor >= 1.001 else "less than 0.1 %"
    return f"Estimated: {decimal(total)} nats per token, a rise of perplexity on general text by {size}."


def _work(visitor: Visitor, show: compute_button.Show) -> dict[int, float]:
    return visitor.session.foretold_damage(show)


def show_compared(visitor: Visitor) -> None:
    """A button that works it out for each column of a comparison, and a row per column."""
    columns = [column for column in visitor.comparison.columns if column.session is not None and column.n_edits]
    if not columns:
        return
    with st.container(border=True, key="card_foretold"):
        widgets.heading("What it costs other text", "estimated from statistics; no text is read")
        state = tuple((column.label, id(column.session), len(column.session.history)) for column in columns)

        def work(_visitor: Visitor, show: compute_button.Show) -> list[dict[int, float]]:
            return [column.session.foretold_damage(show) for column in columns]

        found = compute_button.ask("foretold_compared", "Estimate what each costs", state, work)
        if found is None:
            return
        rows = [
            (column.label, decimal(sum(one.values())), f"× {perplexity_factor(sum(one.values())):.4f}", _most(one))
            for column, one in zip(columns, found, strict=True)
        ]
        names = ("Nats per token", "Perplexity, estimated", "Most in layer")
        headings = [("Method", "name"), *((name, "right") for name in names)]
        widgets.table(headings, rows, "Estimated damage to general text, by method")
        st.caption(f"½ tr(F Δ C₀ Δᵀ), summed over the edited layers. {HOW_FAR}")


def _most(by_layer: dict[int, float]) -> str:
    return str(max(by_layer, key=by_layer.__getitem__))
