"""Reading a model's files: configuration, weights and tokenizer, each refused in one line when it cannot be used.

transformers replaces missing weights by random ones and only logs it; here that is an error, as is any other mismatch
between the files of a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from encore_core.errors import InputError, first_line, quoted
from encore_core.hub import chain_of
from encore_core.models.building import BUILDING
from encore_core.models.catalogue import TOKENIZER_FILES, Progress
from encore_core.models.families import check_type, text_config
from encore_core.models.weight_files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    check_numbers,
    is_lfs_pointer,
    lfs_pointer,
    some_of,
    stored_weights,
)

NO_ADAPTER = "no adapter is asked for"
"""A folder that no model has. If peft is installed, transformers looks for an adapter beside the weights and applies
it; naming a folder that does not exist is the only way to prevent that."""


def read_config(name: str, source: str | os.PathLike):
    """The configuration of a decoder.

    Args:
        name: how messages call the model.
        source: its folder.

    Raises:
        InputError: when it cannot be read, is of an unknown type or one that is not a decoder, or describes quantised
            weights.
    """
    try:
        config = AutoConfig.from_pretrained(os.fspath(source), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be used
        raise _unreadable(name, source, "configuration", error) from error
    check_type(config, name)
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise InputError(
            f"Model {quoted(name)} is quantised ({getattr(method, 'value', method) or 'of an unknown kind'}): its "
            "matrices cannot take an update; use the unquantised original, with --dtype bfloat16 to save memory."
        )
    return config


def read_weights(
    name: str,
    source: str | os.PathLike,
    dtype: torch.dtype,
    device_map=None,
    max_memory=None,
    tell: Progress | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with all of its weights, each of them finite.

    Args:
        name, source: as for `read_config`.
        dtype: of the weights in memory. If it is the format of the files, they are memory-mapped and take no memory.
        device_map, max_memory: as for transformers; on the CPU by default.
        tell: called with the progress.

    Returns:
        the model, and notes about its files, one line each.

    Raises:
        InputError: when the files are missing, damaged or locked, do not hold every weight in its shape, or hold
            weights that are quantised or not finite.
    """
    folder = Path(source)
    stored = stored_weights(name, folder)
    try:
        with BUILDING:
            model, found = AutoModelForCausalLM.from_pretrained(
                os.fspath(source),
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                device_map=device_map,
                max_memory=max_memory,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, by name
                adapter_kwargs={"subfolder": NO_ADAPTER},
            )
    except Exception as error:
        raise _unreadable(name, source, "weights", error) from error
    if found["mismatched_keys"]:
        key, in_file, wanted = min(found["mismatched_keys"])
        raise InputError(
            f"Model {quoted(name)}: weight {key} is {_shape(in_file)} in the file and {_shape(wanted)} in the "
            f"configuration ({len(found['mismatched_keys'])} such weights); config.json belongs to another model."
        )
    if found["missing_keys"]:
        raise InputError(
            f"Model {quoted(name)}: {some_of(found['missing_keys'])} not in the files, and random numbers would take "
            "their place; save the whole model again."
        )
    check_numbers(name, model, stored, tell or (lambda what, share: None))
    notes = _notes(model, folder)
    if found["unexpected_keys"]:
        notes.append(f"{some_of(found['unexpected_keys'])} in the files but not used.")
    return model, tuple(notes)


def _notes(model: nn.Module, folder: Path) -> list[str]:
    """Notes about files in the folder that are not used, or not as they say."""
    notes = []
    adapters = [file.name for file in sorted(folder.glob("adapter_*")) if file.suffix in (".safetensors", ".bin")]
    if adapters or (folder / "adapter_config.json").is_file():
        notes.append(
            f"An adapter lies beside the weights ({(adapters or ['adapter_config.json'])[0]}) and is not applied; to "
            "edit the model with it, merge it first (peft's merge_and_unload) and save that."
        )
    if (folder / WEIGHTS_FILE).is_file() and (folder / INDEX_FILE).is_file():
        notes.append(f"The weights are those of {WEIGHTS_FILE}; the files that {INDEX_FILE} names are not read.")
    broken = _broken_json(folder / "generation_config.json")
    if broken:
        notes.append(f"generation_config.json is not used, because it cannot be read ({broken}).")
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(text_config(model.config), "tie_word_embeddings", False) and output is not None
    # Offloaded weights (see `device_map`) cannot be compared.
    if tied and output.weight is not embedding.weight and output.weight.device.type != "meta":
        notes.append(
            "config.json ties the output weights to the embedding, but the files hold two that differ; both are used "
            "as they are."
        )
    return notes


def _broken_json(file: Path) -> str | None:
    """Why a file is not a JSON object; None if it is one, or is missing."""
    try:
        return None if isinstance(json.loads(file.read_text(encoding="utf-8")), dict) else "it is not a JSON object"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return first_line(error)


def read_tokenizer(name: str, source: str | os.PathLike):
    """The model's tokenizer.

    Raises:
        InputError: when it is missing or cannot be read.
    """
    pointers = [
        file for file in TOKENIZER_FILES if (Path(source) / file).is_file() and is_lfs_pointer(Path(source) / file)
    ]
    if pointers:
        raise lfs_pointer(name, pointers[0])
    try:
        return AutoTokenizer.from_pretrained(os.fspath(source), trust_remote_code=False)
    except Exception as error:
        raise _unreadable(name, source, "tokenizer", error) from error


def _unreadable(name: str, source: str | os.PathLike, what: str, error: Exception) -> InputError:
    """Why a source cannot be used, from the error that reading it raised."""
    chain = chain_of(error)
    text = " ".join(str(link) for link in chain)
    model = f"Model {quoted(name)}"
    unknown_type = "does not recognize this architecture" in text or "Unrecognized model" in text
    if "trust_remote_code" in text or (unknown_type and _names_code(Path(source) / "config.json")):
        return InputError(
            f"{model} needs Python code of its own ({source}), which is never run; use a model of a family that "
            "transformers knows."
        )
    if unknown_type:
        return InputError(
            f"{model} is of a type that transformers {transformers.__version__} does not know, or its config.json has "
            f"no model_type ({source})."
        )
    if any(isinstance(link, torch.cuda.OutOfMemoryError | MemoryError) for link in chain):
        return InputError(f"{model} does not fit into memory; choose bfloat16, a smaller model or another device.")
    if what == "tokenizer":
        return InputError(
            f"{model}: the tokenizer in {source} cannot be read ({first_line(error)}); it needs one of "
            f"{', '.join(TOKENIZER_FILES)}."
        )
    # An error about a field of a configuration says what is wrong on its later lines.
    reason = " ".join(str(error).split())[:200] if what == "configuration" else first_line(error)
    return InputError(f"{model}: the {what} in {source} cannot be read: {reason}")


def _names_code(config: Path) -> bool:
    """Whether a configuration names Python files that the model needs."""
    try:
        return "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _shape(size: Iterable[int]) -> str:
    return " × ".join(map(str, size))
