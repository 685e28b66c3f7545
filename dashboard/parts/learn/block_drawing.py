"""One drawing of a transformer block, of which every step of Learn lights up a part.

It is markup in the colours of the theme, so it grows with the page; its text alternative says what is lit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import streamlit as st

from dashboard.elements import widgets

_DOTS = (-26, -13, 0, 13, 26)
"""Where the entries of a vector are drawn, above and below its middle."""


def _vector(x: int, y: int) -> str:
    return "".join(f'<circle cx="{x}" cy="{y + dy}" r="4.5"/>' for dy in _DOTS)


def _arrow(path: str) -> str:
    return f'<path class="es-arrow" d="{path}" marker-end="url(#es-head)"/>'


def _text(x: int, y: int, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


PARTS = {
    "stream": '<path class="es-stream" d="M92 270H632" marker-end="url(#es-head)"/>'
    + _text(330, 304, "residual stream h"),
    "subject": '<rect x="8" y="250" width="78" height="40" rx="8"/>' + _text(47, 276, "France"),
    "attention": '<rect x="148" y="146" width="104" height="46" rx="8"/>' + _text(200, 174, "attention")
    + _arrow("M166 264V198") + _arrow("M234 192V256") + _text(248, 236, "a", "start"),
    "up": '<rect x="282" y="146" width="46" height="62" rx="8"/>' + _text(305, 182, "up") + _arrow("M305 264V214"),
    "key": _arrow("M330 177H344") + _vector(358, 177) + _text(358, 138, "k"),
    "sheets": '<rect class="es-sheet" x="406" y="120" width="74" height="78" rx="4"/>'
    '<rect class="es-sheet" x="396" y="130" width="74" height="78" rx="4"/>' + _text(440, 110, "+ Δ + Δ …"),
    "W": _arrow("M366 177H380") + '<rect class="es-matrix" x="386" y="140" width="74" height="78" rx="4"/>'
    '<rect class="es-hatched" x="386" y="140" width="74" height="78" rx="4"/>'
    '<circle class="es-behind" cx="423" cy="179" r="17"/>' + _text(423, 186, "W"),
    "value": _arrow("M462 177H476") + _vector(490, 177) + _text(508, 182, "v", "start") + _arrow("M490 210V256"),
    "share": '<path class="es-thick" d="M490 214V254"/>' + _text(478, 240, "share of the stream", "end"),
    "price": '<path class="es-arrow" d="M386 104V96H460V104"/>' + _text(423, 84, "‖Δ‖² costs λn"),
    "target": '<path class="es-dotted" d="M580 266L604 222"/><circle cx="580" cy="270" r="6"/>'
    '<path class="es-diamond" d="M606 206l10 10l-10 10l-10 -10z"/>' + _text(604, 194, "z = h + δ")
    + _text(584, 248, "δ", "end"),
    "answer": '<rect x="640" y="250" width="72" height="40" rx="8"/><text class="es-answer" x="676" y="276" '
    'text-anchor="middle">Rome</text>',
    "stop": '<path class="es-stop" d="M664 196h24l14 14v24l-14 14h-24l-14 -14v-24z" transform="translate(0 -20)"/>'
    + _text(676, 207, "stop"),
}  # fmt: skip
"""Part → its markup, from the lowest to the highest."""

ALWAYS = ("stream", "subject", "attention", "up", "key", "W", "value", "target", "answer")
"""Parts that stand in every drawing; the others belong to the steps that light them."""


def markup(lit: Sequence[str], caption: str) -> str:
    """The drawing.

    Args:
        lit: names of the parts that a step is about, some of `PARTS`.
        caption: what is lit, in a sentence; it stands below the drawing and is its text alternative.
    """
    drawn = "".join(
        f'<g class="es-part{" es-lit" if name in lit else ""}">{shape}</g>'
        for name, shape in PARTS.items()
        if name in ALWAYS or name in lit
    )
    return (
        '<figure class="es-block"><div class="es-scroll" tabindex="0" role="group" aria-label="Drawing of a layer">'
        + widgets.rich('<svg viewBox="0 44 720 268" role="img" aria-label="{caption}">', caption=caption)
        + '<defs><marker id="es-head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker>'
        '<pattern id="es-hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V8" stroke-width="3"/></pattern></defs>'
        '<rect class="es-frame" x="124" y="50" width="424" height="182" rx="12"/>'
        + f'<text class="es-name" x="138" y="72">one of the edited layers, ℓ</text>{drawn}</svg></div>'
        + widgets.rich("<figcaption>{caption}</figcaption></figure>", caption=caption)
    )


_PUT = """
export default function ({ parentElement, data }) {
  parentElement.querySelector('.es-drawing').innerHTML = data.markup;
}
"""


@cache
def _component():
    # `st.html` would take the drawing out of its markup.
    html = '<div class="es-drawing stHtml"></div>'
    return st.components.v2.component("encore_studio.layer", html=html, js=_PUT, isolate_styles=False)


def draw(lit: Sequence[str], caption: str) -> None:
    """Put the drawing on the page; arguments as for `markup`, all of them ours."""
    _component()(key="layer drawing", data={"markup": markup(lit, caption)})
