"""What a model writes after a prompt, token by token, with the probability that it gave each of them.

Greedy, or sampled at a temperature from the most probable tokens that together hold a share `top_p` (nucleus sampling,
arXiv 1904.09751). The probabilities are the model's own, before temperature and `top_p`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.decoding import nothing_but_asked
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
        tokens: its tokens as texts, each with the probability that the model gave it.
        first: the most probable tokens at its beginning with their probabilities, the most probable first.
    """

    text: str
    tokens: tuple[tuple[str, float], ...]
    first: tuple[tuple[str, float], ...]


@torch.no_grad()
def written(lm: EditableModel, prompt: str, how: Writing) -> Written:
    """What the model writes after a prompt.

    Args:
        lm: the model, with whatever edits are in place.
        prompt: a text.
        how: length and sampling.

    Raises:
        InputError: when prompt and text do not fit into the model's context.
    """
    ids = torch.tensor([list(encode(lm, prompt).ids)], device=lm.device)
    n_prompt = ids.shape[1]
    if n_prompt + how.tokens > lm.max_length:
        raise InputError(
            f"Prompt {quoted(prompt)} has {n_prompt} tokens, which leaves no room for {how.tokens} more in the model's "
            f"{lm.max_length}; shorten it."
        )
    sampling = {"do_sample": False}
    if how.temperature:
        sampling = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    # Sampling uses torch's global generator: its state is put back, for whoever else uses it.
    with lm.lock, nothing_but_asked(lm), torch.random.fork_rng(enabled=bool(how.temperature)):
        if how.temperature:
            torch.manual_seed(how.seed)
        out = lm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=how.tokens,
            return_dict_in_generate=True, output_logits=True, **sampling,
        )  # fmt: skip
    new = out.sequences[0, n_prompt:].tolist()
    probabilities = [logits[0].float().softmax(-1) for logits in out.logits]
    chosen = [float(of_step[token]) for of_step, token in zip(probabilities, new, strict=True)]
    top = probabilities[0].topk(min(MOST_FIRST, len(probabilities[0])))
    return Written(
        text=lm.tokenizer.decode(new, skip_special_tokens=True),
        tokens=tuple((lm.tokenizer.decode([token]), value) for token, value in zip(new, chosen, strict=True)),
        first=tuple(
            (lm.tokenizer.decode([token]), value)
            for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ),
    )
