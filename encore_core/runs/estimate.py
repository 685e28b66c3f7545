"""What a run will cost in time, memory and disk, estimated before it starts.

    calibration = calibrate(lm, prepared)         # times a few facts edited and measured, then discards them
    cost = estimate(prepared, calibration)

A calibration is kept in the data folder under a digest of all that it depends on, so it is made once for each model,
method and machine. A step of the search for targets takes a time of its own and one for each fact; steps with a few
facts and with more tell them apart.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from encore_core.editing.covariance import text_named
from encore_core.editing.edited_matrices import exact_dtype
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.generated_scores import evaluate_generated
from encore_core.measures.perplexity_entropy import generation_entropy, perplexity
from encore_core.measures.scores import evaluate
from encore_core.measures.sublayers import measure_contributions
from encore_core.measures.tasks import load_tasks
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.memory import Sizes, bytes_kept, estimate_of
from encore_core.runs.fact_order import batch_ends, checkpoints, scored_places
from encore_core.runs.measuring import ENTROPY_PROMPTS, ENTROPY_TOKENS, generation_settings, passages
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.runner import SAVE_SECONDS
from encore_core.runs.unedited import same_before_edits
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

CALIBRATION_VERSION = 5
CALIBRATED_FACTS = 4
"""Facts edited and scored for the timing."""

MORE_FACTS, SHORT_STEPS = 16, 5
"""Facts searched for together, and for how many steps, to see how a step grows with them: on a GPU every fourth step
and the last are reported."""

LARGEST_GROUP = 64
"""About as many facts are searched for together, however many a batch has (see `group_size.default_max_tokens`)."""

CALIBRATED_TOKENS = 256
"""Tokens of the fixed text read for the timing."""

CALIBRATED_SAMPLES = 10
"""Tokens sampled after each prompt for the timing."""

CALIBRATED_TESTS = 2
"""Tests of each downstream task for the timing; running the task's examples is included."""

FIXED_TEXT_TOKENS = 2500
"""Approximate length of the fixed text, whatever the tokenizer."""

PROCESS_BYTES = 500_000_000
"""Resident memory of a worker without a model: Python, torch and transformers."""

KINDS = ("target_true", "paraphrases", "neighbours", "portability")
"""Fields of a fact on which it depends with which prompts and answers it is scored."""

DISK_BYTES_PER_SECOND = 200e6
ROW_BYTES = 60
ROWS_OF_FACT = 30
"""Rows' worth of a fact that is scored: its scores, and the answers generated for it."""


@dataclass(frozen=True)
class Calibration:
    """Seconds and sizes, as found on this machine for a model and a method.

    Attributes:
        fact_seconds: to find the target of a fact and read its keys, one of `CALIBRATED_FACTS` facts, or of a smaller
            batch.
        fixed_share: of a step with so many facts, the share that does not grow with them.
        batch_seconds: to update the layers, once per batch.
        scored_prompt_seconds: to score a fact teacher-forced, for each of its prompts (see `n_prompts`).
        generated_prompt_seconds: to generate the answer to one; 0 where none are. No judge is asked: it may cost money.
        perplexity_seconds, foretold_seconds, contributions_seconds, entropy_seconds: of these parts of measuring.
        downstream_test_seconds: for one test of each task; 0 without data.
        matrices_bytes: of the edited matrices as a state holds them, in float32 or finer.
        preservation_bytes: of what all edited layers keep, P with most methods.
        sizes: of the model, from which memory follows.
        dtype: of its weights, as torch calls it.
        device_type: "cpu", "cuda" or "mps".
    """

    fact_seconds: float
    fixed_share: float
    batch_seconds: float
    scored_prompt_seconds: float
    generated_prompt_seconds: float
    perplexity_seconds: float
    foretold_seconds: float
    contributions_seconds: float
    entropy_seconds: float
    downstream_test_seconds: float
    matrices_bytes: int
    preservation_bytes: int
    sizes: Sizes
    dtype: str
    device_type: str

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        """The calibration from what `asdict` made.

        Raises:
            TypeError, KeyError: when another version of the program made it.
        """
        return cls(**values | {"sizes": Sizes(**values["sizes"])})

    def fact_seconds_of(self, batch_size: int) -> float:
        """Seconds to find the target of a fact and read its keys, in a batch of so many."""
        # A smaller batch was timed as it is.
        timed, together = min(batch_size, CALIBRATED_FACTS), min(batch_size, LARGEST_GROUP)
        return self.fact_seconds * (1 - self.fixed_share + self.fixed_share * timed / together)


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to cost.

    Attributes:
        seconds: in total, without loading the model; of one process, even where several share the batches.
        editing_seconds: of them editing and saving.
        measuring_seconds: of them measuring, the plan's cap taken into account.
        capped: whether the cap will leave parts of some checkpoints out.
        n_checkpoints: checkpoints, first and last included.
        memory_bytes: the resident memory of all the run's processes at most; on an accelerator shared between it and
            the machine.
        disk_bytes: what the run's files take at most.
    """

    seconds: float
    editing_seconds: float
    measuring_seconds: float
    capped: bool
    n_checkpoints: int
    memory_bytes: int
    disk_bytes: int


def calibrate(lm: EditableModel, run: PreparedRun, progress: Progress | None = None) -> Calibration:
    """Time a few facts of a run on its model; immediate when a calibration is stored.

    The model is left as it was, with whatever edits are in it.

    Args:
        lm: the run's model, loaded.
        run: what would be run.
        progress: gets the phases.

    Raises:
        InputError: when the facts or the settings cannot be used.
    """
    if (kept := known_calibration(lm, run)) is not None:
        return kept
    found = _measure(lm, run, progress or (lambda what, share: None))
    with replacing(_file(lm, run)) as part:
        part.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
    return found


def _file(lm: EditableModel, run: PreparedRun) -> Path:
    return data_folder() / "calibration" / f"{_identity(lm, run)}.json"


def known_calibration(lm: EditableModel, run: PreparedRun) -> Calibration | None:
    """The stored calibration; None where `calibrate` would have to make it."""
    try:
        return Calibration.from_json(json.loads(_file(lm, run).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def estimates(runs: Sequence[PreparedRun], calibrations: Sequence[Calibration]) -> list[Estimate]:
    """The cost of runs in one queue: of those that differ in method alone, the first measures the unedited model.

    Runs that are in the store already are not looked at: what they measured may make the first one shorter.

    Args:
        runs: what would be run, in this order.
        calibrations: of each run's model and method on this machine.
    """
    found = []
    for at, (run, calibration) in enumerate(zip(runs, calibrations, strict=True)):
        # A run takes nothing over from one whose model refused a part.
        places = scored_places(run.facts, run.plan)
        whole = all(seconds[0] > 0 for is_wanted, seconds in _parts(run, calibration, places) if is_wanted)
        known = whole and any(same_before_edits(run, before) for before in runs[:at])
        found.append(_estimate(run, calibration, known, places))
    return found


def estimate(run: PreparedRun, calibration: Calibration) -> Estimate:
    """The cost of a run.

    Args:
        run: what would be run.
        calibration: of its model and method on this machine.
    """
    return _estimate(run, calibration, False, scored_places(run.facts, run.plan))


def _estimate(run: PreparedRun, c: Calibration, unedited_known: bool, places: Sequence[set[int]]) -> Estimate:
    """The cost of a run; `unedited_known`: whether a run before it will have measured the unedited model."""
    plan = run.plan
    ends = batch_ends(run.facts, plan.batch_size)
    points = checkpoints(ends, plan.checkpoint_every)
    n_facts = len(run.facts)
    state_bytes = c.matrices_bytes + c.preservation_bytes
    editing = n_facts * c.fact_seconds_of(plan.batch_size) + len(ends) * c.batch_seconds
    saves = max(len(points) - 1, editing / SAVE_SECONDS)
    editing += saves * 2 * state_bytes / DISK_BYTES_PER_SECOND  # written, and read for its digest

    wanted = plan.measure
    parts = [[is_wanted * one for one in seconds] for is_wanted, seconds in _parts(run, c, places)]
    first, last = (sum(part[at] for part in parts) for at in (0, -1))
    # No edit costs nothing.
    first = 0.0 if unedited_known else first - wanted.foretold_damage * c.foretold_seconds
    in_full, between = first + last, [sum(part[1:-1]) for part in parts]
    capped = between
    if wanted.share_cap is not None:
        share = wanted.share_cap * editing / max(1, sum(any(part) for part in parts))
        capped = [min(part, share) for part in between]
    measuring = in_full + sum(capped)
    rows = n_facts * (1 + 25 * min(1, wanted.trajectory_facts / n_facts)) + 5 * len(ends)
    n_layers = c.sizes.n_layers
    rows += len(points) * (n_layers + 9 * len(wanted.subsets) + wanted.contributions * (2 * n_layers + 1) + 10)
    rows += sum(map(len, places)) * ROWS_OF_FACT * len(wanted.protocols)
    memory = estimate_of(c.sizes, getattr(torch, c.dtype), run.settings, plan.batch_size, c.device_type)
    # The other workers have the model and its edited matrices, but none of the statistics.
    helping = (plan.workers - 1) * (PROCESS_BYTES + memory.total - memory.statistics)
    return Estimate(
        seconds=editing + measuring,
        editing_seconds=editing,
        measuring_seconds=measuring,
        capped=capped != between,
        n_checkpoints=len(points),
        memory_bytes=PROCESS_BYTES + memory.total + helping,
        disk_bytes=math.ceil(2 * state_bytes + c.matrices_bytes + rows * ROW_BYTES + 1000 * n_facts),
    )


def n_prompts(fact: Fact) -> int:
    """Prompts with which a fact is scored, to which the time for it is about proportional."""
    return 1 + len(fact.paraphrases) + len(fact.neighbours) + len(fact.portability)


def _parts(run: PreparedRun, c: Calibration, places: Sequence[set[int]]) -> list[tuple[bool, list[float]]]:
    """The parts of measuring: whether each is wanted, and its seconds at each checkpoint; 0 where the model refuses
    it."""
    wanted = run.plan.measure
    prompts = [sum(n_prompts(run.facts[place]) for place in scored) for scored in places]
    scores = bool(wanted.subsets)
    alike = (
        (wanted.perplexity, c.perplexity_seconds),
        (wanted.foretold_damage, c.foretold_seconds),
        (wanted.contributions, c.contributions_seconds),
        (wanted.generation_entropy, c.entropy_seconds),
        (wanted.downstream is not None, wanted.downstream_tests * c.downstream_test_seconds),
    )
    return [
        ("teacher-forced" in wanted.protocols and scores, [n * c.scored_prompt_seconds for n in prompts]),
        ("generated" in wanted.protocols and scores, [n * c.generated_prompt_seconds for n in prompts]),
        *((is_wanted, [seconds] * len(prompts)) for is_wanted, seconds in alike),
    ]


def _identity(lm: EditableModel, run: PreparedRun) -> str:
    """A name for everything that a calibration depends on."""
    plan = run.plan
    decisive: dict[str, Any] = {
        "version": CALIBRATION_VERSION,
        "model": lm.fingerprint,
        "device": str(lm.device),
        "dtype": str(lm.dtype),
        "threads": torch.get_num_threads(),
        "settings": asdict(run.settings),
        "generate": plan.measure.generate,
        "generated": [plan.measure.chat, plan.measure.max_tokens] if "generated" in plan.measure.protocols else None,
        "downstream": plan.measure.downstream is not None,
        "foretold": plan.measure.foretold_damage,
        "batch": min(plan.batch_size, CALIBRATED_FACTS),
        # Of the facts that are timed: a question takes another time than a paraphrase.
        "prompts": sorted({kind for fact in _timed(run) for kind in KINDS if getattr(fact, kind)}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]


def _timed(run: PreparedRun) -> list[Fact]:
    return list(run.facts[: min(run.plan.batch_size, CALIBRATED_FACTS)])


def _measure(lm: EditableModel, run: PreparedRun, tell: Progress) -> Calibration:
    plan = run.plan
    facts = _timed(run)

    def session_with(**overrides: object) -> EditSession:
        return EditSession(
            lm,
            plan.method,
            seed=plan.seed,
            settings=dict(plan.overrides) | overrides,
            statistics_text=text_named(plan.statistics_text),
            keep_history=False,
        )

    session = session_with()
    tell("Timing a few edits", 0.0)
    session.prepare()
    report = session.edit(facts, known="edit", measure=False)
    fixed_share = 0.0
    if not session.settings.from_gradients:
        fixed_share = _fixed_share(session_with(steps=SHORT_STEPS), run.facts[:MORE_FACTS], len(facts))
    tell("Timing measurements", 0.5)
    prompts = [facts[0].text] * ENTROPY_PROMPTS
    foretold = 0.0
    if plan.measure.foretold_damage:
        _seconds(session.foretold_damage)  # what it gathers is kept, so that only the first time takes long
        foretold = _seconds(session.foretold_damage)
    with session.edited():
        scores = _seconds(lambda: evaluate(lm, facts, generate=plan.measure.generate))
        written = 0.0
        if "generated" in plan.measure.protocols:
            how = generation_settings(lm, plan.measure)
            written = _seconds(lambda: evaluate_generated(lm, facts, how))
        read = _seconds(lambda: perplexity(lm, n_tokens=CALIBRATED_TOKENS))
        contributions = _seconds(lambda: measure_contributions(lm, passages(lm)))
        sampled = _seconds(lambda: generation_entropy(lm, prompts, CALIBRATED_SAMPLES))
        asked = 0.0
        if plan.measure.downstream is not None:
            tasks = load_tasks(plan.measure.downstream)
            asked = _seconds(lambda: evaluate_tasks(lm, tasks, max_tests=CALIBRATED_TESTS))
    tell("Timing measurements", 1.0)
    return Calibration(
        fact_seconds=(report.seconds["targets"] + report.seconds["keys"]) / len(facts),
        fixed_share=fixed_share,
        batch_seconds=report.seconds["update"],
        scored_prompt_seconds=scores / sum(map(n_prompts, facts)),
        generated_prompt_seconds=written / sum(map(n_prompts, facts)),
        perplexity_seconds=read * FIXED_TEXT_TOKENS / CALIBRATED_TOKENS,
        foretold_seconds=foretold,
        contributions_seconds=contributions,
        entropy_seconds=sampled * ENTROPY_TOKENS / CALIBRATED_SAMPLES,
        downstream_test_seconds=asked / CALIBRATED_TESTS,
        matrices_bytes=sum(lm.parameter(layer).numel() for layer in session.settings.layers) * exact_dtype(lm).itemsize,
        preservation_bytes=len(session.settings.layers) * bytes_kept(session.settings, lm.d_mlp, lm.d_model),
        sizes=Sizes.of_model(lm.model, lm.parts),
        dtype=str(lm.dtype).removeprefix("torch."),
        device_type=lm.device.type,
    )


def _fixed_share(session: EditSession, facts: Sequence[Fact], n_few: int) -> float:
    """Of a step with the first facts, the share of its time that does not grow with them."""
    if len(facts) <= n_few:
        return 0.0
    few, many = (_step_seconds(session, part) for part in (facts[:n_few], facts))
    if not few:  # every fact was said at once
        return 0.0
    each = (many - few) / (len(facts) - n_few)
    # A machine that was busy in one of them must not make an edit cost nothing.
    return min(0.9, max(0.0, 1 - each * n_few / few))


def _step_seconds(session: EditSession, facts: Sequence[Fact]) -> float:
    """How long a step of the search for these facts' targets takes, from one report to the next."""
    at: list[float] = []
    session.find_targets(facts, mpes=False, on_progress=lambda _: at.append(time.perf_counter()))
    return (at[-1] - at[0]) / max(1, len(at) - 1)


def _seconds(take: Callable[[], object]) -> float:
    """Seconds that something takes; 0 when this model refuses it, because the run will leave it out, too."""
    began = time.perf_counter()
    try:
        take()
    except InputError as error:
        log.info("Not timed: %s", error)
        return 0.0
    return time.perf_counter() - began
