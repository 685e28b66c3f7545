"""F: what general text loses when a block's output changes, the second moment E[g gᵀ] of gradients, (d_model, d_model).

g is the gradient of a text's summed next-token loss by the block's output at one token; the mean is over the tokens of
general text that predict another, without those that the model puts in front of every text. To second order text loses
about ½ tr(F Δ C0 Δᵀ) by a change Δ of the block's MLP output matrix (see `foretold_damage`); the search for
targets may follow F⁻¹ (see `search_step`).

F is kept beside C0: the file of a layer's C0, with "gradients" instead of "layer" in its name, holds the F that goes
with it. One pass over a few thousand tokens gives F of all blocks. Statistics that are gathered have both, and
are exported and imported with it; where C0 comes without F, it is made from the bundled text when it is first needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from encore_core.autograd import gradients
from encore_core.editing.covariance import SAMPLED_TEXT, read_text, source_of, windows_of
from encore_core.forward.prompts import pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import run, tensor_of
from encore_core.models.editable import EditableModel, Progress
from encore_core.storage import replacing

log = logging.getLogger(__name__)

AT_ONCE = 1024
"""Tokens run at a time: the backward pass keeps what every block computes."""

FEWEST_TOKENS, PER_DIMENSION = 6000, 10
"""F is made from this many tokens, or this many for each of d_model dimensions if that is more."""


def n_tokens(d_model: int) -> int:
    """How many tokens of text F of a model is made from, at most."""
    return max(FEWEST_TOKENS, PER_DIMENSION * d_model)


def gradient_moments(
    lm: EditableModel, statistics: Mapping[int, Path], text: Path | None = None, progress: Progress | None = None
) -> dict[int, torch.Tensor]:
    """F of some layers, from disk where it has been collected before.

    Args:
        lm: the model; its lock is taken, and it is run with its base weights.
        statistics: by layer, the file of its C0, from `covariance.files_used`.
        text: what F is made from if it is collected now; by default the bundled sample.
        progress: called during the collection.

    Returns:
        F by layer, each (d_model, d_model) float32 on the CPU.

    Raises:
        InputError: when the text cannot be read.
    """
    found = {layer: F for layer, file in statistics.items() if (F := load(file_beside(file), lm.d_model)) is not None}
    missing = [layer for layer in statistics if layer not in found]
    if missing:
        windows = windows_of(lm, read_text(text or SAMPLED_TEXT), n_tokens(lm.d_model))
        with lm.matrices_replaced({}):
            new = collect(lm, missing, windows, progress)
        for layer, F in new.items():
            save(file_beside(statistics[layer]), F, source_of(text), sum(map(len, windows)))
        found |= new
    return {layer: found[layer] for layer in statistics}


def file_beside(C0_file: Path) -> Path:
    """The file of the F that goes with a layer's C0."""
    return C0_file.with_name(C0_file.name.replace("layer", "gradients", 1))


def save(file: Path, F: torch.Tensor, source: str, tokens: int) -> None:
    """Write a layer's F, completely or not at all.

    Args:
        file: see `file_beside`.
        F: (d_model, d_model) float32.
        source, tokens: of the text, as in `stored_statistics.Stored`.
    """
    with replacing(file) as part:
        save_file({"F": F.contiguous()}, part, metadata={"source": source, "tokens": str(tokens)})


def load(file: Path, d_model: int) -> torch.Tensor | None:
    """A layer's F, (d_model, d_model) float32 on the CPU; None when the file is not there, or cannot be used."""
    if not file.is_file():
        return None
    try:
        F = load_file(file)["F"]
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("Gradients in %s cannot be read (%s).", file, error)
        return None
    if tuple(F.shape) != (d_model, d_model) or not bool(torch.isfinite(F).all()):
        log.warning("Gradients in %s are %s, not %d × %d finite numbers.", file, tuple(F.shape), d_model, d_model)
        return None
    return F


def count_in(file: Path) -> int:
    """How many tokens of text a layer's F was made from.

    Args:
        file: one that `load` reads.
    """
    with safe_open(file, framework="pt") as opened:
        return int(opened.metadata()["tokens"])


# -- collecting --------------------------------------------------------------------------------------------------------


def collect(
    lm: EditableModel, layers: Sequence[int], windows: Sequence[list[int]], progress: Progress | None = None
) -> dict[int, torch.Tensor]:
    """Run text forth and back through the model, and average g gᵀ over its tokens.

    Args:
        lm: the model with its base weights.
        layers: blocks; one pass serves all.
        windows: token sequences, from `covariance.windows_of`.
        progress: called with the share done.

    Returns:
        F by layer, each (d_model, d_model) float32 on the CPU.
    """
    precise = torch.float64 if lm.device.type != "mps" else torch.float32
    sums = {layer: torch.zeros(lm.d_model, lm.d_model, dtype=precise, device=lm.device) for layer in layers}
    (empty,) = tokens_of(lm, [""])
    windows = [window for window in windows if len(window) > 1]
    count = done = 0
    for rows in _together(windows):
        found = gradients_of(lm, layers, rows, empty.n_added)
        for layer, G in found.items():
            sums[layer] += (G.T @ G).to(sums[layer])
        count, done = count + len(found[layers[0]]), done + len(rows)
        if progress is not None:
            progress("Gathering gradients of general text (once)", done / len(windows))
    log.info("Collected gradients of layers %s from %d tokens.", list(layers), count)
    return {layer: (total / count).float().cpu() for layer, total in sums.items()}


def _together(windows: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Windows that are run at a time, of similar length."""
    group: list[list[int]] = []
    for window in sorted(windows, key=len)[::-1]:
        if group and (len(group) + 1) * len(group[0]) > AT_ONCE:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


@gradients(True)
def gradients_of(
    lm: EditableModel, layers: Sequence[int], rows: Sequence[list[int]], n_in_front: int
) -> dict[int, torch.Tensor]:
    """The gradients of some sequences' loss, run as one batch.

    Args:
        lm: the model with its base weights.
        layers: blocks.
        rows: token sequences.
        n_in_front: tokens at the beginning of each that the model puts there.

    Returns:
        by layer, (n, d_model) float32: a row for each token that predicts the next and is not one of those in front.
    """
    batch = pad(lm, rows)
    # The last token of a row predicts nothing.
    predicts = batch.mask.bool().clone()
    predicts[torch.arange(len(rows)), batch.mask.sum(-1) - 1] = False
    at = predicts.nonzero(as_tuple=True)
    wanted = batch.ids[at[0], at[1] + 1]
    with lm.lock, _outputs_kept(lm, layers) as outputs:
        logits = run(lm, batch.ids, batch.mask, logits_at=at)
        loss = functional.cross_entropy(logits.float(), wanted, reduction="sum")
        found = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
    kept = predicts & (torch.arange(predicts.shape[1], device=predicts.device) >= n_in_front)
    return {layer: gradient[kept.to(gradient.device)].float() for layer, gradient in zip(layers, found, strict=True)}


@contextmanager
def _outputs_kept(lm: EditableModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """The outputs of blocks during a run, for gradients; the graph begins at the lowest."""
    outputs: dict[int, torch.Tensor] = {}

    def hook(layer: int):
        def keep(module, inputs, output):
            hidden = tensor_of(output)
            outputs[layer] = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
            return (outputs[layer], *output[1:]) if isinstance(output, tuple) else outputs[layer]

        return keep

    handles = [lm.blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
