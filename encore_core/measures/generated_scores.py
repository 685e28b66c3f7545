"""Scores of an edited model from the answers that it writes itself.

Every prompt of a fact is put to the model: the edited one and its paraphrases should give the new answer, neighbours
their own, portability questions what follows from the edit. A text is right by exact match, by containment, or by a
judge (see `judging`). As for teacher-forced scores, shares are averaged within a fact, then over facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from encore_core.facts import Fact
from encore_core.measures import intervals
from encore_core.measures.generated import GenerationSettings, check_prompts, generate
from encore_core.measures.intervals import Interval
from encore_core.measures.judging import Asked, Judge, Verdict, contains, matches
from encore_core.models.editable import EditableModel

Part = Literal["edit", "paraphrase", "neighborhood", "portability"]
Metric = Literal["exact", "contained", "judged"]
PARTS: tuple[Part, ...] = get_args(Part)
METRICS: tuple[Metric, ...] = get_args(Metric)

PROTOCOLS = ("teacher-forced", "generated")
"""The two ways of scoring facts: `scores.evaluate`, and `evaluate_generated`."""

NOT_ASKED = "not asked yet"

OnProgress = Callable[[str, int, int], None]
"""`on_progress(what, done, total)`."""


@dataclass(frozen=True)
class GeneratedAnswer:
    """What a model wrote after one prompt of a fact.

    Attributes:
        part: what the prompt is to the fact.
        kind: of a portability question, if its data set has a name for it.
        prompt: the text that was continued.
        answers: the right ones.
        text: what was written, to its natural end.
        ended: why it ended there, see `generated.Generated`.
        exact, contained: whether it gives an answer, see `judging`.
        judged: the judge's verdict; None without a judge, or where it gave none.
        unjudged: why it gave none.
    """

    part: Part
    kind: str | None
    prompt: str
    answers: tuple[str, ...]
    text: str
    ended: str
    exact: bool
    contained: bool
    judged: bool | None = None
    unjudged: str = ""


@dataclass(frozen=True)
class GeneratedScores:
    """Answers with their scores.

    Attributes:
        settings: how they were written.
        judge: who judged them, in words; None for no judge.
        facts: what was asked about.
        per_fact: for each fact its answers.
    """

    settings: GenerationSettings
    judge: str | None
    facts: tuple[Fact, ...]
    per_fact: tuple[tuple[GeneratedAnswer, ...], ...]

    @property
    def protocol(self) -> str:
        """How the numbers came about, in words."""
        return protocol_of(self.settings, self.judge)

    @property
    def n_unjudged(self) -> int:
        """Answers without a verdict, of those put to a judge."""
        return 0 if self.judge is None else sum(one.judged is None for of_fact in self.per_fact for one in of_fact)

    @property
    def kinds(self) -> list[str]:
        """Kinds of portability questions, in the order in which they come."""
        kinds = (one.kind for of_fact in self.per_fact for one in of_fact if one.part == "portability")
        return list(dict.fromkeys(kind for kind in kinds if kind is not None))

    def of_facts(self, part: Part, metric: Metric, kind: str | None = None) -> list[float | None]:
        """Per fact the share of its answers that are right, from 0 to 1; None where it has none, or no verdict."""
        found = []
        for of_fact in self.per_fact:
            verdicts = [getattr(one, metric) for one in of_fact if one.part == part and kind in (None, one.kind)]
            known = [verdict for verdict in verdicts if verdict is not None]
            found.append(sum(known) / len(known) if known else None)
        return found

    def interval(self, part: Part, metric: Metric, kind: str | None = None, seed: int = 0) -> Interval | None:
        """A score from 0 to 100 with its 95 % interval over facts; None where there is nothing to score."""

        def made() -> Interval | None:
            found = intervals.of_mean(self.of_facts(part, metric, kind), seed)
            return None if found is None else found.times(100.0)

        return intervals.once(self, (part, metric, kind, seed), made)

    def as_dict(self) -> dict[str, Any]:
        """Protocol, and by part and metric each score with its interval and n, as plain JSON values."""
        metrics = METRICS if self.judge is not None else METRICS[:2]

        def of(part: Part, kind: str | None = None) -> dict[str, Any]:
            found = {metric: self.interval(part, metric, kind) for metric in metrics}
            return {metric: None if one is None else one._asdict() for metric, one in found.items()}

        return {
            "protocol": self.protocol,
            "facts": len(self.facts),
            "unjudged": self.n_unjudged,
            "scores": {part: of(part) for part in PARTS},
            "portability_by_kind": {kind: of("portability", kind) for kind in self.kinds},
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row per answer, to be read or written to a file."""
        return [
            {
                "fact": number, "id": fact.id, "subject": fact.subject, "part": one.part, "kind": one.kind,
                "prompt": one.prompt, "answers": " | ".join(one.answers), "text": one.text, "ended": one.ended,
                "exact": one.exact, "contained": one.contained, "judged": one.judged, "unjudged": one.unjudged,
            }
            for number, (fact, of_fact) in enumerate(zip(self.facts, self.per_fact, strict=True), start=1)
            for one in of_fact
        ]  # fmt: skip


def protocol_of(settings: GenerationSettings, judge: str | None) -> str:
    """How scores come about, in words; the judge as in `Judge.label`."""
    return f"{settings.label}; {judge or 'no judge'}"


def evaluate_generated(
    lm: EditableModel,
    facts: Sequence[Fact],
    settings: GenerationSettings | None = None,
    judge: Judge | None = None,
    on_progress: OnProgress | None = None,
) -> GeneratedScores:
    """Let a model answer every prompt of some facts.

    Args:
        lm: the model, with whatever edits are in place.
        facts: what was edited.
        settings: how texts are written; by default from the plain prompt.
        judge: asked about every answer; by default none is.
        on_progress: called while texts are written and judged.

    Raises:
        InputError: see `generated.generate`.
    """
    settings = settings or GenerationSettings()
    tell = on_progress or (lambda what, done, total: None)
    asked = [list(_questions(fact)) for fact in facts]
    # Neighbours are often shared; each prompt is continued once.
    guess_of = {prompt: answers[0] for of_fact in asked for _, _, prompt, answers in of_fact}
    prompts = list(guess_of)
    texts = generate(
        lm, prompts, settings, list(guess_of.values()), lambda done: tell("Generating", done, len(prompts))
    )
    text_of = dict(zip(prompts, texts, strict=True))
    per_fact = [
        tuple(
            GeneratedAnswer(part, kind, prompt, answers, text.text, text.ended, matches(text.text, answers),
                            contains(text.text, answers))
            for part, kind, prompt, answers in of_fact
            for text in (text_of[prompt],)
        )
        for of_fact in asked
    ]  # fmt: skip
    found = GeneratedScores(settings, None, tuple(facts), tuple(per_fact))
    return found if judge is None else judged(found, judge, tell)


def check_askable(lm: EditableModel, fact: Fact, settings: GenerationSettings) -> None:
    """Refuse early a fact that `evaluate_generated` would refuse.

    Raises:
        InputError: see `generated.generate`.
    """
    check_prompts(lm, [prompt for _, _, prompt, _ in _questions(fact)], settings)


def _questions(fact: Fact) -> Iterator[tuple[Part, str | None, str, tuple[str, ...]]]:
    """(part, kind, prompt, right answers) of everything that a fact asks."""
    yield "edit", None, fact.text, (fact.target_new,)
    for prompt in fact.paraphrases:
        yield "paraphrase", None, prompt, (fact.target_new,)
    for neighbour in fact.neighbours:
        yield "neighborhood", None, neighbour.prompt, (neighbour.target,)
    for question in fact.portability:
        yield "portability", question.kind, question.prompt, question.answers


def judged(scores: GeneratedScores, judge: Judge, on_progress: OnProgress | None = None) -> GeneratedScores:
    """The same answers with a judge's verdict each; equal questions are put once.

    Args:
        scores: from `evaluate_generated`.
        judge: who is asked.
        on_progress: called while verdicts come.
    """
    tell = on_progress or (lambda what, done, total: None)
    asked = asked_of(scores)
    found = judge.verdicts(asked, lambda done: tell("Judging", done, len(asked)))
    return with_verdicts(scores, judge, dict(zip(asked, found, strict=True)))


def asked_of(scores: GeneratedScores) -> list[Asked]:
    """What a judge is asked about these answers, one question each."""
    return [_asked(one) for of_fact in scores.per_fact for one in of_fact]


def with_verdicts(scores: GeneratedScores, judge: Judge, found: Mapping[Asked, Verdict]) -> GeneratedScores:
    """The same answers with the verdicts that have been found; the others say that they were not asked."""

    def of(one: GeneratedAnswer) -> GeneratedAnswer:
        verdict, why = found.get(_asked(one), (None, NOT_ASKED))
        return replace(one, judged=verdict, unjudged=why)

    return replace(scores, judge=judge.label, per_fact=tuple(tuple(map(of, of_fact)) for of_fact in scores.per_fact))


def _asked(one: GeneratedAnswer) -> Asked:
    return Asked(one.prompt, one.answers, one.text)
