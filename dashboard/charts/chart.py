"""A chart: traces, and their layouts for wide pages, for narrow ones and for phones, as plotly's JSON has them.

They are plain values: plotly's own classes check all that they are given, which takes a tenth to a third of a second
per chart. The browser checks what it draws; `Chart.figure` checks it here, for files and tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go


class Traces(list[dict[str, Any]]):
    """Traces, added one by one in the form that plotly's figures take."""

    def scatter(self, **trace: Any) -> None:
        self.append({"type": "scatter", **trace})

    def bar(self, **trace: Any) -> None:
        self.append({"type": "bar", **trace})


@dataclass(frozen=True, eq=False)  # equal only to itself: comparing charts takes as long as making them
class Chart:
    """The same traces in two or three arrangements.

    Attributes:
        traces: each with its type.
        wide: the layout.
        narrow_layout: what `dashboard.elements.figure` uses when there is little room.
        slim_layout: what it uses on a phone; the narrow one where there is none.
    """

    traces: Sequence[Mapping[str, Any]]
    wide: dict[str, Any]
    narrow_layout: dict[str, Any]
    slim_layout: dict[str, Any] | None = None

    @property
    def layouts(self) -> tuple[dict[str, Any], ...]:
        """All layouts, the widest first, so that the maker of a chart can change them alike."""
        return self.wide, self.narrow_layout, *([] if self.slim_layout is None else [self.slim_layout])

    @cached_property
    def figure(self) -> go.Figure:
        """The chart in plotly's own classes."""
        # Explicit: Streamlit's default template has placeholder colours, which an exported figure would keep.
        return go.Figure(self.traces, {"template": "none"} | self.wide)

    @cached_property
    def narrow(self) -> go.Layout:
        """The layout for narrow pages, in the same form."""
        return go.Layout({"template": "none"} | self.narrow_layout)

    @cached_property
    def slim(self) -> go.Layout:
        """The layout for phones, in the same form."""
        return self.narrow if self.slim_layout is None else go.Layout({"template": "none"} | self.slim_layout)
