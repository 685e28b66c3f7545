"""A trial of the search for thousands of edits: a life, and what was left of the model at its looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import harmonic_mean
from typing import Any

HELD_OUT = "held out: "
"""How the stages of the comparison on held-out facts begin."""


@dataclass(frozen=True)
class Look:
    """What is left of a model after some edits.

    Attributes:
        edits: how many.
        first, last: overall scores of the facts of the first and of the newest batch, see `scores.Scores`.
        first_accuracy, last_accuracy: share of them that the model says, × 100.
        perplexity_ratio: perplexity on the fixed text, divided by the unedited model's.
        norm_ratio: the largest ‖W‖/‖W₀‖.
        tasks: mean F1 of the downstream tasks, as a share of the unedited model's × 100; None where they are not asked.
    """

    edits: int
    first: float
    last: float
    first_accuracy: float
    last_accuracy: float
    perplexity_ratio: float
    norm_ratio: float
    tasks: float | None = None

    @property
    def left(self) -> float:
        """What is left, 0 to 100: the harmonic mean of both scores, 100 / perplexity ratio, and the share of the tasks.

        None of them counts for more than 100.
        """
        parts = [self.first, self.last, 100 / self.perplexity_ratio, *([self.tasks] if self.tasks is not None else [])]
        return harmonic_mean([min(100.0, max(0.0, part)) for part in parts])


@dataclass(frozen=True)
class Life:
    """One trial.

    Attributes:
        stage: "present", "known", "layers", the name of a setting, "held out: present" or "held out: found".
        settings: what was tried, plain JSON values.
        looks: what was left, in order.
        seconds: how long it took.
        stopped: why it ended before the horizon; empty if it did not.
    """

    stage: str
    settings: dict[str, Any]
    looks: tuple[Look, ...] = ()
    seconds: float = 0.0
    stopped: str = ""

    @property
    def score(self) -> float:
        """What was left at the end; 0 of a life that did not come so far."""
        return self.looks[-1].left if self.looks and not self.stopped else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Life:
        """A life from its JSON values."""
        return cls(**{**values, "looks": tuple(Look(**look) for look in values["looks"])})
