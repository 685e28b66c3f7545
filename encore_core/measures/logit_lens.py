"""The logit lens: what the model would say if it stopped after each layer.

The residual stream after every layer, at every token of a prompt, is read through the model's own final norm and
output matrix (nostalgebraist, "interpreting GPT: the logit lens", 2020):

    p_ℓ,t = softmax( head( norm( h_ℓ,t ) ) )        ℓ = 0 (embedding), 1 … n_layers (after each block)

The family's own code does what follows the last block, so soft-capping and scaling are in it, and the last layer gives
the model's own probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.prompts import Text, encode, encode_all
from encore_core.forward.tracing import run
from encore_core.measures.streams import residual_streams, shown_tokens
from encore_core.models.editable import EditableModel

MOST_TOKENS = 64
"""Tokens of a prompt that are read, from its end; more would be a picture that nobody can read."""

MAX_LOGITS = 1 << 25
"""Logits held at a time: 128 MiB in float32."""


@dataclass(frozen=True, eq=False)
class LogitLens:
    """What every layer would say.

    Attributes:
        tokens: (n_tokens) the prompt's tokens that were read, as text; the BOS or start token is among them.
        left_out: how many tokens before them were not read.
        answers: as they were given.
        answer_ids, answer_tokens: the first token of each answer, which is what the probabilities are of.
        probabilities: (n_answers, n_layers + 1, n_tokens) float64.
        top_ids, top_probabilities: (n_layers + 1, n_tokens) the most probable token, and its probability.
        top_words: the same as text, a row per layer.
    """

    tokens: tuple[str, ...]
    left_out: int
    answers: tuple[str, ...]
    answer_ids: tuple[int, ...]
    answer_tokens: tuple[str, ...]
    probabilities: np.ndarray
    top_ids: np.ndarray
    top_probabilities: np.ndarray
    top_words: tuple[tuple[str, ...], ...]

    def leads(self, answer: int) -> np.ndarray:
        """(n_layers + 1, n_tokens) bool: where an answer's first token is the most probable one."""
        return self.top_ids == self.answer_ids[answer]


@torch.no_grad()
def logit_lens(
    lm: EditableModel,
    prompt: str,
    answers: Sequence[str] = (),
    *,
    join: str | None = None,
    most_tokens: int = MOST_TOKENS,
) -> LogitLens:
    """Read a prompt through the logit lens.

    Args:
        lm: the model, with whatever edits are in place.
        prompt: any text.
        answers: whose first tokens are looked up; may be empty.
        join: what goes between prompt and answer; None lets the texts decide (see `joining`).
        most_tokens: at most how many tokens are read; the last ones are.

    Raises:
        InputError: a prompt without a token or longer than the context, an answer without a token, or a model with
            more than one residual stream.
    """
    if most_tokens < 1:
        raise InputError(f"The logit lens reads at least one token, not {most_tokens}.")
    ids = encode(lm, prompt).ids
    firsts = first_tokens(lm, prompt, answers, join)
    seen = range(max(0, len(ids) - most_tokens), len(ids))
    rows = torch.tensor([ids], device=lm.device)
    with lm.lock:
        streams = torch.cat(residual_streams(lm, rows, torch.ones_like(rows)))
        probabilities, top, top_ids = [], [], []
        at_once = max(1, MAX_LOGITS // (len(seen) * lm.n_vocab))
        for part in streams.split(at_once):
            p = _read(lm, ids, part, seen).view(len(part), len(seen), -1)
            probabilities.append(p[..., list(firsts)].double().cpu())
            best = p.max(-1)
            top.append(best.values.double().cpu())
            top_ids.append(best.indices.cpu())
    words = torch.cat(top_ids)
    return LogitLens(
        tokens=shown_tokens(lm, [ids[i] for i in seen]),
        left_out=seen.start,
        answers=tuple(answers),
        answer_ids=firsts,
        answer_tokens=shown_tokens(lm, firsts),
        probabilities=torch.cat(probabilities).permute(2, 0, 1).numpy(),
        top_ids=words.numpy(),
        top_probabilities=torch.cat(top).numpy(),
        top_words=tuple(shown_tokens(lm, row) for row in words.tolist()),
    )


def _read(lm: EditableModel, ids: Sequence[int], states: torch.Tensor, columns: range) -> torch.Tensor:
    """Probabilities of the next token, (n_states · n_columns, n_vocab), of some states (n_states, length, d_model)."""
    n, k = len(states), len(columns)
    rows = torch.tensor(ids, device=lm.device).expand(n, -1)
    at = (
        torch.arange(n, device=lm.device).repeat_interleave(k),
        torch.tensor(list(columns), device=lm.device).repeat(n),
    )
    logits = run(lm, rows, torch.ones_like(rows), start=lm.n_layers, hidden=states, logits_at=at)
    return logits.float().softmax(-1)


def first_tokens(lm: EditableModel, prompt: str, answers: Sequence[str], join: str | None = None) -> tuple[int, ...]:
    """The first token of each answer after a prompt, as `prompts.encode_all` joins them.

    Raises:
        InputError: an answer that is blank or has no token, or a text longer than the context.
    """
    for answer in answers:
        if not answer.strip():
            raise InputError(f"Answer {quoted(answer)} to prompt {quoted(prompt)} is blank; write at least one word.")
    encoded = encode_all(lm, [Text(prompt, answer, join=join) for answer in answers])
    return tuple(one.target_ids[0] for one in encoded)
