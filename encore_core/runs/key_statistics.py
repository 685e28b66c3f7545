"""Which key statistics a run was submitted with, and which it has used.

A model's weights are not loaded when a run is submitted, so the store records what decides its statistics: the digest
of a text, and the files chosen by then for whichever model is loaded. When the run begins, the worker uses exactly
that, whatever has been chosen since, or refuses to begin and says what has changed; then it records what it has read. A
resumed run takes everything that was computed from its statistics from its saved state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import SAMPLED_TEXT, files_used, read_text
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel
from encore_core.models.start_token import AUTO, NONE

Rows = Sequence[Mapping[str, Any]]
"""One row per layer, plain JSON values. Wanted: "layer", "text" (digest) and, where files are chosen, "chosen": by
`EditableModel.texts_key` "file" (name), "source", "tokens" and "d_mlp" (None for a file that cannot be read). Earlier
versions wrote "file", "source" and "tokens" into the row itself, instead of "text". Used: "layer", "file", "source",
"tokens" (read; 0 when an imported file does not say), "content" (SHA-256 of C0)."""


SENT = "statistics"
"""Folder in a run's folder for `chosen_files` on another machine, which has a data folder of its own."""


def wanted(layers: Sequence[int], text: Path | None, start_token: str) -> Rows:
    """What a run will use, as of now.

    Which model the choices are for shows only when it is loaded: weights, number format and start token decide it, not
    the name. So those of all models are taken down.

    Args:
        layers: blocks that are edited.
        text: from the plan, see `covariance.text_named`.
        start_token: from the plan.

    Raises:
        InputError: when the text cannot be read.
    """
    if not layers:
        return []
    digest = recorded_digest(read_text(text or SAMPLED_TEXT))
    of_models = stored_statistics.all_chosen() if text is None else {}
    rows: list[dict[str, Any]] = []
    for layer in layers:
        chosen = {
            key: _chosen(files[layer])
            for key, files in of_models.items()
            if layer in files and _may_be(key, start_token)
        }
        rows.append({"layer": layer, "text": digest} | ({"chosen": chosen} if chosen else {}))
    return rows


def _may_be(key: str, start_token: str) -> bool:
    """Whether a model that is loaded with this start token may have the key."""
    return start_token == AUTO or ("-start" in key) == (start_token.lower() != NONE)


def _chosen(file: Path) -> dict[str, Any]:
    head = stored_statistics.read_head(file)
    described = {"source": head.source, "tokens": head.tokens} if head else {"source": "", "tokens": 0}
    return {"file": file.name, **described, "d_mlp": head and head.d_mlp}


def of_size(rows: Rows, d_mlp: int) -> Rows:
    """What is wanted without what was chosen for models of another size, which need not travel."""

    def kept(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        return {key: one for key, one in chosen.items() if one["d_mlp"] in (None, d_mlp)}

    return [row | {"chosen": kept(row["chosen"])} if "chosen" in row else row for row in rows]


def chosen_files(rows: Rows) -> dict[str, Path]:
    """The files that were chosen, as far as they are here, by their names in a folder of statistics: "KEY/FILE"."""
    named = ((key, one["file"]) for row in rows for key, one in row.get("chosen", {}).items())
    places = {f"{key}/{name}": stored_statistics.folder_of(key) / name for key, name in named}
    return {name: file for name, file in places.items() if file.is_file()}


def recorded_digest(content: str) -> str:
    """16 hex digits of a text, as a run records them. File names hold a shorter one, `filename_digest`."""
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def files_of(
    lm: EditableModel, rows: Rows, n_tokens: int, text: Path | None, sent: Path | None = None
) -> dict[int, Path]:
    """Per layer the file with the wanted statistics; it exists, or will be gathered from the text.

    Args:
        lm: the model, loaded.
        rows: what `wanted` gave when the run was submitted.
        n_tokens: tokens of the text at most.
        text: as for `wanted`.
        sent: the folder of `chosen_files` that came with the run from another machine, if any did.

    Raises:
        InputError: when the text has changed since then, or a file that was chosen is gone.
    """
    folder = stored_statistics.folder_of(lm.texts_key)
    chosen = {row["layer"]: row.get("chosen", {}).get(lm.texts_key, row).get("file") for row in rows}
    found = {layer: folder / name for layer, name in chosen.items() if name is not None}
    if sent is not None:
        came = {layer: sent / lm.texts_key / file.name for layer, file in found.items()}
        found |= {layer: file for layer, file in came.items() if file.is_file()}
    for layer, file in found.items():
        if not file.is_file():
            raise InputError(
                f"The key statistics of layer {layer} that were chosen when the run was submitted, {file}, are not "
                "there any more; gather or import them again with encore statistics, or start a new run."
            )
    of_text = {row["layer"]: row["text"] for row in rows if row["layer"] not in found}
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
