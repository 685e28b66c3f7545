"""What a search starts from: a model, a method with its settings in force, and which of them are searched over."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, TypeVar

import torch

from encore_core.editing.covariance import files_used
from encore_core.editing.session import EditSession
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.methods import METHODS, Settings, publishes
from encore_core.model_rows import find_model_row
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of
from encore_core.storage import data_folder
from encore_core.tuned_rows import TunedFor

STEPS = {
    "lambda_p": (3.0, 3), "lambda_n": (4.0, 2), "null_threshold": (3.0, 2), "l2": (3.0, 2), "lr": (0.5, 1),
    "search_step": (0.5, 1), "gradient_lr": (4.0, 5),
}  # fmt: skip
"""For each number the factor between two values, and at most how many steps to take in one direction. The learning rate
of a method that follows gradients differs by a factor of a thousand between models."""

Trial = TypeVar("Trial")


class OutOfTime(Exception):
    """There is no time left for another trial."""


class Ground:
    """A model, a method and the settings in force, from which others are tried.

    Args:
        lm: the model as loaded.
        method: a name from `methods.METHODS`.
        seed: of prefixes and of the trace's noise.
        statistics_text: as for `EditSession`.
        base: overrides of the settings in force from which the search begins, for tests.

    Raises:
        InputError: for an unknown method, or unknown settings.
    """

    def __init__(
        self, lm: EditableModel, method: str, seed: int, statistics_text: Path | None, base: dict[str, Any] | None
    ):
        self.lm, self.seed, self.statistics_text, self.base = lm, seed, statistics_text, dict(base or {})
        self.present: Settings = settings_of(lm, method, base)
        self.method = self.present.method
        self.shape = lm.shape

    def is_published(self, tuned_for: TunedFor = "few") -> bool:
        """Whether the program comes with settings for the model, and so many edits; whichever are in force."""
        row = find_model_row(*astuple(self.shape))
        if tuned_for == "few":
            return publishes(row, METHODS[self.method])
        return row is not None and self.method in row.for_thousands

    def axes(self) -> tuple[str, ...]:
        """The numbers that are searched over, in order."""
        p = self.present
        if p.from_gradients:  # all else is searched for by nobody: it hardly differs between models
            return ("lr",)
        axes = {"null_space": ("null_threshold", "l2"), "weighted_null_space": ("null_threshold", "lambda_p")}.get(
            p.preservation, ("lambda_p",)
        )
        step = "lr" if p.search == "adam" else "search_step"
        return (*axes, *(("lambda_n",) if p.lambda_n else ()), step)

    def steps(self, name: str) -> tuple[float, int]:
        """The factor between two values of a number, and at most how many steps to take in one direction."""
        return STEPS["gradient_lr" if self.present.from_gradients else name]

    def other_layers(self) -> list[tuple[int, ...]]:
        """Blocks to try for a method that follows gradients: as many that end where the present begin, and their half.

        No trace says where such a method should edit: it does not look for where a fact is recalled.
        """
        present = self.present.layers
        first, width = present[0], len(present)
        earlier = tuple(range(max(0, first - width), first))
        return [layers for layers in (earlier, present[width // 2 :]) if layers and layers != present]

    def names(self) -> tuple[str, ...]:
        """The settings that a row holds; the others stay as they are in force."""
        if self.present.from_gradients:
            return ("layers", *self.axes())
        return ("layers", *self.axes(), "steps", "mpes_extra_steps", "contexts_at_once", "pushes", "statistics_tokens")

    def session(self, overrides: dict[str, Any]) -> EditSession:
        """A fresh session with some settings replaced."""
        overrides = {**self.base, **overrides}
        if not self.present.lambda_n:
            overrides.pop("lambda_n", None)
        return EditSession(
            self.lm, self.method, seed=self.seed, settings=overrides, statistics_text=self.statistics_text,
            keep_history=False,
        )  # fmt: skip

    def takes(self, overrides: dict[str, Any]) -> bool:
        """Whether these settings are within their ranges."""
        try:
            self.session(overrides)
        except InputError:
            return False
        return True

    def settings_of(self, session: EditSession) -> dict[str, Any]:
        """The settings of a session that a row holds, as plain JSON values."""
        found = {name: getattr(session.settings, name) for name in self.names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def file(self, version: int, facts: Sequence[Fact], *more: Any) -> Path:
        """Where the trials of a search with these facts are kept: anything else that it depends on gives another."""
        statistics = files_used(
            self.lm, range(self.lm.n_layers), self.present.statistics_tokens, self.statistics_text
        )  # fmt: skip
        identity = [
            version, self.lm.texts_key, str(self.lm.dtype), asdict(self.present) | {"validated": 0, "tuned": 0},
            self.seed, [file.name for file in statistics.values()], [fact.to_dict() for fact in facts], *more,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return data_folder() / "tuned" / self.shape.name / f"{self.method}-{digest}.jsonl"

    def evidence(self) -> dict[str, Any]:
        """What a row says about where it was found."""
        return {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seed": self.seed,
            "device": str(self.lm.device),
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }


def walk(
    start: Trial, factor: float, most: int, attempt: Callable[[float], Trial | None],
    score: Callable[[Trial], float], tie: float,
) -> None:  # fmt: skip
    """Try multiples of a number, up and then down, as long as they get better.

    Args:
        start: the trial of the number itself.
        factor: between two numbers.
        most: multiples in one direction.
        attempt: makes the trial of a multiple; None for one that is out of range.
        score: of a trial, more is better.
        tie: if one direction got better by more, the other one is not tried.
    """
    for direction in (factor, 1 / factor):
        here = start
        for step in range(1, most + 1):
            trial = attempt(direction**step)
            if trial is None or score(trial) < score(here):
                break
            here = trial
        if score(here) > score(start) + tie:
            break


def key_of(settings: dict[str, Any]) -> str:
    """Settings as a text that is the same for the same ones."""
    return json.dumps(settings, sort_keys=True)


def read_trials(file: Path, make: Callable[[dict[str, Any]], Trial]) -> list[Trial]:
    """Trials of an earlier search; a line that a crash has cut off is left out.

    Raises:
        InputError: when the file is there and cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The trials in {quoted(str(file))} cannot be read ({error}); remove the file.") from error
    found = []
    for line in lines:
        try:
            found.append(make(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            continue
    return found
