"""What is measured at a checkpoint of a run, and what is left out when measuring would cost too much.

    norms           of every layer's MLP output matrix; always
    scores          of a fixed sample of the facts edited so far, of the newest batch, and of the first batch
    generated       the same from answers that the model writes itself
    perplexity      on the fixed text
    foretold        what the edits cost general text, from statistics alone, by layer
    contributions   of every sublayer to the residual stream, on passages of the fixed text
    entropy         of sampled continuations of prompts of the sample
    downstream      the six tasks

The facts and texts depend only on the plan's seed, so that runs of one comparison, and a run that was killed and
resumed, measure the same.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import encode
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import check_askable, evaluate_generated, protocol_of
from encore_core.measures.norms import matrix_norms, norm_ratios
from encore_core.measures.perplexity_entropy import FIXED_TEXT, generation_entropy, perplexity
from encore_core.measures.scores import PROTOCOL, check_scorable, evaluate
from encore_core.measures.sublayers import measure_contributions
from encore_core.measures.tasks import load_tasks
from encore_core.models.editable import EditableModel
from encore_core.runs import fact_values
from encore_core.runs.fact_order import lowest, ranks_of, scored_subsets
from encore_core.runs.plan import MeasurePlan, RunPlan
from encore_core.runs.rows import CheckpointRecord

log = logging.getLogger(__name__)

Rows = dict[str, list[tuple]]
"""Table of the store → rows."""

Take = Callable[[EditableModel, EditSession], Rows]

MEASURED = (
    "norms", "scores", "fact_scores", "answers", "measures", "contributions", "downstream", "task_answers",
)  # fmt: skip
"""Tables that the parts fill."""

COSTLY = "cost"
"""Reason for leaving a part out: measuring it would have exceeded the cap."""

PASSAGES = 8
PASSAGE_CHARACTERS = 400
ENTROPY_PROMPTS = 10
ENTROPY_TOKENS = 100


class Measurer:
    """Measures one run. The norms of the unedited matrices are measured once.

    Args:
        plan: of the run, prepared.
        facts: of the run, in order.
        ends: of its batches.
        session: whose model is measured.
    """

    def __init__(self, plan: RunPlan, facts: Sequence[Fact], ends: Sequence[int], session: EditSession):
        self.plan, self.facts, self.ends = plan, facts, ends
        with session.pristine() as lm:
            self.original_norms = matrix_norms({layer: lm.matrix(layer) for layer in range(lm.n_layers)})
            self.passages = passages(lm)
        self.ranks = ranks_of(len(facts), plan.seed)
        folder = plan.measure.downstream
        self.tasks = load_tasks(Path(folder)) if folder is not None else None
        self.judge = plan.measure.judged_by()
        self.settings = generation_settings(session.lm, plan.measure)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is measured, as they are told."""
        return tuple(self._parts(0, lambda part: None))

    @property
    def protocols(self) -> dict[str, str]:
        """How facts are scored, in words, by the name of the protocol."""
        words = {
            "teacher-forced": PROTOCOL,
            "generated": protocol_of(self.settings, self.judge.label if self.judge is not None else None),
        }
        return {name: words[name] for name in self.plan.measure.protocols}

    def measure(
        self,
        session: EditSession,
        edits: int,
        budget: float,
        spent: Mapping[str, Sequence[float]],
        tell: Callable[[str], None],
        taken: CheckpointRecord | None = None,
    ) -> CheckpointRecord:
        """Measure the model as the session has it.

        Args:
            session: with the edits made so far.
            edits: facts handled so far; the end of a batch, or 0.
            budget: seconds that all checkpoints but the first may take so far. Each part but the norms may use an equal
                share, so that a costly part is measured less often than a cheap one, but not never; one that would
                exceed its share is left out.
            spent: seconds that each part took at each earlier checkpoint, in order.
            tell: called with the name of each part before it is measured; may raise to stop.
            taken: what is known already; its parts are not measured again.
        """
        parts = self._parts(edits, tell)
        found: Rows = {table: list(getattr(taken, table)) if taken else [] for table in MEASURED}
        seconds: dict[str, float] = dict(taken.seconds) if taken else {}
        left_out: dict[str, str] = {}
        share = budget / max(1, len(parts) - 1)
        with session.edited() as lm:
            for part, take in parts.items():
                if taken and part in taken.seconds:
                    continue
                # Norms cost milliseconds, and are the point of the run.
                before = spent.get(part, [])
                if part != "norms" and sum(before[1:]) + sum(before[-1:]) > share:
                    left_out[part] = COSTLY
                    continue
                tell(part)
                began = time.perf_counter()
                try:
                    for table, rows in take(lm, session).items():
                        found[table] += rows
                except InputError as error:
                    # A part that this model refuses is no reason to lose the rest.
                    log.warning("Not measured after %d edits: %s: %s", edits, part, error)
                    left_out[part] = str(error)
                seconds[part] = time.perf_counter() - began
        if found["fact_scores"]:
            found["scored"] = [(name, place) for name, places in self.subsets(edits).items() for place in places]
        return CheckpointRecord(edits=edits, seconds=seconds, left_out=left_out, **found)

    def _parts(self, edits: int, tell: Callable[[str], None]) -> dict[str, Take]:
        """The wanted parts, the most important first, each with the maker of its rows."""
        wanted = self.plan.measure
        parts: dict[str, Take] = {"norms": self._norms}
        if wanted.subsets and "teacher-forced" in wanted.protocols:
            parts["scores"] = lambda lm, _: self._scores(lm, edits)
        if wanted.subsets and "generated" in wanted.protocols:
            parts["generated"] = lambda lm, _: self._generated(lm, edits, tell)
        if wanted.perplexity:
            parts["perplexity"] = lambda lm, _: {"measures": [("perplexity", perplexity(lm))]}
        if wanted.foretold_damage:
            parts["foretold"] = lambda _, session: self._foretold(session)
        if wanted.contributions:
            parts["contributions"] = lambda lm, _: self._contributions(lm)
        if wanted.generation_entropy:
            parts["entropy"] = lambda lm, _: self._entropy(lm)
        if self.tasks is not None:
            parts["downstream"] = lambda lm, _: self._downstream(lm, tell)
        return parts

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _norms(self, lm: EditableModel, session: EditSession) -> Rows:
        norms = self.original_norms | matrix_norms(session.matrices())
        ratios = norm_ratios(norms, self.original_norms)
        return {"norms": [(layer, norm, ratios[layer]) for layer, norm in norms.items()]}

    def subsets(self, edits: int) -> dict[str, list[int]]:
        """Places of the facts that are scored after `edits` edits, by subset."""
        return scored_subsets(edits, self.ends, self.ranks, self.plan.measure)

    def _scores(self, lm: EditableModel, edits: int) -> Rows:
        generate = self.plan.measure.generate
        places = self._fitting(edits, lambda fact: check_scorable(lm, fact, generate))
        values: dict[int, fact_values.Values] = {}
        if places:
            evaluated = evaluate(lm, [self.facts[place] for place in places], generate=generate)
            values = dict(zip(places, map(fact_values.forced, evaluated.per_fact), strict=True))
        return self._rows(edits, fact_values.FORCED, values)

    def _generated(self, lm: EditableModel, edits: int, tell: Callable[[str], None]) -> Rows:
        places = self._fitting(edits, lambda fact: check_askable(lm, fact, self.settings))
        if not places:
            return {}
        facts = [self.facts[place] for place in places]
        # Telling is also where a run is stopped.
        found = evaluate_generated(lm, facts, self.settings, self.judge, lambda what, done, total: tell("generated"))
        if found.n_unjudged:
            answers = [one for of_fact in found.per_fact for one in of_fact]
            first = next(one.unjudged for one in answers if one.judged is None)
            log.warning(
                "The judge gave no verdict on %d of %d answers; the first: %s", found.n_unjudged, len(answers), first
            )
        values = dict(zip(places, fact_values.generated(found), strict=True))
        metrics = [name for name in fact_values.GENERATED if self.judge is not None or not name.endswith("_judged")]
        rows = self._rows(edits, metrics, values)
        rows["answers"] = [
            (place, number, one.part, one.kind, one.prompt, json.dumps(one.answers, ensure_ascii=False), one.text,
             one.ended, one.exact, one.contained, one.judged, one.unjudged)
            for place, of_fact in zip(places, found.per_fact, strict=True)
            for number, one in enumerate(of_fact)
        ]  # fmt: skip
        return rows

    def _fitting(self, edits: int, check: Callable[[Fact], None]) -> list[int]:
        """Places of the facts to score whose prompts fit the model; others are left out of scores, not of edits.

        A fact in several subsets is scored once.
        """
        fitting = []
        for place in sorted({place for chosen in self.subsets(edits).values() for place in chosen}):
            try:
                check(self.facts[place])
            except InputError as error:
                log.warning("Fact %d is left out of scores: %s", place + 1, error)
            else:
                fitting.append(place)
        return fitting

    def _rows(self, edits: int, metrics: Sequence[str], values: Mapping[int, fact_values.Values]) -> Rows:
        """Scores by subset, and of each fact."""
        rows: Rows = {"scores": [], "fact_scores": []}
        for subset, chosen in self.subsets(edits).items():
            of_subset = [values[place] for place in chosen if place in values]
            if of_subset:
                rows["scores"] += fact_values.summary(subset, metrics, of_subset)
        rows["fact_scores"] = [(place, *item) for place, of_fact in values.items() for item in of_fact.items()]
        return rows

    def _foretold(self, session: EditSession) -> Rows:
        by_layer = session.foretold_damage()
        rows = [("foretold_damage", sum(by_layer.values()))]
        return {"measures": rows + [(f"foretold_damage.{layer}", one) for layer, one in by_layer.items()]}

    def _contributions(self, lm: EditableModel) -> Rows:
        parts = measure_contributions(lm, self.passages).parts
        rows = [
            (number, part.label, part.kind, part.layer, part.share, part.signed_share)
            for number, part in enumerate(parts)
        ]
        return {"contributions": rows}

    def _entropy(self, lm: EditableModel) -> Rows:
        prompts = [self.facts[place].text for place in lowest(range(len(self.facts)), self.ranks, ENTROPY_PROMPTS)]
        room = lm.max_length - max(len(encode(lm, prompt).ids) for prompt in prompts)
        n_tokens = max(1, min(ENTROPY_TOKENS, room))
        found = generation_entropy(lm, prompts, n_tokens, self.plan.seed)
        return {"measures": [("generation_entropy", found)]}

    def _downstream(self, lm: EditableModel, tell: Callable[[str], None]) -> Rows:
        found = evaluate_tasks(lm, self.tasks, self.plan.measure.downstream_tests, lambda what, share: tell(what))
        rows: Rows = {"downstream": [], "task_answers": []}
        for task, scores in found.items():
            for metric in ("f1", "f1_nll", "accuracy"):
                one = scores.interval(metric)
                rows["downstream"].append((task, metric, one.value, one.n, one.low, one.high))
            for metric in ("unparsable", "n", "too_long"):
                rows["downstream"].append((task, metric, getattr(scores, metric), None, None, None))
            rows["task_answers"] += [(task, test, *answer) for test, answer in scores.answers.items()]
        return rows


def generation_settings(lm: EditableModel, wanted: MeasurePlan) -> GenerationSettings:
    """How a plan's answers are generated on a model."""
    return GenerationSettings.for_model(lm, wanted.chat, wanted.max_tokens)


def passages(lm: EditableModel) -> list[str]:
    """Passages of the fixed text for contributions, each short enough for the model, whatever its tokenizer."""
    # No token is shorter than a character, and a few special ones are added.
    longest = min(PASSAGE_CHARACTERS, lm.max_length - 8)
    try:
        text = FIXED_TEXT.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"The fixed text {FIXED_TEXT} cannot be read: {error}") from error
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return [paragraph[:longest].rstrip() for paragraph in paragraphs if paragraph][:PASSAGES]
