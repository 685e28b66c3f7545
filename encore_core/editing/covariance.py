"""C0: what the edited matrices see on general text, the second moment E[k kᵀ] of keys, (d_mlp, d_mlp) per layer.

It represents the knowledge that an edit must leave alone. It is collected once per model, layer and text. Its file's
name is made from all three, so that it is never used for another model or text. Edits of a model use the statistics
chosen for it (`encore statistics`), else those from the bundled text.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from encore_core.editing import stored_statistics
from encore_core.errors import InputError
from encore_core.forward.prompts import pad
from encore_core.forward.tokens import tokens_of
from encore_core.forward.tracing import captured_input, run
from encore_core.models.editable import EditableModel, Progress
from encore_core.resources import ASSETS
from encore_core.storage import replacing

log = logging.getLogger(__name__)

SAMPLED_TEXT = ASSETS / "statistics" / "smollm2-135m.txt"
"""Text sampled from the embedded model itself; `sample_text.py` beside it makes it."""

BUNDLED = "bundled"
"""Users' name for the bundled text; given as statistics, it is used whatever was chosen."""

WINDOW = 256
"""Tokens run as one sequence."""

SEQUENCES = 16
"""Sequences run at a time."""


def second_moments(
    lm: EditableModel,
    layers: Sequence[int],
    n_tokens: int,
    text: Path | None = None,
    progress: Progress | None = None,
    used: Mapping[int, Path] | None = None,
) -> dict[int, torch.Tensor]:
    """C0 of some layers, from disk where it has been collected before.

    Args:
        lm: the model with its base weights.
        layers: blocks.
        n_tokens: at most how many tokens of text to use, if C0 is collected now.
        text: a UTF-8 file of general text, its passages separated by blank lines; by default the statistics chosen for
            the model, and the bundled sample for layers without a choice.
        progress: called during the collection.
        used: what `files_used` gave for these arguments, to keep using those files whatever has been chosen since.

    Returns:
        C0 by layer, each (d_mlp, d_mlp) float32 on the CPU.

    Raises:
        InputError: when the text is missing, or too short to say anything about d_mlp directions, or a chosen file
            cannot be read.
    """
    used = used or files_used(lm, layers, n_tokens, text)
    found = {layer: moment for layer in layers if (moment := stored_statistics.load(used[layer], lm.d_mlp)) is not None}
    missing = [layer for layer in layers if layer not in found]
    stored_statistics.note_model(lm.texts_key, lm.name)
    if not missing:
        return found
    content = read_text(text or SAMPLED_TEXT)
    for layer in missing:
        if used[layer] != stored_statistics.file_of(lm.texts_key, layer, filename_digest(content), n_tokens):
            raise InputError(
                f"The key statistics chosen for layer {layer}, {used[layer]}, cannot be read; gather or import them "
                f'again with encore statistics, or give "{BUNDLED}" as statistics.'
            )
    found |= collect(lm, missing, content, n_tokens, progress)
    n_used = sum(map(len, windows_of(lm, content, n_tokens)))
    for layer in missing:
        stored_statistics.save(used[layer], found[layer], source_of(text), n_used)
    return found


def files_used(lm: EditableModel, layers: Sequence[int], n_tokens: int, text: Path | None = None) -> dict[int, Path]:
    """Per layer, the file (which need not exist) of the C0 that `second_moments` gives.

    Raises:
        InputError: when the text cannot be read.
    """
    default = stored_statistics.chosen(lm.texts_key) if text is None else {}
    digest = "" if all(layer in default for layer in layers) else filename_digest(read_text(text or SAMPLED_TEXT))
    return {
        layer: default.get(layer) or stored_statistics.file_of(lm.texts_key, layer, digest, n_tokens)
        for layer in layers
    }


def text_named(name: str | Path | None) -> Path | None:
    """The text file that a user means: None for the default, "bundled" for the bundled sample."""
    if name is None or not str(name):
        return None
    return SAMPLED_TEXT if str(name) == BUNDLED else Path(name)


def described(lm: EditableModel, used: Mapping[int, Path], text: Path | None = None) -> str:
    """Which statistics edits use, as a text for people: "layers 6, 7: wikitext, 30,000 tokens".

    Args:
        lm: the model.
        used: the files, from `files_used`.
        text: as given to `files_used`.
    """
    known = {one.file: one for one in stored_statistics.stored(lm.texts_key)}
    said: dict[str, list[int]] = {}
    for layer, file in used.items():
        words = summary(known[file]) if file in known else f"{source_of(text)}, gathered at the first edit"
        said.setdefault(words, []).append(layer)
    return "; ".join(f"layer{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {words}" for words, of in said.items())


def summary(one: stored_statistics.Stored) -> str:
    """Where statistics come from, and how much text they were made from."""
    return f"{one.source or 'some text'}, {f'{one.tokens:,} tokens' if one.tokens else 'number of tokens not known'}"


def source_of(text: Path | None) -> str:
    """The name of a text in lists."""
    return "bundled sample" if text in (None, SAMPLED_TEXT) else f"text {text.name}"


def read_text(file: Path) -> str:
    """Read a text for statistics.

    Raises:
        InputError: when it is missing or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The text for key statistics, {file}, cannot be read: {error}") from error


def filename_digest(content: str) -> str:
    """12 hex digits that identify a text in the names of its statistics files."""
    return hashlib.sha256(content.encode()).hexdigest()[:12]


# -- collecting --------------------------------------------------------------------------------------------------------


def collect(
    lm: EditableModel, layers: Sequence[int], text: str, n_tokens: int, progress: Progress | None = None
) -> dict[int, torch.Tensor]:
    """Run text through the model and average k kᵀ over its tokens.

    Args:
        lm: the model with its base weights.
        layers: blocks, in any order; one pass serves all.
        text: passages separated by blank lines; each is run on its own.
        n_tokens: at most how many tokens to use.
        progress: called with the share done.

    Returns:
        C0 by layer, each (d_mlp, d_mlp) float32 on the CPU.

    Raises:
        InputError: when the text has fewer tokens than d_mlp.
    """
    windows = windows_of(lm, text, n_tokens)
    check_length(lm, windows)
    sums = KeySums(lm, layers, in_batches(windows))
    while sums.step():
        if progress is not None:
            progress("Gathering key statistics (once)", sums.n_tokens / sums.total)
    log.info("Collected key statistics of layers %s from %d tokens.", list(layers), sums.total)
    return sums.moments()


def windows_of(lm: EditableModel, text: str, n_tokens: int) -> list[list[int]]:
    """The text as token sequences, in order: its passages, long ones cut up, at most `n_tokens` in all.

    Each begins with what the model puts in front of every text (BOS or start token), because each is run on its own.
    """
    length = min(WINDOW, lm.max_length)
    windows: list[list[int]] = []
    total = 0
    for passage in text.split("\n\n"):
        if total >= n_tokens:
            break
        (found,) = tokens_of(lm, [passage.strip()])
        front, ids = list(found.ids[: found.n_added]), found.ids[found.n_added :]
        step = length - len(front)
        for start in range(0, len(ids), step):
            window = [*front, *ids[start : start + step]][: n_tokens - total]
            if len(window) > len(front):
                windows.append(window)
                total += len(window)
    return windows


def check_length(lm: EditableModel, windows: Sequence[Sequence[int]]) -> None:
    """Refuse a text that is too short for statistics.

    Raises:
        InputError: when there are fewer tokens than d_mlp.
    """
    total = sum(map(len, windows))
    if total < lm.d_mlp:
        raise InputError(
            f"{total} tokens of text say too little about {lm.d_mlp} directions; give at least {2 * lm.d_mlp} tokens."
        )


def in_batches(windows: Sequence[list[int]]) -> list[list[list[int]]]:
    """Windows in batches that are run together, sorted by length, longest first, so that there is little padding."""
    ordered = sorted(windows, key=len)[::-1]
    return [ordered[start : start + SEQUENCES] for start in range(0, len(ordered), SEQUENCES)]


@torch.no_grad()
def keys_of(lm: EditableModel, layers: Sequence[int], rows: Sequence[list[int]]) -> Iterator[tuple[int, torch.Tensor]]:
    """The keys of every token of some sequences, run as one batch.

    Yields:
        a layer and its keys, (n_tokens, d_mlp) float32.
    """
    batch = pad(lm, rows)
    present = batch.mask.bool()
    with lm.lock, ExitStack() as stack:
        seen = {layer: stack.enter_context(captured_input(lm.down_projections[layer])) for layer in layers}
        run(lm, batch.ids, batch.mask, stop=max(layers) + 1)
    for layer in layers:
        yield layer, seen[layer][0].view(*present.shape, -1)[present.to(seen[layer][0].device)].float()


class KeySums:
    """The sums of k kᵀ over the batches of token sequences run so far; can be saved and resumed.

    Args:
        lm: the model with its base weights.
        layers: blocks; one pass serves all.
        batches: token sequences, from `in_batches`.
    """

    def __init__(self, lm: EditableModel, layers: Sequence[int], batches: Sequence[Sequence[list[int]]]):
        self.lm, self.layers, self.batches = lm, list(layers), batches
        self.position, self.n_tokens = 0, 0
        self.total = sum(len(window) for batch in batches for window in batch)
        precise = torch.float64 if lm.device.type != "mps" else torch.float32
        self.sums = {layer: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=precise, device=lm.device) for layer in layers}

    @torch.no_grad()
    def step(self) -> bool:
        """Run the next batch. Returns whether there was one."""
        if self.position == len(self.batches):
            return False
        rows = self.batches[self.position]
        for layer, K in keys_of(self.lm, self.layers, rows):
            # Within a batch the sum is float32, across batches float64 (float32 on Apple's GPUs).
            self.sums[layer] += (K.T @ K).to(self.sums[layer])
        self.n_tokens += sum(map(len, rows))
        self.position += 1
        return True

    def moments(self) -> dict[int, torch.Tensor]:
        """C0 of the batches run so far, by layer, each (d_mlp, d_mlp) float32 on the CPU."""
        return {layer: (total / self.n_tokens).float().cpu() for layer, total in self.sums.items()}

    def save(self, file: Path, **notes: object) -> None:
        """Write the sums and some notes, completely or not at all.

        Args:
            file: where to write them.
            notes: plain JSON values to keep with the sums.
        """
        state = {"position": self.position, "n_tokens": self.n_tokens, "notes": notes}
        with replacing(file) as part:
            tensors = {str(layer): total.contiguous() for layer, total in self.sums.items()}
            save_file(tensors, part, metadata={"state": json.dumps(state)})

    def resume(self, file: Path) -> dict[str, object] | None:
        """Resume from what `save` wrote. Returns its notes; None when there is no file, or none that can be used."""
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                state = json.loads(opened.metadata()["state"])
                found = {layer: opened.get_tensor(str(layer)) for layer in self.layers}
            if any(found[layer].shape != total.shape for layer, total in self.sums.items()):
                raise ValueError("other sizes")
            position, n_tokens = int(state["position"]), int(state["n_tokens"])
            if n_tokens != sum(len(window) for batch in self.batches[:position] for window in batch):
                raise ValueError("other tokens")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("Sums of key statistics in %s cannot be resumed (%s); they start again.", file, error)
            return None
        for layer, total in self.sums.items():
            total.copy_(found[layer])
        self.position, self.n_tokens = position, n_tokens
        return state["notes"]
