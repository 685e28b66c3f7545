"""The settings of a method as fields: their labels, their meaning, how they are typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from encore_core.methods import GRADIENTS, METHODS, WITHOUT_TARGETS, Settings
from encore_core.setting_values import CHOICES


@dataclass(frozen=True)
class Setting:
    """A setting of a method as a field.

    Attributes:
        name: as in `methods.Settings`.
        label, about: for readers.
        step: of the field's arrows; None for text, and for a choice.
    """

    name: str
    label: str
    about: str
    step: float | int | None

    @property
    def choices(self) -> tuple[str, ...]:
        """What there is to choose from; empty for fields that are typed."""
        return CHOICES.get(self.name, ())

    @staticmethod
    def choice_words(choice: str) -> str:
        """One of them for readers: "natural gradient"."""
        return choice.replace("_", " ")


SETTINGS = (
    Setting("layers", "Edited layers", "Blocks whose MLP output matrix is changed, e.g. 6-10 or 6,7,8.", None),
    Setting("lambda_p", "λp, preservation", "How strongly the matrix keeps what it did before.", 100.0),
    Setting("lambda_n", "λn, norm constraint", "How strongly the matrix is kept from growing.", 5.0),
    Setting("epsilon", "ε, slack", "EMMET's slack for batches of more than one fact.", 0.05),
    Setting("null_threshold", "Null-space threshold", "Eigenvalues of C0 below it count as unused.", 0.01),
    Setting("l2", "L2", "Ridge weight (BetaEdit calls it λ₂).", 1.0),
    Setting("sphere_strength", "α, SPHERE", "How far updates are weakened along the rows' main directions.", 0.1),
    Setting("sphere_energy", "η, SPHERE", "Share of the rows' spread that counts as main directions.", 0.1),
    Setting("refresh_every", "τ, BetaEdit", "After how many edits the unused directions are found again.", 100),
    Setting("most_change", "Largest ‖Δ‖/√n", "A batch that needs more is refused; 0 for no limit.", 1.0),
    Setting(
        "loss_budget",
        "α, LyapLock",
        "Allowed loss on general text, as a multiple of the loss after the first batch.",
        10.0,
    ),
    Setting(
        "curvature_energy",
        "γ, CrispEdit",
        "Share of general text's curvature that is projected out of gradients; 0 for plain fine-tuning.",
        0.05,
    ),
    Setting("facts_per_step", "Facts per step", "CrispEdit: how many facts of the batch make one step.", 8),
    Setting("stop_loss", "Loss to stop at", "CrispEdit: passes end when the answers' mean loss is below it.", 0.01),
    Setting("nas_facts", "Facts for the norm", "NAS: over how many bundled facts the usual norm is found.", 100),
    Setting(
        "mpes_extra_steps",
        "Extra steps after MPES",
        "Steps taken after the new answer has become the most probable one in the contexts that MPES counts.",
        1,
    ),
    Setting(
        "mpes_contexts",
        "MPES counts",
        "The contexts that must say the new answer: the sampled ones, as in the paper's code, or the plain prompt too.",
        None,
    ),
    Setting("pushes", "Pushes", "Ours: how often facts that are not said after the update are pushed on.", 1),
    Setting("steps", "Maximum steps", "For the target of each fact; with CrispEdit, passes over the batch.", 1),
    Setting("search", "Search for targets", "Adam is the paper's; the other two are ours.", None),
    Setting("search_step", "η, step", "Length of a step along the gradient, as a share of the state's.", 0.02),
    Setting("search_decay", "Decay of η", "η is multiplied by it after every step; 1 for none.", 0.05),
    Setting("search_ridge", "ε of F̂", "Ridge of the natural gradient: the larger, the nearer to the plain one.", 0.05),
    Setting(
        "contexts_at_once",
        "Contexts at once",
        "Ours: how many contexts a step looks at until they say the new answer; 0 for all of them.",
        1,
    ),
    Setting("lr", "Learning rate", "For Adam; the step itself of UltraEdit and StableEdit.", 0.1),
    Setting("clamp", "Clamp", "Longest change of the hidden state, as a share of its length.", 0.05),
    Setting("weight_decay", "Weight decay", "Pull of the change towards zero.", 0.1),
    Setting("kl_factor", "KL factor", "How strongly general statements about the subject are kept.", 0.0125),
    Setting(
        "statistics_tokens",
        "Tokens for C0",
        "Length of the general text behind C0, unless statistics were gathered or imported on Models.",
        1000,
    ),
)


def used_settings(method: str) -> list[Setting]:
    """The settings that a method uses, in the order shown."""
    row, s = METHODS[method], METHODS[method].preservation
    in_null_space, by_gradient = s in ("null_space", "weighted_null_space"), s in WITHOUT_TARGETS
    unused = {
        "lambda_p": s == "null_space" or by_gradient,
        "lambda_n": not row.norm_constraint,
        "epsilon": not row.equality,
        "null_threshold": not in_null_space,
        "l2": not (in_null_space or s in GRADIENTS),
        "mpes_extra_steps": not row.mpes,
        "mpes_contexts": not row.mpes,
        "pushes": by_gradient or s == "lyapunov" or "sphere_strength" in row.published,
        "search": by_gradient,
        "search_step": by_gradient,
        "search_decay": by_gradient,
        "search_ridge": by_gradient,
        "contexts_at_once": by_gradient,
        "nas_facts": not row.published.get("nas"),
        "sphere_strength": "sphere_strength" not in row.published,
        "sphere_energy": "sphere_strength" not in row.published,
        "loss_budget": s != "lyapunov",
        "refresh_every": s != "weighted_null_space",
        "most_change": s != "weighted_null_space",
        **dict.fromkeys(("curvature_energy", "facts_per_step", "stop_loss"), s != "curvature"),
        **dict.fromkeys(("steps", "statistics_tokens"), s in GRADIENTS),
        **dict.fromkeys(("clamp", "weight_decay", "kl_factor"), by_gradient),
    }
    return [setting for setting in SETTINGS if not unused.get(setting.name, False)]


OF_OTHER_SEARCHES = {
    "adam": ("search_step", "search_decay", "search_ridge"),
    "normalised_gradient": ("lr", "search_ridge"),
    "natural_gradient": ("lr",),
}
"""Search → settings that it does not read."""


def settings_read(some: Sequence[Settings]) -> list[Setting]:
    """What a method reads under some settings of it, whose searches may differ, in the order shown."""
    unread = [() if one.from_gradients else OF_OTHER_SEARCHES[one.search] for one in some]
    by_none = set.intersection(*map(set, unread))
    return [setting for setting in used_settings(some[0].method) if setting.name not in by_none]


def words_of_sequential(method: str) -> tuple[str, str]:
    """Label and help of the switch for what later batches take over from earlier ones."""
    if METHODS[method].preservation in GRADIENTS:
        return "Scale gradients by all edits so far", "On by default, as published; off: by each batch's own alone."
    return "Later batches preserve earlier edits", "On by default, for MEMIT too, as in the authors' code."


def layers_text(layers: tuple[int, ...]) -> str:
    """Edited layers as they are typed, "6-10" or "6,8"."""
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))


def as_text(settings: Settings, name: str) -> str:
    """A setting's value on a model as text: in a table, or shown in an empty field."""
    value = getattr(settings, name)
    if name == "layers":
        return layers_text(value)
    if isinstance(value, str):
        return value
    return f"{value}" if isinstance(value, int) else f"{value:g}"
