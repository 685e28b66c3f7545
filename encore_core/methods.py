"""The methods and the hyper-parameters of each model, as tables, and the settings of a run made from them.

A method is a row: which P the update starts from, which slack it uses, whether the search for targets stops early.
The formulas for these names are in `update_rule` and `targets`; what a row is, for people, in `method_cards`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, astuple, dataclass, field, fields, replace
from typing import Any, Literal

from encore_core import checks
from encore_core.errors import InputError
from encore_core.model_rows import ModelRow, default_layers, find_model_row, late_layers
from encore_core.setting_values import MpesContexts, Search, converted
from encore_core.tuned_rows import Shape, TunedFor, TunedRow, find_row

Preserving = Literal[
    "inverse", "null_space", "weighted_null_space", "lyapunov", "gradients", "whitened_gradients", "curvature"
]  # fmt: skip

GRADIENTS = ("gradients", "whitened_gradients")
"""Of `Preserving`, the rules that follow the gradient of the answer, and preserve nothing."""

WITHOUT_TARGETS = (*GRADIENTS, "curvature")
"""Of `Preserving`, all rules that follow the gradient of the answer."""

PAPER = "arXiv 2502.01636"
"""The paper whose methods this program is about; the other rows come from elsewhere."""


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        name: as users type it.
        preservation: "inverse" for P = (λp C0 + λn I)⁻¹, "null_space" for P = U Uᵀ / L2, "weighted_null_space" for
            BetaEdit's (see `renewed_projector`), "lyapunov" for LyapLock's equations (see `lyapunov`), and one of
            `GRADIENTS` for UltraEdit and StableEdit (see `gradient_rule`), "curvature" for CrispEdit's projected
            gradients (see `projected_gradient`).
        norm_constraint: whether λn is used; without it λn is 0.
        equality: whether edits must be met exactly (slack ε I) or in the least-squares sense (slack I).
        mpes: whether targets stop early.
        summary: one sentence for people.
        source: the paper that it comes from; "" for what is this program's own.
        published: settings of its own, as published.
        host: the method that it builds on, whose settings on a model it takes where it has none of its own.
    """

    name: str
    preservation: Preserving
    norm_constraint: bool
    equality: bool
    mpes: bool
    summary: str
    source: str = PAPER
    published: Mapping[str, Any] = field(default_factory=dict, repr=False)
    host: str = ""


METHODS = {
    method.name: method
    for method in (
        Method("MEMIT", "inverse", False, False, False,
               "Least squares between the new facts and what the matrix did before."),
        Method("EMMET", "inverse", False, True, False,
               "As MEMIT, but the new facts are an equality constraint."),
        Method("AlphaEdit", "null_space", False, False, False,
               "Projects updates onto the null space of general text, directions that it hardly uses."),
        Method("ENCORE", "inverse", True, False, True,
               "MEMIT with early stopping of targets (MPES) and a constraint on the matrix's norm."),
        Method("MEMIT+MPES", "inverse", False, False, True, "MEMIT with early stopping of targets."),
        Method("EMMET+MPES", "inverse", False, True, True, "EMMET with early stopping of targets."),
        Method("AlphaEdit+MPES", "null_space", False, False, True, "AlphaEdit with early stopping of targets."),
        Method("MEMIT+norm", "inverse", True, False, False, "MEMIT with the norm constraint alone."),
        Method("SPHERE", "null_space", False, False, False,
               "AlphaEdit whose updates are weakened along the main directions of the matrix's rows.",
               "arXiv 2510.01172", {"sphere_strength": 0.5, "sphere_energy": 0.5}, "AlphaEdit"),
        Method("AlphaEdit+NAS", "null_space", False, False, False,
               "AlphaEdit with targets rescaled to one norm; facts that need a far larger one are not edited.",
               "arXiv 2602.02543", {"nas": True}, "AlphaEdit"),
        Method("ENCORE+NAS", "inverse", True, False, True,
               "Ours, not from a paper: ENCORE with targets rescaled to one norm, as NAS does for AlphaEdit.",
               "", {"nas": True}, "ENCORE"),
        Method("ENCORE-N", "inverse", True, False, True,
               "Ours, not from a paper: ENCORE with targets found along the natural gradient of general text.",
               "", {"search": "natural_gradient", "contexts_at_once": 2}, "ENCORE"),
        Method("BetaEdit", "weighted_null_space", False, False, False,
               "AlphaEdit that weighs what it keeps, and recomputes its null space as edits use it up.",
               "arXiv 2605.09285", {"lambda_p": 3000, "l2": 10, "refresh_every": 1000, "most_change": 20},
               "AlphaEdit"),
        Method("LyapLock", "lyapunov", False, False, False,
               "Least squares that gives general text more weight the more earlier edits have damaged it.",
               "arXiv 2505.15702", {"lambda_p": 1000, "loss_budget": 60}),
        Method("UltraEdit", "gradients", False, False, False,
               "One step along the normalised gradient of the answer: no search for targets, no statistics.",
               "arXiv 2505.14679", {"lr": 1e-6, "l2": 1}),
        Method("StableEdit", "whitened_gradients", False, False, False,
               "UltraEdit with a stronger ridge, and gradients that are whitened once there are enough of them.",
               "ICML 2026", {"lr": 1e-6, "l2": 10}),
        Method("CrispEdit", "curvature", False, False, False,
               "Fine-tunes on the answers; what general text depends on is projected out of every gradient.",
               "arXiv 2602.15823", {"lr": 5e-4, "steps": 25, "curvature_energy": 0.8}),
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
        sphere_strength, sphere_energy: α and η of SPHERE, see `main_directions`; with α = 0 there is none of it.
        refresh_every: τ of BetaEdit: after how many edits its projector is made anew.
        most_change: largest ‖Δ‖/√n of a layer, n facts; a batch that needs more is refused. 0 for no limit.
        loss_budget: α of LyapLock, see `lyapunov`.
        curvature_energy: γ of CrispEdit, see `projected_gradient`.
        facts_per_step, stop_loss: how many facts of a batch CrispEdit takes for a step, and the loss below which they
            need none; its `steps` are passes over the batch, see `fine_tuning`.
        nas, nas_facts: whether targets are brought to one norm, and over how many facts it is found, see `norm_anchor`.
        steps, lr, clamp, weight_decay, kl_factor, mpes_extra_steps: see `targets`.
        pushes: how often facts that are not said after the update are pushed on, see `push`.
        mpes_contexts: which contexts must say the answer before MPES stops, see `target_loss`.
        search, search_step, search_decay, search_ridge: how δ is moved, see `search_step`.
        contexts_at_once: how many contexts a step looks at until they say the answer, see `context_turns`; 0 for all.
        bfloat16: whether targets are optimised with matrix products in bfloat16.
        sequential: whether the keys of earlier edits are added to what is preserved.
        statistics_tokens: how many tokens of general text C0 is made from.
        tuned_for: whether the other settings began from those for a few edits or from those for thousands.
        validated: whether these hyper-parameters were published, or come with the program, for this model.
        tuned: whether they were found on this machine for this model (see `tuned_rows`).
    """

    method: str
    layers: tuple[int, ...]
    preservation: Preserving
    equality: bool
    mpes: bool
    lambda_p: float
    lambda_n: float = 0.0
    epsilon: float = 0.1
    null_threshold: float = 0.02
    l2: float = 10.0
    sphere_strength: float = 0.0
    sphere_energy: float = 0.5
    refresh_every: int = 1000
    most_change: float = 0.0
    loss_budget: float = 60.0
    curvature_energy: float = 0.8
    facts_per_step: int = 32
    stop_loss: float = 0.01
    nas: bool = False
    nas_facts: int = 1000
    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    mpes_extra_steps: int = 1
    pushes: int = 0
    mpes_contexts: MpesContexts = "sampled"
    search: Search = "adam"
    search_step: float = 0.1
    search_decay: float = 1.0
    search_ridge: float = 0.05
    contexts_at_once: int = 0
    bfloat16: bool = False
    sequential: bool = True
    statistics_tokens: int = 100_000
    tuned_for: TunedFor = "few"
    validated: bool = False
    tuned: bool = False

    @property
    def standing(self) -> Standing:
        """How well tested these hyper-parameters are on this model."""
        return "validated" if self.validated else "tuned here" if self.tuned else "untested"

    @property
    def takes_back(self) -> bool:
        """Whether one edit can be taken out in closed form, see `removal`."""
        return not self.sphere_strength and self.preservation != "lyapunov" and not self.from_gradients

    @property
    def from_gradients(self) -> bool:
        """Whether edits follow the gradient of the answer: without subject and target."""
        return self.preservation in WITHOUT_TARGETS

    @property
    def needs_statistics(self) -> bool:
        """Whether edits need statistics of general text."""
        return self.preservation not in GRADIENTS

    def slack(self, n_facts: int) -> float:
        """s in S = s I: 1 in the least-squares sense; ε for equality, 0 for a single fact."""
        if not self.equality:
            return 1.0
        return self.epsilon if n_facts > 1 else 0.0


SETTABLE = tuple(
    name.name for name in fields(Settings) if name.name not in {"method", "preservation", "equality", "mpes", *MARKS}
)
"""Settings that a user can override with `--set name=value` or in the app."""

USUAL = {one.name: one.default for one in fields(Settings) if one.default is not MISSING}
"""Settings as they are where nothing says otherwise."""


def recorded_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a record that an earlier version of the program may have made, for going on with them.

    What that version did not know of is as usual, because this is what it did, and not as the method's row has it now.
    """
    return {name: USUAL[name] for name in SETTABLE if name in USUAL} | dict(recorded)


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
    row, given = find_method(method), overrides or {}
    check_names(given)
    wanted = converted("tuned_for", given.get("tuned_for", "few"), n_layers)
    shape = Shape(model_type, n_layers, d_model, n_vocab)
    model_row, tuned = find_model_row(*astuple(shape)), _in_force(shape, row.name, wanted)
    if wanted != "few" and wanted not in lengths_of(shape, row.name) and not set(given) >= set(SETTABLE):
        raise InputError(
            f"No settings of {row.name} for {wanted} of edits are known for this model; look for some with encore tune "
            "--horizon, or leave tuned_for out."
        )
    values: dict[str, Any] = {"layers": default_layers(n_layers), "lambda_p": 1000, "lambda_n": 20}
    if model_row is not None:
        values |= model_row.common
    if row.preservation in WITHOUT_TARGETS:
        values["layers"] = late_layers(n_layers)
    if model_row is not None and row.host:
        values |= model_row.per_method.get(row.host, {})
    values |= row.published
    if model_row is not None:
        values |= model_row.per_method.get(row.name, {})
        if wanted == "thousands" and tuned is None:  # a row tuned here was found from the settings for a few edits
            values |= model_row.for_thousands.get(row.name, {})
    if not row.norm_constraint:
        values["lambda_n"] = 0.0
    settings = Settings(
        method=row.name,
        preservation=row.preservation,
        equality=row.equality,
        mpes=row.mpes,
        tuned_for=wanted,
        validated=publishes(model_row, row),
        **values,
    )
    if tuned is not None:
        settings = override(replace(settings, validated=False), tuned.settings, n_layers)
        settings = replace(settings, tuned=fingerprint in (None, tuned.fingerprint))
    return override(settings, given, n_layers)


def publishes(model_row: ModelRow | None, method: Method) -> bool:
    """Whether a model's row, if it has one, holds settings of a method for a few edits.

    What was published for a model with the paper's methods says little about those from elsewhere.
    """
    return model_row is not None and (method.source == PAPER or method.name in model_row.per_method)


def lengths_of(shape: Shape, method: str) -> tuple[TunedFor, ...]:
    """For how many edits settings of a method are known for models of a shape: always for "few"."""
    published = find_model_row(*astuple(shape))
    known = published is not None and method in published.for_thousands
    return ("few", "thousands") if known or _in_force(shape, method, "thousands") is not None else ("few",)


def _in_force(shape: Shape, method: str, tuned_for: TunedFor) -> TunedRow | None:
    """The row tuned here, if it is used."""
    row = find_row(shape, method, tuned_for)
    return row if row is not None and row.in_force else None


def override(settings: Settings, overrides: Mapping[str, Any], n_layers: int) -> Settings:
    """Settings with some values replaced. A changed value makes them untested, unless it equals the present one.

    Raises:
        InputError: unknown setting, or a value it cannot take.
    """
    check_names(overrides)
    changed = replace(settings, **{name: converted(name, value, n_layers) for name, value in overrides.items()})
    if changed.lambda_n and not METHODS[changed.method].norm_constraint:
        raise InputError(
            f"Setting lambda_n = {changed.lambda_n:g} does not suit {changed.method}, which has no norm constraint; "
            "choose ENCORE or MEMIT+norm, or leave it out."
        )
    if changed.sphere_strength and (changed.from_gradients or changed.preservation == "lyapunov"):
        raise InputError(
            f"Setting sphere_strength = {changed.sphere_strength:g} does not suit {changed.method}, which has no P; "
            "leave it out."
        )
    if changed.pushes and not changed.takes_back:
        raise InputError(
            f"Setting pushes = {changed.pushes} does not suit {changed.method}, whose update does not follow from "
            "residuals, keys and P alone; leave it out."
        )
    of_targets = {"search": changed.search != "adam", "contexts_at_once": changed.contexts_at_once, "nas": changed.nas}
    for name, is_changed in of_targets.items():
        if is_changed and changed.from_gradients:
            value = str(getattr(changed, name)).lower()
            raise InputError(
                f"Setting {name} = {value} does not suit {changed.method}, which has no targets; leave it out."
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
