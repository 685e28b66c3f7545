"""Plans: everything that decides what a run does, checked before anything starts, and the facts it will edit.

    plan = RunPlan(method="ENCORE", facts="bundled", n_edits=200, batch_size=20)
    ready = prepare(plan)                    # reads the facts, looks at the model's configuration
    [run_id] = RunStore().submit([ready])

Facts are chosen here, once, and copied into the run's folder, so that nothing that happens to the file afterwards
changes the run. All methods of a comparison get the same facts in the same order, whatever the model says already.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import random
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from encore_core import checks
from encore_core.editing.covariance import BUNDLED, text_named
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact, duplicate_subjects, read_facts
from encore_core.measures.task_sets import tasks_folder
from encore_core.measures.tasks import load_tasks
from encore_core.methods import Settings, check_names, find_method, settings_for
from encore_core.models.device_map import device_name
from encore_core.models.editable import CATALOGUE, DTYPES, Progress, describe_model
from encore_core.models.start_token import AUTO, NONE
from encore_core.runs import key_statistics
from encore_core.storage import absolute_folder

PLAN_VERSION = 2
"""Version 1 had no `start_token`: nothing was put in front of texts then, and nothing is when such a run goes on."""
"""Version of a plan's JSON form; raised when its fields change their meaning."""

ORDERS = ("file", "shuffled")
KNOWN = ("edit", "skip")
SUBSETS = ("sample", "newest", "first")
"""Which facts are scored at a checkpoint: a fixed sample of those edited so far, the newest batch, the first batch."""

MOST_EDITS = 1_000_000
DUPLICATES_NAMED = 5


@dataclass(frozen=True)
class MeasurePlan:
    """What is measured at the checkpoints of a run. Norms of all layers are always among it: they cost next to nothing.

    Attributes:
        subsets: which facts are scored, from `SUBSETS`; empty for none.
        sample_facts: size of the sample of the facts edited so far.
        batch_facts: at most so many facts of the newest and of the first batch.
        generate: whether scores contain generation efficacy, their most costly part.
        perplexity: whether to measure it on the fixed text.
        generation_entropy: whether to sample continuations and measure their entropy.
        contributions: whether to measure what each sublayer adds to the residual stream.
        downstream: folder with the data of the downstream tasks, or "hub" for the hub's; None to leave them out.
        downstream_tests: tests a task at most.
        share_cap: measuring between the first and the last checkpoint stops short of this share of the seconds spent
            editing so far, each part of an equal share of it; None for no cap. The first and the last checkpoint are
            measured in full.
        trajectory_facts: of so many facts, spread over the run, every step of the target optimisation is kept.

    Raises:
        InputError: for a value that the field cannot take.
    """

    subsets: tuple[str, ...] = SUBSETS
    sample_facts: int = 50
    batch_facts: int = 20
    generate: bool = True
    perplexity: bool = True
    generation_entropy: bool = True
    contributions: bool = True
    downstream: str | None = None
    downstream_tests: int = 20
    share_cap: float | None = 0.25
    trajectory_facts: int = 100

    def __post_init__(self) -> None:
        put = _putter(self)
        put("subsets", _subsets(self.subsets))
        put("sample_facts", checks.whole("sample_facts", self.sample_facts, 1, 10_000))
        put("batch_facts", checks.whole("batch_facts", self.batch_facts, 1, 10_000))
        for name in ("generate", "perplexity", "generation_entropy", "contributions"):
            put(name, checks.flag(name, getattr(self, name)))
        put("downstream", _path("downstream", self.downstream))
        put("downstream_tests", checks.whole("downstream_tests", self.downstream_tests, 1, 100))
        if self.share_cap is not None:
            put("share_cap", checks.number("share_cap", self.share_cap, 0, 1000))
        put("trajectory_facts", checks.whole("trajectory_facts", self.trajectory_facts, 0, 10_000))


@dataclass(frozen=True)
class RunPlan:
    """What a run is to do.

    Attributes:
        method: a name from `methods.METHODS`.
        model: catalogue name, folder or hub id.
        facts: a file that `facts.read_facts` takes, or "bundled".
        n_edits: facts to edit; None for all there are.
        batch_size: facts solved together.
        checkpoint_every: edits between checkpoints; None for a tenth of the run. A checkpoint falls on the end of the
            batch that reaches it; 0 edits and the last one are checkpoints always.
        name: how people call it; made of method and size when it is empty.
        order: "file" takes the first facts of the file, "shuffled" draws from all of them.
        seed: of the shuffling, of the sampled prefixes, and of what is drawn for measuring.
        overrides: settings that replace the method's, see `methods.SETTABLE`.
        known: facts that the model says already: "edit" them too (then all methods see the same facts), or "skip".
        device: "cpu", "cuda", "cuda:1", "mps", "balanced"; None for the best one present.
        dtype: "float32" or "bfloat16"; None for float32.
        start_token: what stands in front of every text: "auto", "none" or a token, see `start_token`.
        statistics_text: text file for C0, or "bundled" for the bundled sample; None for the statistics that were chosen
            for the model (see `statistics`), and the bundled sample where none were.
        measure: what is measured at checkpoints.

    Raises:
        InputError: for a value that the field cannot take. What needs a look at the facts, the model or the machine is
            refused by `prepare`.
    """

    method: str = "ENCORE"
    model: str = "smollm2-135m"
    facts: str = "bundled"
    n_edits: int | None = None
    batch_size: int = 50
    checkpoint_every: int | None = None
    name: str = ""
    order: str = "file"
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    known: str = "edit"
    device: str | None = None
    dtype: str | None = None
    start_token: str = AUTO
    statistics_text: str | None = None
    measure: MeasurePlan = field(default_factory=MeasurePlan)

    def __post_init__(self) -> None:
        put = _putter(self)
        put("method", find_method(self.method).name)
        put("model", _text("model", self.model, 4096))
        put("facts", _path("facts", self.facts) or _missing("facts", 'a file, or "bundled"'))
        if self.n_edits is not None:
            put("n_edits", checks.whole("n_edits", self.n_edits, 1, MOST_EDITS))
        put("batch_size", checks.whole("batch_size", self.batch_size, 1, 100_000))
        if self.checkpoint_every is not None:
            put("checkpoint_every", checks.whole("checkpoint_every", self.checkpoint_every, 1, MOST_EDITS))
        put("name", _text("name", self.name, 100, empty=True))
        put("order", checks.choice("order", self.order, ORDERS))
        put("seed", checks.whole("seed", self.seed, 0, 2**63 - 1))
        put("overrides", _overrides(self.overrides))
        put("known", checks.choice("known", self.known, KNOWN))
        if self.device is not None:
            put("device", _text("device", self.device, 40))
        if self.dtype is not None:
            put("dtype", checks.choice("dtype", self.dtype, tuple(DTYPES)))
        put("start_token", _text("start_token", self.start_token, 100))
        put("statistics_text", _path("statistics_text", self.statistics_text))
        if not isinstance(self.measure, MeasurePlan):
            raise InputError(f"measure {quoted(self.measure)} is no MeasurePlan; give one.")

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values, with the version of their form."""
        return {"version": PLAN_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | str) -> RunPlan:
        """The plan that `to_json` gave, as values or as text. Fields left out take their defaults.

        Raises:
            InputError: for broken JSON, another version, unknown fields, or values that a field cannot take.
        """
        if isinstance(values, str):
            try:
                values = json.loads(values)
            except (ValueError, RecursionError) as error:
                raise InputError(f"The plan is not valid JSON ({error}); give what to_json() wrote.") from error
        values = _fields_of(cls, values, "plan", besides=("version",))
        version = values.pop("version", PLAN_VERSION)
        if version == 1 and not isinstance(version, bool):
            version = PLAN_VERSION
            values["start_token"] = NONE
        if version != PLAN_VERSION or isinstance(version, bool):
            raise InputError(
                f"The plan has version {quoted(version)}, but this program reads version {PLAN_VERSION}; "
                "use the program that wrote it."
            )
        if "measure" in values:
            values["measure"] = MeasurePlan(**_fields_of(MeasurePlan, values["measure"], "plan's measure"))
        return cls(**values)


@dataclass(frozen=True)
class PreparedRun:
    """A plan that can start: checked against facts, model and machine, with nothing left to choose.

    Attributes:
        plan: with every open choice made (number of edits, checkpoints, name, device, dtype).
        facts: what will be edited, in order; the batches are `batch_ends(facts, plan.batch_size)`.
        settings: of the method on this model.
        notices: what the user should know before the start, one line each.
        facts_digest: of the facts whatever their order, 16 hex digits.
        order_digest: of the facts in their order, that is of the file in the run's folder.
        statistics: what C0 is to be made of, in words: digest of the text and number of tokens at most.
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


def prepare(plan: RunPlan, facts: Sequence[Fact] | None = None, progress: Progress | None = None) -> PreparedRun:
    """Check a plan against its facts, its model and this machine, and choose what it will edit.

    The model's weights are not loaded, so this takes a second; the embedded model is unpacked if it never was.

    Args:
        plan: what is wanted.
        facts: the content of `plan.facts` where the caller has read it already (an upload, or several methods on one
            file); read from there by default.
        progress: told of the unpacking, and of fetching the downstream tasks.

    Raises:
        InputError: unreadable facts, fewer facts than edits, unknown model, method, setting, device or dtype, settings
            out of range, unreadable text of statistics or downstream data, or a hub that cannot be reached for them.
    """
    read = list(facts) if facts is not None else read_facts(plan.facts)
    if not read:
        raise InputError("There is no fact to edit; give at least one.")
    n_edits = plan.n_edits or len(read)
    if n_edits > len(read):
        raise InputError(
            f"n_edits {n_edits} is more than the {len(read)} facts in {quoted(plan.facts)}; "
            f"give a number up to {len(read)}, or a larger file."
        )
    device = device_name(plan.device)
    shape = describe_model(plan.model, plan.dtype, progress)
    settings = settings_for(
        plan.method,
        model_type=shape.model_type,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_vocab=shape.n_vocab,
        overrides=plan.overrides,
    )
    tasks = None
    if plan.measure.downstream is not None:
        tasks = tasks_folder(plan.measure.downstream, progress)
        load_tasks(tasks)
    chosen, moved = arranged(choose_facts(read, n_edits, plan.order, plan.seed), plan.batch_size)
    done = replace(
        plan,
        # The worker has a working folder of its own.
        model=plan.model if plan.model in CATALOGUE else absolute_folder(plan.model),
        statistics_text=_absolute_text(plan.statistics_text),
        measure=replace(plan.measure, downstream=tasks and str(tasks.absolute())),
        n_edits=n_edits,
        checkpoint_every=plan.checkpoint_every or max(plan.batch_size, math.ceil(n_edits / 10)),
        name=plan.name or f"{plan.method}, {n_edits} edits",
        device=device,
        dtype=plan.dtype or "float32",
    )
    lines = fact_lines(chosen)
    wanted = key_statistics.wanted(done.model, settings.layers, text_named(plan.statistics_text))
    statistics, told = _statistics(wanted, settings.statistics_tokens)
    return PreparedRun(
        plan=done,
        facts=tuple(chosen),
        settings=settings,
        notices=(*_duplicates(chosen), *moved, *_untested(settings, plan.model), *told),
        facts_digest=digest_of("".join(sorted(lines))),
        order_digest=digest_of("".join(lines)),
        statistics=statistics,
        statistics_wanted=wanted,
    )


# -- choosing facts ----------------------------------------------------------------------------------------------------


def choose_facts(facts: Sequence[Fact], n: int, order: str, seed: int) -> list[Fact]:
    """The facts of a run: the first n of the file, or of a seeded shuffling of all of it.

    In either case a longer run begins with the facts of a shorter one.
    """
    chosen = list(facts)
    if order == "shuffled":
        random.Random(seed).shuffle(chosen)
    return chosen[:n]


def arranged(facts: Sequence[Fact], batch_size: int) -> tuple[list[Fact], list[str]]:
    """Facts in an order in which no batch holds two answers to one prompt, or one edit twice.

    Facts of a batch are solved together, so such facts cannot stand in one batch; in different batches the later edit
    is a new one. CounterFact has a few of them. One that comes too early is put off to the next batch.

    Args:
        facts: in the order wanted.
        batch_size: facts a batch.

    Returns:
        the facts in their new order, and one line for each that was put off.
    """
    # Facts wait behind the others of their prompt; a batch takes the earliest of those in front. So a file that asks
    # one prompt thousands of times costs no more than another.
    lines: dict[str, deque[int]] = {}
    for position, fact in enumerate(facts):
        lines.setdefault(fact.asked, deque()).append(position)
    fronts = [line[0] for line in lines.values()]  # in the order of the facts, which makes it a heap
    untold = {asked: deque(line) for asked, line in lines.items()}
    result: list[Fact] = []
    notices: list[str] = []
    while fronts:
        batch = [heapq.heappop(fronts) for _ in range(min(batch_size, len(fronts)))]
        passed = batch[-1] if len(batch) == batch_size else len(facts)
        early: list[int] = []
        for position in batch:
            asked = facts[position].asked
            lines[asked].popleft()
            if lines[asked]:
                heapq.heappush(fronts, lines[asked][0])
            while untold[asked] and untold[asked][0] <= passed:
                place = untold[asked].popleft()
                if place != position:
                    early.append(place)
        notices += [
            f"The fact about {quoted(facts[place].subject)}{_where(facts[place])} is put off to a later batch: "
            f"batch {len(result) // batch_size + 1} has {quoted(facts[place].text)} already."
            for place in sorted(early)
        ]
        result += [facts[position] for position in batch]
    return result, notices


def batch_ends(facts: Sequence[Fact], batch_size: int) -> list[int]:
    """Where the batches of a run end, in facts from its start; the last entry is the number of facts.

    Batches are full but for the last, or last ones where nothing was left that could fill them (see `arranged`).
    """
    ends: list[int] = []
    prompts: set[str] = set()
    for position, fact in enumerate(facts):
        if position - (ends[-1] if ends else 0) == batch_size or fact.asked in prompts:
            ends.append(position)
            prompts = set()
        prompts.add(fact.asked)
    return [*ends, len(facts)]


def checkpoints(ends: Iterable[int], every: int) -> list[int]:
    """The checkpoints of a run: 0, the end of each batch that reaches a multiple of `every`, and the last end."""
    found, before = [0], 0
    for end in ends:
        if end // every > before // every:
            found.append(end)
        before = end
    return found if found[-1] == before else [*found, before]


def fact_lines(facts: Iterable[Fact]) -> list[str]:
    """Facts as the lines of the file in a run's folder."""
    return [json.dumps(fact.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n" for fact in facts]


def facts_from_lines(text: str) -> list[Fact]:
    """Facts from what `fact_lines` wrote.

    Raises:
        InputError: when it is something else.
    """
    try:
        return [Fact(**json.loads(line)) for line in text.split("\n") if line]
    except (ValueError, TypeError) as error:
        raise InputError(f"The run's facts cannot be read: {error}") from error


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
        lines.append(f"So are {len(found) - DUPLICATES_NAMED} other subjects.")
    return lines


def _where(fact: Fact) -> str:
    """Where a fact stands in its file, for the middle of a sentence."""
    return f" ({fact.place})" if fact.place else ""


def _in_file(fact: Fact, place: int) -> str:
    """The number of a fact in its file, where it comes from one; else in the run."""
    return re.sub(r"^(record|line) ", "", fact.place) if fact.place else str(place + 1)


def _untested(settings: Settings, model: str) -> list[str]:
    if settings.standing != "untested":
        return []
    return [f"These settings of {settings.method} are untested on {quoted(model)}."]


def _absolute_text(name: str | None) -> str | None:
    return name if name in (None, BUNDLED) else str(Path(name).absolute())


def _statistics(wanted: key_statistics.Rows, n_tokens: int) -> tuple[str, list[str]]:
    """What C0 is to be made of, in words, and a line about it where it was chosen."""
    if not any("file" in row for row in wanted):
        return f"{wanted[0]['text']}, {n_tokens} tokens", []
    of_each = {
        row["layer"]: f"{key_statistics.words(row)}, {row['file'].split('-')[1]}"
        if "file" in row
        else f"bundled sample, up to {n_tokens} tokens"
        for row in wanted
    }
    said = key_statistics.by_layers(of_each)
    return said, [f"Key statistics of this model as chosen with encore statistics: {said}."]


def digest_of(text: str) -> str:
    """16 hex digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


# -- checking fields ---------------------------------------------------------------------------------------------------


def _putter(instance: object):
    """Frozen dataclasses are written to while they are made, and then no more."""
    return lambda name, value: object.__setattr__(instance, name, value)


def _fields_of(cls: type, values: Any, what: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"The {what} {quoted(values)} is no JSON object; give one with the fields of {cls.__name__}.")
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known and name not in besides:
            raise checks.unknown("Unknown field", name, known, place=f"in the {what}")
    return dict(values)


def _missing(name: str, right: str):
    raise InputError(f"{name} is missing; give {right}.")


def _where(fact: Fact) -> str:
    """Where a fact stands in its file, for the middle of a sentence."""
    return f" ({fact.place})" if fact.place else ""


def _text(name: str, value: Any, longest: int, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} {quoted(value)} is no text; give one, in quotes.")
    value = value.strip()
    if not value.isprintable() or len(value) > longest or not (value or empty):
        raise InputError(f"{name} {quoted(value)} is not one line of 1 to {longest} characters; give one.")
    return value


def _path(name: str, value: Any) -> str | None:
    if isinstance(value, Path):
        value = str(value)
    return None if value is None else _text(name, value, 4096)


def _subsets(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InputError(f"subsets {quoted(value)} is no list; give some of {', '.join(SUBSETS)}, or an empty list.")
    chosen = [checks.choice("subsets", name, SUBSETS) for name in value]
    return tuple(name for name in SUBSETS if name in chosen)


def _overrides(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f'overrides {quoted(value)} is no table of settings; give for example {{"lambda_n": 20}}.')
    check_names(value)
    kept = {name: list(entry) if isinstance(entry, tuple) else entry for name, entry in value.items()}
    try:
        json.dumps(kept, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"overrides {quoted(value)} hold what is no number, text or list: {error}.") from error
    return kept
