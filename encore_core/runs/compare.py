"""Whether runs can be compared: what differs between them besides the method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from encore_core.runs.rows import NO_STATISTICS, RunInfo


@dataclass(frozen=True)
class Difference:
    """Something that should be the same in a comparison but is not.

    Attributes:
        what: "facts", "order", "seed", …
        values: for each run, in order, as text.
    """

    what: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what}: {' / '.join(self.values)}"


def differences(runs: Sequence[RunInfo]) -> list[Difference]:
    """What differs between runs but should be the same in a fair comparison, the gravest first.

    Args:
        runs: two or more; with fewer nothing differs.
    """

    def planned(run: RunInfo, name: str) -> str:
        return str(run.plan_json.get(name))

    loaded = all(run.fingerprint for run in runs)
    # What is compared, and how it is shown.
    compared = (
        # A model that has not been loaded yet is known only by its name.
        ("model", lambda run: run.fingerprint if loaded else run.model, lambda run: _base(run.model)),
        ("facts", lambda run: run.facts_digest, lambda run: f"{run.n_edits} of {_base(planned(run, 'facts'))}"),
        ("order", lambda run: run.order_digest, lambda run: planned(run, "order")),
        ("seed", lambda run: planned(run, "seed"), None),
        ("statistics", _statistics_of(runs), lambda run: run.key_statistics),
        ("start token", lambda run: run.in_front if loaded else str(run.plan.start_token), None),
        ("batch size", lambda run: planned(run, "batch_size"), None),
        ("known facts", lambda run: planned(run, "known"), None),
        ("precision", lambda run: planned(run, "dtype"), None),
        # A cluster's queue says nothing about where its runs were.
        ("device", lambda run: planned(run, "device"), None),
    )
    found: list[Difference] = []
    for what, key, shown in compared:
        keys = [key(run) for run in runs]
        if len({one for one in keys if one is not None}) < 2:
            continue
        texts = [(shown or key)(run) for run in runs]
        if len(set(texts)) == 1:  # only their content differs
            texts = [f"{text} ({value[:8]})" for text, value in zip(texts, keys, strict=True)]
        found.append(Difference(what, tuple(texts)))
    # Different facts always have a different order.
    kinds = {entry.what for entry in found}
    return [entry for entry in found if entry.what != "order" or "facts" not in kinds]


def _statistics_of(runs: Sequence[RunInfo]) -> Callable[[RunInfo], str | None]:
    """What distinguishes runs' key statistics: those they used; while one has used none yet, those they asked for. None
    for runs whose method needs none.

    For layers that all of them edit, the content decides; runs without a common layer are compared by text and size.
    """
    runs = [run for run in runs if run.statistics != NO_STATISTICS]
    if not all(run.statistics_used for run in runs):
        return lambda run: run.statistics if run.statistics != NO_STATISTICS else None
    common = set.intersection(*({row["layer"] for row in run.statistics_used} for run in runs)) if runs else set()

    def key(run: RunInfo) -> str | None:
        if run.statistics == NO_STATISTICS:
            return None
        rows = [row for row in run.statistics_used if row["layer"] in common or not common]
        of_layers = [row["content"] if common else f"{row['source']} {row['tokens']}" for row in rows]
        return hashlib.sha256("\n".join(of_layers if common else sorted(set(of_layers))).encode()).hexdigest()

    return key


def _base(path: str) -> str:
    """The last part of a path; the folders above it say little."""
    return path.rstrip("/").rpartition("/")[2] or path
