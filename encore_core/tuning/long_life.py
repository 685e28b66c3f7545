"""`encore tune --horizon`: a search for the settings under which most of a model is left after thousands of edits.

A trial is a life: the facts of the search, one batch after the other, up to the horizon. At a tenth, three tenths and
the end of it is measured what is left: the scores of the first and of the last batch, perplexity and, if they are
given, the downstream tasks. `Look.left` makes one number of them. A life that is more than `BEHIND` points behind the
best one at the same place is stopped. It searches one axis after the other: edited layers (the present ones; others
that end or begin where these begin; what foretold costs propose, see `layer_costs`), λp, λn, the length of a step; of
methods that follow gradients, layers and learning rate.
Among the lives within `TIE` points of the best, the one with the least growth of norms wins. At the end the settings
found and those for a few edits are compared on facts that the search has not seen.

Every life that has ended is appended to a JSON-lines file, and the state of the one under way is kept at its looks, so
that the same command continues a search that was stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from encore_core.editing.batch import batched
from encore_core.editing.layer_costs import layer_costs, proposed
from encore_core.editing.session import EditSession
from encore_core.editing.session_state import SessionState
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.measures.tasks import Task
from encore_core.methods import lengths_of, settings_for
from encore_core.models.editable import EditableModel, Progress
from encore_core.storage import append_line, remove, replacing
from encore_core.tuned_rows import TunedRow, store_result
from encore_core.tuning.ground import Ground, OutOfTime, key_of, read_trials, walk
from encore_core.tuning.lives import HELD_OUT, Life, Look

VERSION = 1
BATCH = 100
PLACES = (0.1, 0.3, 1.0)
"""Where a life is looked at, as shares of the horizon."""

BEHIND = 3.0
TIE = 1.0
COSTED_FACTS = 8

OnLook = Callable[["Life"], None]


@dataclass(frozen=True)
class LongRow:
    """The result of a search: the row, its lives, and their file; `complete` unless a budget cut it short."""

    row: TunedRow
    lives: tuple[Life, ...]
    file: Path
    complete: bool


class LifeTuner:
    """A search for settings for thousands of edits.

    Args:
        lm: the model as loaded.
        method: a name from `methods.METHODS`.
        facts: for the search; as many as the horizon has edits.
        held_out: for the comparison at the end; as many again.
        batch_size: facts edited together.
        tasks: from `load_tasks`, asked at the end of every life; None for none.
        task_tests: tests per task, at most.
        seed, statistics_text, base: as for `search.Tuner`.

    Raises:
        InputError: for an unknown method or settings, or facts for less than two batches.
    """

    def __init__(
        self,
        lm: EditableModel,
        method: str,
        facts: Sequence[Fact],
        held_out: Sequence[Fact],
        *,
        batch_size: int = BATCH,
        tasks: Mapping[str, Task] | None = None,
        task_tests: int = 20,
        seed: int = 0,
        statistics_text: Path | None = None,
        base: dict[str, Any] | None = None,
    ):
        if len(facts) < 2 * batch_size:
            raise InputError(
                f"A horizon of {len(facts)} edits in batches of {batch_size} has no first and last batch; give a "
                f"horizon of at least {2 * batch_size}, or smaller batches."
            )
        self.ground = Ground(lm, method, seed, statistics_text, base)
        self.lm, self.facts, self.held_out = lm, list(facts), list(held_out)
        self.batch_size, self.tasks, self.task_tests = batch_size, tasks, task_tests
        self.names = self.ground.names()
        self.lives: list[Life] = []
        self.file = self.ground.file(
            VERSION, (*self.facts, *self.held_out), batch_size, sorted(tasks or ()), task_tests
        )  # fmt: skip
        self._known = {(life.stage, key_of(life.settings)): life for life in read_trials(self.file, Life.of)}
        self._on_look: OnLook = lambda life: None
        self._deadline = math.inf
        self._unedited: tuple[float, float | None] | None = None

    @property
    def most_lives(self) -> int:
        """How many lives there are at most, the comparison's two included."""
        numbers = sum(2 * self.ground.steps(name)[1] for name in self.ground.axes())
        return 1 + len(self._other_rows()) + 3 + numbers + 2

    def estimate(self) -> tuple[float, float]:
        """Time a few facts on this machine.

        Returns:
            seconds that all lives would take if none were stopped, and seconds to edit a fact.

        Raises:
            InputError: when the facts cannot be edited.
        """
        session, some = self.ground.session({}), self.facts[:4]
        session.prepare()
        began = time.perf_counter()
        session.edit(some, known="edit", measure=False)
        fact = (time.perf_counter() - began) / len(some)
        return self.most_lives * len(self.facts) * fact, fact

    def search(
        self, *, minutes: float | None = None, adopt: bool = False, progress: Progress | None = None,
        on_look: OnLook | None = None,
    ) -> LongRow:  # fmt: skip
        """Search, compare on the held-out facts, and store the row.

        Args:
            minutes: time limit of the search; one that is stopped by it stores no row, unless the settings in force
                were tried to the end. The comparison comes on top.
            adopt: put the row in force whatever the comparison says, and even if the model has a published one.
            progress: called at the stages.
            on_look: called with the life under way whenever it was looked at, and when it has ended.

        Raises:
            InputError: when there was not even time for the settings in force.
        """
        tell = progress or (lambda what, share: None)
        self._on_look = on_look or (lambda life: None)
        self._deadline = time.perf_counter() + 60 * minutes if minutes is not None else math.inf
        complete = True
        try:
            tell("Trying the settings for a few edits", 0.0)
            self._live("present", {}, self.facts)
            for settings in self._other_rows():
                self._live("known", settings, self.facts)
            tell("Searching layers", 0.2)
            self._layers()
            for number, name in enumerate(self.ground.axes(), 1):
                tell(f"Searching {name}", 0.2 + 0.6 * number / (len(self.ground.axes()) + 1))
                self._walk(name)
        except OutOfTime:
            complete = False
        if not self.lives:
            raise InputError(
                f"{minutes:g} minutes were not enough for the settings in use; the same command continues where it "
                "stopped."
            )
        self._deadline = math.inf
        tell("Comparing on facts that the search has not seen", 0.8)
        best = self._best()
        before = self._live(f"{HELD_OUT}present", {}, self.held_out)
        after = before
        if best.settings != self.lives[0].settings:
            after = self._live(f"{HELD_OUT}found", {name: best.settings[name] for name in self.names}, self.held_out)
        row = self._row(best, complete, adopt, after.score > before.score)
        store_result(row)
        return LongRow(row, tuple(self.lives), self.file, complete)

    # -- the axes ------------------------------------------------------------------------------------------------------

    def _other_rows(self) -> list[dict[str, Any]]:
        """The settings for thousands of edits that are known already, where they differ from those for a few."""
        ground = self.ground
        if "thousands" not in lengths_of(ground.shape, ground.method):
            return []
        known = settings_for(
            ground.method, **asdict(ground.shape), overrides={**ground.base, "tuned_for": "thousands"}
        )  # fmt: skip
        changed = {name: getattr(known, name) for name in self.names}
        return [changed] if any(value != getattr(ground.present, name) for name, value in changed.items()) else []

    def _layers(self) -> None:
        present = self.ground.present.layers
        first, width = present[0], len(present)
        earliest = max(0, first - max(1, width - 1))
        best = self._best()
        if self.ground.present.from_gradients:
            candidates = self.ground.other_layers()
        else:
            candidates = [range(earliest, present[-1] + 1), range(earliest, first + 1), self._cheapest(width)]
        for layers in dict.fromkeys(map(tuple, candidates)):
            if layers != present:
                self._live("layers", self._settings(best) | {"layers": list(layers)}, self.facts)

    def _cheapest(self, width: int) -> list[int]:
        """The blocks that foretold costs propose; found once and kept beside the lives."""
        known = read_trials(self.file, lambda values: [int(layer) for layer in values["proposed_layers"]])
        if known:
            return known[-1]
        costs = layer_costs(self.lm, self.facts[:COSTED_FACTS], self.ground.method, seed=self.ground.seed,
                            text=self.ground.statistics_text, settings=self.ground.base)  # fmt: skip
        found = list(proposed(costs, width))
        append_line(self.file, json.dumps({"proposed_layers": found}))
        return found

    def _walk(self, name: str) -> None:
        best = self._best()
        factor, most = self.ground.steps(name)

        def attempt(multiple: float) -> Life | None:
            value = float(f"{best.settings[name] * multiple:.3g}")
            changed = self._settings(best) | {name: value}
            return self._live(name, changed, self.facts) if self.ground.takes(changed) else None

        walk(best, factor, most, attempt, lambda life: life.score, TIE)

    def _settings(self, life: Life) -> dict[str, Any]:
        return {name: life.settings[name] for name in self.names}

    def _searched(self) -> list[Life]:
        return [life for life in self.lives if not life.stage.startswith(HELD_OUT)]

    def _best(self) -> Life:
        top = max(life.score for life in self._searched())
        near = [life for life in self._searched() if life.score >= top - TIE]
        return min(near, key=lambda life: (life.looks[-1].norm_ratio if life.looks else math.inf, -life.score))

    # -- one life ------------------------------------------------------------------------------------------------------

    def _live(self, stage: str, overrides: dict[str, Any], facts: Sequence[Fact]) -> Life:
        """Make a trial, or return its known result.

        Raises:
            OutOfTime: when there is no time left.
        """
        session = self.ground.session(overrides)
        settings = self.ground.settings_of(session)
        held_out = stage.startswith(HELD_OUT)
        if not held_out:
            for life in self._searched():  # another way to the same settings
                if life.settings == settings:
                    return life
        life = self._known.get((stage, key_of(settings)))
        if life is None:
            life = self._lived(Life(stage, settings), session, facts, not held_out)
            append_line(self.file, json.dumps(life.as_dict()))
            remove(self._state_file)
        self.lives.append(life)
        self._on_look(life)
        return life

    def _lived(self, life: Life, session: EditSession, facts: Sequence[Fact], may_stop: bool) -> Life:
        began = time.perf_counter()
        try:
            session.prepare()
        except InputError as error:
            return replace(life, stopped=str(error), seconds=time.perf_counter() - began)
        life, done = self._taken_up(life, session)
        ends = self._ends(len(facts))
        began = time.perf_counter() - life.seconds
        for batch in batched(facts[done:], self.batch_size):
            if time.perf_counter() > self._deadline:
                raise OutOfTime
            try:
                session.edit(batch, known="edit", measure=False)
            except InputError as error:
                return replace(life, stopped=str(error), seconds=time.perf_counter() - began)
            done += len(batch)
            if done in ends:
                look = self._look(session, facts[:done], done == ends[-1])
                life = replace(life, looks=(*life.looks, look), seconds=time.perf_counter() - began)
                if may_stop and done < ends[-1] and (behind := self._behind(look)) > BEHIND:
                    return replace(life, stopped=f"{behind:.1f} points behind the best after {done} edits")
                if done < ends[-1]:  # of one that has ended it is told later
                    self._on_look(life)
                self._keep(life, session)
        return life

    def _ends(self, n_facts: int) -> list[int]:
        """After how many edits a life is looked at: ends of batches."""
        size = self.batch_size
        return sorted({n_facts, *(max(size, round(place * n_facts / size) * size) for place in PLACES[:-1])})

    def _behind(self, look: Look) -> float:
        """By how many points it is behind the best life at the same place."""
        others = [other.left for life in self._searched() for other in life.looks if other.edits == look.edits]
        return max(others, default=look.left) - look.left

    def _look(self, session: EditSession, done: Sequence[Fact], is_end: bool) -> Look:
        size = self.batch_size
        newest = (len(done) - 1) // size * size
        fluent, able = self._of_unedited(session)
        with session.edited() as lm:
            first, last = (evaluate(lm, some, generate=False) for some in (done[:size], done[newest:]))
            now = perplexity(lm)
            f1 = self._mean_f1(lm) if is_end and able else None
        ratio = max(after / before for before, after in session.norms().values())
        return Look(
            len(done), first.overall_score, last.overall_score, first.accuracy, last.accuracy, now / fluent, ratio,
            None if f1 is None or able is None else 100 * f1 / able,
        )  # fmt: skip

    def _of_unedited(self, session: EditSession) -> tuple[float, float | None]:
        """Perplexity of the unedited model, and the mean F1 of its tasks; None where it can do none of them."""
        if self._unedited is None:
            with session.pristine() as lm:
                self._unedited = perplexity(lm), (self._mean_f1(lm) or None) if self.tasks else None
        return self._unedited

    def _mean_f1(self, lm: EditableModel) -> float:
        scores = evaluate_tasks(lm, self.tasks or {}, self.task_tests)
        return sum(score.f1 for score in scores.values()) / len(scores)

    # -- going on ------------------------------------------------------------------------------------------------------

    @property
    def _state_file(self) -> Path:
        return self.file.with_suffix(".safetensors")

    def _keep(self, life: Life, session: EditSession) -> None:
        state = session.state()
        metadata = {"life": json.dumps(life.as_dict()), "session": json.dumps(state.values)}
        with replacing(self._state_file) as part:
            save_file({name: tensor.cpu() for name, tensor in state.tensors.items()}, part, metadata)

    def _taken_up(self, life: Life, session: EditSession) -> tuple[Life, int]:
        """The life as far as an earlier search has come, and how many facts it has edited."""
        try:
            with safe_open(self._state_file, "pt") as file:
                kept = Life.of(json.loads(file.metadata()["life"]))
                if (kept.stage, kept.settings) != (life.stage, life.settings):
                    return life, 0
                values = json.loads(file.metadata()["session"])
                session.restore(SessionState({key: file.get_tensor(key) for key in file.keys()}, values))  # noqa: SIM118
        except (OSError, SafetensorError, InputError, KeyError, TypeError, ValueError):
            # Without a state that can be used, a life begins anew: that costs time and nothing else.
            return life, 0
        return kept, kept.looks[-1].edits

    def _row(self, best: Life, complete: bool, adopt: bool, is_better: bool) -> TunedRow:
        ground = self.ground
        evidence = ground.evidence() | {
            "facts": len(self.facts),
            "held_out_facts": len(self.held_out),
            "batch_size": self.batch_size,
            "complete": complete,
            "lives": [life.as_dict() for life in self.lives],
        }
        in_force = adopt or (is_better and not ground.is_published("thousands"))
        return TunedRow(
            ground.shape, self.lm.name, self.lm.fingerprint, ground.method, self._settings(best), in_force, evidence,
            "thousands",
        )  # fmt: skip
