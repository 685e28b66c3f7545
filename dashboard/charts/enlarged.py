"""A chart for a projector: its layout with larger type, and more room in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTHS = (
    "xshift",
    "yshift",
    "height",
    "width",
    "ticklen",
    "standoff",
    "ticklabelstandoff",
    "itemwidth",
    "entrywidth",
)
_PLOTLYS_OWN = 12
"""Size of type where a layout says nothing, in pixels."""


def enlarged(layout: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """A layout in which type, margins, height and shifts are larger. The width is that of the page.

    Args:
        layout: as plotly's JSON; left as it is.
        factor: 1 for no change.
    """
    if factor == 1:
        return dict(layout)
    larger = _grown(layout, factor, "")
    font = layout.get("font", {})
    larger["font"] = {**font, "size": font.get("size", _PLOTLYS_OWN) * factor}
    return larger


def _grown(value: Any, factor: float, name: str) -> Any:
    if isinstance(value, Mapping):
        return {
            key: inner * factor if _is_length(key, inner, name) else _grown(inner, factor, key)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_grown(inner, factor, name) for inner in value]
    return value


def _is_length(key: str, value: Any, within: str) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_type = key == "size" and within.endswith("font")
    return is_number and (is_type or within == "margin" or key in _LENGTHS)
