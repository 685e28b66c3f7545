"""What attention and MLP of each block add to the residual stream, read from a running model.

Not every family adds exactly what its attention or MLP module returns: some put a norm after it (Gemma 2 and 3, OLMo
2), some a dropout that does nothing here, Granite a constant factor. So the output is followed: when another part of
the block receives the very tensor that a sublayer returned, that part's output replaces it. Whether blocks run
attention and MLP one after the other (GPT-2, Llama) or side by side (GPT-J, GPT-NeoX) does not matter. The result is
checked: the input embedding and all outputs must add up to the output of the last block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from encore_core.errors import InputError, quoted
from encore_core.forward.prompts import batches_by_length, encode, pad
from encore_core.forward.tracing import run, tensor_of
from encore_core.measures.contributions import Contributions, averaged, token_shares
from encore_core.models.editable import EditableModel

MAX_BYTES = 1 << 30
"""Memory that the outputs of all sublayers may take at a time; texts are read in groups that fit."""

MAX_TOKENS = 2048
"""Tokens run at a time, padding included."""

TOLERANCE, TOLERANCE_16_BITS = 1e-3, 0.1
"""Largest `Contributions.missing` that can be rounding: in bfloat16 each addition to the stream rounds by up to 1/512.
"""


@torch.no_grad()
def measure_contributions(lm: EditableModel, texts: Sequence[str]) -> Contributions:
    """How much each sublayer contributes to the residual stream on some texts.

    Args:
        lm: the model, with whatever edits are in place.
        texts: the mean is over the tokens of all of them, with the BOS or start token if there is one.

    Returns:
        the contributions; NaN where the model's own states are not finite.

    Raises:
        InputError: without a text, for a text that is too long, and for a model whose blocks add anything besides one
            attention and one MLP.
    """
    if not texts:
        raise InputError("There is no text to measure contributions on; give at least one.")
    encoded = [encode(lm, text).ids for text in texts]
    n_sublayers = 2 * lm.n_layers + 1
    room = MAX_BYTES // (n_sublayers * lm.d_model * lm.dtype.itemsize)
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) > room:
            raise InputError(
                f"Text {quoted(text)} has {len(ids)} tokens; contributions of this model are measured on at most "
                f"{room} at a time, so shorten it."
            )
    found = []
    with lm.lock:
        for group in batches_by_length([len(ids) for ids in encoded], min(MAX_TOKENS, room)):
            batch = pad(lm, [encoded[i] for i in group])
            present = batch.mask.bool()
            with sublayer_outputs(lm, present) as outputs:
                h_L = run(lm, batch.ids, batch.mask, stop=lm.n_layers)[present]
            found.append(token_shares(outputs, h_L))
    contributions = averaged(found)
    check_sum(lm, contributions.missing)
    return contributions


def check_sum(lm: EditableModel, missing: float) -> None:
    """Refuse a model whose sublayers do not add up to its stream.

    Args:
        lm: the model.
        missing: as `Contributions.missing`.

    Raises:
        InputError: when more is missing than rounding leaves out.
    """
    tolerance = TOLERANCE if lm.dtype.itemsize > 2 else TOLERANCE_16_BITS
    if missing > tolerance:  # False for NaN: such a model is broken, not of an unknown kind
        raise InputError(
            f"Model {quoted(lm.name)}: attention and MLP do not add up to the residual stream "
            f"({missing:.0%} is missing), so its blocks add something else, too; contributions can be "
            "measured for models of the GPT-2 or Llama kind."
        )


@contextmanager
def sublayer_outputs(lm: EditableModel, present: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect what each sublayer adds to the residual stream when the model is run once in the `with` block.

    Args:
        lm: the model; the caller holds its lock.
        present: (n_rows, length) bool, which positions to keep.

    Yields:
        a list that is complete after the run: 2 n_layers + 1 tensors (n_kept, d_model), input embedding first, then
        attention and MLP of each block.

    Raises:
        InputError: when the stream has another shape.
    """
    outputs: list[torch.Tensor] = [torch.empty(0)] * (2 * lm.n_layers + 1)
    # Granite's blocks multiply what the parts return by this factor.
    factor = float(getattr(lm.model.config, "residual_multiplier", None) or 1.0)

    def kept(states: torch.Tensor) -> torch.Tensor:
        if states.ndim == 2 and len(states) == present.numel():  # the shape in OPT's MLP
            states = states.view(*present.shape, -1)
        if states.ndim != 3 or states.shape[:2] != present.shape:
            raise InputError(f"Model {quoted(lm.name)} has more than one residual stream, which cannot be read.")
        # A copy, because a family may later add to the tensor in place.
        return states[present.to(states.device)].to(present.device)

    def entering(module, args, kwargs):
        outputs[0] = kept(args[0] if args else kwargs["hidden_states"])

    parts = lm.parts
    with ExitStack() as stack:
        hooks = [lm.blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]
        for layer, (block, attention, mlp) in enumerate(zip(parts.blocks, parts.attentions, parts.mlps, strict=True)):
            places = {attention: 1 + 2 * layer, mlp: 2 + 2 * layer}
            follower = _Follower(places, lambda place, states: outputs.__setitem__(place, factor * kept(states)))
            hooks += [part.register_forward_hook(follower.follow, with_kwargs=True) for part in block.children()]
            hooks.append(block.register_forward_hook(follower.forget))
        for hook in hooks:
            stack.callback(hook.remove)
        yield outputs


class _Follower:
    """Hooks for one block: they follow what its sublayers return through the block's other parts.

    Args:
        places: the index of each sublayer.
        keep: called with that index and a tensor; the last call for an index counts.
    """

    def __init__(self, places: dict[nn.Module, int], keep: Callable[[int, torch.Tensor], None]):
        self.places, self.keep = places, keep
        self.latest: dict[int, torch.Tensor] = {}

    def follow(self, part: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor | tuple) -> None:
        place = self.places.get(part)
        if place is None:
            given = [*args, *kwargs.values()]
            place = next((p for p, states in self.latest.items() if any(states is value for value in given)), None)
        if place is not None:
            self.latest[place] = tensor_of(output)
            self.keep(place, self.latest[place])

    def forget(self, *_) -> None:
        """The block is done, so nothing in it can be passed on any more."""
        self.latest.clear()
