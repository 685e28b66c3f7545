"""What gathering costs in time, memory and disk, and whether this machine has enough."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from encore_core.editing import gradient_moments, stored_statistics
from encore_core.editing.covariance import BUNDLED, SEQUENCES, WINDOW, KeySums
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel
from encore_core.statistics.request import Request, layers_of, tokens_of_request
from encore_core.statistics.texts import PASSAGES, SAMPLED, check_source
from encore_core.storage import data_folder


@dataclass(frozen=True)
class Cost:
    """What gathering would take.

    Attributes:
        layers, tokens: the layers, and at most how many tokens of text.
        seconds: in all, for C0 and F, from a short calibration; 0 when everything is there.
        sampling_seconds: the part for sampling the text.
        memory_bytes: in addition to the loaded model.
        disk_bytes: while gathering.
        kept_bytes: size of the statistics that are kept.
        missing: layers whose C0 or F is not there yet.
    """

    layers: tuple[int, ...]
    tokens: int
    seconds: float
    sampling_seconds: float
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    missing: tuple[int, ...]


def cost(lm: EditableModel, request: Request) -> Cost:
    """What gathering would take, from running a batch or two of random tokens; nothing is fetched or kept.

    Raises:
        InputError: as `gather`, as far as can be seen in advance.
    """
    check_source(request.source)
    layers, n_tokens = layers_of(lm, request), tokens_of_request(lm, request)
    per_token = _seconds_per_token(lm, layers)
    # Sampling runs all blocks for one token at a time, without computing keys.
    sampling = n_tokens * _seconds_per_sampled_token(lm) if request.source == SAMPLED else 0.0
    # The text is not known yet, so a layer counts as there if a file has the same source and number of tokens.
    label = {SAMPLED: "sampled from the model", BUNDLED: "bundled sample"}.get(request.source, request.source)
    there = {
        one.layer: one.file
        for one in stored_statistics.stored(lm.texts_key)
        if one.source in (label, f"text {Path(label).name}") and one.file.stem.endswith(f"-{n_tokens}")
    }
    without_F = [
        layer for layer in layers
        if layer not in there or gradient_moments.load(gradient_moments.file_beside(there[layer]), lm.d_model) is None
    ]  # fmt: skip
    missing = tuple(layer for layer in layers if layer not in there or layer in without_F)
    of_keys = n_tokens * per_token if any(layer not in there for layer in layers) else 0.0
    sampling = sampling if missing else 0.0  # the text is read for F, too
    return Cost(
        layers=layers,
        tokens=n_tokens,
        seconds=of_keys + sampling + (_gradient_seconds(lm, without_F, n_tokens) if without_F else 0.0),
        sampling_seconds=sampling,
        memory_bytes=memory_bytes(lm.d_model, lm.d_mlp, len(layers), request.enough),
        disk_bytes=disk_bytes(lm.d_mlp, len(missing)),
        kept_bytes=len(layers) * lm.d_mlp**2 * 4,
        missing=missing,
    )


def memory_bytes(d_model: int, d_mlp: int, n_layers: int, enough: bool) -> int:
    """Bytes that gathering takes besides the loaded model: sums in float64, a product, keys, and what a look needs."""
    keys = SEQUENCES * WINDOW * (n_layers * d_mlp + 8 * d_model) * 4
    return n_layers * d_mlp**2 * 8 + 4 * d_mlp**2 + keys + (3 * 8 * d_mlp**2 if enough else 0)


def disk_bytes(d_mlp: int, n_layers: int) -> int:
    """Bytes of disk that gathering takes: the result, and new sums written beside the previous ones."""
    return n_layers * d_mlp**2 * (4 + 2 * 8)


def _seconds_per_token(lm: EditableModel, layers: Sequence[int]) -> float:
    length = min(WINDOW, lm.max_length)
    draw = torch.Generator().manual_seed(0)
    n_vocab = lm.model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(n_vocab, (SEQUENCES, length), generator=draw).tolist()
    # The first batch warms up the libraries.
    sums = KeySums(lm, layers, [[ids[0][:16]], ids])
    sums.step()
    began = time.perf_counter()
    sums.step()
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    return (time.perf_counter() - began) / (SEQUENCES * length)


def _gradient_seconds(lm: EditableModel, layers: Sequence[int], n_tokens: int) -> float:
    """How long gathering F takes, from a window or two of random tokens."""
    length = min(WINDOW, lm.max_length)
    draw = torch.Generator().manual_seed(0)
    n_vocab = lm.model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(n_vocab, (2, length), generator=draw).tolist()
    with lm.matrices_replaced({}):
        gradient_moments.collect(lm, layers, [ids[0][:16]])  # warms up the libraries
        began = time.perf_counter()
        gradient_moments.collect(lm, layers, ids)
        seconds = time.perf_counter() - began
    return seconds * min(n_tokens, gradient_moments.n_tokens(lm.d_model)) / (2 * length)


def _seconds_per_sampled_token(lm: EditableModel) -> float:
    ids = torch.ones((PASSAGES, 8), dtype=torch.long, device=lm.device)
    n_new = 6

    def sample(n: int) -> float:
        began = time.perf_counter()
        with lm.lock, torch.no_grad():
            lm.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n,
                min_new_tokens=n, pad_token_id=lm.tokenizer.pad_token_id,
            )  # fmt: skip
        return time.perf_counter() - began

    sample(1)
    return sample(n_new) / (n_new * PASSAGES)


def shortages(needed: Cost, device: torch.device) -> list[str]:
    """What this machine has too little of, one line each."""
    lines = []
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    disk = shutil.disk_usage(data_folder()).free
    if needed.memory_bytes > memory:
        lines.append(
            f"Key statistics of {len(needed.layers)} layers need {needed.memory_bytes / 1e9:.1f} GB of memory on "
            f"{device}, which has {memory / 1e9:.1f} GB free; gather fewer layers at a time (--layers)."
        )
    if needed.disk_bytes > disk:
        lines.append(
            f"Key statistics of {len(needed.layers)} layers need {needed.disk_bytes / 1e9:.1f} GB of disk while they "
            f"are gathered, and {data_folder()} has {disk / 1e9:.1f} GB free; make room, or set ENCORE_HOME."
        )
    return lines


def check_disk(d_mlp: int, n_layers: int) -> None:
    """Check that the disk has room for gathering.

    Raises:
        InputError: when it does not.
    """
    needed = disk_bytes(d_mlp, n_layers)
    free = shutil.disk_usage(data_folder()).free
    if needed > free:
        raise InputError(
            f"Key statistics of {n_layers} layers need {needed / 1e9:.1f} GB of disk while they are gathered, and "
            f"{data_folder()} has {free / 1e9:.1f} GB free; make room, gather fewer layers, or set ENCORE_HOME."
        )
