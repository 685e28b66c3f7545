"""C0: what the edited matrices see on general text, the second moment E[k kᵀ] of keys, (d_mlp, d_mlp) a layer.

It stands for the knowledge that an edit must leave alone. Collected once per model, layer and text, and kept on disk
under the content of all three, so that another model or text never finds a wrong one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from encore_core.errors import InputError
from encore_core.models import EditableModel, Progress
from encore_core.prompts import pad
from encore_core.storage import data_folder, replacing
from encore_core.tracing import captured_input, run

log = logging.getLogger(__name__)

SAMPLED_TEXT = Path(__file__).parents[1] / "assets" / "statistics" / "smollm2-135m.txt"
"""Text sampled from the embedded model itself; `sample_text.py` beside it makes it."""

WINDOW = 256
"""Tokens that are run as one sequence."""


def second_moments(
    lm: EditableModel,
    layers: Sequence[int],
    n_tokens: int,
    text: Path | None = None,
    progress: Progress | None = None,
) -> dict[int, torch.Tensor]:
    """C0 of some layers, from disk where it has been collected before.

    Args:
        lm: the model with its base weights.
        layers: blocks.
        n_tokens: tokens of text to use at most.
        text: a UTF-8 file of general text, passages parted by blank lines; the bundled sample by default.
        progress: told of the collection.

    Returns:
        per layer (d_mlp, d_mlp) float32 on the CPU.

    Raises:
        InputError: when the text is missing or too short to say anything about d_mlp directions.
    """
    text = text or SAMPLED_TEXT
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The text for key statistics, {text}, cannot be read: {error}") from error
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    folder = data_folder() / "statistics" / lm.fingerprint
    files = {layer: folder / f"layer{layer}-{digest}-{n_tokens}.safetensors" for layer in layers}
    found = {layer: moment for layer in layers if (moment := _stored(files[layer])) is not None}
    missing = [layer for layer in layers if layer not in found]
    if missing:
        found |= collect(lm, missing, content, n_tokens, progress)
        for layer in missing:
            with replacing(files[layer]) as part:
                save_file({"C0": found[layer].contiguous()}, part)
    return found


def _stored(file: Path) -> torch.Tensor | None:
    """C0 from a file; None when it is not there, or damaged."""
    if not file.is_file():
        return None
    try:
        return load_file(file)["C0"]
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("Key statistics in %s cannot be read (%s); they are collected anew.", file, error)
        return None


def collect(
    lm: EditableModel, layers: Sequence[int], text: str, n_tokens: int, progress: Progress | None = None
) -> dict[int, torch.Tensor]:
    """Run text through the model and average k kᵀ over its tokens.

    Args:
        lm: the model with its base weights.
        layers: blocks, in any order; one pass serves all.
        text: passages parted by blank lines; each is run on its own.
        n_tokens: tokens to use at most.
        progress: told of the share done.

    Returns:
        per layer (d_mlp, d_mlp) float32 on the CPU.

    Raises:
        InputError: when the text has fewer tokens than d_mlp.
    """
    windows: list[list[int]] = []
    total = 0
    for passage in text.split("\n\n"):
        ids = lm.tokenizer(passage.strip(), verbose=False)["input_ids"]
        for start in range(0, len(ids), min(WINDOW, lm.max_length)):
            window = ids[start : start + min(WINDOW, lm.max_length)][: n_tokens - total]
            if window:
                windows.append(window)
                total += len(window)
    if total < lm.d_mlp:
        raise InputError(
            f"{total} tokens of text say too little about {lm.d_mlp} directions; give at least {2 * lm.d_mlp} tokens."
        )
    windows.sort(key=len)
    precise = torch.float64 if lm.device.type != "mps" else torch.float32
    sums = {layer: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=precise, device=lm.device) for layer in layers}
    done = 0
    with lm.lock, torch.no_grad():
        while windows:
            batch = pad(lm, [windows.pop() for _ in range(min(16, len(windows)))])
            present = batch.mask.bool()
            with ExitStack() as stack:
                seen = {layer: stack.enter_context(captured_input(lm.down_projections[layer])) for layer in layers}
                run(lm, batch.ids, batch.mask, stop=max(layers) + 1)
            for layer in layers:
                K = seen[layer][0].view(*present.shape, -1)[present].float()
                # Summed over a batch in float32, over batches in float64.
                sums[layer] += (K.T @ K).to(precise)
            done += int(present.sum())
            if progress is not None:
                progress("Gathering key statistics (once)", done / total)
    log.info("Collected key statistics of layers %s from %d tokens.", list(layers), total)
    return {layer: (moment / total).float().cpu() for layer, moment in sums.items()}
