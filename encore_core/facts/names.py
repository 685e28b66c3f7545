"""One table of names: what different data sets call the same thing. It serves both JSON and CSV.

Names are compared without capitals, and with `_` for blanks and hyphens ("New Question" is `new_question`). If a record
has several names of one thing, names further left take precedence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

NAMES: dict[str, tuple[str, ...]] = {
    "subject": ("subject",),
    "prompt": ("prompt", "src", "question", "update"),
    "target_new": ("target_new", "alt", "ans", "target", "new_answer", "object"),
    "target_true": ("target_true", "ground_truth", "answers", "answer"),
    # what some model said before: used if there is no true answer, or only the new one
    "said": ("pred",),
    "paraphrases": (
        "paraphrases", "paraphrase", "paraphrase_prompts", "paraphrase_prompt", "paraphrased_question",
        "rephrases", "rephrase", "rephrase_prompts", "rephrase_prompt", "personas",
    ),
    # prompts whose answer is the fact's true one if they have none of their own
    "neighbours": (
        "neighbours", "neighbour", "neighbors", "neighbor", "neighborhood_prompts", "neighbourhood_prompts",
        "neighborhood_prompt", "neighbourhood_prompt",
    ),
    "relation": ("relation", "relation_id"),
    "known": ("known",),
    "id": ("id", "case_id"),
    "join": ("join",),
    "subject_found": ("subject_found",),
}  # fmt: skip

REWRITE = "requested_rewrite"
"""The key under which CounterFact, MQuAKE and EasyEdit's results keep the edit itself: an object, or a list of them."""


class Pair(NamedTuple):
    """Prompts under one name and their answers under another.

    Attributes:
        prompts: names of the prompts, or of objects that hold prompts and answers.
        answers: names of the answers beside them.
        shares_truth: whether a prompt without an answer has the fact's true one, like CounterFact's neighbours.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    shares_truth: bool = False


LOCALITY = (
    Pair(
        ("locality_prompts", "locality_prompt"),
        ("locality_ground_truths", "locality_ground_truth", "locality_answers", "locality_answer"),
        shares_truth=True,
    ),
    Pair(("loc", "loc_prompt"), ("loc_ans", "loc_answer")),
    Pair(("locality", "locality_question"), ("locality_ans",)),
)
PORTABILITY = (
    Pair(
        ("portability_prompts", "portability_prompt"),
        ("portability_ground_truths", "portability_ground_truth", "portability_answers", "portability_answer"),
    ),
    Pair(("portability",), ("portability_ans",)),
    Pair(("mhop",), ("mhop_ans",)),
    *(Pair((f"question_{n}hop",), (f"answer_{n}hop",)) for n in range(2, 7)),
)
QUESTIONS = {
    "reversed": ("reversed_relation_question", "reversed_question"),
    "yes": ("yes_question",),
    "no": ("no_question",),
    "choices": ("multiple_choice_with_letters",),
    "letter": ("multiple_choice_labels", "multiple_choice_label"),
}
"""HalluEditBench's questions whose answers follow from the fact itself, see `parts.asked_otherwise`."""

KINDS = {
    **dict.fromkeys(("two_hop", "compositionality_i", "compositionality_ii"), "two-hop"),
    **{f"question_{n}hop": f"{word}-hop" for n, word in enumerate(("two", "three", "four", "five", "six"), start=2)},
    **dict.fromkeys(("mhop", "multi_hop"), "multi-hop"),
    **dict.fromkeys(("reasoning", "logical_generalization", "logical_generalisation"), "reasoning"),
    **dict.fromkeys(("subject_aliasing", "subject_alias", "alias"), "alias"),
    **dict.fromkeys(
        ("reversed", "reversed_relation", "reversed_relation_question", "inverse_relation", "reverse_relation"),
        "reversed",
    ),
}
"""What portability questions are called whose sort several data sets have; all others keep their data set's name."""

INNER_PROMPT = ("prompt", "question", "src", "loc", "new_question")
INNER_ANSWER = (
    "target", "ground_truth", "answers", "answer", "loc_ans", "new_answer", "target_new", "target_true", "ans",
)  # fmt: skip
"""Names within objects of locality and portability."""

NAMELESS = "(a column without a name)"
"""Name of a column with no heading, such as pandas writes for row numbers."""


@lru_cache(maxsize=4096)
def plain(key: str) -> str:
    """A key in the spelling of the table."""
    return key.strip().lower().replace(" ", "_").replace("-", "_")


NO_USE = frozenset(
    (
        # results, and answers that other measures use
        "pre", "post", "time", "cond", "generation_prompts", "attribute_prompts", "case_type",
        # HalluEditBench's choices, which it has with letters as well
        "multiple_choices",
        # MQuAKE's account of the hops
        "orig", "single_hops", "new_single_hops", "edit_triples", "recalled_relation",
        # where a record comes from
        "source", "topic", "example_type", plain(NAMELESS), "tag", "date", "unnamed:_0", "index", "row_idx",
    )
)  # fmt: skip
"""Known keys that are of no use to an edit; they are still named when they are ignored."""

SAID_BY_MODELS = ("output_", "eval_")
"""How HalluEditBench's columns begin that hold what some model said; they are of no use either."""

FIRST = {
    "counterfact": ("prompt", "target_new", "target_true", "paraphrase_prompts", "neighborhood_prompts"),
    "easyedit": ("prompt", "target_new", "ground_truth", "rephrase_prompt"),
    "zsre": ("src", "alt", "answers", "rephrase"),
    "encore": ("prompt", "target_new", "target_true", "paraphrases", "neighbours"),
}
"""The names that take precedence if a form is asked for by name."""

PAIRED = frozenset(name for pair in (*LOCALITY, *PORTABILITY) for name in (*pair.prompts, *pair.answers))
ASKED = frozenset(name for names in QUESTIONS.values() for name in names)
KNOWN = frozenset(name for names in NAMES.values() for name in names) | PAIRED | ASKED | {REWRITE}
THINGS = ("subject", "prompt", "target_new")
"""What a fact must have."""


def kind_of(name: str) -> str:
    """The kind of the questions under a name, see `KINDS`."""
    return KINDS.get(plain(name), name)


def has(names: set[str], thing: str) -> bool:
    """Whether one of the names (from `plain`) is one of the thing's."""
    return not names.isdisjoint(NAMES[thing])
