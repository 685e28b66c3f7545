"""The causal trace of one fact as a map: which states, by layer and token, bring the answer back.

As in `causal_trace`, noise on the subject's embeddings makes the model forget the fact. Then one thing is restored to
its value without noise, at one layer ℓ and one token t, and the answer's probability is read (arXiv 2202.05262):

    hidden      the output of block ℓ at t
    MLP         what the MLPs of a window of blocks around ℓ return at t
    attention   the same for attention

One MLP alone does little, hence the window, as published. The map is of the model as it is, edited or not.

Nothing is run that cannot have changed: tokens before the subject have no noise, so restoring them does nothing; the
blocks below the restored one, and the tokens before the restored one, are as they were with noise alone. In long
prompts only some tokens are restored (`MOST_TOKENS`), which the result says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.tracing import Prefix, record_prefix, run, tensor_of
from encore_core.measures.causal_trace import NOISE, Located, disturbed, located, noise_for
from encore_core.measures.contributions import averaged, token_shares
from encore_core.measures.logit_lens import first_tokens
from encore_core.measures.streams import residual_streams, shown_tokens
from encore_core.measures.sublayers import check_sum, sublayer_outputs
from encore_core.models.editable import EditableModel

Kind = Literal["hidden", "MLP", "attention"]
KINDS: tuple[Kind, ...] = ("hidden", "MLP", "attention")

SAMPLES = 2
"""Draws of noise; the published code takes ten."""

WINDOW = 10
"""Blocks in a window, as published for models of 28 to 48 blocks; a third of the blocks in smaller ones."""

MOST_TOKENS = 24
"""Tokens that are restored: of a longer text the subject's last ones, and the last ones of the prompt."""

MAX_TOKENS = 256
"""Tokens run at a time. Several layers share a pass, because reading the weights takes longer than a few tokens."""

OnShare = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class FactTrace:
    """The map of a fact.

    Attributes:
        tokens: (n_tokens) the restored tokens as text, in the prompt's order.
        places: (n_tokens) where they are in the prompt, counted from its first token.
        subject: places of the subject's first and last token.
        prompt_tokens: how many tokens the prompt has.
        answer: the token whose probability it is, as text.
        maps: by kind (n_layers, n_tokens) float64, the probability with that restored, mean over samples.
        clean, noisy: the answer's probability without noise, and with nothing restored.
        noise: standard deviation, in standard deviations of all embeddings.
        samples: draws of noise.
        window: blocks in a window of MLPs or attentions.
    """

    tokens: tuple[str, ...]
    places: tuple[int, ...]
    subject: tuple[int, int]
    prompt_tokens: int
    answer: str
    maps: Mapping[Kind, np.ndarray]
    clean: float
    noisy: float
    noise: float
    samples: int
    window: int

    @property
    def left_out(self) -> int:
        """How many tokens from the subject on were not restored."""
        return self.prompt_tokens - self.subject[0] - len(self.places)

    def peak(self, kind: Kind) -> Peak:
        """Where restoring helps most, of one kind."""
        restored = self.maps[kind]
        layer, column = np.unravel_index(int(restored.argmax()), restored.shape)
        return Peak(
            layer=int(layer),
            place=self.places[column],
            token=self.tokens[column],
            effect=float(restored[layer, column]) - self.noisy,
            is_subject_end=self.places[column] == self.subject[1],
            third=min(2, 3 * int(layer) // len(restored)),
        )


@dataclass(frozen=True)
class Peak:
    """The largest effect in a map.

    Attributes:
        layer: the block, or the middle of the window.
        place, token: of the prompt.
        effect: restored minus noisy probability; may be negative.
        is_subject_end: whether it is at the subject's last token.
        third: 0, 1 or 2: whether it is in the lower, middle or upper third of the blocks.
    """

    layer: int
    place: int
    token: str
    effect: float
    is_subject_end: bool
    third: int

    @property
    def as_published(self) -> bool:
        """Whether it is where facts are recalled after arXiv 2202.05262: subject's last token, early or middle."""
        return self.effect > 0 and self.is_subject_end and self.third < 2


@torch.no_grad()
def fact_trace(
    lm: EditableModel,
    fact: Fact,
    kinds: Sequence[Kind] = KINDS,
    *,
    answer: str | None = None,
    samples: int = SAMPLES,
    window: int | None = None,
    seed: int = 0,
    on_progress: OnShare | None = None,
) -> FactTrace:
    """Trace a fact on the model as it is.

    Args:
        lm: the model, with whatever edits are in place.
        fact: its prompt and subject are read.
        kinds: what is restored.
        answer: whose first token is traced; by default the token that the model says without noise.
        samples, seed: draws of noise, and their seed.
        window: blocks in a window; `WINDOW`, or a third of the blocks, by default.
        on_progress: called with the share that is done; what it raises ends the trace.

    Raises:
        InputError: a prompt that does not fit into the context, an answer without a token, less than one sample, a
            window that is not from 1 to the number of blocks, or a model whose MLPs or attentions return something
            else than what they add.
    """
    window = min(WINDOW, max(1, lm.n_layers // 3)) if window is None else window
    if samples < 1:
        raise InputError(f"A trace takes at least one draw of noise, not {samples}.")
    if not 1 <= window <= lm.n_layers:
        raise InputError(f"The window must be from 1 to {lm.n_layers} blocks, not {window}.")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise InputError(f"Nothing of kind {unknown[0]!r} can be restored; choose from {', '.join(KINDS)}.")
    where = located(lm, fact)
    wanted = None if answer is None else first_tokens(lm, fact.text, [answer], fact.join)[0]
    with lm.lock:
        tracer = _Tracer(lm, where, wanted, samples, seed, check=set(kinds) != {"hidden"})
        maps: dict[Kind, np.ndarray] = {}
        for number, kind in enumerate(kinds):
            parts = []
            for share, part in tracer.restored(kind, window):
                parts.append(part)
                if on_progress is not None:
                    on_progress((number + share) / len(kinds))
            maps[kind] = np.concatenate(parts).reshape(-1, lm.n_layers).T
    return FactTrace(
        tokens=shown_tokens(lm, [where.ids[place] for place in tracer.places]),
        places=tracer.places,
        subject=(where.first, where.last),
        prompt_tokens=len(where.ids),
        answer=lm.tokenizer.decode([tracer.answer]),
        maps=maps,
        clean=tracer.clean,
        noisy=tracer.noisy,
        noise=NOISE,
        samples=samples,
        window=window,
    )


class _Tracer:
    """The passes of one trace; the caller holds the model's lock.

    A row is a draw of noise with one token restored. Tokens are counted from the subject's first one, their `column`.

    Attributes:
        places: of the restored tokens in the prompt.
        answer: token id.
        clean, noisy: probabilities of it, the second a mean over samples.
    """

    def __init__(
        self, lm: EditableModel, where: Located, answer: int | None, samples: int, seed: int, check: bool
    ) -> None:
        self.lm, self.where, self.samples = lm, where, samples
        if check:
            self._check()
        self.ids = torch.tensor([where.ids[where.first :]], device=lm.device)
        self.length = self.ids.shape[1]
        self.columns = _columns(where.n_subject, self.length)
        self.places = tuple(where.first + column for column in self.columns)
        front = self._front()
        with self._kept_outputs() as self.outputs:
            clean = residual_streams(lm, self.ids, torch.ones_like(self.ids), front and front.rows(self._zeros(1)))
        self.outputs |= {block: state[0] for block, state in zip(lm.blocks, clean[1:], strict=True)}
        self._run_with_noise(front, seed)
        self.answer = answer
        if answer is None:
            self.answer = int(self._logits(lm.n_layers, clean[-1][:, -1:], 0).argmax())
        self.clean, self.noisy = (
            float(self._probabilities(lm.n_layers, states[:, -1:], 0).mean())
            for states in (clean[-1], self.noisy_states[-1])
        )

    def _run_with_noise(self, front: Prefix | None, seed: int) -> None:
        """Keep the streams, (n_layers + 1) tensors (samples, length, d_model), and keys and values of all tokens."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.stack([noise_for(self.lm, self.where, generator) for _ in range(self.samples)])
        rows = self.ids.expand(self.samples, -1)
        mask = torch.ones_like(rows)
        before = front and front.rows(self._zeros(self.samples))
        with disturbed(self.lm, slice(None), slice(0, self.where.n_subject), noise):
            self.noisy_states = residual_streams(self.lm, rows, mask, before)
            own, _ = record_prefix(self.lm, rows, mask, prefix=before)
        self.prefix = own if before is None else before.followed_by(own)

    def restored(self, kind: Kind, window: int) -> Iterator[tuple[float, np.ndarray]]:
        """The answer's probability with one token restored at one layer, all layers of the first token first.

        Yields:
            the share that is done, and the probabilities of the next cells, (n_cells).
        """
        parts, n_layers = self.lm.parts, self.lm.n_layers
        modules = {"hidden": parts.blocks, "MLP": parts.mlps, "attention": parts.attentions}[kind]
        # As in the published code: half of the window below the layer.
        below, above = (0, 1) if kind == "hidden" else (window // 2, (window + 1) // 2)
        layers = [range(max(0, layer - below), min(n_layers, layer + above)) for layer in range(n_layers)]
        work = [self.length - column for column in self.columns]
        done = 0.0
        for column, tokens in zip(self.columns, work, strict=True):
            at_once = max(1, MAX_TOKENS // (self.samples * tokens))
            for start in range(0, n_layers, at_once):
                some = layers[start : start + at_once]
                p = self._with_outputs(modules, column, some).view(-1, self.samples)
                done += tokens * len(some)
                yield min(1.0, done / (n_layers * sum(work))), p.mean(1).numpy()

    def _with_outputs(self, modules: Sequence[nn.Module], column: int, ranges: Sequence[range]) -> torch.Tensor:
        """(n_ranges · samples) the answer's probability with what some modules return at a token put back.

        Args:
            modules: one per block.
            column: of the token.
            ranges: the layers at which it is put back, a row per draw for each; they begin in ascending order.
        """
        start, tokens = ranges[0].start, self.length - column
        hidden = self.noisy_states[start][:, column:].repeat(len(ranges), 1, 1)

        def put_back(layer: int):
            clean = self.outputs[modules[layer]][column]
            touched = [number for number, layers in enumerate(ranges) if layer in layers]
            rows = [number * self.samples + draw for number in touched for draw in range(self.samples)]

            def hook(module, inputs, output):
                states = tensor_of(output).clone()
                # OPT's MLP returns (n_rows · tokens, d_model).
                states.view(len(hidden), tokens, -1)[rows, 0] = clean.to(states)
                return (states, *output[1:]) if isinstance(output, tuple) else states

            return hook

        with ExitStack() as stack:
            for layer in range(start, ranges[-1].stop):
                stack.callback(modules[layer].register_forward_hook(put_back(layer)).remove)
            return self._probabilities(start, hidden, column)

    def _probabilities(self, start: int, hidden: torch.Tensor, column: int) -> torch.Tensor:
        """(n_rows) float64 on the CPU, the answer's probability; see `_logits`."""
        logits = self._logits(start, hidden, column)
        return (logits[:, self.answer] - logits.logsumexp(-1)).double().exp().cpu()

    def _logits(self, start: int, hidden: torch.Tensor, column: int) -> torch.Tensor:
        """(n_rows, n_vocab) float32, after the last token.

        Args:
            start: first block to run.
            hidden: (n_rows, tokens, d_model) the stream that enters it; a row per draw, several times over.
            column: of the first token in it.
        """
        n, tokens = hidden.shape[:2]
        ids = self.ids[:, -tokens:].expand(n, -1)
        ends = (torch.arange(n, device=ids.device), torch.full((n,), tokens - 1, device=ids.device))
        prefix = None
        if start < self.lm.n_layers and self.where.first + column:
            prefix = _until(self.prefix, self.where.first + column)
            prefix = prefix.rows(torch.arange(n, device=ids.device) % self.samples)
        with _entering(self.lm, hidden if start == 0 else None):
            logits = run(
                self.lm,
                ids,
                torch.ones_like(ids),
                start=start,
                hidden=hidden if start else None,
                prefix=prefix,
                logits_at=ends,
            )
        return logits.float()

    def _front(self) -> Prefix | None:
        """Keys and values of the tokens before the subject, one row; None if it begins the text."""
        if not self.where.first:
            return None
        ids = torch.tensor([self.where.ids[: self.where.first]], device=self.lm.device)
        return record_prefix(self.lm, ids, torch.ones_like(ids))[0]

    def _zeros(self, n: int) -> torch.Tensor:
        return torch.zeros(n, dtype=torch.long, device=self.lm.device)

    def _check(self) -> None:
        """Refuse a model whose parts do not return what they add."""
        ids = torch.tensor([self.where.ids], device=self.lm.device)
        present = torch.ones_like(ids, dtype=torch.bool)
        with sublayer_outputs(self.lm, present) as outputs:
            h_L = run(self.lm, ids, torch.ones_like(ids), stop=self.lm.n_layers)[0]
        check_sum(self.lm, averaged([token_shares(outputs, h_L)]).missing)

    @contextmanager
    def _kept_outputs(self) -> Iterator[dict[nn.Module, torch.Tensor]]:
        """What every MLP and attention returns in the pass of the `with` block: (length, d_model) by module."""
        found: dict[nn.Module, torch.Tensor] = {}

        def hook(module, inputs, output):
            found[module] = tensor_of(output).clone().view(self.length, -1)

        with ExitStack() as stack:
            for module in (*self.lm.parts.mlps, *self.lm.parts.attentions):
                stack.callback(module.register_forward_hook(hook).remove)
            yield found


@contextmanager
def _entering(lm: EditableModel, hidden: torch.Tensor | None) -> Iterator[None]:
    """Let the first block read another stream, (n_rows, length, d_model); None changes nothing."""
    if hidden is None:
        yield
        return

    def hook(module, args, kwargs):
        own = args[0] if args else kwargs["hidden_states"]
        states = hidden.to(own)
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    handle = lm.blocks[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _until(prefix: Prefix, length: int) -> Prefix:
    """The first tokens of a prefix."""
    cut = Prefix(len(prefix.layers), prefix.mask[:, :length])
    for mine, theirs in zip(prefix.layers, cut.layers, strict=True):
        theirs.take(mine.keys[..., :length, :], mine.values[..., :length, :])
    return cut


def _columns(n_subject: int, length: int) -> list[int]:
    """Which tokens are restored, counted from the subject's first: all, or the subject's and the prompt's last."""
    if length <= MOST_TOKENS:
        return list(range(length))
    # The subject's last token counts most, and a third of the room is for the end of the prompt.
    subject = range(max(0, n_subject - 2 * MOST_TOKENS // 3), n_subject)
    end = range(max(n_subject, length - (MOST_TOKENS - len(subject))), length)
    return [*subject, *end]
