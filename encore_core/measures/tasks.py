"""The six downstream tasks, which have nothing to do with the edits: how their rows become prompts, and their files.

=====  ==========================================================  ====================================================
sst2   is a review kind?                                           positive / negative
mrpc   do two sentences say the same?                              Yes / No
cola   is a sentence good English?                                 Yes / No
rte    does the second sentence follow from the first?             True / False
nli    the same, in other words, on other sentences                True / False
mmlu   which of four answers to an exam question is right?         A / B / C / D
=====  ==========================================================  ====================================================

The first ten rows of a task's file are the pool from which four examples are chosen; the rows after them are the tests.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encore_core.errors import InputError, quoted
from encore_core.forward.prompts import joined

POOL = 10
"""Rows at the start of a file from which examples are chosen."""

SHOTS = 4
"""Examples before every test."""

MAX_BYTES = 20 * 1000 * 1000
"""Largest file that is read."""


@dataclass(frozen=True)
class Example:
    """A question as the model reads it, and the right one of the task's options."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A task ready to be asked.

    Attributes:
        name: one of `TASKS`.
        options: the possible answers.
        shots: examples before every test.
        tests: in the file's order.
    """

    name: str
    options: tuple[str, ...]
    shots: tuple[Example, ...]
    tests: tuple[Example, ...]

    @property
    def opening(self) -> str:
        """The examples with their answers, separated by blank lines, to be followed by a test."""
        return "".join(f"{joined(shot.prompt, shot.answer)}\n\n" for shot in self.shots)


@dataclass(frozen=True)
class _Recipe:
    """How rows of a file become examples.

    Attributes:
        fields: the text fields from which the prompt is made.
        label: the field with the answer.
        answers: the option for each of its values.
        prompt: makes the prompt of a row.
    """

    fields: tuple[str, ...]
    label: str
    answers: dict[int | str, str]
    prompt: Callable[[Mapping[str, Any]], str]

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(self.answers.values())


_YES_NO = {1: "Yes", 0: "No"}
_RECIPES = {
    "sst2": _Recipe(
        ("sentence",),
        "label",
        {1: "positive", 0: "negative"},
        lambda row: f"Review : {row['sentence']}\nSentiment :",
    ),
    "mrpc": _Recipe(
        ("sentence1", "sentence2"),
        "label",
        _YES_NO,
        lambda row: (
            "Are the sentences paraphrases of each other.\n"
            f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}\nAnswer:"
        ),
    ),
    "cola": _Recipe(
        ("sentence",),
        "label",
        _YES_NO,
        lambda row: f"Is this sentence linguistically acceptable?\nSentence: {row['sentence']}\nAnswer:",
    ),
    "rte": _Recipe(
        ("sentence1", "sentence2"),
        "label",
        {0: "True", 1: "False"},  # GLUE numbers entailment 0
        lambda row: f"{row['sentence1']}\nquestion: {row['sentence2']} True or False?\nanswer:",
    ),
    "nli": _Recipe(
        ("sentence1", "sentence2"),
        "label",
        {"entailment": "True", "not_entailment": "False"},
        lambda row: f"{row['sentence1']} entails the {row['sentence2']} True or False? Answer:",
    ),
    "mmlu": _Recipe(
        ("question", "choices"),
        "answer",
        {0: "A", 1: "B", 2: "C", 3: "D"},
        lambda row: (
            f"Question: {row['question']}\n"
            + " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
            + "\nAnswer:"
        ),
    ),
}
TASKS = tuple(_RECIPES)


def load_tasks(folder: Path | str, names: Sequence[str] = TASKS) -> dict[str, Task]:
    """Read tasks from a folder with a file `NAME.jsonl` for each, one JSON object per line.

    The examples are the first four of the first ten rows that keep the answers balanced (two per class, or one for
    MMLU); if the pool lacks a class, the first of the other rows are used.

    Args:
        folder: where the files are. `sst2` and `cola` have fields `sentence` and `label`; `mrpc`, `rte` and `nli`
            `sentence1`, `sentence2` and `label`; `mmlu` `question`, `choices` (four) and `answer`. Others are ignored.
        names: which tasks.

    Returns:
        the tasks by name.

    Raises:
        InputError: for an unknown name, a missing or unreadable file, a row without its fields, or too few rows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"Folder of downstream tasks {quoted(str(folder))} does not exist; give one with *.jsonl.")
    unknown = [name for name in names if name not in _RECIPES]
    if unknown:
        raise InputError(f"Unknown downstream task {quoted(unknown[0])}; there are {', '.join(TASKS)}.")
    return {name: _read_task(name, folder / f"{name}.jsonl") for name in names}


def _read_task(name: str, file: Path) -> Task:
    recipe = _RECIPES[name]
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"Downstream task {name!r}: {file} is larger than {MAX_BYTES // 10**6} MB; shorten it.")
        # Not splitlines: texts may contain other kinds of line separators.
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"Downstream task {name!r} has no file {file}; put it there or leave it out.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Downstream task {name!r}: {file} cannot be read: {error}") from error
    examples = [
        _example(recipe, line, f"Downstream task {name!r}, {file.name}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if len(examples) <= POOL:
        raise InputError(
            f"Downstream task {name!r}: {file} has {len(examples)} rows; the first {POOL} are for examples, so give "
            f"at least {POOL + 1}."
        )
    shots = _choose_shots(examples[:POOL], len(recipe.options))
    return Task(name, recipe.options, shots, tuple(examples[POOL:]))


def _example(recipe: _Recipe, line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: {quoted(line)} is not valid JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {quoted(row)} is not a JSON object.")
    for name in (*recipe.fields, recipe.label):
        if name not in row:
            raise InputError(f"{where}: there is no field {name!r}; the row has {quoted(sorted(row))}.")
    texts = {name: _text(row[name], name, where) for name in recipe.fields}
    label = row[recipe.label]
    # A bool would pass as the number that it equals.
    if type(label) not in (int, str) or label not in recipe.answers:
        known = ", ".join(map(repr, recipe.answers))
        raise InputError(f"{where}: {recipe.label} {quoted(label)} is unknown; it must be one of {known}.")
    return Example(recipe.prompt(texts), recipe.answers[label])


def _text(value: object, name: str, where: str) -> str | list[str]:
    """A text field of a row, stripped of white space; for choices, each of them."""
    if name == "choices":
        if not isinstance(value, list) or len(value) != 4:
            raise InputError(f"{where}: choices {quoted(value)} are not four; give a list of four texts.")
        return [_text(choice, "choice", where) for choice in value]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name} {quoted(value)} is not text; give some that is not blank.")
    return value.strip()


def _choose_shots(pool: Sequence[Example], n_options: int) -> tuple[Example, ...]:
    share = -(-SHOTS // n_options)
    taken: Counter[str] = Counter()
    balanced, others = [], []
    for number, example in enumerate(pool):
        taken[example.answer] += 1
        (balanced if taken[example.answer] <= share else others).append(number)
    return tuple(pool[number] for number in sorted([*balanced, *others][:SHOTS]))
