"""Preparing a run: a plan is checked against its facts, its model and this machine, and every choice is made.

    ready = prepare(plan)                    # reads the facts and the model's configuration
    [run_id] = RunStore().submit([ready])

Facts are chosen here, once, and copied into the run's folder, so that later changes to the file do not change the run.
All methods of a comparison get the same facts in the same order, whatever the model already says.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import BUNDLED, text_named
from encore_core.errors import InputError, quoted
from encore_core.facts import FOUND, Fact, duplicate_subjects, read_facts
from encore_core.measures.judging import Judge
from encore_core.measures.task_sets import tasks_folder
from encore_core.measures.tasks import load_tasks
from encore_core.methods import Settings, lengths_of, settings_for
from encore_core.models.device_map import device_name
from encore_core.models.editable import CATALOGUE, Progress, describe_model
from encore_core.ray_core import ray_module
from encore_core.runs import key_statistics
from encore_core.runs.fact_order import arranged, choose_facts
from encore_core.runs.facts_file import fact_lines
from encore_core.runs.key_statistics import recorded_digest
from encore_core.runs.plan import RunPlan
from encore_core.runs.rows import NO_STATISTICS
from encore_core.storage import absolute_folder, is_file, named_path
from encore_core.tuned_rows import Shape
from encore_core.words import counted

DUPLICATES_NAMED = 5
MANY = 500
"""From so many edits on a plan is told of settings for thousands of edits, where the model has some."""


@dataclass(frozen=True)
class PreparedRun:
    """A plan that can start: checked against facts, model and machine, with every choice made.

    Attributes:
        plan: with every open choice made (number of edits, checkpoints, name, device, dtype).
        facts: what will be edited, in order; the batches are `batch_ends(facts, plan.batch_size)`.
        settings: the method's on this model.
        notices: what the user should know before the start, one line each.
        facts_digest: of the facts regardless of order, 16 hex digits.
        order_digest: of the facts in their order, which is that of the file in the run's folder.
        statistics: what C0 will be computed from, in words: digest of the text and number of tokens at most.
        statistics_wanted: the same for the worker, see `key_statistics.wanted`.
    """

    plan: RunPlan
    facts: tuple[Fact, ...] = field(repr=False)
    settings: Settings
    notices: tuple[str, ...]
    facts_digest: str
    order_digest: str
    statistics: str
    statistics_wanted: key_statistics.Rows = ()


def read_as(plan: RunPlan) -> list[Fact]:
    """The facts of a plan, read as it says.

    Raises:
        InputError: as `facts.read_facts`.
    """
    return read_facts(
        plan.facts,
        on_error="skip" if plan.skip_bad else "raise",
        subject=FOUND if plan.find_subjects else None,
    )


def prepare(plan: RunPlan, facts: Sequence[Fact] | None = None, progress: Progress | None = None) -> PreparedRun:
    """Check a plan against its facts, its model and this machine, and choose what it will edit.

    The model's weights are not loaded, so this takes a second; the embedded model is unpacked on first use.

    Args:
        plan: what is wanted.
        facts: the content of `plan.facts` where the caller has read it already (an upload, or several methods on one
            file); read from there by default.
        progress: gets the unpacking, and the fetching of downstream tasks.

    Raises:
        InputError: unreadable facts, fewer facts than edits, unknown model, method, setting, device or dtype, settings
            out of range, several workers without Ray, unreadable text of statistics or downstream data, a hub that
            cannot be reached for them, or a judge that cannot be run.
    """
    read = list(facts) if facts is not None else read_as(plan)
    n_edits = _number_of_edits(plan, len(read))
    device = device_name(plan.device)
    shape = describe_model(plan.model, plan.dtype, progress)
    settings = settings_for(plan.method, **asdict(shape), overrides=plan.overrides)
    _check_workers(plan, settings)
    judge = _absolute_judge(plan.measure.judged_by())
    tasks = None
    if plan.measure.downstream is not None:
        tasks = tasks_folder(str(named_path(plan.measure.downstream)), progress)
        load_tasks(tasks)
    chosen, moved = arranged(choose_facts(read, n_edits, plan.order, plan.seed), plan.batch_size)
    done = replace(
        plan,
        # The worker has another working folder.
        model=plan.model if plan.model in CATALOGUE else absolute_folder(plan.model),
        statistics_text=_absolute_text(plan.statistics_text),
        measure=replace(plan.measure, downstream=tasks and str(tasks.absolute()), judge=judge),
        n_edits=n_edits,
        checkpoint_every=plan.checkpoint_every or max(plan.batch_size, math.ceil(n_edits / 10)),
        name=plan.name or f"{plan.method}, {counted(n_edits, 'edit', form='')}",
        device=device,
        dtype=plan.dtype or "float32",
    )
    lines = fact_lines(chosen)
    layers = settings.layers if settings.needs_statistics else ()
    wanted = key_statistics.wanted(layers, text_named(done.statistics_text), plan.start_token)
    statistics, told = _statistics(wanted, done.model, settings.statistics_tokens)
    return PreparedRun(
        plan=done,
        facts=tuple(chosen),
        settings=settings,
        notices=(
            *_duplicates(chosen),
            *moved,
            *_untested(settings, plan.model),
            *_for_few(settings, shape, n_edits),
            *told,
        ),
        facts_digest=recorded_digest("".join(sorted(lines))),
        order_digest=recorded_digest("".join(lines)),
        statistics=statistics,
        statistics_wanted=wanted,
    )


def _number_of_edits(plan: RunPlan, n_facts: int) -> int:
    """The number of edits of a plan, given the number of facts.

    Raises:
        InputError: when there are fewer facts than edits, or none.
    """
    if not n_facts:
        raise InputError("There is no fact to edit; give at least one.")
    n_edits = plan.n_edits or n_facts
    if n_edits > n_facts:
        raise InputError(
            f"n_edits {n_edits} is more than the {counted(n_facts, 'fact', form='')} in {quoted(plan.facts)}; "
            f"give a number up to {n_facts}, or a larger file."
        )
    return n_edits


def _check_workers(plan: RunPlan, settings: Settings) -> None:
    """Refuse several workers where the method or this machine has no use for them."""
    if plan.workers == 1:
        return
    if settings.from_gradients:
        raise InputError(f"workers = {plan.workers} share targets, and {settings.method} has none; give workers = 1.")
    ray_module()


def _duplicates(facts: Sequence[Fact]) -> list[str]:
    """Lines about subjects that are edited more than once in the same relation: the later edit overwrites."""
    found = duplicate_subjects(facts)
    lines = [
        f"{quoted(subject)} is edited {len(places)} times in the same relation (facts "
        f"{', '.join(_in_file(facts[place], place) for place in places[:4])}{', …' if len(places) > 4 else ''}); "
        "the last edit counts."
        for (subject, _), places in list(found.items())[:DUPLICATES_NAMED]
    ]
    if len(found) > DUPLICATES_NAMED:
        others = len(found) - DUPLICATES_NAMED
        lines.append(f"So {'is' if others == 1 else 'are'} {counted(others, 'other subject')}.")
    return lines


def _in_file(fact: Fact, place: int) -> str:
    """The number of a fact in its file, where it comes from one; else in the run."""
    return re.sub(r"^(record|line) ", "", fact.place) if fact.place else str(place + 1)


def _untested(settings: Settings, model: str) -> list[str]:
    if settings.standing != "untested":
        return []
    return [f"These settings of {settings.method} are untested on {quoted(model)}."]


def _for_few(settings: Settings, shape: Shape, n_edits: int) -> list[str]:
    """That there are settings for as many edits as these, where others were chosen."""
    lengths = lengths_of(shape, settings.method)
    if n_edits < MANY or settings.tuned_for == "thousands" or "thousands" not in lengths:
        return []
    return [
        f"The settings of {settings.method} are those for a few edits, and {n_edits:,} are planned; for thousands of "
        "edits this model has others (Settings for, or --set tuned_for=thousands)."
    ]


def _absolute_text(name: str | None) -> str | None:
    return name if name in (None, BUNDLED) else str(named_path(name).absolute())


def _absolute_judge(judge: Judge | None) -> str | None:
    """The judge as the worker can call it, from another working folder.

    Raises:
        InputError: when its program is not there.
    """
    if judge is None or judge.is_address:
        return judge and judge.where
    program, *rest = words = shlex.split(judge.where)
    # A program that is found by its name alone keeps it: people read it beside the scores.
    place = str(named_path(program).absolute()) if {"/", os.sep} & set(program) else program
    if shutil.which(place) is None:
        raise InputError(
            f"The judge's program {quoted(program)} is not there, or may not be executed; give the path of one that "
            "is, or the address of an OpenAI-compatible server."
        )
    by_path = [place, *(str(named_path(word).absolute()) if is_file(word) else word for word in rest)]
    return judge.where if by_path == words else shlex.join(by_path)


def _statistics(wanted: key_statistics.Rows, model: str, n_tokens: int) -> tuple[str, list[str]]:
    """What C0 will be computed from, in words, and a line about it where it was chosen for a model of this name."""
    if not wanted:
        return NO_STATISTICS, []
    choices: dict[str, None] = {}
    for key in stored_statistics.keys_of(model):
        chosen = {row["layer"]: row.get("chosen", {}).get(key) for row in wanted}
        if any(chosen.values()):
            words = {
                layer: f"{key_statistics.words(one)}, {one['file'].split('-')[1]}"
                if one
                else f"bundled sample, up to {n_tokens} tokens"
                for layer, one in chosen.items()
            }
            choices[key_statistics.by_layers(words)] = None
    if not choices:
        return f"{wanted[0]['text']}, {n_tokens} tokens", []
    said = " or ".join(choices)
    return said, [
        f"Key statistics of this model as chosen with encore statistics: {said}. The run uses them if it loads the "
        "model as it was then: the same weights, start token and number format."
    ]
