"""Every token of an answer, teacher-forced: how probable it is, its rank, and what the model would have said instead.

An answer's probability is the geometric mean of its tokens' (see `scores`), which hides that most of a long answer
follows from its first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.prompts import Encoded, Text, encode_all, pad
from encore_core.forward.tracing import run
from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer, after the prompt and the answer's earlier tokens.

    Attributes:
        text: of the token, decoded by itself.
        probability: from 0 to 1.
        rank: 1 if it is the most probable token.
        instead, instead_probability: the most probable token other than it.
    """

    text: str
    probability: float
    rank: int
    instead: str
    instead_probability: float


@torch.no_grad()
def answer_tokens(
    lm: EditableModel, prompt: str, answers: Sequence[str], *, join: str | None = None
) -> list[tuple[AnswerToken, ...]]:
    """Rate every token of some answers to a prompt.

    Args:
        lm: the model, with whatever edits are in place.
        prompt, answers: texts.
        join: what goes between them; None lets the texts decide (see `joining`).

    Returns:
        the tokens of each answer, in order.

    Raises:
        InputError: an answer that is blank or has no token, or a text longer than the context.
    """
    for answer in answers:
        if not answer.strip():
            raise InputError(f"Answer {quoted(answer)} to prompt {quoted(prompt)} is blank; write at least one word.")
    if not answers:
        return []
    encoded = encode_all(lm, [Text(prompt, answer, join=join) for answer in answers])
    batch = pad(lm, [one.read.ids for one in encoded])
    places = [(row, one.n_prompt - 1 + k) for row, one in enumerate(encoded) for k in range(one.n_target)]
    at = tuple(torch.tensor(values, device=lm.device) for values in zip(*places, strict=True))
    with lm.lock:
        p = run(lm, batch.ids, batch.mask, logits_at=at).float().softmax(-1)
    parts = p.split([one.n_target for one in encoded])
    return [_rated(lm, one, part) for one, part in zip(encoded, parts, strict=True)]


def _rated(lm: EditableModel, one: Encoded, p: torch.Tensor) -> tuple[AnswerToken, ...]:
    """The tokens of one answer from the probabilities (n_target, n_vocab) before each."""
    wanted = torch.tensor(one.target_ids, device=p.device)[:, None]
    own = p.gather(1, wanted)
    ranks = 1 + (p > own).sum(-1)
    others = p.scatter(1, wanted, -1.0).max(-1)
    columns = (one.target_ids, own[:, 0].tolist(), ranks.tolist(), others.indices.tolist(), others.values.tolist())
    return tuple(
        AnswerToken(lm.tokenizer.decode([token]), probability, rank, lm.tokenizer.decode([other]), of_other)
        for token, probability, rank, other, of_other in zip(*columns, strict=True)
    )
