"""Reading a model's files: configuration, weights and tokenizer, each refused in one line when it cannot be used.

transformers fills in weights that it does not find with random ones and says so in a log; here that is an error, as is
anything else in a folder that does not belong together.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from encore_core.building import BUILDING
from encore_core.catalogue import TOKENIZER_FILES
from encore_core.errors import InputError, quoted
from encore_core.families import check_type
from encore_core.hub import chain_of, first_line

log = logging.getLogger(__name__)

INDEX_FILE = "model.safetensors.index.json"


def read_config(name: str, source: str | os.PathLike):
    """The configuration of a decoder.

    Args:
        name: how messages call the model.
        source: its folder.

    Raises:
        InputError: when it cannot be read, is of a type that nobody knows or that is no decoder, or describes quantised
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
    name: str, source: str | os.PathLike, dtype: torch.dtype, device_map=None, max_memory=None
) -> nn.Module:
    """The model with all of its weights, and no others.

    Args:
        name, source: as for `read_config`.
        dtype: of the weights in memory.
        device_map, max_memory: as transformers takes them; on the CPU by default.

    Raises:
        InputError: when the files are missing, damaged or locked, or do not hold every weight in its shape.
    """
    _check_files(name, Path(source))
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
                ignore_mismatched_sizes=True,  # they are told below, by name
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
            f"Model {quoted(name)}: {_some(found['missing_keys'])} not in the files, and random numbers would stand "
            "there; save the whole model again."
        )
    if found["unexpected_keys"]:
        log.warning("Model %s: %s in the files and not used.", name, _some(found["unexpected_keys"]))
    return model


def read_tokenizer(name: str, source: str | os.PathLike):
    """The model's tokenizer.

    Raises:
        InputError: when it is missing or cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(os.fspath(source), trust_remote_code=False)
    except Exception as error:
        raise _unreadable(name, source, "tokenizer", error) from error


def _check_files(name: str, folder: Path) -> None:
    """Look at a folder's weight files without reading weights: are all there and whole?"""
    files = {file.name for file in folder.glob("*.safetensors")}
    if (folder / INDEX_FILE).is_file():
        try:
            shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"Model {quoted(name)}: {INDEX_FILE} cannot be read ({first_line(error)}); copy the folder again."
            ) from error
        if shards - files:
            raise InputError(
                f"Model {quoted(name)}: {_some(shards - files)} missing in {folder}, of {len(shards)} files with "
                "weights; copy the folder again."
            )
        files = shards
    for file in sorted(files):
        try:
            with safe_open(folder / file, framework="pt") as content:
                content.keys()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"Model {quoted(name)}: the file {file} is damaged ({first_line(error)}); copy it again."
            ) from error


def _unreadable(name: str, source: str | os.PathLike, what: str, error: Exception) -> InputError:
    """Why a source cannot be used, from whatever its reader raised."""
    chain = chain_of(error)
    text = " ".join(str(link) for link in chain)
    model = f"Model {quoted(name)}"
    if "trust_remote_code" in text:
        return InputError(
            f"{model} needs Python code of its own ({source}), which is never run; use a model of a family that "
            "transformers knows."
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
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
    return InputError(f"{model}: the {what} in {source} cannot be read: {first_line(error)}")


def _some(names: Iterable[str]) -> str:
    """ "a is", "a and b are", "a, b and 3 more are" — enough to know where to look."""
    names = sorted(names)
    shown = names if len(names) <= 2 else [f"{names[0]}, {names[1]}", f"{len(names) - 2} more"]
    return f"{' and '.join(shown)} {'is' if len(names) == 1 else 'are'}"


def _shape(size: Iterable[int]) -> str:
    return " × ".join(map(str, size))
