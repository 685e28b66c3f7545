"""What the model lost besides: six tasks that have nothing to do with the edits, asked with four examples before each.

=====  ==========================================================  ====================================================
sst2   is a review kind?                                           positive / negative
mrpc   do two sentences say the same?                              Yes / No
cola   is a sentence good English?                                 Yes / No
rte    does the second sentence follow from the first?             True / False
nli    the same, in other words, on other sentences                True / False
mmlu   which of four answers to an exam question is right?         A / B / C / D
=====  ==========================================================  ====================================================

The first ten rows of a task's file are the pool from which four examples are chosen, the rows behind them are the
tests. The examples are the same for every test, so they are run once and their keys and values shared. Two predictions
are made of each test: what the model *says*, the first word of three greedily decoded tokens, and the answer that it
finds *more probable*, by the lower negative log-likelihood a token. F1 is computed per answer and averaged with the
answers' frequencies as weights; a test whose greedy answer is none of the options counts against the answer it should
have had. The second prediction is kinder, because it always is one of the options.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import GrowingPrefix, end_tokens
from encore_core.forward.prompts import batches_by_length, encode, joined, pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import Prefix, record_prefix
from encore_core.models.editable import EditableModel, Progress

POOL = 10
"""Rows at the start of a file from which examples are chosen."""

SHOTS = 4
"""Examples before every test."""

MAX_TESTS = 100

GENERATED_TOKENS = 3

MAX_TOKENS = 1024
"""Tokens of tests that are run at a time, padding included."""

MAX_BYTES = 20 * 1000 * 1000
"""Largest file that is read."""


# -- the tasks ---------------------------------------------------------------------------------------------------------


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
        options: the answers there are.
        shots: examples before every test.
        tests: in the file's order.
    """

    name: str
    options: tuple[str, ...]
    shots: tuple[Example, ...]
    tests: tuple[Example, ...]

    @property
    def opening(self) -> str:
        """The examples with their answers, parted by blank lines, up to where a test begins."""
        return "".join(f"{joined(shot.prompt, shot.answer)}\n\n" for shot in self.shots)


@dataclass(frozen=True)
class _Recipe:
    """How rows of a file become examples.

    Attributes:
        fields: of text, which the prompt is made of.
        label: the field with the answer.
        answers: what its values mean.
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
    """Read tasks from a folder with a file `NAME.jsonl` for each, one JSON object a line.

    Of the first ten rows, the examples are the first four in the file's order that keep the answers in balance (two a
    class, or one for MMLU); where the pool lacks a class, the first of the others fill up.

    Args:
        folder: where the files are. `sst2` and `cola` have fields `sentence` and `label`; `mrpc`, `rte` and `nli`
            `sentence1`, `sentence2` and `label`; `mmlu` `question`, `choices` (four) and `answer`. Others are ignored.
        names: which tasks.

    Returns:
        per name its task.

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
        # Not splitlines: texts may have line separators of other kinds in them.
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
            f"Downstream task {name!r}: {file} has {len(examples)} rows; the first {POOL} are for examples, so at "
            f"least {POOL + 1} are needed."
        )
    shots = _choose_shots(examples[:POOL], len(recipe.options))
    return Task(name, recipe.options, shots, tuple(examples[POOL:]))


def _example(recipe: _Recipe, line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: {quoted(line)} is no JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {quoted(row)} is no JSON object.")
    for name in (*recipe.fields, recipe.label):
        if name not in row:
            raise InputError(f"{where}: there is no field {name!r}; the row has {quoted(sorted(row))}.")
    texts = {name: _text(row[name], name, where) for name in recipe.fields}
    label = row[recipe.label]
    # A bool would pass for the number that it equals.
    if type(label) not in (int, str) or label not in recipe.answers:
        known = ", ".join(map(repr, recipe.answers))
        raise InputError(f"{where}: {recipe.label} {quoted(label)} is unknown; it must be one of {known}.")
    return Example(recipe.prompt(texts), recipe.answers[label])


def _text(value: object, name: str, where: str) -> str | list[str]:
    """A field of a row without white space around it; of choices, each."""
    if name == "choices":
        if not isinstance(value, list) or len(value) != 4:
            raise InputError(f"{where}: choices {quoted(value)} are not four; give a list of four texts.")
        return [_text(choice, "choice", where) for choice in value]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name} {quoted(value)} is no text; give one that is not blank.")
    return value.strip()


def _choose_shots(pool: Sequence[Example], n_options: int) -> tuple[Example, ...]:
    share = -(-SHOTS // n_options)
    taken: Counter[str] = Counter()
    balanced, others = [], []
    for number, example in enumerate(pool):
        taken[example.answer] += 1
        (balanced if taken[example.answer] <= share else others).append(number)
    return tuple(pool[number] for number in sorted([*balanced, *others][:SHOTS]))


# -- asking them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskScores:
    """How well the model does a task. F1 and accuracy × 100.

    Attributes:
        f1: weighted F1 of what the model says.
        f1_nll: weighted F1 of the answers that it finds most probable.
        accuracy: share of tests where it says the right answer.
        unparsable: tests where it says none of the options.
        n: tests asked.
        too_long: tests left out because they do not fit into the model's context with the examples.
    """

    f1: float
    f1_nll: float
    accuracy: float
    unparsable: int
    n: int
    too_long: int


def evaluate_tasks(
    lm: EditableModel, tasks: Mapping[str, Task], max_tests: int = MAX_TESTS, progress: Progress | None = None
) -> dict[str, TaskScores]:
    """Ask several tasks, see `evaluate_task`.

    Args:
        lm: the model, with whatever edits are in place.
        tasks: as `load_tasks` gives them.
        max_tests: tests a task at most.
        progress: told of each task.
    """
    scores = {}
    for number, (name, task) in enumerate(tasks.items()):
        if progress is not None:
            progress(f"Downstream task {name}", number / len(tasks))
        scores[name] = evaluate_task(lm, task, max_tests)
    return scores


@torch.no_grad()
def evaluate_task(lm: EditableModel, task: Task, max_tests: int = MAX_TESTS) -> TaskScores:
    """Ask the first tests of a task.

    Args:
        lm: the model, with whatever edits are in place.
        task: what to ask.
        max_tests: how many tests at most.

    Raises:
        InputError: when `max_tests` is below 1, or no test fits into the model's context.
    """
    if max_tests < 1:
        raise InputError(f"{max_tests} tests a task are too few; give a whole number from 1.")
    tests = task.tests[:max_tests]
    rows = [tokens.ids for tokens in tokens_of(lm, [task.opening + test.prompt for test in tests])]
    # Every prompt ends alike, so the answers' tokens are the same behind all of them, and the end is enough.
    ending = " ".join(tests[0].prompt.split()[-2:])
    options = [encode(lm, ending, option).target_ids for option in task.options]
    n_behind = max(GENERATED_TOKENS, *map(len, options)) - 1
    fitting = [index for index, ids in enumerate(rows) if len(ids) + n_behind <= lm.max_length]
    if not fitting:
        raise InputError(
            f"Downstream task {task.name!r}: its {len(task.shots)} examples and a test have at least "
            f"{min(map(len, rows))} tokens, but the model takes at most {lm.max_length}; leave the task out."
        )
    said: list[str | None] = []
    likelier: list[str | None] = []
    truth: list[str] = []
    with lm.lock:
        shared = _common_start([rows[index] for index in fitting])
        before = _recorded(lm, shared) if shared else None
        own = [rows[index][len(shared) :] for index in fitting]
        for group in batches_by_length(list(map(len, own)), MAX_TOKENS):
            texts, choices = _ask(lm, before, [own[i] for i in group], options, n_behind)
            said += [parsed(text, task.options) for text in texts]
            likelier += [None if choice is None else task.options[choice] for choice in choices]
            truth += [tests[fitting[i]].answer for i in group]
    right = sum(answer == wanted for answer, wanted in zip(said, truth, strict=True))
    return TaskScores(
        f1=100 * weighted_f1(truth, said),
        f1_nll=100 * weighted_f1(truth, likelier),
        accuracy=100 * right / len(truth),
        unparsable=said.count(None),
        n=len(truth),
        too_long=len(tests) - len(fitting),
    )


def _common_start(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens that all rows begin with, but for at least one of each."""
    length = min(map(len, rows)) - 1
    while any(row[:length] != rows[0][:length] for row in rows):
        length -= 1
    return rows[0][:length]


def _recorded(lm: EditableModel, ids: tuple[int, ...]) -> Prefix:
    batch = pad(lm, [ids])
    return record_prefix(lm, batch.ids, batch.mask)[0]


def _ask(
    lm: EditableModel,
    before: Prefix | None,
    rows: Sequence[tuple[int, ...]],
    options: Sequence[tuple[int, ...]],
    n_behind: int,
) -> tuple[list[str], list[int | None]]:
    """What the model says behind each row, and which option is the most probable (None: no logits to tell by)."""
    batch = pad(lm, rows)
    cache = GrowingPrefix(lm, len(rows), batch.ids.shape[1] + n_behind, before)
    everyone = torch.arange(len(rows), device=lm.device)
    logits = cache.run(lm, batch.ids, batch.mask, logits_at=(everyone, batch.mask.sum(-1) - 1)).float()
    likelihoods = torch.stack([_log_likelihood(lm, cache, logits, option) for option in options], dim=1).cpu()
    choices = [
        int(row.argmax()) if bool(row.isfinite().all()) else None  # a broken model's logits
        for row in likelihoods
    ]
    ends = end_tokens(lm)
    tokens = [logits.argmax(-1)]
    texts = _texts(lm, tokens, ends)
    while len(tokens) < GENERATED_TOKENS and not all(map(_complete, texts)):
        token = tokens[-1][:, None]
        tokens.append(cache.run(lm, token, torch.ones_like(token))[:, -1].argmax(-1))
        texts = _texts(lm, tokens, ends)
    return texts, choices


def _log_likelihood(
    lm: EditableModel, cache: GrowingPrefix, logits: torch.Tensor, option: tuple[int, ...]
) -> torch.Tensor:
    """(n_rows,) mean log-probability of an option's tokens behind what is in the cache, which is left as it was.

    Args:
        logits: (n_rows, n_vocab) float32, behind the last token in the cache.
    """
    steps = logits[:, None]
    if len(option) > 1:
        tail = torch.tensor(option[:-1], device=lm.device).expand(len(logits), -1)
        steps = torch.cat([steps, cache.run(lm, tail, torch.ones_like(tail)).float()], dim=1)
        cache.forget(len(option) - 1)
    wanted = torch.tensor(option, device=lm.device).expand(len(logits), -1)
    return (steps.gather(2, wanted[..., None])[..., 0] - steps.logsumexp(-1)).mean(1)


def _texts(lm: EditableModel, tokens: Sequence[torch.Tensor], ends: set[int]) -> list[str]:
    """The tokens of each row up to one that ends a text."""
    rows = torch.stack(list(tokens), dim=1).tolist()
    cut = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    texts = lm.tokenizer.batch_decode([row[:end] for row, end in zip(rows, cut, strict=True)])
    # The text is over: nothing that follows belongs to its last word.
    return [text + "\n" * (end < len(row)) for text, row, end in zip(texts, rows, cut, strict=True)]


def _complete(text: str) -> bool:
    """Whether the first word cannot change any more, whatever follows."""
    return re.match(r"\W*\w+\W", text) is not None


def parsed(text: str, options: Sequence[str]) -> str | None:
    """The option that a text begins with as its first word, or None.

    Brackets and other marks before the word are passed over. Words are compared without regard to case, single letters
    with ("A" is an answer, "a" an article).
    """
    match = re.match(r"\W*(\w+)", text)
    if match is None:
        return None
    word = match[1]
    return next((o for o in options if word == o or (len(o) > 1 and word.casefold() == o.casefold())), None)


def weighted_f1(truth: Sequence[str], predictions: Sequence[str | None]) -> float:
    """F1 per class, averaged with the classes' frequencies in `truth` as weights; from 0 to 1.

    F1 = 2 TP / (2 TP + FP + FN). A prediction of None is of a class of its own, which no truth belongs to: it misses
    the right class and falsely claims none.

    Args:
        truth: the right answers; at least one.
        predictions: as many answers, or None.
    """
    pairs = list(zip(truth, predictions, strict=True))
    total = 0.0
    for name, frequency in Counter(truth).items():
        hits = sum(wanted == name == found for wanted, found in pairs)
        claimed = sum(found == name for _, found in pairs)
        total += frequency * 2 * hits / (frequency + claimed)
    return total / len(pairs)
