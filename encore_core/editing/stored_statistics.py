"""The key statistics in the data folder, and which of them a model's edits use.

    statistics/FINGERPRINT/
        layer6-DIGEST-TOKENS.safetensors   C0 of a layer; DIGEST is of the text, or of what was imported
        chosen.json                        layer → the file that edits use by default
        model.json                         the name under which the model was last used
        partial-….safetensors              sums of a gathering that is running, or was interrupted

A folder belongs to the weights with that fingerprint, so statistics are never used for another model. C0 of a layer is
a tensor "C0", (d_mlp, d_mlp) float32; the file's metadata says where it comes from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from encore_core.storage import absolute_folder, data_folder, replacing

log = logging.getLogger(__name__)

_NAME = re.compile(r"layer(\d+)-([0-9a-f]{12})-(\d+)\.safetensors")


@dataclass(frozen=True)
class Stored:
    """Statistics of one layer on disk.

    Attributes:
        file: its file.
        layer: the block.
        digest: of the text, or of the file that was imported.
        source: what they were made from, for people; "" in files of earlier versions.
        tokens: how many tokens of text they were made from.
        made: when, in seconds since 1970.
        d_mlp: size of the matrix.
        chosen: whether edits use them by default.
        looks: what was observed while they were gathered, if that was to stop by itself (see `convergence`).
    """

    file: Path
    layer: int
    digest: str
    source: str
    tokens: int
    made: float
    d_mlp: int
    chosen: bool
    looks: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return vars(self) | {"file": str(self.file), "looks": list(self.looks)}


@dataclass(frozen=True)
class KnownModel:
    """A model that has statistics.

    Attributes:
        key: `EditableModel.texts_key`: its fingerprint, and its start token if it has one.
        name: the name under which it was last used; None when it was not recorded.
    """

    key: str
    name: str | None


def folder_of(key: str) -> Path:
    """The folder of a model's statistics, which need not exist."""
    return data_folder() / "statistics" / key


def file_of(key: str, layer: int, digest: str, tokens: int) -> Path:
    """The file of a layer's statistics.

    Args:
        key: `EditableModel.texts_key`.
        layer: the block.
        digest: 12 hex digits of what they are made from.
        tokens: at most how many of its tokens are used.
    """
    return folder_of(key) / f"layer{layer}-{digest}-{tokens}.safetensors"


def save(file: Path, C0: torch.Tensor, source: str, tokens: int, looks: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write a layer's statistics, completely or not at all.

    Args:
        file: see `file_of`.
        C0: (d_mlp, d_mlp) float32.
        source, tokens, looks: as in `Stored`.
    """
    metadata = {"source": source, "tokens": str(tokens), "looks": json.dumps(list(looks))}
    with replacing(file) as part:
        save_file({"C0": C0.contiguous()}, part, metadata=metadata)


def load(file: Path, d_mlp: int) -> torch.Tensor | None:
    """A layer's statistics, (d_mlp, d_mlp) float32 on the CPU; None when the file is not there, or damaged."""
    if not file.is_file():
        return None
    try:
        C0 = load_file(file)["C0"]
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("Key statistics in %s cannot be read (%s).", file, error)
        return None
    if tuple(C0.shape) != (d_mlp, d_mlp):
        log.warning("Key statistics in %s are %s, not %d × %d.", file, tuple(C0.shape), d_mlp, d_mlp)
        return None
    return C0


def stored(key: str) -> list[Stored]:
    """All statistics of a model, sorted by layer, then newest first. Files that cannot be read are left out."""
    folder = folder_of(key)
    default = set(chosen(key).values())
    places = folder.glob("layer*.safetensors") if folder.is_dir() else ()
    found = [one for file in places if (one := read_head(file, file in default)) is not None]
    return sorted(found, key=lambda one: (one.layer, -one.made))


def read_head(file: Path, is_chosen: bool = False) -> Stored | None:
    """Describe a file of statistics without reading the matrix; None when it is no such file, or damaged.

    Args:
        file: the file.
        is_chosen: whether edits use it by default, which the file does not record.
    """
    match = _NAME.fullmatch(file.name)
    if match is None:
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            metadata, d_mlp = opened.metadata() or {}, opened.get_slice("C0").get_shape()[0]
        made = file.stat().st_mtime
    except (SafetensorError, OSError) as error:
        log.warning("Key statistics in %s cannot be read (%s).", file, error)
        return None
    tokens = int(metadata.get("tokens", match[3]))
    source, looks = metadata.get("source", ""), tuple(json.loads(metadata.get("looks", "[]")))
    return Stored(file, int(match[1]), match[2], source, tokens, made, d_mlp, is_chosen, looks)


def content_digest(file: Path) -> str | None:
    """SHA-256 of the matrix in a file, 64 hex digits: equal for equal bits. None when it cannot be read."""
    try:
        with safe_open(file, framework="pt") as opened:
            C0 = opened.get_tensor("C0")
    except (SafetensorError, OSError) as error:
        log.warning("Key statistics in %s cannot be read (%s).", file, error)
        return None
    head = f"{tuple(C0.shape)} {C0.dtype}\n".encode()
    return hashlib.sha256(head + C0.contiguous().numpy().tobytes()).hexdigest()


# -- which ones edits use ----------------------------------------------------------------------------------------------


def chosen(key: str) -> dict[int, Path]:
    """By layer, the file that edits of a model use by default; layers without a choice are left out."""
    values = _read_json(folder_of(key) / "chosen.json")
    folder = folder_of(key)
    return {
        int(layer): folder / name
        for layer, name in values.items()
        if layer.isdecimal() and isinstance(name, str) and _NAME.fullmatch(name)
    }


def all_chosen() -> dict[str, dict[int, Path]]:
    """`chosen` of every model that has a choice, by its `EditableModel.texts_key`."""
    folders = sorted(file.parent for file in (data_folder() / "statistics").glob("*/chosen.json"))
    return {folder.name: files for folder in folders if (files := chosen(folder.name))}


def choose(key: str, files: Mapping[int, Path]) -> None:
    """Let edits of a model use these files by default; choices for other layers stay.

    Args:
        key: `EditableModel.texts_key`.
        files: by layer, one of its files.
    """
    names = {layer: file.name for layer, file in (chosen(key) | dict(files)).items()}
    _write_json(folder_of(key) / "chosen.json", {str(layer): names[layer] for layer in sorted(names)})


def forget_choice(key: str, layers: Iterable[int] | None = None) -> None:
    """Let edits use the bundled sample again, at some layers or all."""
    kept = {} if layers is None else {k: v for k, v in chosen(key).items() if k not in set(layers)}
    _write_json(folder_of(key) / "chosen.json", {str(layer): file.name for layer, file in kept.items()})


# -- which model a folder belongs to -----------------------------------------------------------------------------------


def note_model(key: str, name: str) -> None:
    """Record the name of a model, so that its statistics can be found by name without loading it."""
    name = absolute_folder(name)
    file = folder_of(key) / "model.json"
    if _read_json(file).get("name") != name or key_of(name) != key:
        _write_json(file, {"name": name})


def known_models() -> list[KnownModel]:
    """The models that have statistics, the most recently named first."""
    root = data_folder() / "statistics"
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    named = [folder for folder in folders if (folder / "model.json").is_file()]
    named.sort(key=lambda folder: (folder / "model.json").stat().st_mtime_ns, reverse=True)
    others = sorted(folder for folder in folders if folder not in named and list(folder.glob("layer*.safetensors")))
    return [
        KnownModel(folder.name, _read_json(folder / "model.json").get("name") if folder in named else None)
        for folder in [*named, *others]
    ]


def key_of(name: str) -> str | None:
    """`EditableModel.texts_key` of the model last used under this name; None when it has no statistics."""
    return next(iter(keys_of(name)), None)


def keys_of(name: str) -> tuple[str, ...]:
    """As `key_of`, all of them: with another number format or start token a model has another one."""
    name = absolute_folder(name)
    return tuple(known.key for known in known_models() if known.name == name)


def fingerprint_of(name: str) -> str | None:
    """The fingerprint of the weights last used under this name; None when they have no statistics."""
    key = key_of(name)
    return key and key.partition("-")[0]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s).", file, error)
        return {}
    return values if isinstance(values, dict) else {}


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    with replacing(file) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")
