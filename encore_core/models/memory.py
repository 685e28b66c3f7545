"""How much memory it takes to load and edit a model, from its configuration alone: no weight is allocated.

    weights      every parameter once, in the model's dtype
    matrices     for each edited layer the session's matrix, and the one that a batch is working on (two with CrispEdit
                 and with pushes); each in float32, and again in the model's dtype if that is another
    statistics   for each edited layer P in float64, or what else the method keeps; while P is made, also C0 in float32
                 and the inverse's work space
    targets      what the backward pass through the blocks above the last edited one needs: activations of the tokens
                 that are run at once, their logits, and keys and values of the tokens before; with products in
                 bfloat16 also these blocks' matrices in bfloat16 (see `bfloat16`)

The first three are exact. The last follows from two coefficients, `SAVED_PER_MLP` and `SAVED_PER_STREAM`, measured on
the families of `families`; it is meant to be right within a factor of two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from encore_core.errors import quoted
from encore_core.methods import GRADIENTS, Settings, settings_for
from encore_core.models.device_map import BALANCED
from encore_core.models.families import Parts, find_parts, skeleton, text_config
from encore_core.storage import gigabytes

SAVED_PER_MLP, SAVED_PER_STREAM = 4, 14
"""Numbers that autograd keeps per token and block, as multiples of d_mlp (a gate, what it is multiplied by, and their
activation) and of the width of the stream or the attention heads (norms, queries, keys, values)."""

CONTEXTS = 6
"""Contexts per fact: the plain prompt and the sampled prefixes."""

OWN_TOKENS, TARGET_TOKENS, TOKENS_BEFORE = 5, 2, 24
"""For a usual fact in one context: tokens from the subject's last one on, tokens of its target, and tokens before."""

CPU_TOKENS, GPU_TOKENS = 2048, 65536
"""Tokens of facts whose targets are optimised together; more tokens make no matrix product faster."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part, see the module."""

    weights: int
    matrices: int
    statistics: int
    targets: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def editing(self) -> int:
        """Bytes that editing takes in addition to the loaded weights."""
        return self.total - self.weights

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by name of the part."""
        return asdict(self)

    def __str__(self) -> str:
        named = zip(("weights", "edited matrices", "key statistics", "targets"), self.parts.values(), strict=True)
        return f"{gigabytes(self.total)} ({', '.join(f'{part} {gigabytes(size)}' for part, size in named)})"


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine how much memory is needed.

    Attributes:
        n_weights: number of parameters; shared ones are counted once.
        n_layers, d_model, d_mlp, n_vocab: see `editable`.
        d_heads: width of all attention heads together.
        d_cache: numbers that a block keeps for an earlier token: its key and value.
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
        """The sizes of a loaded model or a skeleton."""
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
        """The sizes from a configuration alone.

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
        """Numbers per token that a backward pass through some blocks needs."""
        return n_blocks * (SAVED_PER_MLP * self.d_mlp + SAVED_PER_STREAM * max(self.d_model, self.d_heads))


def estimate(
    config, dtype: torch.dtype, settings: Settings, batch_size: int = 100, device_type: str = "cpu"
) -> MemoryEstimate:
    """The memory that loading a model and editing it takes.

    Args:
        config: of the model, as transformers reads it.
        dtype: of the weights.
        settings: of the edits; they determine which layers are edited.
        batch_size: facts per batch.
        device_type: "cpu", or the type of a GPU, where more tokens are run at once.

    Raises:
        InputError: as `families.find_parts`.
    """
    return estimate_of(Sizes.of_config(config), dtype, settings, batch_size, device_type)


def estimate_of(
    sizes: Sizes, dtype: torch.dtype, settings: Settings, batch_size: int = 100, device_type: str = "cpu"
) -> MemoryEstimate:
    """`estimate` from the sizes."""
    itemsize = dtype.itemsize
    n_sets = 3 if settings.preservation == "curvature" or settings.pushes else 2
    n_above = sizes.n_layers - 1 - settings.layers[-1]
    # Matrices above the last edited block, and the output matrix, are also held in bfloat16.
    rounded = sizes.n_head + (sizes.n_weights - sizes.n_head) * n_above // sizes.n_layers
    is_rounded = settings.bfloat16 and itemsize > torch.bfloat16.itemsize
    return MemoryEstimate(
        weights=sizes.n_weights * itemsize,
        matrices=n_sets * bytes_of_matrices(dtype, len(settings.layers), sizes.d_model, sizes.d_mlp),
        statistics=_statistics(settings, sizes.d_mlp, sizes.d_model),
        targets=_targets(sizes, dtype, n_above, batch_size, device_type)
        + is_rounded * rounded * torch.bfloat16.itemsize,
    )


def bytes_of_matrices(dtype: torch.dtype, n_layers: int, d_model: int, d_mlp: int) -> int:
    """Bytes of one set of edited matrices: as they are summed, and as they are run (see `edited_matrices.Sums`).

    Args:
        dtype: of the model.
        n_layers: edited blocks.
        d_model, d_mlp: sizes of a matrix.
    """
    exact = torch.promote_types(dtype, torch.float32)
    itemsize = exact.itemsize + (dtype.itemsize if dtype != exact else 0)
    return n_layers * d_model * d_mlp * itemsize


def bytes_kept(settings: Settings, d_mlp: int, d_model: int) -> int:
    """Bytes that one layer of a long run keeps: P in float64, C0 and F in float32, H in float64, or sums of
    gradients."""
    if settings.preservation in GRADIENTS:
        return 8 * (2 * (d_mlp + d_model) + (settings.preservation == "whitened_gradients") * d_model**2)
    if settings.preservation == "curvature":
        return (4 + 8) * (d_mlp**2 + d_model**2)
    return d_mlp**2 * {"weighted_null_space": 8 + 4 + 8, "lyapunov": 4 + 8}.get(settings.preservation, 8)


def _statistics(settings: Settings, d_mlp: int, d_model: int) -> int:
    """Bytes of what all edited layers keep, and of the work on it."""
    n_edited, square = len(settings.layers), d_mlp**2
    # After some batches all of it is the session's own, and the model still keeps the initial one for other sessions.
    # A run's model does not (see `EditSession.stop_sharing`), but saving a state copies it once.
    kept = 2 * n_edited * bytes_kept(settings, d_mlp, d_model)
    if settings.preservation in GRADIENTS:
        return kept
    of_one = 3 * 8 * square  # an inverse, or eigenvectors
    if settings.preservation == "lyapunov":
        return kept + of_one
    if settings.preservation == "curvature":  # eigenvectors and Adam's moments of all layers at once
        return kept + of_one + 4 * n_edited * (square + d_model**2 + 2 * d_model * d_mlp)
    # While the last P is made, the others and C0 of all layers are in memory.
    return max(kept, square * (8 * (n_edited - 1) + 4 * n_edited) + of_one)


def _targets(sizes: Sizes, dtype: torch.dtype, n_above: int, batch_size: int, device_type: str) -> int:
    """Bytes of the backward pass of a group of facts, and of the keys and values of the tokens before.

    On a device with less memory the groups are smaller (see `group_size.default_max_tokens`).
    """
    limit = CPU_TOKENS if device_type == "cpu" else GPU_TOKENS
    n_rows = min(batch_size * CONTEXTS, max(CONTEXTS, limit // OWN_TOKENS))
    activations = n_rows * OWN_TOKENS * sizes.saved_per_token(n_above) * dtype.itemsize
    # For a fact in every context, and once for its KL prompt: logits in the model's dtype and in float32, their
    # probabilities and their gradient.
    n_logits = n_rows * TARGET_TOKENS + n_rows // CONTEXTS
    logits = n_logits * sizes.n_vocab * (dtype.itemsize + 3 * 4)
    before = n_rows * TOKENS_BEFORE * n_above * sizes.d_cache * dtype.itemsize
    return activations + logits + before


def least_needed(config, sizes: Sizes, dtype: torch.dtype, device_type: str) -> MemoryEstimate:
    """The least memory that loading and editing takes: usual settings, facts one after the other.

    Args:
        config: of the model, as transformers reads it.
        sizes: from the configuration.
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
        name: the model's name in messages.
        needed: see `least_needed`.
        free: bytes that are free.
        dtype: of the weights.
        device: as asked for: "cpu", "cuda:1", "balanced".
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
