"""A plan file: methods × models × facts × seeds, as run plans that do not depend on each other.

    name = "four-methods"                  # by default the file's name; a plan is known by it in the store
    methods = ["ENCORE", "MEMIT"]
    models = ["smollm2-135m"]              # catalogue names, folders or hub ids
    facts = ["bundled"]                    # or files, beside the plan or anywhere
    edits = 1000                           # of each run; all facts by default
    batch_size = 50
    checkpoint_every = 100
    seeds = [1, 2]

    [settings]                             # of all methods
    lambda_p = 1000
    [settings.ENCORE]                      # of one
    lambda_n = 20

    [measure]                              # the fields of `runs.plan.MeasurePlan`
    sample_facts = 100

    [cluster]
    address = "auto"                       # or "local", or HOST:PORT
    cpus = 4                               # of each run, and its threads
    gpus = 1
    memory_gb = 40                         # by default our own estimate
    scratch = "/local"                     # where nodes work; by default their folder for temporary files

Also `order`, `known`, `dtype`, `device`, `start_token` and `statistics_text`, as in `runs.plan.RunPlan`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from encore_core import checks
from encore_core.errors import InputError, quoted
from encore_core.facts.source import SETS
from encore_core.measures.task_sets import HUB
from encore_core.methods import METHODS, find_method
from encore_core.ray_core import AUTO, checked_address
from encore_core.runs.plan import MOST_EDITS, MeasurePlan, RunPlan
from encore_core.runs.seeds import LARGEST
from encore_core.storage import named_path

MOST_RUNS = 1000
LISTS = ("methods", "models", "facts", "seeds")
PLAIN = ("find_subjects", "skip_bad", "order", "known", "dtype", "device", "start_token", "statistics_text")
"""Fields that are those of `RunPlan`."""

KNOWN = ("name", *LISTS, "edits", "batch_size", "checkpoint_every", *PLAIN, "settings", "measure", "cluster")
OF_CLUSTER = ("address", "cpus", "gpus", "memory_gb", "scratch")


@dataclass(frozen=True)
class Place:
    """Where a grid runs.

    Attributes:
        address: "auto", "local" or HOST:PORT, see `ray_core.checked_address`.
        cpus: cores and threads of a run.
        gpus: whole GPUs of a run.
        memory: bytes of a run; None for our own estimate.
        scratch: folder in which nodes work, absolute; None for their folder for temporary files.
    """

    address: str = AUTO
    cpus: int = 1
    gpus: int = 0
    memory: int | None = None
    scratch: str | None = None


@dataclass(frozen=True)
class GridPlan:
    """What a plan file says.

    Attributes:
        name: 1 to 30 letters, digits and hyphens.
        file: where it was read from.
        runs: one plan for each run, not prepared yet.
        place: where they run.
    """

    name: str
    file: Path
    runs: tuple[RunPlan, ...]
    place: Place


def read_plan(path: Path | str) -> GridPlan:
    """Read a plan file.

    Raises:
        InputError: with the file's name, for one that cannot be read, is not valid TOML, has unknown or missing fields,
            or values that a field cannot take.
    """
    path = Path(path).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The plan {path} cannot be read ({error.strerror}); give a TOML file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The plan {path} is not valid TOML: {error}.") from error
    try:
        return _grid(values, path.absolute())
    except InputError as error:
        raise InputError(f"Plan {path.name}: {error}") from error


def checked_name(name: Any) -> str:
    """The name of a grid.

    Raises:
        InputError: for what is none.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9](-?[a-z0-9]){0,29}", name):
        raise InputError(
            f"name {quoted(name)} is not 1 to 30 small letters and digits, with single hyphens between; give one."
        )
    return name


def _grid(values: Mapping[str, Any], file: Path) -> GridPlan:
    _check_known(values, KNOWN, "field")
    usual = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:30].strip("-")
    name = checked_name(values.get("name", usual))
    place = _place(values.get("cluster", {}))
    lists = {one: _list(values, one) for one in LISTS}
    methods = [find_method(one).name for one in lists["methods"]]
    seeds = [checks.whole("seed", one, 0, LARGEST) for one in lists["seeds"]]
    facts = [_beside(file, "facts", one) for one in lists["facts"]]
    models = [_beside(file, "models", one) for one in lists["models"]]
    settings = _settings(values.get("settings", {}), methods)
    measure = _measure(values.get("measure", {}), file)
    common = {key: values[key] for key in PLAIN if key in values}
    if "statistics_text" in common:
        common["statistics_text"] = _beside(file, "statistics_text", common["statistics_text"])
    common.setdefault("device", "cpu" if not place.gpus else "cuda" if place.gpus == 1 else "balanced")
    common["batch_size"] = values.get("batch_size", RunPlan.batch_size)
    common["checkpoint_every"] = values.get("checkpoint_every")
    if "edits" in values:
        common["n_edits"] = checks.whole("edits", values["edits"], 1, MOST_EDITS)
    n_runs = len(methods) * len(models) * len(facts) * len(seeds)
    if n_runs > MOST_RUNS:
        raise InputError(f"{n_runs:,} runs are too many; give lists whose product is at most {MOST_RUNS:,}.")
    named = (len(models) > 1, len(facts) > 1, len(seeds) > 1)
    runs = [
        RunPlan(
            method=method, model=model, facts=one, seed=seed, overrides=settings[method], measure=measure,
            name=_run_name(method, model, one, seed, named), **common,
        )
        for model in models
        for one in facts
        for seed in seeds
        for method in methods
    ]  # fmt: skip
    return GridPlan(name, file, tuple(runs), place)


def _run_name(method: str, model: str, facts: str, seed: int, named: tuple[bool, bool, bool]) -> str:
    """The name of a run: its method, and of the rest what differs within the plan."""
    parts = zip((Path(model).name, Path(facts).name, f"seed {seed}"), named, strict=True)
    return ", ".join((method, *(part for part, is_named in parts if is_named)))[:100]


def _check_known(values: Any, known: tuple[str, ...], what: str, place: str = "") -> None:
    if not isinstance(values, Mapping):
        raise InputError(
            f"{place or what} {quoted(values)} is not a table; write [{place or what}] and fields below it."
        )
    for name in values:
        if name not in known:
            raise checks.unknown(f"Unknown {what}", name, known, place=place and f"in [{place}]")


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    """A list of the plan, each entry once. A single value may stand for itself."""
    usual = {"models": [RunPlan.model], "facts": [RunPlan.facts], "seeds": [0]}
    found = values.get(name, usual.get(name))
    if found is None:
        raise InputError(f'{name} is missing; give for example {name} = ["ENCORE", "MEMIT"].')
    found = found if isinstance(found, list) else [found]
    if not found:
        raise InputError(f"{name} is an empty list; give at least one.")
    for number, one in enumerate(found):
        if one in found[:number]:
            raise InputError(f"{name} has {quoted(one)} twice; give each once.")
    return found


def _beside(file: Path, name: str, value: Any) -> str:
    """What a text names: a file or folder beside the plan, or with `~`, else the text itself."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} {quoted(value)} is not text; put it in quotes.")
    if value.startswith("~"):
        return str(named_path(value))
    beside = file.parent / value
    return str(beside) if value not in SETS and beside.exists() else value


def _settings(values: Any, methods: list[str]) -> dict[str, dict[str, Any]]:
    """The settings of each method: those of all, and its own."""
    if not isinstance(values, Mapping):
        raise InputError(f"settings {quoted(values)} is not a table; write [settings] and settings below it.")
    own = {find_method(name).name: one for name, one in values.items() if isinstance(one, Mapping)}
    for name in own:
        if name not in methods:
            raise InputError(f"[settings.{name}] is for a method that is not run; methods: {', '.join(methods)}.")
    common = {name: one for name, one in values.items() if not isinstance(one, Mapping)}
    return {name: common | dict(own.get(name, {})) for name in methods if name in METHODS}


def _measure(values: Any, file: Path) -> MeasurePlan:
    _check_known(values, tuple(one.name for one in fields(MeasurePlan)), "field", "measure")
    if values.get("downstream") not in (None, HUB):
        values = dict(values) | {"downstream": _beside(file, "downstream", values["downstream"])}
    if values.get("share_cap") == "none":  # TOML has no null
        values = dict(values) | {"share_cap": None}
    return MeasurePlan(**values)


def _place(values: Any) -> Place:
    _check_known(values, OF_CLUSTER, "field", "cluster")
    found: dict[str, Any] = {}
    if "address" in values:
        found["address"] = checked_address(values["address"])
    if "cpus" in values:
        found["cpus"] = checks.whole("cpus", values["cpus"], 1, 1024)
    if "gpus" in values:
        found["gpus"] = checks.whole("gpus", values["gpus"], 0, 64)
    if "memory_gb" in values:
        found["memory"] = int(1e9 * checks.number("memory_gb", values["memory_gb"], 0, 1e5, above=True))
    if "scratch" in values:
        if not isinstance(values["scratch"], str) or not Path(values["scratch"]).is_absolute():
            raise InputError(f"scratch {quoted(values['scratch'])} is no absolute folder; give one that nodes have.")
        found["scratch"] = values["scratch"]
    return Place(**found)
