"""The types: a fact, its neighbours, and the questions that follow from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from encore_core.errors import quoted
from encore_core.facts.slots import SLOT, fill, spelling_note, spelt_as_in, with_slot
from encore_core.facts.texts import FactError, folded, listed, optional, required, required_prompt

log = logging.getLogger(__name__)

JOINS = ("", " ")
"""What a fact may put between its prompts and their answers."""


@dataclass(frozen=True)
class Neighbour:
    """A prompt about another subject, and the answer that must survive the edit.

    Args:
        prompt: the full text of the prompt.
        target: the answer that stays right.

    Raises:
        FactError: when either is blank or no text.
    """

    prompt: str
    target: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", required_prompt("neighbours: prompt", self.prompt))
        object.__setattr__(self, "target", required("neighbours: target", self.target))


@dataclass(frozen=True)
class Portability:
    """A question whose answer follows from the edited fact: reversed, about an alias, over several hops.

    Args:
        prompt: the full text of the question.
        answers: the right answers once the fact is edited, all equally good. A single text is one answer.
        kind: the data set's name for questions of this sort; None if it has none.

    Raises:
        FactError: when the prompt or an answer is blank or no text, or there is no answer.
    """

    prompt: str
    answers: tuple[str, ...]
    kind: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "prompt", required_prompt("portability: prompt", self.prompt))
        answers = tuple(required("portability: answers", one) for one in listed("portability: answers", self.answers))
        if not answers:
            raise FactError(f"portability: {quoted(self.prompt)} has no answer: give at least one")
        put(self, "answers", answers)
        put(self, "kind", optional("portability: kind", self.kind))

    def to_dict(self) -> dict[str, Any]:
        """The question as plain JSON values."""
        row: dict[str, Any] = {"prompt": self.prompt, "answers": list(self.answers)}
        return row if self.kind is None else row | {"kind": self.kind}


@dataclass(frozen=True)
class Fact:
    """One edit: after `prompt` with `subject` in its slot, the model should say `target_new`.

    Blanks at either end of prompts (also of paraphrases and neighbours) are dropped, but line ends and tabs stay,
    because chat templates end in one. For all other texts, all whitespace around them is dropped.

    Args:
        subject: what the fact is about; the edit is made at its last token. If the prompt contains it once with other
            capitals, apostrophes or Unicode form, the prompt's spelling is used, with a warning.
        prompt: text with one slot `{}`, or the full text with the subject in it exactly once (which then becomes the
            slot). Other braces have no special meaning.
        target_new: the wanted answer.
        target_true: the answer before the edit; None if unknown.
        paraphrases: other full prompts for the same fact; a slot `{}` in one is filled with the subject.
        neighbours: `Neighbour`, `(prompt, target)`, `{"prompt": ..., "target": ...}`, or only a prompt, whose answer is
            then `target_true`.
        relation: a name shared by facts of one kind.
        known: whether the embedded model answers `target_true` before any edit; None if not tried.
        id: the fact's name in the file that it came from.
        join: what separates the fact's prompts from their answers, "" or " "; None lets the texts decide.
        portability: questions whose answers follow from the fact: `Portability`, or
            `{"prompt": ..., "answers": [...], "kind": ...}`.
        subject_found: whether the subject, or its place in the prompt, was found by a rule (see `found`) because the
            data set does not say it.
        place: the fact's place in its file, for messages ("record 62"); ignored when facts are compared.

    Raises:
        FactError: naming the field, its value and what would be right.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    relation: str | None = None
    known: bool | None = None
    id: str | None = None
    join: str | None = None
    portability: tuple[Portability, ...] = ()
    subject_found: bool = False
    place: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen once this returns
        subject, prompt = required("subject", self.subject), required_prompt("prompt", self.prompt)
        spelt = spelt_as_in(prompt, subject)
        if spelt != subject:
            log.warning("Fact: %s", spelling_note(subject, spelt))
        put(self, "subject", spelt)
        put(self, "prompt", with_slot(prompt, spelt))
        put(self, "target_new", required("target_new", self.target_new))
        for name in ("target_true", "relation", "id"):
            put(self, name, optional(name, getattr(self, name)))
        if self.target_true == self.target_new:
            raise FactError(
                f"target_new {quoted(self.target_new)} is the same as target_true: "
                "give an answer that the fact does not have yet"
            )
        if self.known is not None and not isinstance(self.known, bool):
            raise FactError(f"known {quoted(self.known)} must be true, false or left out")
        if not isinstance(self.subject_found, bool):
            raise FactError(f"subject_found {quoted(self.subject_found)} must be true, false or left out")
        if self.join is not None and self.join not in JOINS:
            raise FactError(f'join {quoted(self.join)} must be "" (nothing), " " (a space) or left out')
        put(self, "paraphrases", tuple(self._paraphrase(p) for p in listed("paraphrases", self.paraphrases)))
        put(self, "neighbours", tuple(map(self._neighbour, listed("neighbours", self.neighbours, Neighbour))))
        put(self, "portability", tuple(map(_portability, listed("portability", self.portability, Portability))))

    def _paraphrase(self, value: Any) -> str:
        text = required_prompt("paraphrases", value)
        if text.count(SLOT) == 1 and self.subject not in text:
            return fill(text, self.subject)
        return text

    def _neighbour(self, value: Any) -> Neighbour:
        if isinstance(value, Neighbour):
            return value
        if isinstance(value, str):
            if self.target_true is None:
                raise FactError(
                    f"neighbours: {quoted(value)} has no answer of its own and target_true is missing: "
                    "give target_true, or the neighbour as a pair of prompt and answer"
                )
            return Neighbour(value, self.target_true)
        if isinstance(value, Mapping) and "prompt" in value and "target" in value:
            return Neighbour(value["prompt"], value["target"])
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return Neighbour(*value)
        raise FactError(
            f"neighbours: {quoted(value)} is not a neighbour: "
            'give {"prompt": ..., "target": ...}, a pair of prompt and answer, or a prompt'
        )

    @property
    def text(self) -> str:
        """The prompt with the subject in its slot."""
        return fill(self.prompt, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Start and end (exclusive) of the subject in `text`, in characters."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)

    @property
    def key(self) -> tuple[str, str]:
        """`(subject, prompt)`: what the fact is about, whatever its answer."""
        return self.subject, self.prompt

    @property
    def asked(self) -> str:
        """The text without differences of capitals and spacing, to which the facts of a batch may give one answer."""
        return folded(self.text)

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain JSON values, without empty fields and its place in a file; `subject_found` only if true.

        Returns:
            a dictionary that `Fact(**d)` turns back into an equal fact.
        """
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        row["paraphrases"] = list(self.paraphrases)
        row["neighbours"] = [{"prompt": n.prompt, "target": n.target} for n in self.neighbours]
        row["portability"] = [one.to_dict() for one in self.portability]
        return {
            name: value
            for name, value in row.items()
            if value is not None and value != [] and (name != "subject_found" or value)
        }


def _portability(value: Any) -> Portability:
    if isinstance(value, Portability):
        return value
    if isinstance(value, Mapping) and {"prompt", "answers"} <= set(value) <= {"prompt", "answers", "kind"}:
        return Portability(**value)
    raise FactError(f'portability: {quoted(value)} is not a question: give {{"prompt": ..., "answers": [...]}}')
