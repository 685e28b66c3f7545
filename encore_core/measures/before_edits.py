"""What is to be known of facts before any edit: which do not fit a model, and which answers it gives already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from encore_core.errors import InputError
from encore_core.facts import Fact, place_of
from encore_core.forward.prompts import encode_contexts
from encore_core.measures.answers import Question, answer_probabilities, questions
from encore_core.measures.scores import check_scorable
from encore_core.models.editable import EditableModel

PROTOCOL = "teacher-forced"


@dataclass(frozen=True)
class Before:
    """What a model says to a fact's prompt before any edit.

    Attributes:
        place: of the fact in its file, for messages.
        prompt, target_new: of the fact.
        probability: of the new answer, the geometric mean over its tokens, from 0 to 1.
        said: whether every token of the new answer is the most probable one.
        target_true_said: the same of the true answer; None where the fact has none.
    """

    place: str
    prompt: str
    target_new: str
    probability: float
    said: bool
    target_true_said: bool | None


@dataclass(frozen=True)
class BeforeEdits:
    """What a model says to many.

    Attributes:
        name: of the model.
        facts: those that fit it, in order.
        do_not_fit: one line for each of the others.
    """

    name: str
    facts: tuple[Before, ...]
    do_not_fit: tuple[str, ...]

    @property
    def said(self) -> list[Before]:
        """Facts whose new answer it gives already."""
        return [one for one in self.facts if one.said]

    @property
    def in_words(self) -> str:
        """The counts, with the protocol."""
        true = [one.target_true_said for one in self.facts if one.target_true_said is not None]
        also = f", {sum(true):,} of {len(true):,} true ones" if true else ""
        return f"{len(self.said):,} of {len(self.facts):,} new answers{also} by {self.name}, {PROTOCOL}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "name": self.name,
            "protocol": PROTOCOL,
            "facts": [asdict(one) for one in self.facts],
            "do_not_fit": list(self.do_not_fit),
        }


def ask_before(lm: EditableModel, facts: Sequence[Fact]) -> BeforeEdits:
    """Put every fact's prompt to a model, and say which facts do not fit it."""
    bad = dict(unfit(lm, facts, (), scored=True))
    fit = [(at, fact) for at, fact in enumerate(facts) if at not in bad]
    true = [Question(fact.text, fact.target_true, fact.join) for _, fact in fit if fact.target_true is not None]
    answers = answer_probabilities(lm, [*questions([fact for _, fact in fit]), *true])
    true_answers = iter(answers[len(fit) :])
    rows = []
    for (at, fact), answer in zip(fit, answers, strict=False):
        before = next(true_answers).said if fact.target_true is not None else None
        place = place_of(fact, at + 1)
        rows.append(Before(place, fact.text, fact.target_new, answer.probability, answer.said, before))
    lines = tuple(f"{place_of(facts[at], at + 1)}: {error}" for at, error in bad.items())
    return BeforeEdits(lm.name, tuple(rows), lines)


def unfit(
    lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], scored: bool
) -> Iterator[tuple[int, InputError]]:
    """The positions of facts that do not fit the model, each with the reason.

    Args:
        lm: the model.
        facts: any.
        prefixes: a session's sampled ones; they make prompts longer.
        scored: whether their paraphrases and neighbours will be run, too.
    """
    for at, fact in enumerate(facts):
        try:
            encode_contexts(lm, [fact], prefixes)
            if scored:
                check_scorable(lm, fact, generate=False)
        except InputError as error:
            yield at, error
