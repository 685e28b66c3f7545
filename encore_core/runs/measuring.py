"""What is measured at a checkpoint of a run, and what is left out when measuring would cost too much.

    norms           of every layer's MLP output matrix; always
    scores          of a fixed sample of the facts edited so far, of the newest batch, and of the first batch
    perplexity      on the fixed text
    contributions   of every sublayer to the residual stream, on passages of the fixed text
    entropy         of sampled continuations of prompts of the sample
    downstream      the six tasks

Which facts and texts these are is drawn from the plan's seed and never from the moment, so that runs of one comparison,
and a run that was killed and resumed, measure the same.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import encode
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.norms import matrix_norms, norm_ratios
from encore_core.measures.perplexity_entropy import FIXED_TEXT, generation_entropy, perplexity
from encore_core.measures.scores import FactScores, check_scorable, evaluate, summarised
from encore_core.measures.sublayers import measure_contributions
from encore_core.measures.tasks import load_tasks
from encore_core.models.editable import EditableModel
from encore_core.runs.plan import RunPlan
from encore_core.runs.rows import CheckpointRecord

log = logging.getLogger(__name__)

Take = Callable[[EditableModel, EditSession], list[tuple]]

COSTLY = "cost"
"""Why a part was left out: measuring it would have gone beyond the cap."""

PASSAGES = 8
PASSAGE_CHARACTERS = 400
ENTROPY_PROMPTS = 10
ENTROPY_TOKENS = 100


class Measurer:
    """Measures one run. The norms of the unedited matrices are taken once.

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
        # Every fact has a rank; a sample of some facts is those of lowest rank, so that samples change little.
        ranks = list(range(len(facts)))
        random.Random(plan.seed).shuffle(ranks)
        self.ranks = ranks
        folder = plan.measure.downstream
        self.tasks = load_tasks(Path(folder)) if folder is not None else None

    def measure(
        self,
        session: EditSession,
        edits: int,
        budget: float,
        spent: Mapping[str, Sequence[float]],
        tell: Callable[[str], None],
    ) -> CheckpointRecord:
        """Measure the model as the session has it.

        Args:
            session: with the edits made so far.
            edits: facts handled so far; the end of a batch, or 0.
            budget: seconds that all checkpoints but the first may take so far. Each part but the norms may use an equal
                share, so that a costly one is measured less often than a cheap one, but not never; one that would go
                beyond its share is left out.
            spent: seconds that each part took at each checkpoint before, the first one's in front.
            tell: called with the name of each part before it is measured; may raise to stop.
        """
        parts = self._parts(edits, tell)
        found: dict[str, list[tuple]] = {
            name: [] for name in ("norms", "scores", "measures", "contributions", "downstream")
        }
        seconds: dict[str, float] = {}
        left_out: dict[str, str] = {}
        share = budget / max(1, len(parts) - 1)
        with session.edited() as lm:
            for part, (table, take) in parts.items():
                # Norms cost milliseconds, and are what the run is about.
                before = spent.get(part, [])
                if part != "norms" and sum(before[1:]) + sum(before[-1:]) > share:
                    left_out[part] = COSTLY
                    continue
                tell(part)
                began = time.perf_counter()
                try:
                    found[table] += take(lm, session)
                except InputError as error:
                    # A part that this model does not take is no reason to lose the rest.
                    log.warning("Not measured after %d edits: %s: %s", edits, part, error)
                    left_out[part] = str(error)
                seconds[part] = time.perf_counter() - began
        return CheckpointRecord(edits=edits, seconds=seconds, left_out=left_out, **found)

    def _parts(self, edits: int, tell: Callable[[str], None]) -> dict[str, tuple[str, Take]]:
        """The parts wanted, the most telling first: per part the table of its rows, and how they are found."""
        wanted = self.plan.measure
        parts = {"norms": ("norms", self._norms)}
        if wanted.subsets:
            parts["scores"] = ("scores", lambda lm, _: self._scores(lm, edits))
        if wanted.perplexity:
            parts["perplexity"] = ("measures", lambda lm, _: [("perplexity", perplexity(lm))])
        if wanted.contributions:
            parts["contributions"] = ("contributions", lambda lm, _: self._contributions(lm))
        if wanted.generation_entropy:
            parts["entropy"] = ("measures", lambda lm, _: self._entropy(lm))
        if self.tasks is not None:
            parts["downstream"] = ("downstream", lambda lm, _: self._downstream(lm, tell))
        return parts

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _norms(self, lm: EditableModel, session: EditSession) -> list[tuple]:
        norms = self.original_norms | matrix_norms(session.matrices())
        ratios = norm_ratios(norms, self.original_norms)
        return [(layer, norm, ratios[layer]) for layer, norm in norms.items()]

    def subsets(self, edits: int) -> dict[str, list[int]]:
        """Places of the facts that are scored after so many edits, by subset.

        At 0 edits they are the facts to come: of all of the run's, and of its first batch.
        """
        wanted = self.plan.measure
        first = range(self.ends[0])
        newest = range(max((end for end in (0, *self.ends) if end < edits), default=0), edits) if edits else first
        so_far = range(edits or len(self.facts))
        chosen = {
            "sample": (so_far, wanted.sample_facts),
            "newest": (newest, wanted.batch_facts),
            "first": (first, wanted.batch_facts),
        }
        return {name: self._lowest(*chosen[name]) for name in wanted.subsets}

    def _lowest(self, places: Sequence[int], n: int) -> list[int]:
        """The n places of lowest rank, ascending."""
        return sorted(sorted(places, key=self.ranks.__getitem__)[:n])

    def _scores(self, lm: EditableModel, edits: int) -> list[tuple]:
        subsets = self.subsets(edits)
        # A fact in several subsets is scored once.
        places = sorted({place for chosen in subsets.values() for place in chosen})
        scorable = [place for place in places if self._can_be_scored(lm, place)]
        scores: dict[int, FactScores] = {}
        if scorable:
            evaluated = evaluate(lm, [self.facts[place] for place in scorable], generate=self.plan.measure.generate)
            scores = dict(zip(scorable, evaluated.per_fact, strict=True))
        rows: list[tuple] = []
        for subset, chosen in subsets.items():
            of_subset = [scores[place] for place in chosen if place in scores]
            if of_subset:
                rows += [(subset, metric, value) for metric, value in summarised(of_subset).as_dict().items()]
        return rows

    def _can_be_scored(self, lm: EditableModel, place: int) -> bool:
        """Whether all of a fact's prompts fit the model; one that does not is left out of scores, not edits."""
        try:
            check_scorable(lm, self.facts[place], self.plan.measure.generate)
        except InputError as error:
            log.warning("Fact %d is left out of scores: %s", place + 1, error)
            return False
        return True

    def _contributions(self, lm: EditableModel) -> list[tuple]:
        parts = measure_contributions(lm, self.passages).parts
        return [
            (number, part.label, part.kind, part.layer, part.share, part.signed_share)
            for number, part in enumerate(parts)
        ]

    def _entropy(self, lm: EditableModel) -> list[tuple]:
        prompts = [self.facts[place].text for place in self._lowest(range(len(self.facts)), ENTROPY_PROMPTS)]
        room = lm.max_length - max(len(encode(lm, prompt).ids) for prompt in prompts)
        n_tokens = max(1, min(ENTROPY_TOKENS, room))
        return [("generation_entropy", generation_entropy(lm, prompts, n_tokens, self.plan.seed))]

    def _downstream(self, lm: EditableModel, tell: Callable[[str], None]) -> list[tuple]:
        scores = evaluate_tasks(lm, self.tasks, self.plan.measure.downstream_tests, lambda what, share: tell(what))
        return [(task, metric, value) for task, of_task in scores.items() for metric, value in vars(of_task).items()]


def passages(lm: EditableModel) -> list[str]:
    """Passages of the fixed text for contributions, each short enough for the model, whatever its tokenizer."""
    # No token is shorter than a character, and a few are added around.
    longest = min(PASSAGE_CHARACTERS, lm.max_length - 8)
    try:
        text = FIXED_TEXT.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"The fixed text {FIXED_TEXT} cannot be read: {error}") from error
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return [paragraph[:longest].rstrip() for paragraph in paragraphs if paragraph][:PASSAGES]
