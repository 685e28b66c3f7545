"""Where a fact is recalled: the average indirect effect of each block at the subject's last token.

Noise on the subject's embeddings makes the model forget the fact; then the output of one block at the subject's last
token is restored to its value without noise, and the answer's probabilities are compared (causal tracing, arXiv
2202.05262):

    IE(block) = p(answer | noise, this state restored) − p(answer | noise)

where the answer is the token that the model says without noise. The effect is averaged over facts and draws of noise.
One pass holds all rows of a fact: clean, noisy, and noisy with each block's state restored from the clean row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import Text, encode
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import run, tensor_of
from encore_core.models.editable import EditableModel

NOISE = 3.0
"""Standard deviation of the noise, in standard deviations of the embeddings of all tokens, as published."""


@dataclass(frozen=True)
class Trace:
    """The result of a trace.

    Attributes:
        effects: average indirect effect of each block, a difference of probabilities.
        clean, noisy: average probability of the answer without noise and with it.
        facts, draws: numbers of facts, and of draws per fact, that the averages are over.
    """

    effects: tuple[float, ...]
    clean: float
    noisy: float
    facts: int
    draws: int


@dataclass(frozen=True)
class Located:
    """A fact's prompt as tokens.

    Attributes:
        ids: token ids.
        first, last: the subject's first and last token.
    """

    ids: tuple[int, ...]
    first: int
    last: int

    @property
    def n_subject(self) -> int:
        """How many tokens the subject has."""
        return self.last + 1 - self.first


def located(lm: EditableModel, fact: Fact) -> Located:
    """Where the subject is among the tokens of a fact's prompt.

    Raises:
        InputError: when the prompt does not fit into the model's context, or the subject has no token.
    """
    start, end = fact.subject_span
    encoded = encode(lm, fact.text, subject_end=end)
    (tokens,) = tokens_of(lm, [Text(fact.text).stem])
    # Several tokens can share the span of the first character (its bytes); all of them are the subject's.
    first = next((i for i, (low, high) in enumerate(tokens.offsets) if high > max(low, start)), encoded.lookup)
    return Located(encoded.ids, min(first, encoded.lookup), encoded.lookup)


def noise_for(lm: EditableModel, where: Located, generator: torch.Generator) -> torch.Tensor:
    """One draw of noise for the subject's tokens, (n_subject, d_model), on the CPU."""
    scale = NOISE * float(lm.parts.embedding.weight.float().std())
    return scale * torch.randn(where.n_subject, lm.d_model, generator=generator)


@contextmanager
def disturbed(lm: EditableModel, rows: slice, columns: slice, noise: torch.Tensor) -> Iterator[None]:
    """Add noise to embeddings while the `with` block runs.

    Args:
        lm: the model.
        rows, columns: of the tokens that are run.
        noise: added to the embeddings there; of their shape, or of one that broadcasts to it.
    """

    def disturb(module, inputs, output):
        output = output.clone()
        output[rows, columns] += noise.to(output.device, output.dtype)
        return output

    handle = lm.parts.embedding.register_forward_hook(disturb)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def causal_trace(lm: EditableModel, facts: Sequence[Fact], draws: int = 2, seed: int = 0) -> Trace:
    """Trace some facts.

    Args:
        lm: the model as loaded.
        facts: only their prompts are read, not their answers.
        draws: of noise, per fact.
        seed: of the noise.

    Raises:
        InputError: without a fact, or for one that does not fit into the model's context.
    """
    if not facts or draws < 1:
        raise InputError("There is nothing to trace; give at least one fact and one draw of noise.")
    generator = torch.Generator().manual_seed(seed)
    found = []
    with lm.lock:
        for fact in facts:
            where = located(lm, fact)
            found += [_probabilities(lm, where, noise_for(lm, where, generator)) for _ in range(draws)]
    mean = torch.stack(found).mean(0)
    effects = tuple(float(value - mean[1]) for value in mean[2:])
    return Trace(effects, float(mean[0]), float(mean[1]), len(facts), draws)


def _probabilities(lm: EditableModel, where: Located, noise: torch.Tensor) -> torch.Tensor:
    """p(answer) clean, noisy, and noisy with the state of each block restored, (n_layers + 2,) float64 on the CPU."""
    n_rows = lm.n_layers + 2
    rows = torch.tensor([list(where.ids)] * n_rows, device=lm.device)

    def put_back(layer: int):
        def hook(module, inputs, output):
            states = tensor_of(output).clone()
            states[layer + 2, where.last] = states[0, where.last]
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    ends = (torch.arange(n_rows, device=lm.device), torch.full((n_rows,), len(where.ids) - 1, device=lm.device))
    with ExitStack() as stack:
        stack.enter_context(disturbed(lm, slice(1, None), slice(where.first, where.last + 1), noise))
        for layer, block in enumerate(lm.blocks):
            stack.callback(block.register_forward_hook(put_back(layer)).remove)
        logits = run(lm, rows, torch.ones_like(rows), logits_at=ends)
    probabilities = logits.float().softmax(-1).double().cpu()
    return probabilities[:, int(probabilities[0].argmax())]


def layer_candidates(trace: Trace, n_layers: int, width: int) -> list[tuple[int, ...]]:
    """Ranges of blocks to try, from a trace: they end where the effect is largest, at the last block with at least
    half of that effect, and midway between the two. There are none if no effect is positive.

    Args:
        trace: of the model.
        n_layers: blocks of the model; the last one is never edited.
        width: at most how many blocks per range.
    """
    effects = trace.effects[: n_layers - 1]
    peak = max(range(len(effects)), key=lambda layer: effects[layer])
    if effects[peak] <= 0:
        return []
    late = max(layer for layer, effect in enumerate(effects) if effect >= effects[peak] / 2)
    ends = dict.fromkeys((peak, (peak + late) // 2, late))
    return [tuple(range(max(0, end - width + 1), end + 1)) for end in ends]
