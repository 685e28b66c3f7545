"""The methods and the hyper-parameters of each model, as tables, and the settings of a run made from them.

A method is a row: which P the update starts from, which slack it uses, whether the search for targets stops early.
The formulas for these names are in `update_rule` and `targets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from encore_core import checks
from encore_core.errors import InputError, quoted
from encore_core.tuned_rows import Shape, find_row


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        name: as users type it.
        preservation: "inverse" for P = (λp C0 + λn I)⁻¹, "null_space" for P = U Uᵀ / L2.
        norm_constraint: whether λn is used; without it λn is 0.
        equality: whether edits must be met exactly (slack ε I) or in the least-squares sense (slack I).
        mpes: whether targets stop early.
        summary: one sentence for people.
    """

    name: str
    preservation: Literal["inverse", "null_space"]
    norm_constraint: bool
    equality: bool
    mpes: bool
    summary: str


METHODS = {
    method.name: method
    for method in (
        Method("MEMIT", "inverse", False, False, False,
               "Least squares between the new facts and what the matrix did before."),
        Method("EMMET", "inverse", False, True, False,
               "As MEMIT, but the new facts are an equality constraint."),
        Method("AlphaEdit", "null_space", False, False, False,
               "Changes only directions that general text leaves unused."),
        Method("ENCORE", "inverse", True, False, True,
               "MEMIT with early stopping of targets (MPES) and a constraint on the matrix's norm."),
        Method("MEMIT+MPES", "inverse", False, False, True, "MEMIT with early stopping of targets."),
        Method("EMMET+MPES", "inverse", False, True, True, "EMMET with early stopping of targets."),
        Method("AlphaEdit+MPES", "null_space", False, False, True, "AlphaEdit with early stopping of targets."),
        Method("MEMIT+norm", "inverse", True, False, False, "MEMIT with the norm constraint alone."),
    )
}  # fmt: skip


Standing = Literal["validated", "tuned here", "untested"]

MARKS = ("validated", "tuned")
"""Fields of `Settings` that say how well tested it is, and do not affect the edit."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines what an edit does; written into every report.

    Attributes:
        method: name of the row in `METHODS`.
        layers: edited blocks, ascending; targets are optimised at the output of the last.
        preservation, equality, mpes: from the method's row.
        lambda_p: weight of what is preserved, see `update_rule`.
        lambda_n: weight of the norm constraint; 0 without it.
        epsilon: slack of EMMET for batches of more than one fact.
        null_threshold, l2: AlphaEdit's eigenvalue threshold and ridge weight.
        steps, lr, clamp, weight_decay, kl_factor, mpes_extra_steps: see `targets`.
        bfloat16: whether targets are optimised with matrix products in bfloat16.
        sequential: whether the keys of earlier edits are added to what is preserved.
        statistics_tokens: how many tokens of general text C0 is made from.
        validated: whether these hyper-parameters were published, or come with the program, for this model.
        tuned: whether they were found on this machine for this model (see `tuned_rows`).
    """

    method: str
    layers: tuple[int, ...]
    preservation: Literal["inverse", "null_space"]
    equality: bool
    mpes: bool
    lambda_p: float
    lambda_n: float = 0.0
    epsilon: float = 0.1
    null_threshold: float = 0.02
    l2: float = 10.0
    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    mpes_extra_steps: int = 1
    bfloat16: bool = False
    sequential: bool = True
    statistics_tokens: int = 100_000
    validated: bool = False
    tuned: bool = False

    @property
    def standing(self) -> Standing:
        """How well tested these hyper-parameters are on this model."""
        return "validated" if self.validated else "tuned here" if self.tuned else "untested"

    def slack(self, n_facts: int) -> float:
        """s in S = s I: 1 in the least-squares sense; ε for equality, 0 for a single fact."""
        if not self.equality:
            return 1.0
        return self.epsilon if n_facts > 1 else 0.0


@dataclass(frozen=True)
class ModelRow:
    """Hyper-parameters of one model, found by its shape, so that they serve a local copy or an edited folder, too.

    Attributes:
        model_type, n_layers, d_model, n_vocab: the shape; None matches any.
        common: settings of every method.
        per_method: settings of single methods, by name.
        source: where they come from.
        start_token: the start token that they are for, if the model's tokenizer puts no token in front (see
            `start_token`): "none" in rows that follow published results.
    """

    model_type: str
    n_layers: int
    d_model: int
    n_vocab: int | None
    common: Mapping[str, Any]
    per_method: Mapping[str, Mapping[str, Any]]
    source: str
    start_token: str = "none"


_PAPER = "arXiv 2502.01636, tables 6 to 8 (CounterFact)"

MODEL_ROWS = (
    # λp 15,000 is far too stiff for this model; `encore tune` shows how such a row is found.
    ModelRow("llama", 30, 576, None,
             {"layers": (6, 7, 8, 9, 10), "steps": 20, "lambda_p": 300, "lambda_n": 5, "mpes_extra_steps": 1,
              "statistics_tokens": 30_000},
             {},
             "tuned here on CounterFact",
             "<|endoftext|>"),
    ModelRow("gpt2", 48, 1600, None,
             {"layers": (13, 14, 15, 16, 17), "steps": 20, "lambda_p": 20_000, "lambda_n": 10},
             {"EMMET": {"layers": (17,), "lambda_p": 10_000}, "EMMET+MPES": {"layers": (17,), "lambda_p": 10_000},
              "MEMIT+MPES": {"mpes_extra_steps": 2}, "ENCORE": {"mpes_extra_steps": 3}},
             _PAPER),
    ModelRow("gptj", 28, 4096, None,
             {"layers": (3, 4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 10},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)}},
             "published configurations of MEMIT and EMMET"),
    ModelRow("llama", 32, 4096, 32_000,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 10, "mpes_extra_steps": 0},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)},
              "AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1},
              "MEMIT+MPES": {"mpes_extra_steps": 1}, "ENCORE": {"mpes_extra_steps": 2}},
             _PAPER),
    ModelRow("llama", 32, 4096, 128_256,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20, "mpes_extra_steps": 0},
             {"EMMET": {"layers": (5,)}, "EMMET+MPES": {"layers": (5,)},
              "AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1},
              "MEMIT+MPES": {"mpes_extra_steps": 2}, "ENCORE": {"mpes_extra_steps": 1}},
             _PAPER),
    ModelRow("qwen2", 28, 3584, None,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20},
             {"AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1}},
             "published configurations of MEMIT and AlphaEdit"),
    ModelRow("mistral", 32, 4096, None,
             {"layers": (4, 5, 6, 7, 8), "lambda_p": 15_000, "lambda_n": 20},
             {"AlphaEdit": {"lr": 0.1}, "AlphaEdit+MPES": {"lr": 0.1}},
             "published configurations of MEMIT and AlphaEdit"),
)  # fmt: skip

SETTABLE = tuple(
    name.name for name in fields(Settings) if name.name not in {"method", "preservation", "equality", "mpes", *MARKS}
)
"""Settings that a user can override with `--set name=value` or in the app."""


def find_method(name: str) -> Method:
    """The row of a method, whatever the case of its name.

    Raises:
        InputError: for a name that is not in the table.
    """
    for known, method in METHODS.items():
        if isinstance(name, str) and known.lower() == name.strip().lower():
            return method
    raise checks.unknown("Unknown method", name, METHODS)


def settings_for(
    method: str,
    *,
    model_type: str,
    n_layers: int,
    d_model: int,
    n_vocab: int,
    fingerprint: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a method on a model: from a row tuned here and in force, else the published row, else defaults.

    Args:
        method: a name from `METHODS`.
        model_type, n_layers, d_model, n_vocab: the model's shape, which finds its row.
        fingerprint: of the model's weights, if they are loaded. A row tuned here on other weights of this shape gives
            the same settings, marked untested.
        overrides: values that replace the table's; strings are read as the setting's type.

    Raises:
        InputError: unknown method or setting, or a value that the setting cannot take.
    """
    row = find_method(method)
    model_row = find_model_row(model_type, n_layers, d_model, n_vocab)
    values: dict[str, Any] = {"layers": default_layers(n_layers), "lambda_p": 1000, "lambda_n": 20}
    if model_row is not None:
        values |= model_row.common
        values |= model_row.per_method.get(row.name, {})
    if not row.norm_constraint:
        values["lambda_n"] = 0.0
    settings = Settings(
        method=row.name,
        preservation=row.preservation,
        equality=row.equality,
        mpes=row.mpes,
        validated=model_row is not None,
        **values,
    )
    tuned = find_row(Shape(model_type, n_layers, d_model, n_vocab), row.name)
    if tuned is not None and tuned.in_force:
        settings = override(replace(settings, validated=False), tuned.settings, n_layers)
        settings = replace(settings, tuned=fingerprint in (None, tuned.fingerprint))
    return override(settings, overrides or {}, n_layers)


def find_model_row(model_type: str, n_layers: int, d_model: int, n_vocab: int) -> ModelRow | None:
    """The row of hyper-parameters for a model of this shape, if there is one."""
    for row in MODEL_ROWS:
        if (row.model_type, row.n_layers, row.d_model) == (model_type, n_layers, d_model) and (
            row.n_vocab in (None, n_vocab)
        ):
            return row
    return None


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Edited blocks for a model without a row of its own: up to five, a fifth to a third of the way up."""
    last = max(0, min(n_layers - 2, round(n_layers * 0.35)))
    return tuple(range(max(0, last - 4), last + 1))


def override(settings: Settings, overrides: Mapping[str, Any], n_layers: int) -> Settings:
    """Settings with some values replaced. A changed value makes them untested, unless it equals the present one.

    Raises:
        InputError: unknown setting, or a value it cannot take.
    """
    check_names(overrides)
    changed = replace(settings, **{name: _converted(name, value, n_layers) for name, value in overrides.items()})
    if changed.lambda_n and not METHODS[changed.method].norm_constraint:
        raise InputError(
            f"Setting lambda_n = {changed.lambda_n:g} does not suit {changed.method}, which has no norm constraint; "
            "choose ENCORE or MEMIT+norm, or leave it out."
        )
    return changed if asdict(changed) == asdict(settings) else replace(changed, validated=False, tuned=False)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are not settings.

    Raises:
        InputError: for the first one that `SETTABLE` does not have.
    """
    for name in names:
        if name not in SETTABLE:
            raise checks.unknown("Unknown setting", name, SETTABLE)


# For each setting the smallest and largest value; for numbers also whether they must be above the smallest.
_WHOLE = {
    "steps": (1, 1000),
    "mpes_extra_steps": (0, 1000),
    "statistics_tokens": (100, 10**9),
}
_NUMBERS = {
    "lambda_p": (0, 1e12, True),
    "lambda_n": (0, 1e12, False),
    "epsilon": (0, 1e6, False),
    "null_threshold": (0, 1e12, True),
    "l2": (0, 1e12, True),
    "lr": (0, 100, True),
    "clamp": (0, 100, True),
    "weight_decay": (0, 1e6, False),
    "kl_factor": (0, 1e6, False),
}


def _converted(name: str, value: Any, n_layers: int) -> Any:
    if name == "layers":
        return _layers(value, n_layers)
    if name in _WHOLE:
        return checks.whole(f"Setting {name}", value, *_WHOLE[name], typed=True)
    if name in _NUMBERS:
        low, high, above = _NUMBERS[name]
        return checks.number(f"Setting {name}", value, low, high, above=above, typed=True)
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
