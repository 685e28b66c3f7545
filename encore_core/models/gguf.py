"""A GGUF file unpacked into a folder of safetensors, which loads a hundred times faster.

transformers reads the file of a Llama three times, each time string by string through a memory map, and asks for the
table of tensor names once per module: a minute on a slow machine, of which the weights take five seconds. Here a file
is read once, without the map's overhead, and answers are cached. The result is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from encore_core.models.building import BUILDING
from encore_core.storage import replacing


def unpack(file: Path, folder: Path, tell: Callable[[float], None]) -> None:
    """Write the model of a GGUF file, in float32, and its tokenizer into a folder.

    Args:
        file: the GGUF file.
        folder: must not exist; is written completely or not at all.
        tell: called with the share done.
    """
    tell(0.0)
    # Under the lock, because two threads that patch the package and undo it could leave it patched, too.
    with BUILDING, _read_once():
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
        tell(0.6)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # The weights are unpacked; a model that still says it is quantised refuses to be saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    tell(0.8)
    with replacing(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    tell(1.0)


@contextmanager
def _read_once() -> Iterator[None]:
    """Let the package gguf cache its answers."""
    import gguf

    class PlainReader(gguf.GGUFReader):
        """Reads from plain memory: numpy makes a view of a memory map for every string, ten times as slowly."""

        def _get(self, *args, **named):
            if isinstance(self.data, np.memmap):
                self.data = self.data.view(np.ndarray)
            return super()._get(*args, **named)

    before = {"GGUFReader": gguf.GGUFReader, "get_tensor_name_map": gguf.get_tensor_name_map}
    gguf.GGUFReader = functools.cache(PlainReader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        for name, what in before.items():
            setattr(gguf, name, what)
