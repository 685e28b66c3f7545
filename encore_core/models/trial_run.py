"""A trial run of two short texts: whether a loaded model runs, gives finite logits, and is the chain it seems to be.

Finite weights can give results that are not finite, and only a run shows what a model's parts do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from encore_core.errors import InputError, first_line, quoted
from encore_core.models.device_map import running_device
from encore_core.models.families import FAMILIES, Parts


def check_run(model: nn.Module, parts: Parts, name: str) -> None:
    """Run two texts of three tokens that differ in the last one, and check the results.

    Args:
        model: with its weights.
        parts: its parts.
        name: its name in messages.

    Raises:
        InputError: when it cannot be run or its logits are not finite; for a model whose family is not in `FAMILIES`,
            also when a token sees later ones, or a block or its matrix is not used exactly once.
    """
    order: list[nn.Module] = []
    watched = [*parts.blocks, *parts.down_projections]
    handles = [module.register_forward_pre_hook(lambda module, _: order.append(module)) for module in watched]
    try:
        logits = _logits_of_two_texts(model, parts.embedding)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(
            f"Model {quoted(name)} leaves no memory to run in; choose bfloat16, a smaller model or another device."
        ) from error
    except Exception as error:  # from the model's own code, which runs with these weights for the first time
        raise InputError(
            f"Model {quoted(name)} cannot be run ({first_line(error)}); its config.json and weights do not belong "
            "together, or its files are damaged."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    # float16 is for files only (see `device_map.DTYPES`). Much overflows in it that does not in the formats that models
    # run in, so its logits are not checked.
    if logits.dtype != torch.float16 and not bool(logits.amax(-1).isfinite().all()):  # a NaN is the largest of all
        raise InputError(
            f"Model {quoted(name)} gives logits that are not finite, though its weights are: they are too large to "
            "compute with, so the files are damaged or of another model."
        )
    if model.config.model_type not in FAMILIES:
        _check_causal_chain(logits, order, parts, name)


@torch.no_grad()
def _logits_of_two_texts(model: nn.Module, embedding: nn.Module) -> torch.Tensor:
    """Logits (2, 3, n_vocab) of two texts that differ in their last token."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=running_device(embedding))
    ids %= embedding.weight.shape[0]
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits


def _check_causal_chain(logits: torch.Tensor, order: Sequence[nn.Module], parts: Parts, name: str) -> None:
    """Check a model without a row in `FAMILIES` by its logits and the order in which its parts ran."""
    expected = [module for pair in zip(parts.blocks, parts.down_projections, strict=True) for module in pair]
    if list(order) != expected:
        raise InputError(
            f"Model {quoted(name)}: its {len(parts.blocks)} blocks do not run one after the other, each through its "
            "MLP matrix once, so it cannot be edited."
        )
    seen, others = logits[0, :2].float(), logits[1, :2].float()
    if bool(torch.isfinite(seen).all()) and float((seen - others).abs().max()) > 1e-3 * float(seen.abs().max()):
        raise InputError(
            f"Model {quoted(name)}: its attention is not causal (tokens attend to later ones), so it cannot be edited."
        )
