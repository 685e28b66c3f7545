"""One plan with several seeds: runs that differ in nothing else, so that their spread is that of the seed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace

from encore_core.errors import InputError, quoted
from encore_core.runs.plan import RunPlan
from encore_core.runs.rows import RunInfo
from encore_core.words import counted

MOST_SEEDS = 20
LARGEST = 2**63 - 1


def seeds_of(text: str) -> list[int]:
    """Seeds from a text: "1, 2, 3".

    Raises:
        InputError: for what is no seed, one that is given twice, or too many.
    """
    found: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        if not (part.isascii() and part.isdecimal()) or int(part[:20]) > LARGEST:
            raise InputError(
                f"Seed {quoted(part)} is not a whole number from 0 to 2^63 - 1; give seeds with commas between, such "
                "as 1,2,3."
            )
        if int(part) in found:
            raise InputError(f"Seed {int(part)} is given twice; the two runs would be the same.")
        found.append(int(part))
    if len(found) > MOST_SEEDS:
        raise InputError(f"{len(found)} seeds are too many; give up to {MOST_SEEDS}.")
    return found


def with_seeds(plan: RunPlan, seeds: Sequence[int]) -> list[RunPlan]:
    """A plan for each seed, named alike.

    Args:
        plan: not prepared yet.
        seeds: from `seeds_of`.
    """
    name = plan.name or (f"{plan.method}, {counted(plan.n_edits, 'edit', form='')}" if plan.n_edits else plan.method)
    return [replace(plan, seed=seed, name=f"{name}, seed {seed}") for seed in seeds]


def apart_from_seed(run: RunInfo) -> tuple[object, ...]:
    """What two runs have in common that differ in their seed alone (and so perhaps in the facts that it draws)."""
    plan = {name: value for name, value in run.plan_json.items() if name not in ("seed", "name", "version")}
    return (
        json.dumps(plan, sort_keys=True),
        json.dumps(dict(run.settings), sort_keys=True),
        run.fingerprint,
        run.start_token,
        run.key_statistics,
        run.facts_digest if plan.get("order") == "file" else "",
    )


def same_but_seed(run: RunInfo, runs: Sequence[RunInfo]) -> list[RunInfo]:
    """A run and those of others that differ from it in their seed alone, one for each seed, by seed.

    Args:
        run: one of them; of several with its seed it is the one that is kept.
        runs: any.
    """
    wanted = apart_from_seed(run)
    found = {run.plan_json.get("seed"): run}
    for other in runs:
        if apart_from_seed(other) == wanted:
            found.setdefault(other.plan_json.get("seed"), other)
    return sorted(found.values(), key=lambda each: each.plan_json.get("seed", 0))


def tag_of_seeds() -> str:
    """A tag that runs of one plan with several seeds have in common, and no others."""
    return f"seeds-{secrets.token_hex(2)}"
