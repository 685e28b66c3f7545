"""`encore tune`: a short search for the hyper-parameters of one method on one model.

It searches one axis after the other: edited layers (the present ones, the default ones, and ranges from a causal
trace), λp (AlphaEdit: its threshold and L2), λn, learning rate. For numbers it moves from the present value by factors,
in a direction that gets better, until it gets worse. A trial edits the facts of the search in one batch on the base
model and scores them; targets do not depend on λ, so they are found once per layers and learning rate. Among the trials
within `TIE` points of the best, the one with the least growth of norms wins. At the end the settings found and those in
force are compared on held-out facts.

Every finished trial is appended to a JSON-lines file. The search depends only on the trials' results, so after a
restart it reads these and continues.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from encore_core.editing.session import EditSession
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities
from encore_core.measures.causal_trace import Trace, causal_trace, layer_candidates
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.methods import Settings
from encore_core.model_rows import default_layers, find_model_row
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of
from encore_core.storage import append_line, data_folder
from encore_core.tuned_rows import Shape, TunedRow, store_row

TUNING_VERSION = 1
N_FACTS = 50
LEAST_FACTS = 4
TIE = 1.0
TRACED_FACTS = 8
PERPLEXITY_TOKENS = 400

# For each axis the factor between two values, and at most how many steps to take in one direction.
_STEPS = {"lambda_p": (3.0, 3), "lambda_n": (4.0, 2), "null_threshold": (3.0, 2), "l2": (3.0, 2), "lr": (0.5, 1)}

OnTrial = Callable[["Trial"], None]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        stage: "present", "layers", the name of a setting, "held out: present" or "held out: found".
        settings: what was tried, plain JSON values.
        edit, paraphrase, neighborhood, overall, accuracy: scores of the edited facts, see `scores.Scores`.
        norm_ratio: the largest ‖W‖/‖W₀‖.
        perplexity_ratio: perplexity on the fixed text, divided by that of the base model.
        seconds: how long it took.
    """

    stage: str
    settings: dict[str, Any]
    edit: float
    paraphrase: float
    neighborhood: float
    overall: float
    accuracy: float
    norm_ratio: float
    perplexity_ratio: float
    seconds: float


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


class _OutOfTime(Exception):
    """There is no time left for another trial."""


def choose_facts(lm: EditableModel, facts: Sequence[Fact], n_facts: int = N_FACTS) -> tuple[list[Fact], list[Fact]]:
    """The facts of a search, and equally many held-out ones.

    Facts without a true answer, paraphrases or neighbours are left out, and so are repetitions and facts that the model
    says already.

    Args:
        lm: the model as loaded.
        facts: in order.
        n_facts: number of both together.

    Raises:
        InputError: when there are too few.
    """
    if n_facts < LEAST_FACTS:
        raise InputError(f"{n_facts} facts are too few to search with; give at least {LEAST_FACTS}.")
    usable: dict[tuple[str, str], Fact] = {}
    prompts: set[str] = set()
    for fact in facts:
        if fact.target_true and fact.paraphrases and fact.neighbours and fact.asked not in prompts:
            prompts.add(fact.asked)
            usable.setdefault(fact.key, fact)
    found: list[Fact] = []
    waiting = list(usable.values())
    while waiting and len(found) < n_facts:
        some, waiting = waiting[:n_facts], waiting[n_facts:]
        with lm.matrices_replaced({}):
            said = answer_probabilities(lm, [(fact.text, fact.target_new) for fact in some])
        found += [fact for fact, answer in zip(some, said, strict=True) if not answer.said]
    if len(found) < n_facts:
        raise InputError(
            f"Of {len(facts)} facts, {len(found)} can be searched with (a true answer, paraphrases, neighbours, not "
            f"said already), but {n_facts} are needed; give more facts, or a smaller --n-facts."
        )
    found = found[:n_facts]
    # Alternating, so that both halves have the same kinds of facts even if the file is sorted by kind.
    return found[::2], found[1::2]


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
        self.lm, self.facts, self.held_out, self.seed = lm, list(facts), list(held_out), seed
        self.statistics_text = statistics_text
        self.present = settings_of(lm, method, base)
        self.method = self.present.method
        if self.present.from_gradients:
            what = "targets" if self.present.needs_statistics else "targets and no statistics"
            raise InputError(f"{self.method} has no {what} to tune; try --set lr=… and layers=….")
        self.shape = Shape(lm.model.config.model_type, lm.n_layers, lm.d_model, lm.n_vocab)
        # The row holds only these settings; the others stay as they are in force.
        self.names = ("layers", *self._axes(), "steps", "mpes_extra_steps", "statistics_tokens")
        self.base = dict(base or {})
        self.trials: list[Trial] = []
        self.trace: Trace | None = None
        self._targets: dict[tuple, list] = {}
        self._on_trial: OnTrial = lambda trial: None
        self._deadline = math.inf
        self._fluent: float | None = None
        identity = [
            TUNING_VERSION, lm.fingerprint, str(lm.dtype), asdict(self.present) | {"validated": 0, "tuned": 0}, seed,
            str(statistics_text), [f.to_dict() for f in (*self.facts, *self.held_out)],
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.file = data_folder() / "tuned" / self.shape.name / f"{self.method}-{digest}.jsonl"
        self._known = {(trial.stage, _key(trial.settings)): trial for trial in _read_trials(self.file)}

    def _axes(self) -> tuple[str, ...]:
        p = self.present
        axes = {"null_space": ("null_threshold", "l2"), "weighted_null_space": ("null_threshold", "lambda_p")}.get(
            p.preservation, ("lambda_p",)
        )
        return (*axes, *(("lambda_n",) if p.lambda_n else ()), "lr")

    def estimate(self) -> Cost:
        """Time two facts on this machine, and estimate how much the search takes at most.

        Raises:
            InputError: when the facts cannot be edited.
        """
        session = self._session({})
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
        numbers = sum(steps + 1 for name, (_, steps) in _STEPS.items() if name in self._axes() and name != "lr")
        anew = 1 + 3 + 2  # present, layers, lr
        each = len(self.facts) * scored + fluent
        seconds = (anew + numbers) * each + anew * len(self.facts) * fact
        seconds += 2 * len(self.held_out) * (fact + scored) + 2 * fluent + TRACED_FACTS * fact
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
            tell("Tracing where facts are recalled", 0.1)
            best = self._layers(best)
            for number, name in enumerate(self._axes(), 1):
                tell(f"Searching {name}", number / (len(self._axes()) + 2))
                best = self._walk(name, best)
        except _OutOfTime:
            complete, best = False, self._best(first)
        self._deadline = math.inf
        tell("Comparing on held-out facts", 0.9)
        found = {name: best.settings[name] for name in self.names}
        self._try("held out: present", {}, self.held_out)
        self._try("held out: found", found, self.held_out)
        row = self._row(best, complete, adopt)
        store_row(row)
        return Tuned(row, tuple(self.trials), self.file, complete)

    # -- the axes --------------------------------------------------------------------------------------------------

    def _layers(self, best: Trial) -> Trial:
        self.trace = causal_trace(self.lm, self.facts[:TRACED_FACTS], seed=self.seed)
        present = self.present.layers
        candidates = layer_candidates(self.trace, self.lm.n_layers, max(2, len(present)))
        for layers in [default_layers(self.lm.n_layers), *candidates][:3]:
            if layers != present:
                self._try("layers", {"layers": list(layers)}, self.facts)
        return self._best(best)

    def _walk(self, name: str, best: Trial) -> Trial:
        """Move from the best value so far by factors, up and then down, as long as it gets better."""
        factor, most = _STEPS[name]
        start = best
        for direction in (factor, 1 / factor):
            here = start
            for step in range(1, most + 1):
                value = float(f"{start.settings[name] * direction**step:.3g}")
                changed = {key: start.settings[key] for key in self.names} | {name: value}
                trial = self._try(name, changed, self.facts)
                if trial.overall < here.overall:
                    break
                here = trial
            if here.overall > start.overall + TIE:
                break  # this direction got better, so the other one is not tried
        return self._best(best)

    def _best(self, at_least: Trial) -> Trial:
        tried = [trial for trial in self.trials if not trial.stage.startswith("held out")] or [at_least]
        top = max(trial.overall for trial in tried)
        return min((trial for trial in tried if trial.overall >= top - TIE), key=lambda t: (t.norm_ratio, -t.overall))

    # -- one trial ---------------------------------------------------------------------------------------------------

    def _session(self, overrides: dict[str, Any]) -> EditSession:
        overrides = {**self.base, **overrides}
        if not self.present.lambda_n:
            overrides.pop("lambda_n", None)
        return EditSession(
            self.lm, self.method, seed=self.seed, settings=overrides, statistics_text=self.statistics_text,
            keep_history=False,
        )  # fmt: skip

    def _try(self, stage: str, overrides: dict[str, Any], facts: list[Fact]) -> Trial:
        """Make a trial, or return its known result.

        Raises:
            _OutOfTime: when there is no time left.
        """
        session = self._session(overrides)
        settings = {name: _plain(getattr(session.settings, name)) for name in self.names}
        for trial in self.trials:  # another way to the same settings
            if trial.settings == settings and not stage.startswith("held out"):
                return trial
        trial = self._known.get((stage, _key(settings)))
        if trial is None:
            if time.perf_counter() + self._expected() > self._deadline:
                raise _OutOfTime
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
        key = (s.layers[-1], s.lr, s.steps, s.mpes_extra_steps, stage.startswith("held out"))
        session.prepare()
        if key not in self._targets:
            self._targets[key] = session.find_targets(facts, on_progress=None)
        try:
            session.edit(facts, known="edit", measure=False, targets=self._targets[key])
        except InputError:
            # Settings with which a batch cannot be solved get the worst scores, and the search goes on.
            return Trial(stage, settings, 0, 0, 0, 0, 0, math.inf, math.inf, time.perf_counter() - began)
        with session.edited() as lm:
            scores = evaluate(lm, facts, generate=False)
            fluent = perplexity(lm, n_tokens=PERPLEXITY_TOKENS)
        ratio = max(after / before for before, after in session.norms().values())
        return Trial(
            stage, settings, scores.edit_score, scores.paraphrase_score, scores.neighborhood_score,
            scores.overall_score, scores.accuracy, ratio, fluent / self._fluent, time.perf_counter() - began,
        )  # fmt: skip

    def _row(self, best: Trial, complete: bool, adopt: bool) -> TunedRow:
        published = find_model_row(*asdict(self.shape).values()) is not None
        evidence = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "facts": len(self.facts),
            "held_out_facts": len(self.held_out),
            "seed": self.seed,
            "device": str(self.lm.device),
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "complete": complete,
            "trace": asdict(self.trace) if self.trace else None,
            "trials": [asdict(trial) for trial in self.trials],
        }
        settings = {name: best.settings[name] for name in self.names}
        return TunedRow(
            self.shape, self.lm.name, self.lm.fingerprint, self.method, settings, adopt or not published, evidence
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _read_trials(file: Path) -> list[Trial]:
    """Trials of an earlier search; a line that a crash has cut off is left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The trials in {quoted(str(file))} cannot be read ({error}); remove the file.") from error
    found = []
    for line in lines:
        try:
            found.append(Trial(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
