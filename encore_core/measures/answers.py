"""How probable answers to prompts are, teacher-forced, and which tokens a model would say next.

An answer is rated by the mean log-probability of its tokens after a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from encore_core.facts import Fact
from encore_core.forward.prompts import Encoded, Text, batches_by_length, encode_all, pad, tokens_of_pass
from encore_core.forward.tracing import record_prefix, run
from encore_core.models.editable import EditableModel

TOKENS_OF_A_PASS = 24
"""Tokens that a pass may have more if that saves another: reading the weights takes as long as computing with some."""


@dataclass(frozen=True)
class Answer:
    """How a model rates one answer to one prompt.

    Attributes:
        log_probability: mean over the answer's tokens, natural logarithm.
        hits: for each token, whether it is the most probable one.
    """

    log_probability: float
    hits: tuple[bool, ...]

    @property
    def probability(self) -> float:
        """Geometric mean of the tokens' probabilities."""
        return math.exp(self.log_probability)

    @property
    def said(self) -> bool:
        """Whether greedy decoding says exactly this."""
        return all(self.hits)


class Question(NamedTuple):
    """A prompt and an answer to be rated.

    Attributes:
        prompt, answer: texts.
        join: what goes between them; None lets the texts decide (see `joining`).
    """

    prompt: str
    answer: str
    join: str | None = None


def questions(facts: Sequence[Fact]) -> list[Question]:
    """The prompts of facts with their new answers."""
    return [Question(fact.text, fact.target_new, fact.join) for fact in facts]


@torch.no_grad()
def answer_probabilities(
    lm: EditableModel, pairs: Sequence[tuple[str, str] | Question], bare: bool = False
) -> list[Answer]:
    """How probable answers to prompts are, teacher-forced.

    Prompts are run once however many answers they have; the output matrix is applied only where an answer's token is
    predicted.

    Args:
        lm: the model, with whatever edits are in place.
        pairs: (prompt, answer), or questions, which say how the two are joined.
        bare: leave out the start token, as programs do that put none in front.

    Returns:
        one rating per pair, in order.
    """
    return _rated(lm, _encoded(lm, pairs, bare))


@torch.no_grad()
def probabilities_with_and_without_start(
    lm: EditableModel, pairs: Sequence[tuple[str, str] | Question]
) -> tuple[list[Answer], list[Answer]]:
    """`answer_probabilities` with the model's start token, and `bare`: one pass, in which few rows cost as one."""
    both = _rated(lm, [*_encoded(lm, pairs, False), *_encoded(lm, pairs, True)])
    return both[: len(pairs)], both[len(pairs) :]


def _encoded(lm: EditableModel, pairs: Sequence[tuple[str, str] | Question], bare: bool) -> list[Encoded]:
    asked = [Question(*pair) for pair in pairs]
    return encode_all(lm, [Text(one.prompt, one.answer, join=one.join) for one in asked], bare)


def _rated(lm: EditableModel, encoded: Sequence[Encoded]) -> list[Answer]:
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(encoded):
        by_prompt.setdefault(item.ids[: item.n_prompt], []).append(index)
    prompts = list(by_prompt)
    found: list[Answer | None] = [None] * len(encoded)
    with lm.lock:
        for group in batches_by_length([len(prompt) for prompt in prompts], tokens_of_pass(lm)):
            asked = [(row, index) for row, prompt in enumerate(group) for index in by_prompt[prompts[prompt]]]
            targets = [encoded[index].target_ids for _, index in asked]
            ratings = _rate_group(lm, [prompts[i] for i in group], [row for row, _ in asked], targets)
            for (_, index), rating in zip(asked, ratings, strict=True):
                found[index] = rating
    return found


def _rate_group(
    lm: EditableModel,
    prompts: Sequence[tuple[int, ...]],
    rows: Sequence[int],
    targets: Sequence[tuple[int, ...]],
) -> list[Answer]:
    """Ratings of answers (token ids) to prompts; answer i belongs to prompt rows[i]."""
    whole, row_of = _rows_with_answers(prompts, rows, targets)
    if len(whole) * max(map(len, whole)) <= len(prompts) * max(map(len, prompts)) + TOKENS_OF_A_PASS:
        return _rate_rows(lm, whole, row_of, [len(prompts[row]) for row in rows], targets)
    batch = pad(lm, prompts)
    ends = (torch.arange(len(prompts), device=lm.device), batch.mask.sum(-1) - 1)
    long = [i for i, target in enumerate(targets) if len(target) > 1]
    if long:
        prefix, logits = record_prefix(lm, batch.ids, batch.mask, logits_at=ends)
    else:
        logits = run(lm, batch.ids, batch.mask, logits_at=ends)
    asked = torch.tensor(rows, device=lm.device)
    firsts = torch.tensor([target[0] for target in targets], device=lm.device)
    log_probs, hits = _log_probs_and_hits(logits, asked, firsts)
    ratings = [([p], [h]) for p, h in zip(log_probs, hits, strict=True)]
    # The rest of the longer answers, on top of the prompts' keys and values.
    for start in range(0, len(long), 256):
        some = long[start : start + 256]
        tails = pad(lm, [targets[i][:-1] for i in some])
        places = [(row, column) for row, i in enumerate(some) for column in range(len(targets[i]) - 1)]
        at = tuple(torch.tensor(values, device=lm.device) for values in zip(*places, strict=True))
        tail_logits = run(lm, tails.ids, tails.mask, prefix=prefix.rows(asked[some]), logits_at=at)
        wanted = torch.tensor([token for i in some for token in targets[i][1:]], device=lm.device)
        log_probs, hits = _log_probs_and_hits(tail_logits, torch.arange(len(wanted), device=lm.device), wanted)
        for (row, _), log_prob, hit in zip(places, log_probs, hits, strict=True):
            ratings[some[row]][0].append(log_prob)
            ratings[some[row]][1].append(hit)
    return [Answer(sum(values) / len(values), tuple(hits)) for values, hits in ratings]


def _rows_with_answers(
    prompts: Sequence[tuple[int, ...]], rows: Sequence[int], targets: Sequence[tuple[int, ...]]
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Prompts with all but the last token of their answers behind them, and the row of each answer.

    The first long answer stands in its prompt's own row, which also says how probable answers of one token are; every
    further long one has a row to itself.
    """
    whole, row_of, taken = list(prompts), list(rows), set()
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        if len(target) > 1:
            text = (*prompts[row], *target[:-1])
            if row in taken:
                row_of[i] = len(whole)
                whole.append(text)
            else:
                taken.add(row)
                whole[row] = text
    return whole, row_of


def _rate_rows(
    lm: EditableModel,
    whole: Sequence[tuple[int, ...]],
    row_of: Sequence[int],
    n_prompts: Sequence[int],
    targets: Sequence[tuple[int, ...]],
) -> list[Answer]:
    """Ratings of answers in one pass.

    Args:
        whole, row_of: from `_rows_with_answers`.
        n_prompts: tokens of each answer's prompt.
        targets: the answers.
    """
    batch = pad(lm, whole)
    places = [
        (row, n_prompt - 1 + n)
        for row, n_prompt, target in zip(row_of, n_prompts, targets, strict=True)
        for n in range(len(target))
    ]
    # Answers of one prompt share the position of their first token.
    distinct = {place: number for number, place in enumerate(dict.fromkeys(places))}
    at = tuple(torch.tensor(values, device=lm.device) for values in zip(*distinct, strict=True))
    asked = torch.tensor([distinct[place] for place in places], device=lm.device)
    wanted = torch.tensor([token for target in targets for token in target], device=lm.device)
    log_probs, hits = _log_probs_and_hits(run(lm, batch.ids, batch.mask, logits_at=at), asked, wanted)
    ratings, start = [], 0
    for target in targets:
        end = start + len(target)
        ratings.append(Answer(sum(log_probs[start:end]) / len(target), tuple(hits[start:end])))
        start = end
    return ratings


def _log_probs_and_hits(
    logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
) -> tuple[list[float], list[bool]]:
    """Log-probability of tokens in rows of logits, and whether they are the most probable there."""
    logits = logits.float()
    normaliser, best = logits.logsumexp(-1), logits.argmax(-1)
    return (logits[rows, tokens] - normaliser[rows]).tolist(), (best[rows] == tokens).tolist()


@torch.no_grad()
def next_tokens(lm: EditableModel, prompts: Sequence[str], k: int = 8) -> list[list[tuple[str, float]]]:
    """The k most probable next tokens of each prompt with their probabilities, most probable first."""
    if not prompts:
        return []
    batch = pad(lm, [one.ids for one in encode_all(lm, [Text(prompt) for prompt in prompts])])
    ends = (torch.arange(len(prompts), device=lm.device), batch.mask.sum(-1) - 1)
    with lm.lock:
        probabilities = run(lm, batch.ids, batch.mask, logits_at=ends).float().softmax(-1)
    top = probabilities.topk(min(k, probabilities.shape[-1]))
    return [
        [(lm.tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
        for tokens, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
