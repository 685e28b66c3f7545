"""Scores of an edited model: how probable the answers are, teacher-forced and generated.

An answer is rated by the mean log-probability of its tokens after a prompt. Edit and paraphrase score: share of prompts
with p(new) > p(true); neighbourhood score: share with p(true) > p(new); each averaged within a fact, then over facts,
× 100. Overall score: harmonic mean of the three. There are also magnitude, accuracy and generation efficacy, because
p(new) > p(true) is a lenient test: a model can prefer the new answer over the old and still say neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch

from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.forward.decoding import nothing_but_asked
from encore_core.forward.prompts import Encoded, Text, batches_by_length, encode, encode_all, pad
from encore_core.forward.tracing import record_prefix, run
from encore_core.models.editable import EditableModel

MAX_TOKENS = 8192
GENERATED_TOKENS = 12
"""Length of the continuation in which generation efficacy looks for the new answer."""


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


@dataclass(frozen=True)
class FactScores:
    """Scores of one fact, each from 0 to 1 except the magnitude; None where the fact has no such prompts.

    Attributes:
        edit, paraphrase, neighborhood: shares of prompts that go the edit's way, see the module.
        magnitude: p(new) − p(true) at the prompt; None without a true answer.
        accuracy: 1 when every token of the new answer is the most probable one.
        token_accuracy: share of the new answer's tokens that are the most probable ones (zsRE's measure).
        generation: 1 when the greedy continuation contains the new answer.
    """

    edit: float
    paraphrase: float | None
    neighborhood: float | None
    magnitude: float | None
    accuracy: float
    token_accuracy: float
    generation: float | None


@dataclass(frozen=True)
class Scores:
    """Means over facts × 100 (magnitude is not scaled); None where no fact has such prompts.

    Attributes:
        facts: how many facts.
        per_fact: the scores that are averaged.
        The others are described at `FactScores`; `overall_score` is the harmonic mean of the first three.
    """

    edit_score: float
    paraphrase_score: float | None
    neighborhood_score: float | None
    overall_score: float | None
    magnitude: float | None
    accuracy: float
    token_accuracy: float
    generation_efficacy: float | None
    facts: int
    per_fact: tuple[FactScores, ...] = field(repr=False)

    def as_dict(self) -> dict[str, float | int | None]:
        """The means without the facts they come from."""
        values = asdict(self)
        del values["per_fact"]
        return values


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
        for group in batches_by_length([len(prompt) for prompt in prompts], MAX_TOKENS):
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
    batch = pad(lm, _ids(lm, prompts))
    ends = (torch.arange(len(prompts), device=lm.device), batch.mask.sum(-1) - 1)
    with lm.lock:
        probabilities = run(lm, batch.ids, batch.mask, logits_at=ends).float().softmax(-1)
    top = probabilities.topk(min(k, probabilities.shape[-1]))
    return [
        [(lm.tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
        for tokens, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


@torch.no_grad()
def continuations(
    lm: EditableModel, prompts: Sequence[str], max_new_tokens: int = GENERATED_TOKENS, bare: bool = False
) -> list[str]:
    """Greedy continuations of prompts, without the prompts.

    Args:
        lm: the model, with whatever edits are in place.
        prompts: texts.
        max_new_tokens: greatest length; the end-of-text token ends a continuation earlier.
        bare: as for `answer_probabilities`.

    Raises:
        InputError: when a prompt and its continuation do not fit into the model's context.
    """
    encoded = _ids(lm, prompts, bare)
    for prompt, ids in zip(prompts, encoded, strict=True):
        _check_room(lm, prompt, len(ids), max_new_tokens)
    found = [""] * len(prompts)
    with lm.lock, nothing_but_asked(lm):
        for group in batches_by_length([len(ids) + max_new_tokens for ids in encoded], MAX_TOKENS):
            batch = pad(lm, [encoded[i] for i in group])
            # generate() continues at the right edge, so here alone padding goes on the left.
            shifts = (batch.mask.shape[1] - batch.mask.sum(-1)).tolist()
            ids = torch.stack([row.roll(shift) for row, shift in zip(batch.ids, shifts, strict=True)])
            mask = torch.stack([row.roll(shift) for row, shift in zip(batch.mask, shifts, strict=True)])
            out = lm.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
            texts = lm.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for index, text in zip(group, texts, strict=True):
                found[index] = text
    return found


def evaluate(lm: EditableModel, facts: Sequence[Fact], generate: bool = True, bare: bool = False) -> Scores:
    """Score facts on the model as it is.

    Args:
        lm: the model, with whatever edits are in place.
        facts: what was edited.
        generate: whether to measure generation efficacy, which takes the most time.
        bare: leave out the start token, as programs do that put none in front.

    Returns:
        the scores. A prompt without a true answer to compare with counts when the new answer is the most probable one.
    """
    pairs = [Question(*pair, fact.join) for fact in facts for pair in _pairs(fact)]
    ratings = dict(zip(pairs, answer_probabilities(lm, pairs, bare), strict=True))
    generated = continuations(lm, [fact.text for fact in facts], bare=bare) if generate else [None] * len(facts)
    return summarised([_score(fact, ratings, text) for fact, text in zip(facts, generated, strict=True)])


def check_scorable(lm: EditableModel, fact: Fact, generate: bool = True) -> None:
    """Refuse early a fact that `evaluate` would refuse.

    Args:
        lm: the model.
        fact: what would be scored.
        generate: whether generation efficacy would be measured.

    Raises:
        InputError: when a prompt does not fit into the model's context, or an answer has no token.
    """
    for prompt, answer in _pairs(fact):
        encode_all(lm, [Text(prompt, answer, join=fact.join)])
    if generate:
        _check_room(lm, fact.text, len(encode(lm, fact.text).ids), GENERATED_TOKENS)


def _ids(lm: EditableModel, prompts: Sequence[str], bare: bool = False) -> list[list[int]]:
    return [list(one.ids) for one in encode_all(lm, [Text(prompt) for prompt in prompts], bare)]


def _pairs(fact: Fact) -> list[tuple[str, str]]:
    """The prompts and answers that a fact is scored by."""
    pairs: list[tuple[str, str]] = []
    for prompt in (fact.text, *fact.paraphrases):
        pairs += [(prompt, fact.target_new), *([(prompt, fact.target_true)] if fact.target_true else [])]
    for neighbour in fact.neighbours:
        pairs += [(neighbour.prompt, neighbour.target), (neighbour.prompt, fact.target_new)]
    return pairs


def _check_room(lm: EditableModel, prompt: str, n_tokens: int, max_new_tokens: int) -> None:
    if n_tokens + max_new_tokens > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {n_tokens} tokens, which leaves no room for {max_new_tokens} more in the "
            f"model's {lm.max_length}; shorten it."
        )


def _score(fact: Fact, ratings: dict[Question, Answer], generated: str | None) -> FactScores:
    def of(prompt: str, answer: str) -> Answer:
        return ratings[Question(prompt, answer, fact.join)]

    def prefers_new(prompt: str) -> bool:
        new = of(prompt, fact.target_new)
        if fact.target_true is None:
            return new.said
        return new.log_probability > of(prompt, fact.target_true).log_probability

    def kept(prompt: str, answer: str) -> bool:
        return of(prompt, answer).log_probability > of(prompt, fact.target_new).log_probability

    new = of(fact.text, fact.target_new)
    true = of(fact.text, fact.target_true) if fact.target_true else None
    return FactScores(
        edit=float(prefers_new(fact.text)),
        paraphrase=_mean([prefers_new(prompt) for prompt in fact.paraphrases]),
        neighborhood=_mean([kept(neighbour.prompt, neighbour.target) for neighbour in fact.neighbours]),
        magnitude=new.probability - true.probability if true else None,
        accuracy=float(new.said),
        token_accuracy=_mean(new.hits),
        generation=None if generated is None else float(fact.target_new.casefold() in generated.casefold()),
    )


def summarised(per_fact: Sequence[FactScores]) -> Scores:
    """The means over the scores of at least one fact."""

    def mean_of(name: str, scale: float = 100.0) -> float | None:
        mean = _mean([value for item in per_fact if (value := getattr(item, name)) is not None])
        return None if mean is None else scale * mean

    edit, paraphrase, neighborhood = mean_of("edit"), mean_of("paraphrase"), mean_of("neighborhood")
    return Scores(
        edit_score=edit,
        paraphrase_score=paraphrase,
        neighborhood_score=neighborhood,
        overall_score=harmonic_mean([edit, paraphrase, neighborhood]),
        magnitude=mean_of("magnitude", 1.0),
        accuracy=mean_of("accuracy"),
        token_accuracy=mean_of("token_accuracy"),
        generation_efficacy=mean_of("generation"),
        facts=len(per_fact),
        per_fact=tuple(per_fact),
    )


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """Harmonic mean; None when a value is missing, 0 when one is 0."""
    if any(value is None for value in values):
        return None
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if len(values) else None
