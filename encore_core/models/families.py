"""Families of decoders: where blocks, edited matrix, embedding and final norm are, and how the matrix is stored.

A family is a row of `FAMILIES`. The row is compared with the module itself, so if a version of transformers moves
something, that is noticed, and nothing is edited in the wrong place. The parts of a family without a row are found from
the module alone, if they are unambiguous:

    blocks      the one list of modules, in the decoder, as long as the configuration says there are layers
    attention   in every block the one part whose class says so
    matrix      in every block the one linear map, outside attention, from another width to d_model

and a run on three tokens must show that it is a causal chain of these blocks, each of which uses its matrix once.
Models that cannot be edited so are refused with the reason: mixtures of experts have one matrix per expert, state-space
models have none, and in encoders tokens see later ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.pytorch_utils import Conv1D

from encore_core.errors import InputError, first_line, quoted
from encore_core.models.building import BUILDING


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts, as paths of modules.

    Attributes:
        model_type: as transformers calls it.
        models: the models of this family, for people.
        decoder: holds embedding, blocks and final norm.
        embedding, blocks, final_norm: within the decoder.
        attention, mlp: within a block.
        matrix: within the MLP, the module that holds the edited matrix.
        transposed: whether it is stored as (d_mlp, d_model), not as (d_model, d_mlp).
    """

    model_type: str
    models: str
    decoder: str = "model"
    embedding: str = "embed_tokens"
    blocks: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    matrix: str = "down_proj"
    transposed: bool = False


FAMILIES = {
    family.model_type: family
    for family in (
        Family("gpt2", "GPT-2", "transformer", "wte", "h", "ln_f", "attn", "mlp", "c_proj", transposed=True),
        Family("gptj", "GPT-J", "transformer", "wte", "h", "ln_f", "attn", "mlp", "fc_out"),
        Family("gpt_neox", "GPT-NeoX, Pythia", "gpt_neox", "embed_in", "layers", "final_layer_norm", "attention",
               "mlp", "dense_4h_to_h"),
        Family("llama", "Llama 2 and 3, SmolLM, SmolLM 2"),
        Family("smollm3", "SmolLM 3"),
        Family("mistral", "Mistral"),
        Family("qwen2", "Qwen 2 and 2.5"),
        Family("qwen3", "Qwen 3"),
        Family("gemma2", "Gemma 2"),
        Family("gemma3_text", "Gemma 3 (text)"),
        Family("gemma3", "Gemma 3 (text and images)", "model.language_model"),
        Family("phi3", "Phi-3, Phi-3.5, Phi-4"),
        Family("olmo2", "OLMo 2"),
    )
}  # fmt: skip
"""By `model_type`. Most families are built like Llama, which is the default of every field."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of a loaded model that editing and measuring use.

    Attributes:
        embedding: of tokens, (n_vocab, d_model).
        blocks: in order.
        attentions, mlps: by block, the modules that write into the residual stream.
        down_projections: by block, the module whose weight is the edited matrix. It is the same module as in `mlps` if
            the family keeps the MLP's maps directly in the block.
        final_norm: between the last block and the output matrix; None in a family without it.
        transposed: whether the matrix is stored as (d_mlp, d_model).
    """

    embedding: nn.Module
    blocks: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    down_projections: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    transposed: bool


LEAST_CONTEXT = 16
"""Smallest context, in tokens. A sampled prefix alone has 10, and a prompt follows it."""

MOST_LAYERS = 10_000
"""No model comes near it; a mistyped number would otherwise be built, block by block."""


def skeleton(config, name: str | None = None) -> nn.Module:
    """The model that a configuration describes, without weights: its tensors are on torch's meta device.

    Args:
        config: of a decoder.
        name: the model's name in messages.

    Raises:
        InputError: for a configuration from which no model can be built.
    """
    name = name or config.name_or_path or config.model_type
    try:
        _check_sizes(text_config(config))
        with BUILDING, torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of matrices without numbers; other checks refuse them
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a model's own code may raise anything for values that it was not meant for
        reason = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"Model {quoted(name)}: its config.json describes no model that can be built ({reason}); copy it again."
        ) from error


def _check_sizes(config) -> None:
    """Check that the sizes that every decoder has are in range."""
    for field, least, most in (
        ("num_hidden_layers", 1, MOST_LAYERS),
        ("hidden_size", 1, None),
        ("vocab_size", 1, None),
        ("num_attention_heads", 1, None),
        ("max_position_embeddings", LEAST_CONTEXT, None),
    ):
        value = getattr(config, field, None)
        if isinstance(value, int) and (value < least or (most is not None and value > most)):
            wanted = f"at least {least}" if value < least else f"at most {most:,}"
            raise ValueError(f"{field} is {value}, but must be {wanted}")


def text_config(config):
    """The part of a configuration that describes the language model (a multimodal model's has several parts)."""
    return config.get_text_config(decoder=True)


def check_type(config, name: str) -> None:
    """Refuse a model that is not a decoder, before any weight is read.

    Raises:
        InputError: for encoders, encoder-decoders and models that are not language models.
    """
    model_type = quoted(config.model_type)
    reason = None
    if config.is_encoder_decoder:
        reason = "which is not a decoder-only language model: its decoder reads from an encoder"
    elif type(config) not in AutoModelForCausalLM._model_mapping:
        reason = "which is not a decoder-only language model"
    elif type(config) in AutoModelForMaskedLM._model_mapping:
        reason = "which is not a decoder-only language model but an encoder: its attention is not causal"
    if reason is not None:
        raise InputError(
            f"Model {quoted(name)} is of type {model_type}, {reason}; choose one of the GPT-2 or Llama kind."
        )


def find_parts(model: nn.Module, name: str) -> Parts:
    """Find a model's parts by its family's row and by its structure.

    Args:
        model: a causal language model; may be a `skeleton`.
        name: its name in messages.

    Raises:
        InputError: for less than two blocks, for a mixture of experts, for blocks without attention, and for a model in
            which the parts are not where the row says or, without a row, not unambiguous.
    """
    config = text_config(model.config)
    if config.num_hidden_layers < 2:
        raise InputError(
            f"Model {quoted(name)} has {config.num_hidden_layers} block; editing needs at least 2, because the last "
            "one is never edited."
        )
    family = FAMILIES.get(model.config.model_type)
    blocks = _blocks(model, family, name)
    for number, block in enumerate(blocks):
        _refuse_other_mixers(block, number, name)
        _refuse_experts(block, name)
    if family is not None:
        parts = _by_row(model, family, name)
        _compare(parts, blocks, config, family, name)
        return parts
    return _by_structure(model, blocks, config, name)


# -- by row ------------------------------------------------------------------------------------------------------------


def _by_row(model: nn.Module, family: Family, name: str) -> Parts:
    try:
        decoder = model.get_submodule(family.decoder)
        blocks = tuple(decoder.get_submodule(family.blocks))
        mlps = tuple(block.get_submodule(family.mlp) for block in blocks)
        return Parts(
            embedding=decoder.get_submodule(family.embedding),
            blocks=blocks,
            attentions=tuple(block.get_submodule(family.attention) for block in blocks),
            mlps=mlps,
            down_projections=tuple(mlp.get_submodule(family.matrix) for mlp in mlps),
            final_norm=decoder.get_submodule(family.final_norm),
            transposed=family.transposed,
        )
    except (AttributeError, TypeError) as error:
        raise _moved(name, family, f"{error}") from error


def _compare(parts: Parts, blocks: Sequence[nn.Module], config, family: Family, name: str) -> None:
    """Compare a row with the module: blocks, embedding, and the shape of every matrix."""
    d_model = config.hidden_size
    if list(parts.blocks) != list(blocks):
        raise _moved(name, family, f"its {config.num_hidden_layers} blocks are not in {family.blocks}")
    if parts.embedding.weight.shape[1:] != (d_model,):
        raise _moved(name, family, f"{family.embedding} is not {d_model} wide")
    for number, (block, matrix) in enumerate(zip(blocks, parts.down_projections, strict=True)):
        if isinstance(matrix, Conv1D) != parts.transposed or _width_written(matrix) != d_model:
            raise _moved(name, family, f"{family.matrix} of block {number} does not write {d_model} wide")
        seen = _maps_to_the_stream(block, d_model)
        if seen and matrix not in seen:
            raise _moved(name, family, f"{family.matrix} of block {number} does not come from the MLP's inner layer")


def _moved(name: str, family: Family, what: str) -> InputError:
    return InputError(
        f"Model {quoted(name)} is of type {quoted(family.model_type)}, but is not built as expected: {what}; this "
        "version of transformers may have changed it, so install the one in requirements.txt."
    )


# -- by structure ------------------------------------------------------------------------------------------------------


def _blocks(model: nn.Module, family: Family | None, name: str) -> tuple[nn.Module, ...]:
    """The decoder blocks: the one list of modules with as many entries as the configuration has layers.

    If there are several, as in multimodal models, it is the one in the decoder.
    """
    n_layers = text_config(model.config).num_hidden_layers
    lists = _lists_of(model, n_layers)
    if len(lists) > 1:
        lists = _lists_of(model.get_submodule(family.decoder) if family else model.get_decoder(), n_layers)
    if len(lists) != 1:
        raise InputError(
            f"Model {quoted(name)}: found {len(lists)} candidates for the list of its {n_layers} decoder blocks, need "
            "1; it can be edited once encore_core/models/families.py has a row "
            "for its type."
        )
    return tuple(lists[0])


def _lists_of(module: nn.Module, length: int) -> list[nn.ModuleList]:
    return [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == length]


def _by_structure(model: nn.Module, blocks: Sequence[nn.Module], config, name: str) -> Parts:
    d_model = config.hidden_size
    matrices = [_only_matrix(block, d_model, name) for block in blocks]
    return Parts(
        embedding=model.get_input_embeddings(),
        blocks=tuple(blocks),
        attentions=tuple(_attentions(block)[0] for block in blocks),
        mlps=tuple(_child_with(block, matrix) for block, matrix in zip(blocks, matrices, strict=True)),
        down_projections=tuple(matrices),
        final_norm=_last_norm(model, blocks),
        transposed=isinstance(matrices[0], Conv1D),
    )


def _only_matrix(block: nn.Module, d_model: int, name: str) -> nn.Module:
    maps = _maps_to_the_stream(block, d_model)
    if len(maps) != 1:
        paths = {module: path for path, module in block.named_modules()}
        found = f" ({', '.join(paths[module] for module in maps)})" if maps else ""
        raise InputError(
            f"Model {quoted(name)}: found {len(maps)} candidates{found} for the MLP output matrix in "
            f"{type(block).__name__}, need 1; it can be edited once encore_core/models/families.py has a row "
            "for its type."
        )
    return maps[0]


def _maps_to_the_stream(block: nn.Module, d_model: int) -> list[nn.Module]:
    """Linear maps of a block, outside its attention, from another width to that of the residual stream."""
    within = {module for attention in _attentions(block) for module in attention.modules()}
    return [
        module
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module not in within
        and _width_written(module) == d_model != _width_read(module)
    ]


def _attentions(block: nn.Module) -> list[nn.Module]:
    return [part for part in block.children() if "attention" in type(part).__name__.lower()]


def _child_with(block: nn.Module, module: nn.Module) -> nn.Module:
    return next(part for part in block.children() if module in set(part.modules()))


def _last_norm(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module | None:
    """The last norm beside the list of blocks; norms before the first block are registered earlier."""
    decoder = next(
        module
        for module in model.modules()
        if any(isinstance(part, nn.ModuleList) and list(part) == list(blocks) for part in module.children())
    )
    norms = [part for part in decoder.children() if "norm" in type(part).__name__.lower()]
    return norms[-1] if norms else None


def _width_written(module: nn.Module) -> int:
    return module.nf if isinstance(module, Conv1D) else module.out_features


def _width_read(module: nn.Module) -> int:
    return module.nx if isinstance(module, Conv1D) else module.in_features


# -- what cannot be edited ---------------------------------------------------------------------------------------------


def _refuse_experts(block: nn.Module, name: str) -> None:
    """Refuse mixtures of experts: modules in a list, or matrices stacked in one tensor, chosen by a router."""
    for part in block.children():
        if part not in _attentions(block) and (
            any("expert" in path for path, _ in part.named_modules())
            or any(isinstance(module, nn.ModuleList) for module in part.modules())
            or any(parameter.ndim > 2 for parameter in part.parameters())
        ):
            raise InputError(
                f"Model {quoted(name)} is a mixture of experts, which has no single MLP matrix to edit: each token "
                "uses those of a few experts; choose a dense model."
            )


def _refuse_other_mixers(block: nn.Module, number: int, name: str) -> None:
    """Refuse blocks without exactly one attention: only its keys and values can carry what earlier tokens say."""
    if len(_attentions(block)) != 1:
        parts = ", ".join(type(part).__name__ for part in block.children())
        raise InputError(
            f"Model {quoted(name)}: block {number} ({type(block).__name__} of {parts}) has {len(_attentions(block))} "
            "attention parts, need 1; state-space, convolutional and mixed models cannot be edited."
        )
