"""What a model writes after a prompt, token by token, with the probability that it gave each of them.

Greedy, or sampled at a temperature from the most probable tokens that together hold a share `top_p` (nucleus sampling,
arXiv 1904.09751). The probabilities are the model's own, before temperature and `top_p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import GrowingPrefix, end_tokens, nothing_but_asked
from encore_core.forward.prompts import encode
from encore_core.models.editable import EditableModel

MOST_TOKENS = 200
MOST_FIRST = 10
"""Tokens at the beginning whose probabilities are told, whether they were written or not."""


@dataclass(frozen=True)
class Writing:
    """How a text is written.

    Attributes:
        tokens: at most how many.
        temperature: 0 for greedy.
        top_p: share of probability that is sampled from, above 0 and up to 1.
        seed: of the sampling.

    Raises:
        InputError: for a value that cannot be used.
    """

    tokens: int = 12
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise InputError(f"{self.tokens} tokens cannot be written; give 1 to {MOST_TOKENS}.")
        if not 0 <= self.temperature <= 5:
            raise InputError(f"Temperature {self.temperature} is out of range; give 0 (greedy) to 5.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is out of range; give a share above 0 and up to 1.")


@dataclass(frozen=True)
class Written:
    """A text that a model wrote.

    Attributes:
        text: without the prompt.
        ids: ids of its tokens.
        is_cut: whether it had not come to its end when it was as long as was wanted.
        tokens: its tokens as texts, each with the probability that the model gave it.
        first: the most probable tokens at its beginning with their probabilities, the most probable first.
    """

    text: str
    ids: tuple[int, ...]
    is_cut: bool
    tokens: tuple[tuple[str, float], ...]
    first: tuple[tuple[str, float], ...]


@torch.no_grad()
def written(lm: EditableModel, prompt: str, how: Writing, guess: Sequence[int] = ()) -> Written:
    """What the model writes after a prompt.

    Args:
        lm: the model, with whatever edits are in place.
        prompt: a text.
        how: length and sampling.
        guess: ids of a text that a greedy one may be like, say another model's: what may come next is checked in one
            pass, and kept as far as it is right. The text is the same as without; it only takes less time.

    Raises:
        InputError: when prompt and text do not fit into the model's context.
    """
    ids = encode(lm, prompt).ids
    if len(ids) + how.tokens > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {len(ids)} tokens, which leaves no room for {how.tokens} more in the model's "
            f"{lm.max_length}; shorten it."
        )
    with lm.lock:
        new, logits = _sampled(lm, ids, how) if how.temperature else _greedy(lm, ids, how.tokens, guess)
    probabilities = [of_step.float().softmax(-1) for of_step in logits]
    chosen = [float(of_step[token]) for of_step, token in zip(probabilities, new, strict=True)]
    top = probabilities[0].topk(min(MOST_FIRST, len(probabilities[0])))
    return Written(
        text=lm.tokenizer.decode(new, skip_special_tokens=True),
        ids=tuple(new),
        is_cut=new[-1] not in end_tokens(lm),
        tokens=tuple((lm.tokenizer.decode([token]), value) for token, value in zip(new, chosen, strict=True)),
        first=tuple(
            (lm.tokenizer.decode([token]), value)
            for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ),
    )


def _greedy(
    lm: EditableModel, ids: Sequence[int], n_tokens: int, guess: Sequence[int]
) -> tuple[list[int], list[torch.Tensor]]:
    """The most probable token again and again, up to one that ends a text; and the logits that each was picked from.

    A pass checks the next token and what may follow it: reading some tokens takes less time than another pass. Once
    nothing of what was expected after a difference has come, nothing more is expected.
    """
    ends, fresh = end_tokens(lm), list(ids)
    cache = GrowingPrefix(lm, 1, len(ids) + n_tokens)
    found: list[int] = []
    logits: list[torch.Tensor] = []
    is_like = True
    while len(found) < n_tokens and not (found and found[-1] in ends):
        draft = _draft(found, guess, n_tokens - len(found) - 1) if is_like else ()
        batch = torch.tensor([[*fresh, *draft]], device=lm.device)
        columns = torch.arange(len(fresh) - 1, len(fresh) + len(draft), device=lm.device)
        steps = cache.run(lm, batch, torch.ones_like(batch), logits_at=(torch.zeros_like(columns), columns))
        n_right = 0
        for of_step, expected in zip(steps, [*draft, None], strict=True):
            logits.append(of_step)
            found.append(int(of_step.argmax()))
            if found[-1] != expected or found[-1] in ends:
                break
            n_right += 1
        cache.forget(len(draft) - n_right)
        is_like = is_like and (n_right > 0 or len(found) == 1)
        fresh = found[-1:]
    return found, logits


def _draft(found: Sequence[int], guess: Sequence[int], n_most: int) -> Sequence[int]:
    """What may come next: in the guess, what follows the last token, or what stands at this place.

    Texts that part in a word, "Paris" here and "Rome" there, often go on alike.
    """
    places = [place for place, token in enumerate(guess) if found and token == found[-1]]
    at = min(places, key=lambda place: abs(place + 1 - len(found))) + 1 if places else len(found)
    return guess[at : at + n_most]


def _sampled(lm: EditableModel, ids: Sequence[int], how: Writing) -> tuple[list[int], list[torch.Tensor]]:
    """As `_greedy`, but each token is drawn."""
    # Sampling uses torch's global generator: its state is put back, for whoever else uses it.
    with nothing_but_asked(lm), torch.random.fork_rng():
        torch.manual_seed(how.seed)
        prompt = torch.tensor([list(ids)], device=lm.device)
        out = lm.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=how.tokens, do_sample=True,
            temperature=how.temperature, top_p=how.top_p, top_k=0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    return out.sequences[0, len(ids) :].tolist(), [of_step[0] for of_step in out.logits]
