"""What the paper found, for what is found here, and whether the two match.

Every sentence about the paper is from it (arXiv 2502.01636) or from its tables. Why something differs here is a guess,
and said as one.
"""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.reading.answers.answer import FEW_EDITS, Answer, listed

MODELS = "GPT2-XL, Llama-2-7B and Llama-3-8B"
SIZES = {"smollm2-135m": 0.135}
"""Model → billions of parameters, of those that are recorded."""

SMALLEST = 1.5
"""Billions of parameters of the smallest model of the paper."""


def _why(models: Sequence[str], what: str) -> str:
    """Why results may differ; `what` says in which way they do."""
    small = sorted({name for name in models if SIZES.get(name, SMALLEST) < SMALLEST})
    if not small:
        return "Other models, facts and settings may come out otherwise."
    sizes = listed(f"{name} has {SIZES[name]:g} billion" for name in small)
    return (
        f"Its models have {SMALLEST:g} to 8 billion parameters, {sizes}: the same edits must fit into far smaller "
        f"matrices. That may explain why {what} here and not in the paper."
    )


def survival(outcome: str, collapsed: Sequence[str], models: Sequence[str]) -> str:
    """What the paper says of survival, where that differs from what is found.

    Args:
        outcome: of `survival.answer`.
        collapsed: methods of the runs that collapse.
        models: of the runs.
    """
    if "ENCORE" in collapsed:
        return (
            f"The paper reports 10,000 edits of {MODELS} by ENCORE without loss in its downstream tasks. "
            f"{_why(models, 'ENCORE fails')}"
        )
    if outcome in ("too few edits", "all survive"):
        return "The paper's results are after 10,000 edits; damage adds up from batch to batch."
    return ""


def dominance(outcome: str) -> str:
    """What the paper says of the residual stream, where it is not found here."""
    if outcome not in ("no", "no growth", "too few edits"):
        return ""
    return (
        f"The paper finds that they do on {MODELS} after 10,000 edits: the edited layers write a much larger part of "
        "the stream and outvote the rest, which it calls importance hacking."
    )


def landing(outcome: str) -> str:
    """What the paper says of growth, where little or none is found here."""
    if outcome in ("too few edits", "hardly anywhere"):
        return "The paper finds that the norm of the edited matrices grows out of proportion over 10,000 edits."
    return ""


def lost(outcome: str, kept: Sequence[str], fallen: Sequence[str], models: Sequence[str]) -> str:
    """What the paper says of tasks.

    Args:
        outcome: of `lost.answer`.
        kept: methods of the runs that lost nothing beyond chance.
        fallen: methods of those whose mean fell beyond chance.
        models: of the runs.
    """
    if outcome in ("lost", "some lost") and "ENCORE" not in kept:
        paper = f"The paper's ENCORE keeps its scores in the tasks over 10,000 edits of {MODELS}."
        return f"{paper} {_why(models, 'ENCORE loses skill in them')}" if "ENCORE" in fallen else paper
    if outcome in ("too few edits", "nothing lost"):
        return "The paper finds that earlier methods than ENCORE degrade its models over thousands of edits."
    return ""


def stopping(without: float, stopped: float, known: float) -> str:
    """The paper's table 1 for MEMIT on Llama3-8B: p of edited facts without MPES and with it, and of known facts."""
    return (
        f"In the paper (table 1, MEMIT on Llama-3-8B) it is {without:.2f} without MPES and {stopped:.2f} with it; "
        f"facts that the model knows by itself have {known:.2f}."
    )


# -- the page Paper ----------------------------------------------------------------------------------------------------


def answer(
    made: Sequence[tuple[str, int, int]],
    sure: Sequence[tuple[str, int, int]],
    most_edits: int,
    *,
    table: int,
    models: Sequence[str],
    about_mpes: bool,
) -> Answer | None:
    """Does it match what was published?

    Args:
        made: (model of the paper, comparisons that come out alike, comparisons made), of `paper_tables.agreement`.
        sure: the same of those that differ here by more than chance.
        most_edits: of the runs compared.
        table: number of the paper's table.
        models: of the runs compared.
        about_mpes: whether comparisons are of with and without MPES, not of two methods.

    Returns:
        None where nothing is compared.
    """
    if not made:
        return None
    alike, n = (sum(one[place] for one in sure) for place in (1, 2))
    all_alike, all_made = (sum(one[place] for one in made) for place in (1, 2))
    if not n:
        outcome = "cannot be told"
        text = (
            f"These runs cannot answer that: none of {_comparisons(all_made, about_mpes)} differs significantly here "
            f"after {most_edits:,} edits, so it may be chance that {all_alike} come{'s' * (all_alike == 1)} out as in "
            f"the paper and {all_made - all_alike} the other way round."
        )
    else:
        outcome, first = _match(alike, n)
        parts = listed(f"{model}: {of_model} of {compared}" for model, of_model, compared in sure)
        which = f"of {_comparisons(all_made, about_mpes)}, {n} differ{'s' * (n == 1)} significantly here, and " \
            f"{alike} of these" if n < all_made else f"of {_comparisons(n, about_mpes)}, {alike}"  # fmt: skip
        text = f"{first}: {which} come{'s' * (alike == 1)} out as in the paper ({parts})."
    if most_edits < FEW_EDITS:
        outcome, text = "too few edits", f"Too few edits to tell: {most_edits:,} here, 10,000 in the paper. {text}"
    theirs, ours = (listed(dict.fromkeys(names)) for names in ([model for model, *_ in made], models))
    return Answer(outcome, f"{text} The paper's table {table} is of {theirs}, these runs are of {ours}.")


def _comparisons(n: int, about_mpes: bool) -> str:
    """How many comparisons, and of what."""
    what = "with against without MPES" if about_mpes else "of two methods on one measure"
    return f"{n} comparison{'s' * (n != 1)} {what}"


def _match(alike: int, n: int) -> tuple[str, str]:
    """Outcome and first words; half of the comparisons would agree by chance."""
    if alike == n:
        return "yes", "Yes, wherever there is a clear winner"
    if alike >= 0.75 * n:
        return "mostly", "For the most part"
    if alike > 0.5 * n:
        return "in part", "In part"
    return "no", "No, not here"
