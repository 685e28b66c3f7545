"""Plans: everything that decides what a run does. Every field refuses what it cannot take.

    plan = RunPlan(method="ENCORE", facts="bundled", n_edits=200, batch_size=20)

Checks that need the facts, the model or the machine happen when a plan is prepared, see `preparing`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from encore_core import checks
from encore_core.errors import InputError, quoted
from encore_core.measures.generated import CHATS
from encore_core.measures.generated_scores import PROTOCOLS
from encore_core.measures.judging import Judge
from encore_core.methods import check_names, find_method
from encore_core.models.editable import DTYPES
from encore_core.models.start_token import AUTO, NONE

PLAN_VERSION = 3
"""Version of a plan's JSON form; raised when its fields change their meaning. Version 1 had no `start_token`: nothing
was put in front of texts, and nothing is when such a run is resumed. Versions 1 and 2 had no `protocols`: facts were
scored teacher-forced alone."""

ORDERS = ("file", "shuffled")
KNOWN = ("edit", "skip")
SUBSETS = ("sample", "newest", "first")
"""Which facts are scored at a checkpoint: a fixed sample of those edited so far, the newest batch, the first batch."""

WITH_OPTIONS = ("downstream", "protocols", "chat", "max_tokens", "judge", "judge_model", "judge_seconds")
"""Fields of `MeasurePlan` that have options of their own on the command line; the others are given by --measure."""

MOST_EDITS, MOST_WORKERS = 1_000_000, 256


@dataclass(frozen=True)
class MeasurePlan:
    """What is measured at the checkpoints of a run. Norms of all layers are always included: they cost next to nothing.

    Attributes:
        subsets: which facts are scored, from `SUBSETS`; empty for none.
        sample_facts: size of the sample of the facts edited so far.
        batch_facts: facts of the newest and of the first batch, at most.
        protocols: how they are scored, from `generated_scores.PROTOCOLS`; each is a part of measuring with a share of
            the cap of its own.
        generate: whether teacher-forced scores contain generation efficacy, their most costly part.
        chat, max_tokens: how answers are generated, see `GenerationSettings.for_model`.
        judge, judge_model, judge_seconds: who judges generated answers, see `judging.Judge`; None for nobody.
        perplexity: whether to measure it on the fixed text.
        foretold_damage: whether to foretell what the edits cost general text (see `editing.foretold_damage`).
        generation_entropy: whether to sample continuations and measure their entropy.
        contributions: whether to measure what each sublayer adds to the residual stream.
        downstream: folder with the data of the downstream tasks, or "hub" for the hub's; None to leave them out.
        downstream_tests: tests per task, at most.
        share_cap: measuring between the first and the last checkpoint takes less than this share of the seconds spent
            editing so far, divided equally among the parts; None for no cap. The first and the last checkpoint are
            measured in full.
        trajectory_facts: for how many facts, spread over the run, every step of the target optimisation is kept.

    Raises:
        InputError: for a value that the field cannot take.
    """

    subsets: tuple[str, ...] = SUBSETS
    sample_facts: int = 50
    batch_facts: int = 20
    protocols: tuple[str, ...] = PROTOCOLS
    generate: bool = True
    chat: str = CHATS[0]
    max_tokens: int | None = None
    judge: str | None = None
    judge_model: str | None = None
    judge_seconds: float = 60.0
    perplexity: bool = True
    foretold_damage: bool = True
    generation_entropy: bool = True
    contributions: bool = True
    downstream: str | None = None
    downstream_tests: int = 20
    share_cap: float | None = 0.25
    trajectory_facts: int = 100

    def __post_init__(self) -> None:
        put = _putter(self)
        put("subsets", _some_of("subsets", self.subsets, SUBSETS))
        put("protocols", _some_of("protocols", self.protocols, PROTOCOLS))
        if self.subsets and not self.protocols:
            raise InputError(f"protocols is empty, but facts are scored; give some of {', '.join(PROTOCOLS)}.")
        put("sample_facts", checks.whole("sample_facts", self.sample_facts, 1, 10_000))
        put("batch_facts", checks.whole("batch_facts", self.batch_facts, 1, 10_000))
        for name in ("generate", "perplexity", "foretold_damage", "generation_entropy", "contributions"):
            put(name, checks.flag(name, getattr(self, name)))
        put("chat", checks.choice("chat", self.chat, CHATS))
        if self.max_tokens is not None:
            put("max_tokens", checks.whole("max_tokens", self.max_tokens, 1, 1000))
        for name in ("judge", "judge_model"):
            put(name, _path(name, getattr(self, name)))
        put("judge_seconds", checks.number("judge_seconds", self.judge_seconds, 0, 3600, above=True))
        self.judged_by()
        put("downstream", _path("downstream", self.downstream))
        put("downstream_tests", checks.whole("downstream_tests", self.downstream_tests, 1, 100))
        if self.share_cap is not None:
            put("share_cap", checks.number("share_cap", self.share_cap, 0, 1000))
        put("trajectory_facts", checks.whole("trajectory_facts", self.trajectory_facts, 0, 10_000))

    def judged_by(self) -> Judge | None:
        """Who judges generated answers; None for nobody.

        Raises:
            InputError: for a judge that cannot be asked, or has nothing to judge.
        """
        if self.judge is None:
            return None
        if "generated" not in self.protocols:
            raise InputError('judge is for generated answers; add "generated" to the protocols.')
        return Judge(self.judge, self.judge_model, self.judge_seconds)


@dataclass(frozen=True)
class RunPlan:
    """What a run will do.

    Attributes:
        method: a name from `methods.METHODS`.
        model: catalogue name, folder or hub id.
        facts: a file that `facts.read_facts` takes, or "bundled" or "long".
        find_subjects: whether a rule finds subjects that the file does not name, see `facts.read_facts`.
        skip_bad: whether rows of the file that cannot be used are left out.
        n_edits: facts to edit; None for all.
        batch_size: facts solved together.
        checkpoint_every: edits between checkpoints; None for a tenth of the run. A checkpoint falls on the end of the
            batch that reaches it; 0 edits and the last one are always checkpoints.
        name: its name for readers; made from method and size if empty.
        order: "file" takes the first facts of the file, "shuffled" draws from all of them.
        seed: for shuffling, sampled prefixes, and samples for measuring.
        overrides: settings that replace the method's, see `methods.SETTABLE`.
        known: for facts that the model already says: "edit" them too (then all methods see the same facts), or "skip".
        device: "cpu", "cuda", "cuda:1", "mps", "balanced"; None for the best one present.
        dtype: "float32" or "bfloat16"; None for float32.
        start_token: what is put in front of every text: "auto", "none" or a token, see `start_token`.
        workers: processes that share the work of every batch, this one among them, see `editing.team`; more than one
            needs the extra `[ray]`.
        statistics_text: text file for C0, or "bundled" for the bundled sample; None for the statistics that were chosen
            for the model (see `statistics`), and the bundled sample where none were.
        measure: what is measured at checkpoints.

    Raises:
        InputError: for a value that the field cannot take. Checks that need the facts, the model or the machine are
            made by `preparing.prepare`.
    """

    method: str = "ENCORE"
    model: str = "smollm2-135m"
    facts: str = "bundled"
    find_subjects: bool = False
    skip_bad: bool = False
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
    workers: int = 1
    statistics_text: str | None = None
    measure: MeasurePlan = field(default_factory=MeasurePlan)

    def __post_init__(self) -> None:
        put = _putter(self)
        put("method", find_method(self.method).name)
        put("model", _text("model", self.model, 4096))
        put("facts", _path("facts", self.facts) or _missing("facts", 'a file, or "bundled" or "long"'))
        for name in ("find_subjects", "skip_bad"):
            put(name, checks.flag(name, getattr(self, name)))
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
        put("workers", checks.whole("workers", self.workers, 1, MOST_WORKERS))
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
        if version in (1, 2) and not isinstance(version, bool):
            values |= _of_version(version, values)
            version = PLAN_VERSION
        if version != PLAN_VERSION or isinstance(version, bool):
            raise InputError(
                f"The plan has version {quoted(version)}, but this program reads version {PLAN_VERSION}; "
                "use the program that wrote it."
            )
        if "measure" in values:
            values["measure"] = MeasurePlan(**_fields_of(MeasurePlan, values["measure"], "plan's measure"))
        return cls(**values)


# -- checking fields ---------------------------------------------------------------------------------------------------


def _putter(instance: object):
    """A setter for a frozen dataclass, for use only while it is made."""
    return lambda name, value: object.__setattr__(instance, name, value)


def _fields_of(cls: type, values: Any, what: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(
            f"The {what} {quoted(values)} is not a JSON object; give one with the fields of {cls.__name__}."
        )
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known and name not in besides:
            raise checks.unknown("Unknown field", name, known, place=f"in the {what}")
    return dict(values)


def _of_version(version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan of an earlier version did where it said nothing."""
    measure = values.get("measure", {})
    measured = {"measure": {"protocols": PROTOCOLS[:1], **measure} if isinstance(measure, Mapping) else measure}
    return measured | ({"start_token": NONE} if version == 1 else {})


def _missing(name: str, right: str):
    raise InputError(f"{name} is missing; give {right}.")


def _text(name: str, value: Any, longest: int, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} {quoted(value)} is not text; put it in quotes.")
    value = value.strip()
    if not value.isprintable() or len(value) > longest or not (value or empty):
        raise InputError(f"{name} {quoted(value)} is not one line of 1 to {longest} characters; give one.")
    return value


def _path(name: str, value: Any) -> str | None:
    if isinstance(value, Path):
        value = str(value)
    return None if value is None else _text(name, value, 4096)


def _some_of(name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InputError(f"{name} {quoted(value)} is not a list; give some of {', '.join(known)}, or an empty list.")
    chosen = [checks.choice(name, entry, known) for entry in value]
    return tuple(entry for entry in known if entry in chosen)


def _overrides(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f'overrides {quoted(value)} is not a table of settings; give for example {{"lambda_n": 20}}.')
    check_names(value)
    kept = {name: list(entry) if isinstance(entry, tuple) else entry for name, entry in value.items()}
    try:
        json.dumps(kept, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"overrides {quoted(value)} hold something other than numbers, text and lists: {error}."
        ) from error
    return kept
