"""Scores of an edited model: how probable the answers are, teacher-forced and generated.

An answer is rated by the mean log-probability of its tokens after a prompt. Edit and paraphrase score: share of prompts
with p(new) > p(true); neighbourhood score: share with p(true) > p(new); each averaged within a fact, then over facts,
× 100. Overall score: harmonic mean of the three. There are also magnitude, accuracy and generation efficacy, because
p(new) > p(true) is a lenient test: a model can prefer the new answer over the old and still say neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from encore_core.facts import Fact
from encore_core.forward.prompts import Text, encode, encode_all
from encore_core.measures import generated, intervals
from encore_core.measures.answers import Answer, Question, answer_probabilities
from encore_core.measures.generated import GenerationSettings, check_room
from encore_core.measures.intervals import Interval
from encore_core.measures.judging import contains
from encore_core.models.editable import EditableModel

PROTOCOL = "teacher-forced: mean log-probability of the answer's tokens after the plain prompt"
"""How these scores come about, for whatever shows them."""

SHARE_AHEAD = (
    "share of edited prompts where the new answer beats the true one or, without a true one, is the most probable"
)
"""What the edit score is, in words."""

GENERATED_TOKENS = 12
"""Length of the continuation in which generation efficacy looks for the new answer."""


GENERATION_PROTOCOL = f"generated: plain prompt, greedy; the new answer is among the first {GENERATED_TOKENS} tokens"
"""How generation efficacy comes about; the other scores are teacher-forced."""


@dataclass(frozen=True)
class FactScores:
    """Scores of one fact, each from 0 to 1 except the magnitude; None where the fact has no such prompts.

    Attributes:
        edit, paraphrase, neighborhood: shares of prompts that go the edit's way, see the module.
        magnitude: p(new) − p(true) at the prompt; None without a true answer.
        accuracy: 1 when every token of the new answer is the most probable one.
        token_accuracy: share of the new answer's tokens that are the most probable ones (zsRE's measure).
        generation: 1 when the greedy continuation contains the new answer, see `judging.contains`.
        portability: share of the tokens of what follows from the edit that are the most probable ones, of the best
            answer to each question.
    """

    edit: float
    paraphrase: float | None
    neighborhood: float | None
    magnitude: float | None
    accuracy: float
    token_accuracy: float
    generation: float | None
    portability: float | None = None


OF_FACT = {
    "edit_score": "edit", "paraphrase_score": "paraphrase", "neighborhood_score": "neighborhood",
    "magnitude": "magnitude", "accuracy": "accuracy", "token_accuracy": "token_accuracy",
    "generation_efficacy": "generation", "portability_score": "portability",
}  # fmt: skip
"""Score → the field of `FactScores` that it is the mean of; the overall score is made of the first three."""


@dataclass(frozen=True)
class Scores:
    """Means over facts × 100 (magnitude is not scaled); None where no fact has such prompts.

    Attributes:
        facts: how many facts.
        per_fact: the scores that are averaged.
        The others are described at `FactScores`; `overall_score` is the harmonic mean of the first three.
    """

    edit_score: float
    paraphrase_score: float | None
    neighborhood_score: float | None
    overall_score: float | None
    magnitude: float | None
    accuracy: float
    token_accuracy: float
    generation_efficacy: float | None
    portability_score: float | None
    facts: int
    per_fact: tuple[FactScores, ...] = field(repr=False)

    def as_dict(self) -> dict[str, float | int | None]:
        """The means without the facts they come from."""
        values = asdict(self)
        del values["per_fact"]
        return values

    def intervals(self) -> dict[str, dict[str, float | int | None] | None]:
        """Every score with its interval and n, as plain values; None where no fact has such prompts."""
        found = {name: self.interval(name) for name in (*OF_FACT, "overall_score")}
        return {name: None if one is None else one._asdict() for name, one in found.items()}

    def interval(self, name: str, seed: int = 0) -> Interval | None:
        """A score with its 95 % interval over facts, see `intervals`.

        Args:
            name: of the score, as in `as_dict`.
            seed: of the draws.

        Returns:
            None where no fact has such prompts.
        """
        return intervals.once(self, (name, seed), lambda: self._interval(name, seed))

    def _interval(self, name: str, seed: int) -> Interval | None:
        if name == "overall_score":
            columns = [[getattr(one, part) for one in self.per_fact] for part in ("edit", "paraphrase", "neighborhood")]
            found = intervals.of_harmonic_mean(columns, seed)
        else:
            found = intervals.of_mean([getattr(one, OF_FACT[name]) for one in self.per_fact], seed)
        return found if found is None or name == "magnitude" else found.times(100.0)


def evaluate(lm: EditableModel, facts: Sequence[Fact], generate: bool = True, bare: bool = False) -> Scores:
    """Score facts on the model as it is.

    Args:
        lm: the model, with whatever edits are in place.
        facts: what was edited.
        generate: whether to measure generation efficacy, which takes the most time.
        bare: leave out the start token, as programs do that put none in front.

    Returns:
        the scores. A prompt without a true answer to compare with counts when the new answer is the most probable one.
    """
    pairs = [Question(*pair, fact.join) for fact in facts for pair in _pairs(fact)]
    ratings = dict(zip(pairs, answer_probabilities(lm, pairs, bare), strict=True))
    texts = _continuations(lm, facts, bare) if generate else [None] * len(facts)
    return summarised([_score(fact, ratings, text) for fact, text in zip(facts, texts, strict=True)])


def _continuations(lm: EditableModel, facts: Sequence[Fact], bare: bool) -> list[str]:
    """What the model writes after each fact's prompt."""
    prompts, guesses = [fact.text for fact in facts], [fact.target_new for fact in facts]
    settings = GenerationSettings(GENERATED_TOKENS, whole=True)
    return [one.text for one in generated.generate(lm, prompts, settings, guesses, bare=bare)]


def check_scorable(lm: EditableModel, fact: Fact, generate: bool = True) -> None:
    """Refuse early a fact that `evaluate` would refuse.

    Args:
        lm: the model.
        fact: what would be scored.
        generate: whether generation efficacy would be measured.

    Raises:
        InputError: when a prompt does not fit into the model's context, or an answer has no token.
    """
    for prompt, answer in _pairs(fact):
        encode_all(lm, [Text(prompt, answer, join=fact.join)])
    if generate:
        check_room(lm, fact.text, len(encode(lm, fact.text).ids), GENERATED_TOKENS)


def _pairs(fact: Fact) -> list[tuple[str, str]]:
    """The prompts and answers that a fact is scored by."""
    pairs: list[tuple[str, str]] = []
    for prompt in (fact.text, *fact.paraphrases):
        pairs += [(prompt, fact.target_new), *([(prompt, fact.target_true)] if fact.target_true else [])]
    for neighbour in fact.neighbours:
        pairs += [(neighbour.prompt, neighbour.target), (neighbour.prompt, fact.target_new)]
    pairs += [(question.prompt, answer) for question in fact.portability for answer in question.answers]
    return pairs


def _score(fact: Fact, ratings: dict[Question, Answer], text: str | None) -> FactScores:
    def of(prompt: str, answer: str) -> Answer:
        return ratings[Question(prompt, answer, fact.join)]

    def prefers_new(prompt: str) -> bool:
        new = of(prompt, fact.target_new)
        if fact.target_true is None:
            return new.said
        return new.log_probability > of(prompt, fact.target_true).log_probability

    def kept(prompt: str, answer: str) -> bool:
        return of(prompt, answer).log_probability > of(prompt, fact.target_new).log_probability

    new = of(fact.text, fact.target_new)
    true = of(fact.text, fact.target_true) if fact.target_true else None
    return FactScores(
        edit=float(prefers_new(fact.text)),
        paraphrase=_mean([prefers_new(prompt) for prompt in fact.paraphrases]),
        neighborhood=_mean([kept(neighbour.prompt, neighbour.target) for neighbour in fact.neighbours]),
        magnitude=new.probability - true.probability if true else None,
        accuracy=float(new.said),
        token_accuracy=_mean(new.hits),
        generation=None if text is None else float(contains(text, [fact.target_new])),
        portability=_mean(
            [max(_mean(of(one.prompt, answer).hits) for answer in one.answers) for one in fact.portability]
        ),
    )


def summarised(per_fact: Sequence[FactScores]) -> Scores:
    """The means over the scores of at least one fact."""

    def mean_of(name: str, scale: float = 100.0) -> float | None:
        mean = _mean([value for item in per_fact if (value := getattr(item, name)) is not None])
        return None if mean is None else scale * mean

    edit, paraphrase, neighborhood = mean_of("edit"), mean_of("paraphrase"), mean_of("neighborhood")
    return Scores(
        edit_score=edit,
        paraphrase_score=paraphrase,
        neighborhood_score=neighborhood,
        overall_score=harmonic_mean([edit, paraphrase, neighborhood]),
        magnitude=mean_of("magnitude", 1.0),
        accuracy=mean_of("accuracy"),
        token_accuracy=mean_of("token_accuracy"),
        generation_efficacy=mean_of("generation"),
        portability_score=mean_of("portability"),
        facts=len(per_fact),
        per_fact=tuple(per_fact),
    )


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """Harmonic mean; None when a value is missing, 0 when one is 0."""
    if any(value is None for value in values):
        return None
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if len(values) else None
