"""Run part of a model: from a block on, up to a block, on the tokens after a prefix, with logits at some positions.

A decoder is a causal chain of blocks: a token's hidden state depends only on the tokens before it and the blocks below
it. This package is fast because it does not recompute what cannot have changed. The parts run through the family's own
forward pass, so that positions, masks, soft-capping and scaling are the family's.

    hidden = run(lm, ids, mask, stop=5)                     # residual stream entering block 5
    logits = run(lm, ids, mask, start=5, hidden=hidden)     # the rest of the way
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from encore_core.models.editable import EditableModel
from encore_core.models.families import text_config


class Stopped(Exception):
    """Raised to end a forward pass whose remaining blocks are not needed (see `stopping_before`)."""


class PrefixLayer(DynamicLayer):
    """Keys and values of one block for the tokens before the ones being run.

    Unlike the library's layers it does not grow when it is used, so that one prefix serves any number of passes, and
    no gradient of one pass reaches another.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)

    def hold(self, *parts: DynamicLayer, rows: torch.Tensor | None = None) -> None:
        """Hold the concatenated keys and values of other layers, or only some of their rows.

        If a part holds nothing (its block was not run), this layer holds nothing either.
        """
        if all(part.is_initialized for part in parts):
            keys, values = torch.cat([p.keys for p in parts], -2), torch.cat([p.values for p in parts], -2)
            if rows is not None:
                rows = rows.to(keys.device)
                keys, values = keys[rows], values[rows]
            self.take(keys, values)

    def take(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold these keys and values, (n_rows, n_key_heads, length, d_head)."""
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values


class Prefix(Cache):
    """What attention needs from the tokens before: keys and values per block, and which of them are padding.

    Attributes:
        mask: (n_rows, length), 1 at tokens and 0 at padding.
    """

    def __init__(self, n_layers: int, mask: torch.Tensor):
        super().__init__(layers=[PrefixLayer() for _ in range(n_layers)])
        self.mask = mask

    def get_seq_length(self, layer_idx: int = 0) -> int:
        # Blocks that were not run hold nothing, but the length is still that of the whole prefix.
        return self.mask.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.mask.shape[1] + query_length, 0

    def rows(self, index: torch.Tensor) -> Prefix:
        """The same prefix for some of the rows.

        Args:
            index: (n_new_rows,) row indices; one may occur several times.
        """
        chosen = Prefix(len(self.layers), self.mask[index])
        for mine, theirs in zip(self.layers, chosen.layers, strict=True):
            theirs.hold(mine, rows=index)
        return chosen

    def followed_by(self, other: Prefix) -> Prefix:
        """This prefix followed by another, row by row."""
        both = Prefix(len(self.layers), torch.cat([self.mask, other.mask], dim=1))
        for mine, theirs, joint in zip(self.layers, other.layers, both.layers, strict=True):
            joint.hold(mine, theirs)
        return both


class _RecordingLayer(PrefixLayer):
    """Keeps the keys and values of the tokens being run, and lets them attend to the ones before."""

    def __init__(self, before: PrefixLayer | None):
        super().__init__()
        self.before = before

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        if self.before is None or not self.before.is_initialized:
            return key_states, value_states
        return self.before.update(key_states, value_states)


class _Recorder(Prefix):
    """A prefix being recorded, after another one or none."""

    def __init__(self, n_layers: int, mask: torch.Tensor, before: Prefix | None):
        super().__init__(0, before.mask if before is not None else mask[:, :0])
        self.new_mask = mask
        self.layers = [_RecordingLayer(before.layers[i] if before is not None else None) for i in range(n_layers)]

    def recorded(self) -> Prefix:
        prefix = Prefix(len(self.layers), self.new_mask)
        for mine, theirs in zip(self.layers, prefix.layers, strict=True):
            theirs.hold(mine)
        return prefix


def run(
    lm: EditableModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    start: int = 0,
    stop: int | None = None,
    hidden: torch.Tensor | None = None,
    prefix: Prefix | None = None,
    logits_at: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run the tokens `ids` through the blocks `start` to `stop` (exclusive).

    Args:
        lm: the model; the caller holds its lock and decides about gradients.
        ids: (n_rows, length) token ids; only their shape matters when `start` > 0.
        mask: (n_rows, length), 1 at tokens and 0 at padding (on the right).
        start: first block to run; with `start` > 0 the residual stream that enters it is `hidden`.
        stop: first block not to run; None runs the model to its logits.
        hidden: (n_rows, length, d_model).
        prefix: the tokens before, as recorded by `record_prefix`.
        logits_at: rows and columns, each (n_positions,); the output matrix is applied only there.

    Returns:
        the residual stream (n_rows, length, d_model) entering block `stop`, or the logits: (n_rows, length, n_vocab),
        or (n_positions, n_vocab) with `logits_at`.
    """
    # Padding in the prefix leaves gaps, so positions count tokens, not slots.
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    if prefix is not None and prefix.get_seq_length():
        positions = positions + prefix.mask.sum(-1, keepdim=True)
        mask = torch.cat([prefix.mask, mask], dim=1)
    result: list[torch.Tensor] = []
    with ExitStack() as stack:
        if prefix is not None and getattr(text_config(lm.model.config), "sliding_window", None):
            stack.enter_context(_distances_in_tokens(mask))
        stack.enter_context(recomputed(lm, start))
        if start:
            stack.enter_context(starting_from(lm, start, hidden))
        if stop is not None:
            stack.enter_context(stopping_before(lm, stop, result))
        if logits_at is not None:
            stack.enter_context(logits_only_at(lm, *logits_at))
        try:
            out = lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=prefix,
                use_cache=False,
            )
        except Stopped:
            return result[0].to(ids.device)
    return out.logits.to(ids.device)


def record_prefix(
    lm: EditableModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    start: int = 0,
    stop: int | None = None,
    hidden: torch.Tensor | None = None,
    prefix: Prefix | None = None,
    logits_at: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[Prefix, torch.Tensor]:
    """Run tokens and keep their keys and values for the tokens that follow.

    Args:
        lm, ids, mask, start, stop, hidden, prefix: as for `run`. Rows may be empty (mask all 0).
        logits_at: as for `run`; no logits are computed by default.

    Returns:
        these tokens' prefix in the blocks run (without the one before them), and what `run` returns.
    """
    recorder = _Recorder(lm.n_layers, mask, prefix)
    if stop is None and logits_at is None:
        nowhere = torch.zeros(0, dtype=torch.long, device=ids.device)
        logits_at = (nowhere, nowhere)
    # A row without a token has nothing to attend to, which some attention kernels answer with NaN. So it is given one
    # while it runs, which stays masked for later tokens.
    running = mask.clone()
    running[:, 0] = 1
    output = run(lm, ids, running, start=start, stop=stop, hidden=hidden, prefix=recorder, logits_at=logits_at)
    return recorder.recorded(), output


_positions: ContextVar[torch.Tensor | None] = ContextVar("positions", default=None)
"""(n_rows, length) position of the token in each slot, during a pass whose rows have gaps; see below."""


@contextmanager
def _distances_in_tokens(mask: torch.Tensor) -> Iterator[None]:
    """Let attention windows count tokens, as the family means them, and not slots, some of which are padding.

    Args:
        mask: (n_rows, length) of prefix and tokens, 1 at tokens and 0 at padding.
    """
    token = _positions.set((mask.cumsum(-1) - 1).clamp_min(0))
    try:
        yield
    finally:
        _positions.reset(token)


def _at_positions(make_mask: Callable) -> Callable:
    """One of transformers' mask functions, changed to use the tokens' positions where they are set."""

    @functools.wraps(make_mask)
    def made(*args, mask_function: Callable, allow_is_causal_skip: bool = True, **kwargs):
        positions = _positions.get()
        if positions is None:
            return make_mask(*args, mask_function=mask_function, allow_is_causal_skip=allow_is_causal_skip, **kwargs)

        def moved(row, head, query, key):
            return mask_function(row, head, positions[row, query], positions[row, key])

        return make_mask(*args, mask_function=moved, allow_is_causal_skip=False, **kwargs)

    return made


for _name in ("sdpa", "eager"):
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, _at_positions(ALL_MASK_ATTENTION_FUNCTIONS[_name]))


@contextmanager
def recomputed(lm: EditableModel, start: int, within: Callable = nullcontext) -> Iterator[None]:
    """If weights are loaded block by block, let the backward pass load them again.

    Otherwise autograd would keep the weights of every block it has passed, and they are offloaded because they do not
    fit into memory together. Without offloaded weights, or without gradients, nothing changes.

    Args:
        lm: the model.
        start: first block that is run.
        within: makes the context in which a block is recomputed.
    """
    if not (lm.offloaded and torch.is_grad_enabled()):
        yield
        return
    blocks = lm.blocks[start:]
    previous = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), within())
            )
        yield
    finally:
        put_back(blocks, previous)


def put_back(blocks: Sequence[nn.Module], forwards: Sequence[Callable | None]) -> None:
    """Restore blocks' forward methods; None means that of their class."""
    for block, forward in zip(blocks, forwards, strict=True):
        if forward is None:
            del block.forward
        else:
            block.forward = forward


@contextmanager
def captured_input(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect a module's inputs, one tensor per call, on the module's device."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def added_to_output(block: nn.Module, rows: torch.Tensor, columns: torch.Tensor, delta: torch.Tensor) -> Iterator[None]:
    """Add vectors to a block's output at some positions.

    Args:
        block: a decoder block.
        rows, columns: (n_positions,) the positions.
        delta: (n_positions, d_model) the vectors; gradients flow into them.
    """

    def hook(module, inputs, output):
        hidden = tensor_of(output)
        at = (rows.to(hidden.device), columns.to(hidden.device))
        hidden = hidden.index_put(at, delta.to(hidden), accumulate=True)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def tensor_of(output: torch.Tensor | tuple) -> torch.Tensor:
    """A block's hidden states, whether the family returns a tensor or a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def starting_from(lm: EditableModel, start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Begin a forward pass at block `start` with the residual stream `hidden`, (n_rows, length, d_model).

    The blocks below pass their input on, except that the last of them returns `hidden`. They stay in the model's list,
    because families look up masks by the block's index.
    """
    below = lm.blocks[:start]
    previous = [block.__dict__.get("forward") for block in below]
    # Families whose blocks return tuples take the first element of what a block returns.
    like_block = (lambda states: (states,)) if _blocks_return_tuples(lm) else (lambda states: states)
    try:
        for block in below[:-1]:
            block.forward = lambda hidden_states, *args, **kwargs: like_block(hidden_states)
        below[-1].forward = lambda hidden_states, *args, **kwargs: like_block(hidden)
        yield
    finally:
        put_back(below, previous)


def _blocks_return_tuples(lm: EditableModel) -> bool:
    """Whether the family's blocks return tuples; tried out with one token in the first block, once per model."""
    if lm.tuple_blocks is None:
        outputs: list[torch.Tensor | tuple] = []

        def hook(module, inputs, output):
            outputs.append(output)
            raise Stopped

        handle = lm.blocks[0].register_forward_hook(hook)
        try:
            with torch.no_grad():
                lm.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=lm.device), use_cache=False)
        except Stopped:
            lm.tuple_blocks = isinstance(outputs[0], tuple)
        finally:
            handle.remove()
    return bool(lm.tuple_blocks)


@contextmanager
def stopping_before(lm: EditableModel, stop: int, result: list[torch.Tensor]) -> Iterator[None]:
    """End a forward pass before block `stop` by raising `Stopped`; append the residual stream there to `result`."""

    def hook(module, inputs, output):
        result.append(tensor_of(output))
        raise Stopped

    handle = lm.blocks[stop - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def logits_only_at(lm: EditableModel, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Apply the output matrix only at some positions; what the family does to the logits afterwards is unchanged."""
    head = lm.model.get_output_embeddings()

    def hook(module, inputs):
        states = inputs[0]
        return (states[rows.to(states.device), columns.to(states.device)], *inputs[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
