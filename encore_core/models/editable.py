"""Loaded models, and the matrix in them that is edited.

Every method edits, in a few consecutive blocks, the matrix W of shape `(d_model, d_mlp)` that writes the MLP's result
into the residual stream. `EditableModel.matrix(layer)` gives it in that orientation, whatever the family stores:
torch's `Linear` keeps `(out, in)`, GPT-2's `Conv1D` keeps `(in, out)`.

Words used throughout the package
    d_model   width of the residual stream
    d_mlp     width of the MLP's hidden layer, the length of a key
    n_facts   facts in a batch
    n_layers  blocks of the model
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path

import torch
from torch import nn

from encore_core.autograd import gradients
from encore_core.errors import InputError, quoted
from encore_core.model_rows import find_model_row
from encore_core.models import start_token as start_tokens
from encore_core.models.catalogue import CATALOGUE, CatalogueEntry, Progress, Source, find_source, is_ready
from encore_core.models.checkpoint import read_config, read_tokenizer, read_weights
from encore_core.models.device_map import (
    BALANCED,
    DTYPES,
    choose_device,
    choose_dtype,
    free_memory,
    kept_weight,
    room_for_weights,
    running_device,
    settle,
    whole_state_dict,
)
from encore_core.models.families import Parts, find_parts, text_config
from encore_core.models.memory import MemoryEstimate, Sizes, least_needed, need_and_have, shortage
from encore_core.models.trial_run import check_run
from encore_core.tuned_rows import Shape

__all__ = [
    "CATALOGUE", "DTYPES", "CatalogueEntry", "EditableModel", "Progress", "choose_device", "choose_dtype",
    "describe_model", "is_ready", "load_model", "wrap",
]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(eq=False)
class EditableModel:
    """A loaded language model with the handles that editing needs. The weights in it are the base weights.

    Attributes:
        name: as the user gave it.
        model: the transformers causal language model, in eval mode, no parameter requiring gradients.
        tokenizer: its (fast) tokenizer, with a padding token.
        parts: its modules by their purpose.
        fingerprint: of what it computes, see `fingerprint`.
        start_token: id of the token put in front of every text (see `start_token`); None if the tokenizer does so
            itself, or nothing is to be put there.
        origin: "organisation/name@commit" of a hub model; None for others.
        offloaded: whether some weights are kept elsewhere and loaded when they are used (see `device_map`).
        notes: what one should know about its files, one line each (see `checkpoint.read_weights`).
        lock: to be held while the model is run, or edited weights are in it.
        checked_paths: by block, the fastest target pass that agrees with the plain one (see `pass_choice`).
        refuses_replay: whether a step of the target optimisation could not be recorded on the GPU (see `cuda_graph`).
        shared: results shared by the sessions on this model, costly to make (see `editing.shared_by_sessions`).
        tuple_blocks: whether the blocks return tuples; None until this is needed (see `tracing`).
    """

    name: str
    model: nn.Module
    tokenizer: object
    parts: Parts
    fingerprint: str
    offloaded: bool = False
    start_token: int | None = None
    notes: tuple[str, ...] = ()
    origin: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    checked_paths: dict[int, str] = field(default_factory=dict, repr=False)
    refuses_replay: bool = field(default=False, repr=False)
    shared: OrderedDict[tuple, object] = field(default_factory=OrderedDict, repr=False)
    tuple_blocks: bool | None = field(default=None, repr=False)
    _base: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The decoder blocks in order."""
        return self.parts.blocks

    @property
    def down_projections(self) -> tuple[nn.Module, ...]:
        """The module of each block that holds the edited matrix."""
        return self.parts.down_projections

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that are not text: those the tokenizer names, and those it marks as special."""
        marked = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(marked | set(self.tokenizer.all_special_ids))

    @property
    def shape(self) -> Shape:
        """What rows of hyper-parameters are found by."""
        return Shape(self.model.config.model_type, self.n_layers, self.d_model, self.n_vocab)

    @property
    def start_text(self) -> str | None:
        """The start token as text; None without one."""
        return None if self.start_token is None else self.tokenizer.convert_ids_to_tokens(self.start_token)

    @property
    def texts_key(self) -> str:
        """Fingerprint and start token: the name under which results about texts are kept on disk.

        With another first token the same text has other keys, and so other statistics and sampled prefixes.
        """
        return self.fingerprint if self.start_token is None else f"{self.fingerprint}-start{self.start_token}"

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
    def n_vocab(self) -> int:
        """Size of the vocabulary, spare rows of the embedding included."""
        return text_config(self.model.config).vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix(0).dtype

    @property
    def device(self) -> torch.device:
        """The device of the input tokens; for a model on several devices, that of its first blocks."""
        return running_device(self.parts.embedding)

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""
        return int(getattr(text_config(self.model.config), "max_position_embeddings", None) or 2048)

    def parameter(self, layer: int) -> nn.Parameter:
        """The parameter that holds the edited matrix of a block, as the family stores it.

        An offloaded one is moved to the device on which it is used, and stays there.
        """
        settle(self.down_projections[layer])
        return self.down_projections[layer].weight

    def matrix(self, layer: int) -> torch.Tensor:
        """The edited matrix of a block as a view of shape (d_model, d_mlp), on the device where it is kept."""
        return self.oriented(layer, kept_weight(self.down_projections[layer]))

    def oriented(self, layer: int, stored: torch.Tensor) -> torch.Tensor:
        """A tensor stored like `parameter(layer)`, viewed as (d_model, d_mlp); applied twice, it is the identity."""
        return stored.T if self.parts.transposed else stored

    def save(self, folder: Path) -> None:
        """Write model and tokenizer, with the matrices now in it, as a folder that `load_model` reads."""
        weights = dict(whole_state_dict(self.model)) if self.offloaded else None
        self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    @contextmanager
    def matrices_replaced(self, matrices: dict[int, torch.Tensor]) -> Iterator[None]:
        """Put other edited matrices into the model, under its lock; the previous ones are always restored afterwards.

        These `with` blocks may be nested: each runs the base model with its own matrices only. Only pointers are
        swapped, so this costs nothing, and the base tensors are never written to.

        Args:
            matrices: by layer, tensors stored like `parameter(layer)`; an empty dict gives the base model.
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


@gradients(False)
def load_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
    start_token: str | None = None,
) -> EditableModel:
    """Load a model by catalogue name, local folder or hub id.

    Args:
        name: a name from `CATALOGUE`, a folder with a transformers model, or a hub id. Except for folders and the
            embedded model, @ and a branch, tag or commit may follow.
        device: "cuda", "cuda:1", "mps", "cpu", or "balanced" (see `device_map`); the best one present by default.
        dtype: "float32" or "bfloat16"; float32 by default.
        progress: called with what is being done (conversion of the embedded model, fetching, loading).
        start_token: "auto" (the default), "none" or a token of the vocabulary, see `start_token`.

    Raises:
        InputError: unknown name, unreachable hub, too little disk for what is to be fetched, gated or quantised model,
            folder with damaged, missing or non-finite weights or another model's tokenizer, unsupported family, unknown
            device, dtype or start token, or more memory needed than there is.
    """
    target_device = choose_device(device)
    torch_dtype = choose_dtype(dtype)
    tell = progress or (lambda what, share: None)
    source = find_source(name, tell)
    config = read_config(name, source)
    sizes = Sizes.of_config(config, name)
    needed = least_needed(config, sizes, torch_dtype, target_device.type)
    tell("Loading the model", 0.5)
    # The check comes first, so that nothing large is fetched for a model that would not fit.
    if device == BALANCED:
        room = room_for_weights(needed.editing)
        _check_memory(name, needed, sum(room.values()), torch_dtype, BALANCED)
        lm = assemble(name, source, sizes.n_vocab, torch_dtype, tell, device_map=BALANCED, max_memory=room)
    else:
        _check_memory(name, needed, free_memory(target_device), torch_dtype, str(target_device))
        # Straight to the GPU, because the computer's memory may be smaller.
        straight = {"": target_device} if target_device.type == "cuda" else None
        lm = assemble(name, source, sizes.n_vocab, torch_dtype, tell, target_device, device_map=straight)
    for note in lm.notes:
        log.warning("Model %s: %s", name, note)
    row = find_model_row(*astuple(lm.shape))
    lm.start_token = start_tokens.find(
        lm.model,
        lm.tokenizer,
        start_token,
        of_row=row and row.start_token,
        folder=Path(source),
        fingerprint=lm.fingerprint,
        tell=tell,
    )
    tell("Loading the model", 1.0)
    return lm


def assemble(
    name: str,
    source: Source,
    n_vocab: int,
    dtype: torch.dtype,
    tell: Progress,
    device: torch.device | None = None,
    **placing,
) -> EditableModel:
    """A model from its files, all of which are checked, the quickest checks first.

    Args:
        name, source, dtype, tell: as for `checkpoint.read_weights`.
        n_vocab: rows of its embedding, from its configuration.
        device: moves the model there; by default it stays where `read_weights` puts it.
        placing: `device_map` and `max_memory` of `read_weights`.

    Raises:
        InputError: as `load_model`, except for names and memory.
    """
    tokenizer = read_tokenizer(name, source)
    _check_tokenizer(name, tokenizer, n_vocab)
    source.fetch_weights(tell)
    model, notes = read_weights(name, source, dtype, tell=tell, **placing)
    if device is not None:
        model.to(device)
    lm = wrap(model, tokenizer, name)
    lm.notes, lm.origin = notes, source.origin
    return lm


def wrap(model: nn.Module, tokenizer: object, name: str) -> EditableModel:
    """Find the blocks and the edited matrices of a loaded transformers model. It has no start token.

    Args:
        model: a decoder-only causal language model with one MLP per block.
        tokenizer: a fast tokenizer (character offsets are needed).
        name: its name in messages.

    Raises:
        InputError: for a family or tokenizer that cannot be edited, a tokenizer of another model, and a model that
            cannot be run or gives logits that are not finite.
    """
    model.eval().requires_grad_(False)
    parts = find_parts(model, name)
    _check_tokenizer(name, tokenizer, parts.embedding.weight.shape[0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_run(model, parts, name)
    offloaded = any(parameter.device.type == "meta" for parameter in model.parameters())
    return EditableModel(name, model, tokenizer, parts, fingerprint(model), offloaded)


def describe_model(name: str, dtype: str | None = None, progress: Progress | None = None) -> Shape:
    """The shape of a model, without loading its weights (the embedded one is unpacked if necessary).

    Args:
        name, dtype, progress: as for `load_model`.

    Raises:
        InputError: as `load_model` for a model that cannot be found, or of a family that cannot be edited.
    """
    choose_dtype(dtype)
    config = read_config(name, find_source(name, progress or (lambda what, share: None)))
    text = text_config(config)
    return Shape(config.model_type, text.num_hidden_layers, text.hidden_size, text.vocab_size)


def fingerprint(model: nn.Module) -> str:
    """16 hex digits that identify what a model computes, from its configuration and a sample of every weight.

    The configuration counts because models with equal weights may rotate positions by another angle, or cap logits.
    The sample is spread over each weight, so it is cheap, and an edit changes it.
    """
    config = text_config(model.config)
    said = {key: value for key, value in config.to_diff_dict().items() if key not in _NOT_COMPUTED}
    digest = hashlib.sha256(json.dumps([config.model_type, said], sort_keys=True, default=str).encode())
    for key, weight in whole_state_dict(model):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu()
        digest.update(f"{key}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


_NOT_COMPUTED = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "initializer_range", "model_type",
    "pad_token_id", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
"""Fields of a configuration that do not affect the computation: files, versions, training, special tokens."""


def _check_tokenizer(name: str, tokenizer, n_vocab: int) -> None:
    """Check that a tokenizer gives character offsets, and that its ids are rows of the embedding.

    Many models have an embedding with spare rows.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"Model {quoted(name)} has a slow tokenizer, which gives no character offsets; "
            "save it with a tokenizer.json and load it again."
        )
    special = set(tokenizer.all_special_ids)
    ids = [number for number in tokenizer.get_vocab().values() if number not in special]
    if not ids or max(ids) >= n_vocab or len(ids) < n_vocab / 2:
        raise InputError(
            f"Model {quoted(name)} knows {n_vocab} tokens and its tokenizer {len(tokenizer)}, so it is another "
            "model's tokenizer; put the model's own beside its weights."
        )


def _check_memory(name: str, needed: MemoryEstimate, free: int, dtype: torch.dtype, device: str) -> None:
    """Refuse a model that cannot be loaded; warn about one that can be loaded but hardly edited."""
    short = shortage(name, needed, free, dtype, device)
    if short is not None:
        raise InputError(short)
    if needed.total > free:
        log.warning(
            "Model %s can be loaded, but editing it needs %s.", name, need_and_have(needed, free, dtype, device)
        )
