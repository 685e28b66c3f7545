"""The settings of a method on a loaded model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from encore_core.errors import InputError
from encore_core.methods import Settings, settings_for
from encore_core.models.editable import EditableModel


def settings_of(lm: EditableModel, method: str, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of a method on a loaded model, see `methods.settings_for`.

    Raises:
        InputError: as `methods.settings_for`, and for products in bfloat16 on a processor without bfloat16 units.
    """
    settings = settings_for(
        method,
        **asdict(lm.shape),
        fingerprint=lm.fingerprint,
        overrides=overrides,
    )
    if settings.bfloat16 and lm.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError(
            "Setting bfloat16 = true does not suit this processor: it has no bfloat16 units, and products would take "
            "hundreds of times as long as in float32; leave it out."
        )
    return settings
