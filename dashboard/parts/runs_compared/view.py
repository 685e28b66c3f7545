"""What a page shows: made once when its controls have been read, and handed to its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from dashboard.charts.runs import Line
from dashboard.reading import run_frames
from dashboard.reading.answers.courses import Lines
from encore_core.runs import RunInfo


@dataclass(frozen=True)
class View:
    """What a page shows. A page that has no control for a field leaves its default.

    Attributes:
        runs: those shown, in this order.
        scale: of norms, as `layer_choice.pick` has it.
        layers: whose norms are drawn; None for the edited ones of each run.
        checkpoints: edits after which values are read, ascending.
        subset: facts that are scored.
        metric: what downstream tasks are measured by.
        limits: the line that a model must not cross.
    """

    runs: tuple[RunInfo, ...]
    scale: str = "ratio"
    layers: tuple[int, ...] | None = None
    checkpoints: tuple[int, ...] = ()
    subset: str = "sample"
    metric: str = "f1"
    limits: Lines = field(default_factory=Lines)

    @cached_property
    def lines(self) -> list[Line]:
        """The runs as charts draw them."""
        return run_frames.lines(self.runs)

    @property
    def names(self) -> list[str]:
        """What each run is called, beside the others."""
        return [line.name for line in self.lines]

    @property
    def ids(self) -> list[str]:
        return [run.id for run in self.runs]

    @property
    def at(self) -> int:
        """The last of the checkpoints."""
        return self.checkpoints[-1]

    @property
    def norm(self) -> str:
        """The column of norms that is drawn."""
        return "ratio" if self.scale == "ratio" else "norm"
