"""Neighbours and portability of a record, in every shape that data sets use.

=========================================================  =============================================================
flat                                                       `locality_prompt` and `locality_ground_truth`; `loc` and
                                                           `loc_ans`; each a text or a list
by kind                                                    `{kind: {"prompt": ..., "ground_truth": ...}}`, both texts or
                                                           both lists (EasyEdit); `{kind: [{"prompt": ...,
                                                           "ground_truth": [[...]]}]}` (KnowEdit)
a list                                                     of such objects, or `{"loc": ..., "loc_ans": ...}` (QAEdit)
one question                                               `{"New Question": ..., "New Answer": ...}` (zsRE, bi-zsRE)
prompts alone                                              `neighborhood_prompts` (CounterFact)
answered by the fact itself                                `reversed_relation_question`, `yes_question`, `no_question`,
                                                           `multiple_choice_with_letters` (HalluEditBench)
=========================================================  =============================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from encore_core.errors import quoted
from encore_core.facts.fact import Portability
from encore_core.facts.names import INNER_ANSWER, INNER_PROMPT, LOCALITY, NAMES, PORTABILITY, QUESTIONS, Pair, kind_of
from encore_core.facts.record import Layer, Record
from encore_core.facts.slots import SLOT, fill
from encore_core.facts.texts import (
    NO_PROMPT,
    FactError,
    key_name,
    kind,
    listed,
    stands_for_nothing,
    trimmed,
    trimmed_prompt,
)

MOST_LEVELS = 5
MULTI_HOP = "multi-hop"
"""The kind of MQuAKE's questions."""

MOST_PAIRS = 100_000
"""Most pairs of a multi-hop question and a right answer; every question has all answers. MQuAKE has 3 and some ten."""


class Probe(NamedTuple):
    """A prompt of a record with its right answers.

    Attributes:
        prompt: the text; nothing has been checked yet.
        answers: alternatives; empty if the record has none.
        kind: the record's name for prompts of this sort.
    """

    prompt: Any
    answers: list[Any]
    kind: str | None = None


def neighbours(record: Record, target_true: Any) -> list[Any]:
    """The neighbours, for `Fact`. Those without an answer get the true one or are left out, with a notice."""
    found: list[Any] = []
    for key, value in record.take(NAMES["neighbours"], NO_PROMPT):
        for entry in listed(key, value):
            probes = _entry(record, key, entry)
            # an entry of an unknown shape is passed on, so that `Fact` refuses it
            found += [entry] if probes is None else _answered(record, key, probes, target_true, usual=True)
    for pair in LOCALITY:
        for key, probe in _probes(record, pair):
            truth = target_true if pair.shares_truth else None
            found += _answered(record, key, [probe], truth)
    return _once(found)


def portability(record: Record) -> list[Portability]:
    """The questions that follow from the fact; those without an answer are left out, with a notice."""
    found = []
    for pair in PORTABILITY:
        for key, probe in _probes(record, pair):
            if probe.answers:
                # names such as "question_2hop" say what sort of question it is
                last = key.rpartition(".")[2]
                named = None if last.startswith("portability") else kind_of(last)
                found.append(Portability(probe.prompt, tuple(probe.answers), probe.kind or named))
            else:
                record.telling.count(f"{key}: questions without an answer are left out")
    return list(dict.fromkeys(found))


def asked_otherwise(record: Record, subject: Any, prompt: Any) -> list[Portability]:
    """HalluEditBench's questions that the fact itself answers: with the subject, with yes or no, with a letter.

    A question with choices gets the fact's own question in front and "Answer:" behind, as such tests are written.
    """
    found: list[Portability] = []
    for thing, answer in (("reversed", subject), ("yes", "Yes"), ("no", "No")):
        for key, value in record.take(QUESTIONS[thing], NO_PROMPT):
            last = key.rpartition(".")[2]
            found += [Portability(text, (answer,), kind_of(last)) for text in record.texts(key, value, NO_PROMPT)]
    letters = record.take(QUESTIONS["letter"])
    choices = record.take(QUESTIONS["choices"], NO_PROMPT)
    for key, _ in letters if not choices else ():
        record.telling.leave(key)
    for key, value in choices:
        letter = next((one for _, one in letters if isinstance(one, str)), None)
        if letter is None or not isinstance(value, str) or not isinstance(prompt, str):
            record.telling.count(f"{key}: choices without a letter that is right are left out")
            continue
        question = fill(prompt, subject) if SLOT in prompt and isinstance(subject, str) else prompt
        asked = f"{question.rstrip()}\n{value.strip()}\nAnswer:"
        found.append(Portability(asked, (letter,), kind_of(key.rpartition(".")[2])))
    return found


def multi_hop(record: Record, layer: Layer) -> list[Portability]:
    """MQuAKE's multi-hop questions, whose answers are right once all edits of the record are made."""
    questions = [text for key, value in layer.take(("questions",)) for text in record.texts(key, value, NO_PROMPT)]
    names = ("new_answer", "new_answer_alias", "new_answer_aliases")
    answers = [text for key, value in layer.take(names) for text in record.texts(key, value)]
    for key, _ in layer.take(("answer", "answer_alias", "answer_aliases")):
        record.telling.leave(key, no_use=True)  # what was right before
    if not answers:
        if questions:
            record.telling.count(f"{layer.path}questions: questions without an answer are left out")
        return []
    distinct = tuple(dict.fromkeys(map(trimmed, answers)))
    if len(questions) * len(distinct) > MOST_PAIRS:
        raise FactError(
            f"{layer.path}questions: {len(questions):,} questions share {len(distinct):,} right answers, which makes "
            f"more than {MOST_PAIRS:,} pairs: give fewer of either"
        )
    return [Portability(question, distinct, MULTI_HOP) for question in questions]


def _answered(
    record: Record, key: str, probes: Sequence[Probe], target_true: Any, usual: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Neighbours from prompts, with their own answer or the true one.

    Args:
        record: gets notices about differences from the file.
        key: where the prompts come from.
        probes: the prompts.
        target_true: the answer of those that have none of their own; None to leave them out.
        usual: whether prompts under this key always have the true answer, so that no notice is needed.
    """
    for probe in probes:
        if len({str(answer).strip() for answer in probe.answers}) > 1:
            record.telling.count(f"{key}: of several right answers of a neighbour the first is used")
        if probe.answers:
            yield probe.prompt, probe.answers[0]
        elif target_true is None:
            record.telling.count(f"{key}: neighbours without an answer of their own are left out")
        else:
            if not usual:
                record.telling.count(f"{key}: neighbours without an answer of their own take the fact's true answer")
            yield probe.prompt, target_true


def _probes(record: Record, pair: Pair) -> list[tuple[str, Probe]]:
    """The prompts under a pair of names, each with the key that it comes from."""
    answers = record.take(pair.answers)
    found: list[tuple[str, Probe]] = []
    for key, value in record.take(pair.prompts, NO_PROMPT):
        if _plain_texts(value):
            beside = answers.pop(0)[1] if answers else None
            found += [(key, probe) for probe in _paired(record, key, value, beside)]
        else:
            found += [(key, probe) for probe in _nested(record, key, value)]
    for key, _ in answers:
        record.telling.leave(key)
    return found


def _plain_texts(value: Any) -> bool:
    """True for a text and for a list of texts."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _nested(record: Record, key: str, value: Any, name: str | None = None, level: int = 0) -> Iterator[Probe]:
    """The prompts in an object or list, grouped by kind or not."""
    if isinstance(value, list):
        for entry in value:
            probes = _entry(record, key, entry, name)
            if probes is None and isinstance(entry, Mapping) and level < MOST_LEVELS:
                probes = list(_nested(record, key, entry, name, level + 1))
            if probes is None:
                raise FactError(f"{key}: {quoted(entry)} is {kind(entry)}: give prompt and ground_truth")
            yield from probes
        return
    if not isinstance(value, Mapping):
        raise FactError(f"{key} {quoted(value)} is {kind(value)}: give an object of prompts and answers")
    probes = _entry(record, key, value, name)
    if probes is not None:
        yield from probes
        return
    for inner, entry in value.items():
        path = f"{key}.{key_name(inner)}"
        if stands_for_nothing(entry):
            continue
        if level < MOST_LEVELS and (isinstance(entry, Mapping) or _of_entries(entry)):
            yield from _nested(record, path, entry, kind_of(str(inner)), level + 1)
        else:
            record.telling.leave(path)


def _of_entries(value: Any) -> bool:
    """True for a list that holds objects or pairs."""
    return isinstance(value, list) and all(isinstance(one, (Mapping, list)) for one in value)


def _entry(record: Record, key: str, entry: Any, name: str | None = None) -> list[Probe] | None:
    """The prompts of one entry; None if it is no entry."""
    if isinstance(entry, str):
        return [] if stands_for_nothing(entry, NO_PROMPT) else [Probe(entry, [], name)]
    if isinstance(entry, (list, tuple)):
        if len(entry) != 2 or not isinstance(entry[0], str):
            return None
        # the answer of a pair is kept as it is, so that a blank one is refused and not taken as missing
        return [Probe(entry[0], [entry[1]] if isinstance(entry[1], str) else list(record.texts(key, entry[1])), name)]
    if not isinstance(entry, Mapping):
        return None
    layer = Layer(f"{key}.", entry)
    prompts = [value for _, value in layer.take(INNER_PROMPT) if not stands_for_nothing(value, NO_PROMPT)]
    if not prompts or isinstance(prompts[0], Mapping):
        return None
    record.inside.append(layer)
    answers = [value for _, value in layer.take(INNER_ANSWER) if not stands_for_nothing(value)]
    given = next((value for _, value in layer.take(("kind",)) if isinstance(value, str)), name)
    if len(prompts) > 1 or len(answers) > 1:
        record.telling.count(f"{key}: of several prompts or answers under different names the first is used")
    return list(_paired(record, key, prompts[0], answers[0] if answers else None, given))


def _paired(record: Record, key: str, prompts: Any, answers: Any, name: str | None = None) -> Iterator[Probe]:
    """Prompts with the answers beside them: one each, or all as alternatives for a single prompt."""
    if isinstance(prompts, list) and len(prompts) == 1 and not (isinstance(answers, list) and len(answers) == 1):
        prompts = prompts[0]
    if not isinstance(prompts, list):
        prompts, answers = [prompts], [answers]
    elif not isinstance(answers, list):
        answers = [answers] * len(prompts)
    if len(prompts) != len(answers):
        raise FactError(f"{key}: {len(prompts)} prompts and {len(answers)} answers: give one answer for each")
    for prompt, answer in zip(prompts, answers, strict=True):
        if not stands_for_nothing(prompt, NO_PROMPT):
            yield Probe(prompt, list(record.texts(key, answer)), name)


def _once(found: Sequence[Any]) -> list[Any]:
    """Neighbours without repetitions, as when two names of the record give the same."""
    kept: list[Any] = []
    seen: set[tuple[Any, Any]] = set()
    for one in found:
        if isinstance(one, tuple) and all(isinstance(text, str) for text in one):
            held = trimmed_prompt(one[0]), trimmed(one[1])
            if held in seen:
                continue
            seen.add(held)
        kept.append(one)
    return kept
