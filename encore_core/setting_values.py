"""What each setting of a method can be, and how a given value is read as one."""

from __future__ import annotations

from typing import Any, Literal, get_args

from encore_core import checks
from encore_core.errors import InputError, quoted
from encore_core.tuned_rows import LENGTHS

Search = Literal["adam", "normalised_gradient", "natural_gradient"]
MpesContexts = Literal["sampled", "all"]

CHOICES = {
    "search": get_args(Search), "mpes_contexts": get_args(MpesContexts), "tuned_for": LENGTHS,
}  # fmt: skip
"""Settings that are one of several words."""

# For each setting the smallest and largest value; for numbers also whether they must be above the smallest.
_WHOLE = {
    "steps": (1, 1000),
    "mpes_extra_steps": (0, 1000),
    "pushes": (0, 20),
    "contexts_at_once": (0, 20),
    "statistics_tokens": (100, 10**9),
    "nas_facts": (20, 10**6),
    "refresh_every": (1, 10**9),
    "facts_per_step": (1, 10**6),
}
_NUMBERS = {
    "lambda_p": (0, 1e12, True),
    "lambda_n": (0, 1e12, False),
    "epsilon": (0, 1e6, False),
    "null_threshold": (0, 1e12, True),
    "l2": (0, 1e12, True),
    "sphere_strength": (0, 1, False),
    "sphere_energy": (0, 1, False),
    "most_change": (0, 1e12, False),
    "loss_budget": (0, 1e12, True),
    "curvature_energy": (0, 1, False),
    "stop_loss": (0, 100, True),
    "lr": (0, 100, True),
    "clamp": (0, 100, True),
    "weight_decay": (0, 1e6, False),
    "search_step": (0, 100, True),
    "search_decay": (0, 1, True),
    "search_ridge": (0, 1e6, True),
    "kl_factor": (0, 1e6, False),
}


def converted(name: str, value: Any, n_layers: int) -> Any:
    """A value as the setting's type; texts are read.

    Args:
        name: of the setting.
        value: as given.
        n_layers: of the model.

    Raises:
        InputError: for a value that the setting cannot take.
    """
    if name == "layers":
        return _layers(value, n_layers)
    if name in _WHOLE:
        return checks.whole(f"Setting {name}", value, *_WHOLE[name], typed=True)
    if name in _NUMBERS:
        low, high, above = _NUMBERS[name]
        return checks.number(f"Setting {name}", value, low, high, above=above, typed=True)
    if name in CHOICES:
        return checks.choice(f"Setting {name}", value, CHOICES[name])
    return checks.flag(f"Setting {name}", value, typed=True)


def _layers(value: Any, n_layers: int) -> tuple[int, ...]:
    """Blocks from "6-10", "6,7,8", [6, 7] or 6."""
    try:
        if isinstance(value, str):
            layers: list[int] = []
            for part in value.strip("[]() ").split(","):
                first, _, last = part.strip().partition("-")
                layers += range(int(first), min(int(last or first), n_layers) + 1)
        else:
            given = value if isinstance(value, list | tuple) else [value]
            layers = [int(layer) for layer in given]
            if layers != list(given):
                layers = []
    except (TypeError, ValueError, OverflowError):
        layers = []
    # After the last block there is nothing left that could turn a target into an answer.
    if not layers or min(layers) < 0 or max(layers) >= n_layers - 1 or sorted(set(layers)) != layers:
        raise InputError(
            f"Setting layers = {quoted(value)} does not name ascending blocks between 0 and {n_layers - 2}; "
            'write for example "6-10" or "6,7,8".'
        )
    return tuple(layers)
