"""How much memory a model takes to be loaded and edited, from its configuration alone: no weight is allocated.

    weights      every parameter once, in the model's dtype
    matrices     per edited layer the session's matrix, and the one that a batch is working on
    statistics   per edited layer P in float64; C0 in float32, and the working space of an inverse, while P is made
    targets      what the backward pass through the blocks above the last edited one needs: activations of the tokens
                 that are run at once, their logits, and keys and values of the tokens before; with products in
                 bfloat16 also the matrices of these blocks in it (see `rounded`)

The first three are exact. The last follows from two coefficients, `SAVED_PER_MLP` and `SAVED_PER_STREAM`, measured on
the families of `families`; it is meant to be right within a factor of two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from encore_core.errors import quoted
from encore_core.methods import Settings, settings_for
from encore_core.models.device_map import BALANCED
from encore_core.models.families import Parts, find_parts, skeleton, text_config
from encore_core.storage import gigabytes

SAVED_PER_MLP, SAVED_PER_STREAM = 4, 14
"""Numbers that autograd keeps of a token in a block: so many times d_mlp (a gate, what it is multiplied by, and their
activation) and so many times the width of the stream or of the attention heads (norms, queries, keys, values)."""

CONTEXTS = 6
"""Of a fact: the plain prompt and the sampled prefixes."""

OWN_TOKENS, TARGET_TOKENS, TOKENS_BEFORE = 5, 2, 24
"""Of a usual fact in a context: tokens from the subject's last one on, tokens of its target, and tokens before."""

CPU_TOKENS, GPU_TOKENS = 2048, 65536
"""Tokens of a group of facts whose targets are optimised together; more makes no matrix product faster."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part, see the module."""

    weights: int
    matrices: int
    statistics: int
    targets: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def editing(self) -> int:
        """What editing takes on top of the loaded weights."""
        return self.total - self.weights

    @property
    def parts(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        named = zip(("weights", "edited matrices", "key statistics", "targets"), self.parts.values(), strict=True)
        return f"{gigabytes(self.total)} ({', '.join(f'{part} {gigabytes(size)}' for part, size in named)})"


@dataclass(frozen=True)
class Sizes:
    """The numbers that memory follows from.

    Attributes:
        n_weights: parameters, those that are used twice counted once.
        n_layers, d_model, d_mlp, n_vocab: as everywhere.
        d_heads: width of all attention heads together.
        d_cache: numbers that a block keeps of a token before: its key and its value.
    """

    n_weights: int
    n_layers: int
    d_model: int
    d_mlp: int
    n_vocab: int
    d_heads: int
    d_cache: int

    @classmethod
    def of_model(cls, model: torch.nn.Module, parts: Parts) -> Sizes:
        """Of a loaded model or a skeleton."""
        config = text_config(model.config)
        shape = tuple(parts.down_projections[0].weight.shape)
        d_model, d_mlp = reversed(shape) if parts.transposed else shape
        n_heads = config.num_attention_heads
        d_head = getattr(config, "head_dim", None) or d_model // n_heads
        n_key_heads = getattr(config, "num_key_value_heads", None) or n_heads
        return cls(
            n_weights=sum(parameter.numel() for parameter in model.parameters()),
            n_layers=len(parts.blocks),
            d_model=d_model,
            d_mlp=d_mlp,
            n_vocab=parts.embedding.weight.shape[0],
            d_heads=n_heads * d_head,
            d_cache=2 * n_key_heads * d_head,
        )

    @classmethod
    def of_config(cls, config, name: str = "") -> Sizes:
        """From a configuration alone.

        Raises:
            InputError: as `families.find_parts`.
        """
        model = skeleton(config, name)
        return cls.of_model(model, find_parts(model, name or config.name_or_path or config.model_type))

    @property
    def n_head(self) -> int:
        """Numbers in the output matrix."""
        return self.n_vocab * self.d_model

    def saved_per_token(self, n_blocks: int) -> int:
        """Numbers that a backward pass through some blocks needs of a token."""
        return n_blocks * (SAVED_PER_MLP * self.d_mlp + SAVED_PER_STREAM * max(self.d_model, self.d_heads))


def estimate(
    config, dtype: torch.dtype, settings: Settings, batch_size: int = 100, device_type: str = "cpu"
) -> MemoryEstimate:
    """What loading a model and editing it takes.

    Args:
        config: of the model, as transformers reads it.
        dtype: of the weights.
        settings: of the edits; says which layers are edited.
        batch_size: facts a batch.
        device_type: "cpu" or that of a GPU, where more tokens are run at once.

    Raises:
        InputError: as `families.find_parts`.
    """
    return estimate_of(Sizes.of_config(config), dtype, settings, batch_size, device_type)


def estimate_of(
    sizes: Sizes, dtype: torch.dtype, settings: Settings, batch_size: int = 100, device_type: str = "cpu"
) -> MemoryEstimate:
    """As `estimate`, from the sizes."""
    n_edited, itemsize = len(settings.layers), dtype.itemsize
    square = sizes.d_mlp**2
    # While the last P is made, the others stand, C0 of all layers is there, and an inverse takes three matrices.
    making_P = square * (8 * (n_edited - 1) + 4 * n_edited + 3 * 8)
    # After some batches every P is the session's own, beside the one it began from, which the model keeps for further
    # sessions. A run's model does not (see `EditSession.stop_sharing`), but writing a state down copies it once.
    holding_P = square * 8 * n_edited * 2
    n_above = sizes.n_layers - 1 - settings.layers[-1]
    # Matrices above the last edited block, and the output matrix, stand beside themselves in bfloat16.
    rounded = sizes.n_head + (sizes.n_weights - sizes.n_head) * n_above // sizes.n_layers
    is_rounded = settings.bfloat16 and itemsize > torch.bfloat16.itemsize
    return MemoryEstimate(
        weights=sizes.n_weights * itemsize,
        matrices=2 * n_edited * sizes.d_model * sizes.d_mlp * itemsize,
        statistics=max(making_P, holding_P),
        targets=_targets(sizes, dtype, n_above, batch_size, device_type)
        + is_rounded * rounded * torch.bfloat16.itemsize,
    )


def _targets(sizes: Sizes, dtype: torch.dtype, n_above: int, batch_size: int, device_type: str) -> int:
    """Bytes of the backward pass of a group of facts, and of keys and values before.

    Where a device has not as much, groups are smaller (see `targets.default_max_tokens`).
    """
    limit = CPU_TOKENS if device_type == "cpu" else GPU_TOKENS
    n_rows = min(batch_size * CONTEXTS, max(CONTEXTS, limit // OWN_TOKENS))
    activations = n_rows * OWN_TOKENS * sizes.saved_per_token(n_above) * dtype.itemsize
    # Of a fact in every context and of its KL prompt once: logits in the model's dtype and in float32, their
    # probabilities and their gradient.
    n_logits = n_rows * TARGET_TOKENS + n_rows // CONTEXTS
    logits = n_logits * sizes.n_vocab * (dtype.itemsize + 3 * 4)
    before = n_rows * TOKENS_BEFORE * n_above * sizes.d_cache * dtype.itemsize
    return activations + logits + before


def least_needed(config, sizes: Sizes, dtype: torch.dtype, device_type: str) -> MemoryEstimate:
    """What loading and editing takes at the least: with the usual settings, facts one after the other.

    Args:
        config: of the model, as transformers reads it.
        sizes: that follow from it.
        dtype, device_type: as for `estimate`.
    """
    usual = settings_for(
        "ENCORE",
        model_type=config.model_type,
        n_layers=sizes.n_layers,
        d_model=sizes.d_model,
        n_vocab=text_config(config).vocab_size,
    )
    return estimate_of(sizes, dtype, usual, batch_size=1, device_type=device_type)


def shortage(name: str, needed: MemoryEstimate, free: int, dtype: torch.dtype, device: str) -> str | None:
    """Why a model cannot be loaded; None when its weights have room.

    Args:
        name: how messages call the model.
        needed: see `least_needed`.
        free: bytes that can be had.
        dtype: of the weights.
        device: what was asked for: "cpu", "cuda:1", "balanced".
    """
    if needed.weights <= free:
        return None
    smaller = "bfloat16, a smaller model" if dtype == torch.float32 else "a smaller model"
    return (
        f"Model {quoted(name)} needs {need_and_have(needed, free, dtype, device)}; choose {smaller}, another device "
        f"or, over several GPUs and the computer's memory, {BALANCED!r}."
    )


def need_and_have(needed: MemoryEstimate, free: int, dtype: torch.dtype, device: str) -> str:
    """ "1.2 GB (weights …) in float32 on cpu, which has 0.9 GB free"."""
    where = "all devices together, which have" if device == BALANCED else f"{device}, which has"
    return f"{needed} in {str(dtype).removeprefix('torch.')} on {where} {gigabytes(free)} free"
