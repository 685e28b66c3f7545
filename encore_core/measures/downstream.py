"""What else the model has lost: the tasks of `tasks`, asked with four examples before each test.

The examples are the same for every test, so they are run once and their keys and values shared. There are two
predictions for each test: what the model *says*, the first word of three greedily decoded tokens, and the answer that
it finds *most probable*, with the lowest negative log-likelihood per token. F1 is computed per answer and averaged with
the answers' frequencies as weights; a test whose greedy answer is none of the options counts against the right answer.
The second prediction is kinder, because it is always one of the options.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from encore_core.errors import InputError
from encore_core.forward.decoding import GrowingPrefix, end_tokens, shared_start
from encore_core.forward.prompts import batches_by_length, encode, pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import Prefix
from encore_core.measures import intervals
from encore_core.measures.intervals import Interval
from encore_core.measures.tasks import Task
from encore_core.models.editable import EditableModel, Progress

MAX_TESTS = 100

GENERATED_TOKENS = 3

MAX_TOKENS = 1024
"""Tokens of tests run at a time, padding included."""


_SAID = "generated: four examples before each test, greedy, the first word of three tokens"
PROTOCOLS = {
    "f1": _SAID,
    "accuracy": _SAID,
    "f1_nll": "teacher-forced: four examples before each test, the option of highest mean log-probability per token",
}
"""Score → how it comes about, for whatever shows it."""


class TaskAnswer(NamedTuple):
    """One test: the right answer, what the model says (None for none of the options), what it finds most probable."""

    truth: str
    said: str | None
    likelier: str | None


@dataclass(frozen=True)
class TaskScores:
    """How well the model does a task. F1 and accuracy are × 100.

    Attributes:
        f1: weighted F1 of what the model says.
        f1_nll: weighted F1 of the answers that it finds most probable.
        accuracy: share of tests where it says the right answer.
        unparsable: number of tests where it says none of the options.
        n: number of tests asked.
        too_long: number of tests left out because they do not fit into the model's context with the examples.
        answers: of each test asked, by its place among the task's tests.
    """

    f1: float
    f1_nll: float
    accuracy: float
    unparsable: int
    n: int
    too_long: int
    answers: Mapping[int, TaskAnswer] = field(repr=False, default_factory=dict)

    def interval(self, metric: str, seed: int = 0) -> Interval:
        """A score ("f1", "f1_nll" or "accuracy") with its 95 % interval over tests."""
        truth, said, likelier = zip(*self.answers.values(), strict=True)
        if metric == "accuracy":
            found = intervals.of_mean([float(one.truth == one.said) for one in self.answers.values()], seed)
        else:
            found = intervals.of_weighted_f1(truth, said if metric == "f1" else likelier, seed)
        return found.times(100.0)


def evaluate_tasks(
    lm: EditableModel, tasks: Mapping[str, Task], max_tests: int = MAX_TESTS, progress: Progress | None = None
) -> dict[str, TaskScores]:
    """Ask several tasks, see `evaluate_task`.

    Args:
        lm: the model, with whatever edits are in place.
        tasks: from `load_tasks`.
        max_tests: at most how many tests per task.
        progress: called before each task.
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
        task: the task.
        max_tests: at most how many tests.

    Raises:
        InputError: when `max_tests` is below 1, or no test fits into the model's context.
    """
    if max_tests < 1:
        raise InputError(f"{max_tests} tests per task are too few; give a whole number from 1.")
    tests = task.tests[:max_tests]
    rows = [tokens.ids for tokens in tokens_of(lm, [task.opening + test.prompt for test in tests])]
    # Every prompt ends alike, so the answers' tokens are the same after all of them, and the end is enough.
    ending = " ".join(tests[0].prompt.split()[-2:])
    options = [encode(lm, ending, option).target_ids for option in task.options]
    n_behind = max(GENERATED_TOKENS, *map(len, options)) - 1
    fitting = [index for index, ids in enumerate(rows) if len(ids) + n_behind <= lm.max_length]
    if not fitting:
        raise InputError(
            f"Downstream task {task.name!r}: its {len(task.shots)} examples and a test have at least "
            f"{min(map(len, rows))} tokens, but the model takes at most {lm.max_length}; leave the task out."
        )
    answers: dict[int, TaskAnswer] = {}
    with lm.lock:
        n_shared, before = shared_start(lm, [rows[index] for index in fitting])
        own = [rows[index][n_shared:] for index in fitting]
        for group in batches_by_length(list(map(len, own)), MAX_TOKENS):
            texts, choices = _ask(lm, before, [own[i] for i in group], options, n_behind)
            for i, text, choice in zip(group, texts, choices, strict=True):
                likelier = None if choice is None else task.options[choice]
                place = fitting[i]
                answers[place] = TaskAnswer(tests[place].answer, parsed(text, task.options), likelier)
    return _scored(dict(sorted(answers.items())), too_long=len(tests) - len(fitting))


def _scored(answers: Mapping[int, TaskAnswer], too_long: int) -> TaskScores:
    truth, said, likelier = zip(*answers.values(), strict=True)
    right = sum(answer == wanted for answer, wanted in zip(said, truth, strict=True))
    return TaskScores(
        f1=100 * weighted_f1(truth, said),
        f1_nll=100 * weighted_f1(truth, likelier),
        accuracy=100 * right / len(truth),
        unparsable=said.count(None),
        n=len(truth),
        too_long=too_long,
        answers=answers,
    )


def _ask(
    lm: EditableModel,
    before: Prefix | None,
    rows: Sequence[tuple[int, ...]],
    options: Sequence[tuple[int, ...]],
    n_behind: int,
) -> tuple[list[str], list[int | None]]:
    """What the model says after each row, and the index of the most probable option (None if logits are not finite)."""
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
    """(n_rows,) mean log-probability of an option's tokens after those in the cache, which is left as it was.

    Args:
        logits: (n_rows, n_vocab) float32, at the last token in the cache.
    """
    steps = logits[:, None]
    if len(option) > 1:
        tail = torch.tensor(option[:-1], device=lm.device).expand(len(logits), -1)
        steps = torch.cat([steps, cache.run(lm, tail, torch.ones_like(tail)).float()], dim=1)
        cache.forget(len(option) - 1)
    wanted = torch.tensor(option, device=lm.device).expand(len(logits), -1)
    return (steps.gather(2, wanted[..., None])[..., 0] - steps.logsumexp(-1)).mean(1)


def _texts(lm: EditableModel, tokens: Sequence[torch.Tensor], ends: set[int]) -> list[str]:
    """The text of each row, up to a token that ends it."""
    rows = torch.stack(list(tokens), dim=1).tolist()
    cut = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    texts = lm.tokenizer.batch_decode([row[:end] for row, end in zip(rows, cut, strict=True)])
    # The line end marks that the text is over, so that its last word is complete.
    return [text + "\n" * (end < len(row)) for text, row, end in zip(texts, rows, cut, strict=True)]


def _complete(text: str) -> bool:
    """Whether the first word cannot change any more, whatever follows."""
    return re.match(r"\W*\w+\W", text) is not None


def parsed(text: str, options: Sequence[str]) -> str | None:
    """The option that is a text's first word, or None.

    Brackets and other marks before the word are skipped. Case is ignored in words but not in single letters ("A" is an
    answer, "a" an article).
    """
    match = re.match(r"\W*(\w+)", text)
    if match is None:
        return None
    word = match[1]
    return next((o for o in options if word == o or (len(o) > 1 and word.casefold() == o.casefold())), None)


def weighted_f1(truth: Sequence[str], predictions: Sequence[str | None]) -> float:
    """F1 per class, averaged with the classes' frequencies in `truth` as weights; from 0 to 1.

    F1 = 2 TP / (2 TP + FP + FN). A prediction of None misses the right class, but is no false positive of another.

    Args:
        truth: the right answers; at least one.
        predictions: for each an answer or None.
    """
    pairs = list(zip(truth, predictions, strict=True))
    total = 0.0
    for name, frequency in Counter(truth).items():
        hits = sum(wanted == name == found for wanted, found in pairs)
        claimed = sum(found == name for _, found in pairs)
        total += frequency * 2 * hits / (frequency + claimed)
    return total / len(pairs)
