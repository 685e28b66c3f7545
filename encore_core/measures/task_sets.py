"""The data of the downstream tasks from the hub, for users without their own folder.

======  ==================================================  ========================
task    data set on the hub                                 rows
======  ==================================================  ========================
sst2    nyu-mll/glue, sst2                                  validation
mrpc    nyu-mll/glue, mrpc                                  validation
cola    nyu-mll/glue, cola                                  validation
rte     nyu-mll/glue, rte                                   validation
nli     nyu-mll/glue, rte                                   training: other sentences
mmlu    cais/mmlu, all                                      validation
======  ==================================================  ========================

Every answer gets as many rows as the rarest one has, and the rows are shuffled with a fixed seed, so that the first
tests of a task are a fair sample. Scores depend on which rows come first: they can be compared between runs on the same
folder, but not with scores from another selection.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from encore_core.hub import fetch_file, hub_trouble, reason_of
from encore_core.measures.tasks import TASKS, load_tasks
from encore_core.models.editable import Progress
from encore_core.storage import data_folder, replacing

HUB = "hub"
"""Given in place of a folder, it means the hub's data."""

SEED = 0


@dataclass(frozen=True)
class _Source:
    """Where the rows of a task are.

    Attributes:
        repo, file: data set, and Parquet file in it.
        fields: columns to keep, the one with the answer last.
        answers: what the answer's values become in our files; by default they stay as they are.
    """

    repo: str
    file: str
    fields: tuple[str, ...]
    answers: Mapping[int, str] | None = None


def _glue(
    name: str, fields: tuple[str, ...], split: str = "validation", answers: Mapping[int, str] | None = None
) -> _Source:
    return _Source("nyu-mll/glue", f"{name}/{split}-00000-of-00001.parquet", (*fields, "label"), answers)


_PAIR = ("sentence1", "sentence2")
_SOURCES = {
    "sst2": _glue("sst2", ("sentence",)),
    "mrpc": _glue("mrpc", _PAIR),
    "cola": _glue("cola", ("sentence",)),
    "rte": _glue("rte", _PAIR),
    "nli": _glue("rte", _PAIR, "train", {0: "entailment", 1: "not_entailment"}),
    "mmlu": _Source("cais/mmlu", "all/validation-00000-of-00001.parquet", ("question", "subject", "choices", "answer")),
}


def hub_folder() -> Path:
    """Where the hub's data are kept once they have been fetched."""
    return data_folder() / "downstream"


def tasks_folder(where: str | Path, progress: Progress | None = None) -> Path:
    """The folder of downstream data: the one given, or for "hub" the hub's, fetched if it is not here.

    Raises:
        InputError: as `fetch_tasks`.
    """
    return fetch_tasks(progress) if where == HUB else Path(where)


def is_fetched() -> bool:
    """Whether the hub's data are here."""
    return all((hub_folder() / f"{name}.jsonl").is_file() for name in TASKS)


def fetch_tasks(progress: Progress | None = None) -> Path:
    """Fetch the data of all tasks from the hub, completely or not at all, unless they are here already.

    Args:
        progress: called before each task.

    Returns:
        the folder, which `tasks.load_tasks` reads.

    Raises:
        InputError: when the hub cannot be reached, or does not send the expected data.
    """
    folder = hub_folder()
    if is_fetched():
        return folder
    trouble = hub_trouble()
    if trouble is not None:
        raise InputError(
            f"The downstream tasks have not been fetched yet, and {trouble}; {trouble.remedy}, or give a folder with "
            f"{', '.join(f'{name}.jsonl' for name in TASKS)}."
        )
    with replacing(folder) as part:
        part.mkdir()
        for number, (name, source) in enumerate(_SOURCES.items()):
            if progress is not None:
                progress(f"Fetching downstream task {name}", number / len(_SOURCES))
            lines = [json.dumps(row, ensure_ascii=False) for row in _balanced(_rows(name, source), source.fields[-1])]
            (part / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        load_tasks(part)
    return folder


def _rows(name: str, source: _Source) -> list[dict[str, Any]]:
    """The rows of a task with the fields of our files."""
    from pyarrow.parquet import read_table

    try:
        file = fetch_file(source.repo, source.file, "main", "dataset")
        rows = read_table(file, columns=list(source.fields)).to_pylist()
        if source.answers is not None:
            label = source.fields[-1]
            rows = [row | {label: source.answers[row[label]]} for row in rows]
        return [{field: row[field] for field in source.fields} for row in rows]
    # The client and the reader raise many kinds of errors, which all mean the same here.
    except Exception as error:
        raise InputError(
            f"Downstream task {name!r} cannot be fetched from {source.repo} ({reason_of(error)}); try again, or give a "
            f"folder with {name}.jsonl and the others."
        ) from error


def _balanced(rows: Sequence[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """As many rows of each answer as of the rarest, shuffled."""
    draw = random.Random(SEED)
    by_answer: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_answer.setdefault(row[label], []).append(row)
    rarest = min(map(len, by_answer.values()), default=0)
    chosen = [row for _, group in sorted(by_answer.items()) for row in draw.sample(group, rarest)]
    draw.shuffle(chosen)
    return chosen
