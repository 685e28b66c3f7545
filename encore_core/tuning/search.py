"""`encore tune`: a short search for the hyper-parameters of one method on one model.

It searches one axis after the other: edited layers (the present ones, the default ones, and ranges from a causal
trace), λp (AlphaEdit: its threshold and L2), λn, learning rate. For numbers it moves from the present value by factors,
in a direction that gets better, until it gets worse. A trial edits the facts of the search in one batch on the base
model and scores them; targets do not depend on λ, so they are found once per layers and learning rate. Among the trials
within `TIE` points of the best, the one with the least growth of norms wins. At the end the settings found and those in
force are compared on held-out facts. Of methods that follow gradients, layers and learning rate are all that is
searched.

Every finished trial is appended to a JSON-lines file. The search depends only on the trials' results, so after a
restart it reads these and continues.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.causal_trace import Trace, causal_trace, layer_candidates
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.methods import Settings
from encore_core.model_rows import default_layers
from encore_core.models.editable import EditableModel, Progress
from encore_core.storage import append_line
from encore_core.tuned_rows import TunedRow, store_result
from encore_core.tuning.ground import Ground, OutOfTime, key_of, read_trials, walk

TUNING_VERSION = 1
TIE = 1.0
TRACED_FACTS = 8
PERPLEXITY_TOKENS = 400

OnTrial = Callable[["Trial"], None]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        stage: "present", "layers", the name of a setting, "held out: present" or "held out: found".
        settings: what was tried, plain JSON values.
        edit, paraphrase, neighborhood, overall, accuracy: scores of the edited facts, see `scores.Scores`.
        norm_ratio: the largest ‖W‖/‖W₀‖; None where the facts could not be edited.
        perplexity_ratio: perplexity on the fixed text, divided by that of the base model; None likewise.
        seconds: how long it took.
        stopped: why the facts could not be edited; empty where they were.
    """

    stage: str
    settings: dict[str, Any]
    edit: float
    paraphrase: float
    neighborhood: float
    overall: float
    accuracy: float
    norm_ratio: float | None
    perplexity_ratio: float | None
    seconds: float
    stopped: str = ""


@dataclass(frozen=True)
class Cost:
    """How much a search is expected to take at most, from timing a few facts."""

    seconds: float
    trials: int
    fact_seconds: float
    scored_fact_seconds: float


@dataclass(frozen=True)
class Tuned:
    """The result of a search: the row, its trials, and their file; `complete` unless a budget cut it short."""

    row: TunedRow
    trials: tuple[Trial, ...]
    file: Path
    complete: bool


class Tuner:
    """A search.

    Args:
        lm: the model as loaded.
        method: a name from `methods.METHODS`.
        facts: for the search.
        held_out: for the comparison at the end.
        seed: of prefixes and of the trace's noise.
        statistics_text: as for `EditSession`.
        base: overrides of the settings in force from which the search begins, for tests.
    """

    def __init__(
        self,
        lm: EditableModel,
        method: str,
        facts: Sequence[Fact],
        held_out: Sequence[Fact],
        *,
        seed: int = 0,
        statistics_text: Path | None = None,
        base: dict[str, Any] | None = None,
    ):
        self.ground = Ground(lm, method, seed, statistics_text, base)
        self.lm, self.facts, self.held_out = lm, list(facts), list(held_out)
        self.names = self.ground.names()
        self.trials: list[Trial] = []
        self.trace: Trace | None = None
        self._targets: dict[tuple, list | None] = {}  # None for a method that has none
        self._on_trial: OnTrial = lambda trial: None
        self._deadline = math.inf
        self._fluent: float | None = None
        self.file = self.ground.file(TUNING_VERSION, (*self.facts, *self.held_out))
        known = read_trials(self.file, lambda values: Trial(**values))
        self._known = {(trial.stage, key_of(trial.settings)): trial for trial in known}

    def estimate(self) -> Cost:
        """Time two facts on this machine, and estimate how much the search takes at most.

        Raises:
            InputError: when the facts cannot be edited.
        """
        session = self.ground.session({})
        session.prepare()
        began = time.perf_counter()
        some = self.facts[:2]
        session.edit(some, known="edit", measure=False)
        fact = (time.perf_counter() - began) / len(some)
        began = time.perf_counter()
        with session.edited():
            evaluate(self.lm, some, generate=False)
        scored = (time.perf_counter() - began) / len(some)
        began = time.perf_counter()
        with session.pristine():
            perplexity(self.lm, n_tokens=PERPLEXITY_TOKENS)
        fluent = time.perf_counter() - began
        axes = [self.ground.steps(name)[1] for name in self.ground.axes()]
        numbers, anew = 2 * sum(axes[:-1]), 1 + 3 + 2 * axes[-1]  # targets are found anew for the first, layers, lr
        each = len(self.facts) * scored + fluent
        seconds = (anew + numbers) * each + anew * len(self.facts) * fact
        seconds += 2 * len(self.held_out) * (fact + scored) + 2 * fluent
        seconds += 0 if self.ground.present.from_gradients else TRACED_FACTS * fact
        return Cost(seconds, anew + numbers + 2, fact, scored)

    def search(
        self, *, minutes: float | None = None, adopt: bool = False, progress: Progress | None = None,
        on_trial: OnTrial | None = None,
    ) -> Tuned:  # fmt: skip
        """Search, compare on the held-out facts, and store the row.

        Args:
            minutes: time limit; a trial of the search begins only if there is time left for it and the comparison.
            adopt: put the row in force even if the model has a published one.
            progress: called at the stages.
            on_trial: called after every trial.

        Raises:
            InputError: when not even the settings in force can be tried.
        """
        began = time.perf_counter()
        tell = progress or (lambda what, share: None)
        self._on_trial = on_trial or (lambda trial: None)
        first = self._try("present", {}, self.facts)
        # The comparison takes two more trials of this kind.
        if minutes is not None:
            self._deadline = began + 60 * minutes - 2 * first.seconds
        complete, best = True, first
        try:
            tell("Searching layers" if self.ground.present.from_gradients else "Tracing where facts are recalled", 0.1)
            best = self._layers(best)
            for number, name in enumerate(self.ground.axes(), 1):
                tell(f"Searching {name}", number / (len(self.ground.axes()) + 2))
                best = self._walk(name, best)
        except OutOfTime:
            complete, best = False, self._best(first)
        self._deadline = math.inf
        tell("Comparing on held-out facts", 0.9)
        found = {name: best.settings[name] for name in self.names}
        before = self._try("held out: present", {}, self.held_out)
        after = self._try("held out: found", found, self.held_out)
        row = self._row(best, complete, adopt, not after.stopped and after.overall >= before.overall)
        store_result(row)
        return Tuned(row, tuple(self.trials), self.file, complete)

    # -- the axes --------------------------------------------------------------------------------------------------

    def _layers(self, best: Trial) -> Trial:
        if self.ground.present.from_gradients:
            for layers in self.ground.other_layers():
                self._try("layers", {"layers": list(layers)}, self.facts)
            return self._best(best)
        self.trace = causal_trace(self.lm, self.facts[:TRACED_FACTS], seed=self.ground.seed)
        present = self.ground.present.layers
        candidates = layer_candidates(self.trace, self.lm.n_layers, max(2, len(present)))
        for layers in [default_layers(self.lm.n_layers), *candidates][:3]:
            if layers != present:
                self._try("layers", {"layers": list(layers)}, self.facts)
        return self._best(best)

    def _walk(self, name: str, best: Trial) -> Trial:
        """Move from the best value so far by factors, up and then down, as long as it gets better."""
        factor, most = self.ground.steps(name)

        def attempt(multiple: float) -> Trial | None:
            value = float(f"{best.settings[name] * multiple:.3g}")
            changed = {key: best.settings[key] for key in self.names} | {name: value}
            return self._try(name, changed, self.facts) if self.ground.takes(changed) else None

        walk(best, factor, most, attempt, lambda trial: trial.overall, TIE)
        return self._best(best)

    def _best(self, at_least: Trial) -> Trial:
        tried = [trial for trial in self.trials if not trial.stage.startswith("held out")] or [at_least]
        top = max(trial.overall for trial in tried)
        near = [trial for trial in tried if trial.overall >= top - TIE]
        return min(near, key=lambda trial: (trial.norm_ratio or math.inf, -trial.overall))

    # -- one trial ---------------------------------------------------------------------------------------------------

    def _try(self, stage: str, overrides: dict[str, Any], facts: list[Fact]) -> Trial:
        """Make a trial, or return its known result.

        Raises:
            OutOfTime: when there is no time left.
        """
        session = self.ground.session(overrides)
        settings = self.ground.settings_of(session)
        for trial in self.trials:  # another way to the same settings
            if trial.settings == settings and not stage.startswith("held out"):
                return trial
        trial = self._known.get((stage, key_of(settings)))
        if trial is None:
            if time.perf_counter() + self._expected() > self._deadline:
                raise OutOfTime
            trial = self._measure(stage, session, settings, facts)
            append_line(self.file, json.dumps(asdict(trial)))
        self.trials.append(trial)
        self._on_trial(trial)
        return trial

    def _expected(self) -> float:
        return self.trials[0].seconds if self.trials else 0.0

    def _measure(self, stage: str, session: EditSession, settings: dict[str, Any], facts: list[Fact]) -> Trial:
        began = time.perf_counter()
        if self._fluent is None:
            with session.pristine() as lm:
                self._fluent = perplexity(lm, n_tokens=PERPLEXITY_TOKENS)
        s: Settings = session.settings
        key = (s.layers[-1], s.lr, s.search_step, s.steps, s.mpes_extra_steps, stage.startswith("held out"))
        try:
            session.prepare()
            if key not in self._targets:
                self._targets[key] = None if s.from_gradients else session.find_targets(facts, on_progress=None)
            session.edit(facts, known="edit", measure=False, targets=self._targets[key])
        except InputError as error:
            # Settings that give no P, or no solution of a batch, get the worst scores, and the search goes on.
            return Trial(stage, settings, 0, 0, 0, 0, 0, None, None, time.perf_counter() - began, str(error))
        with session.edited() as lm:
            scores = evaluate(lm, facts, generate=False)
            fluent = perplexity(lm, n_tokens=PERPLEXITY_TOKENS)
        ratio = max(after / before for before, after in session.norms().values())
        return Trial(
            stage, settings, scores.edit_score, scores.paraphrase_score, scores.neighborhood_score,
            scores.overall_score, scores.accuracy, ratio, fluent / self._fluent, time.perf_counter() - began,
        )  # fmt: skip

    def _row(self, best: Trial, complete: bool, adopt: bool, is_as_good: bool) -> TunedRow:
        evidence = self.ground.evidence() | {
            "facts": len(self.facts),
            "held_out_facts": len(self.held_out),
            "complete": complete,
            "trace": asdict(self.trace) if self.trace else None,
            "trials": [asdict(trial) for trial in self.trials],
        }
        ground, settings = self.ground, {name: best.settings[name] for name in self.names}
        in_force = adopt or (is_as_good and not ground.is_published())
        return TunedRow(ground.shape, self.lm.name, self.lm.fingerprint, ground.method, settings, in_force, evidence)
