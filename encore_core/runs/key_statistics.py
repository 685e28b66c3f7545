"""Which key statistics a run was submitted with, and which it has used.

A model's weights are not loaded when a run is submitted, so the store records what decides its statistics: the digest
of a text, or the name of a file that was chosen for the model. When the run begins, the worker uses exactly that,
whatever has been chosen since, or refuses to begin and says what has changed; then it records what it has read. A
resumed run takes everything that was computed from its statistics from its saved state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, files_used, read_text
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel

Rows = Sequence[Mapping[str, Any]]
"""One row per layer, plain JSON values. Wanted: "layer", and "text" (digest) or "file" (name), "source" and "tokens";
used: "layer", "file", "source", "tokens" (read; 0 when an imported file does not say), "content" (SHA-256 of C0)."""


def wanted(model: str, layers: Iterable[int], text: Path | None) -> Rows:
    """What a run will use, as of now.

    Args:
        model: its name in the plan, by which the chosen statistics are found.
        layers: blocks that are edited.
        text: from the plan, see `covariance.text_named`.

    Raises:
        InputError: when the text cannot be read.
    """
    chosen: dict[int, stored_statistics.Stored] = {}
    if text is None and (key := stored_statistics.key_of(model)) is not None:
        chosen = {one.layer: one for one in stored_statistics.stored(key) if one.chosen}
    rows: list[dict[str, Any]] = []
    digest = None
    for layer in layers:
        if layer in chosen:
            one = chosen[layer]
            rows.append({"layer": layer, "file": one.file.name, "source": one.source, "tokens": one.tokens})
        else:
            digest = digest or recorded_digest(read_text(text or SAMPLED_TEXT))
            rows.append({"layer": layer, "text": digest})
    return rows


def recorded_digest(content: str) -> str:
    """16 hex digits of a text, as a run records them. File names hold a shorter one, `filename_digest`."""
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def files_of(lm: EditableModel, rows: Rows, n_tokens: int, text: Path | None) -> dict[int, Path]:
    """Per layer the file with the wanted statistics; it exists, or will be gathered from the text.

    Args:
        lm: the model, loaded.
        rows: what `wanted` gave when the run was submitted.
        n_tokens: tokens of the text at most.
        text: as for `wanted`.

    Raises:
        InputError: when the text has changed since then, or a file that was chosen is gone.
    """
    folder = stored_statistics.folder_of(lm.texts_key)
    found = {row["layer"]: folder / row["file"] for row in rows if "file" in row}
    for layer, file in found.items():
        if not file.is_file():
            raise InputError(
                f"The key statistics of layer {layer} that were chosen when the run was submitted, {file}, are not "
                "there any more; gather or import them again with encore statistics, or start a new run."
            )
    of_text = {row["layer"]: row["text"] for row in rows if "text" in row}
    if of_text:
        place = text or SAMPLED_TEXT
        found |= files_used(lm, list(of_text), n_tokens, place)
        # After the line above, which also reads the text, so that what it read is what is checked here.
        now = recorded_digest(read_text(place))
        for then in set(of_text.values()) - {now}:
            raise InputError(
                f"The text for key statistics, {place}, has changed since the run was submitted (digest {now}, then "
                f"{then}); put it back, or start a new run."
            )
    return found


def used(places: Mapping[int, Path]) -> Rows:
    """A row for each file that a session has read, see `Rows`.

    Raises:
        InputError: when one can no longer be read.
    """
    rows = []
    for layer, file in sorted(places.items()):
        one, content = stored_statistics.read_head(file), stored_statistics.content_digest(file)
        if one is None or content is None:
            raise InputError(f"The key statistics of layer {layer} in {file} cannot be read; gather them again.")
        rows.append({"layer": layer, "file": file.name, "source": one.source, "tokens": one.tokens, "content": content})
    return rows


def described(rows: Rows) -> str:
    """What was used, in words: "wikitext, 29,874 tokens", with the layers where they differ."""
    of_each = {row["layer"]: words(row) for row in rows}
    return next(iter(of_each.values())) if len(set(of_each.values())) == 1 else by_layers(of_each)


def by_layers(said: Mapping[int, str]) -> str:
    """The words for each layer, grouped: "layers 6, 7: wikitext, 29,874 tokens"."""
    return "; ".join(
        f"layers {', '.join(str(layer) for layer, of_layer in said.items() if of_layer == text)}: {text}"
        for text in dict.fromkeys(said.values())
    )


def words(row: Mapping[str, Any]) -> str:
    """The source of a layer's statistics, and how many tokens were read."""
    tokens = row["tokens"]
    return f"{row['source'] or 'some text'}, {f'{tokens:,} tokens' if tokens else 'number of tokens not known'}"
