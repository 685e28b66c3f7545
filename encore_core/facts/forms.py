"""Records of all forms as facts.

=============  ==============================================================================================
counterfact    `requested_rewrite` with `prompt`, `subject`, `target_new: {"str": ...}`; beside it
               `paraphrase_prompts` and `neighborhood_prompts`. EasyEdit's result files have the same outside
               with a flat record inside; MQuAKE has a list of rewrites, each of which becomes a fact
easyedit       flat records: `prompt`, `target_new`, `ground_truth`, `rephrase_prompt`, `locality`, `portability`
rippleedits    `edit` with a sentence, and six criteria of questions, see `ripple`
zsre           `src`, `subject`, `alt` or `ans`, `answers`, `rephrase`, `loc`, `loc_ans`
               `update`, `personas`, `mhop` (WikiBigEdit); `question`, `object`, `question_2hop` (HalluEditBench)
encore         the fields of `Fact`; what `write_facts` writes
=============  ==============================================================================================

They differ only in their names, see `names`, and in where the edit is. So the same functions read all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from encore_core.errors import quoted
from encore_core.facts import parts, ripple
from encore_core.facts.fact import Fact, Portability
from encore_core.facts.found import BY_RULE, Found, at_last_place, find_subject
from encore_core.facts.names import FIRST, NAMES, REWRITE, THINGS, has, plain
from encore_core.facts.notices import Telling
from encore_core.facts.record import Layer, Record, same
from encore_core.facts.slots import SLOT, places, spelling_note, spelt_as_in, within_word
from encore_core.facts.texts import (
    NO_PROMPT,
    FactError,
    kind,
    required,
    required_prompt,
    stands_for_nothing,
    trimmed_prompt,
)

TOO_DEEP = "lists or objects are nested too deep: give plain texts and lists"

Read = tuple[str, Fact | FactError]  # its place in the file, and the result


def facts_of(row: Any, where: str, telling: Telling, format: str | None = None, find: bool = False) -> Iterator[Read]:
    """The facts in a record of a file, or the refusals that say what is wrong with it.

    Args:
        row: the record, as JSON values.
        where: its place in messages, "record 3".
        telling: gets notices about keys and values that are not used.
        format: a form whose names take precedence.
        find: whether a rule may find subjects, see `found`.
    """
    telling.where = where
    try:
        if ripple.is_ripple(row):
            row = ripple.plain_record(row, telling, find)
        edits, questions = _edits(row, telling, FIRST.get(format or "", ()))
    except FactError as error:
        yield where, error
        return
    except RecursionError:
        yield where, FactError(TOO_DEEP)
        return
    whole = True
    for number, record in enumerate(edits, start=1):
        place = where if len(edits) == 1 else f"{where}, rewrite {number}"
        telling.where = place
        # answers to multi-hop questions are right after the last edit, so they belong to it
        asked = questions if whole and number == len(edits) else []
        try:
            fact = _fact(record, asked, place, find)
            yield place, fact if len(edits) == 1 or fact.id is None else replace(fact, id=f"{fact.id}-{number}")
            continue
        except FactError as error:
            yield place, error
        except RecursionError:
            yield place, FactError(TOO_DEEP)
        whole = False
    if questions and not whole:
        telling.count("multi-hop questions are left out because an edit that they need cannot be used")


def is_record(row: Any) -> bool:
    """Whether an object has a key that only facts have."""
    if not isinstance(row, Mapping):
        return False
    names = {plain(str(key)) for key in row}
    return REWRITE in names or any(has(names, thing) for thing in THINGS) or ripple.is_ripple(row)


def _edits(row: Any, telling: Telling, first: Sequence[str]) -> tuple[list[Record], list[Portability]]:
    """The edits in a record, and the questions that follow from all of them together."""
    if not isinstance(row, Mapping):
        raise FactError(f"{quoted(row)} is {kind(row)}: give an object with subject, prompt and target_new")
    if not is_record(row):
        keys = ", ".join(map(str, row)) or "none"
        raise FactError(
            f"no known form (keys: {quoted(keys)}): give subject, prompt and target_new, "
            "or a record of CounterFact, MQuAKE, EasyEdit, zsRE or RippleEdits"
        )
    outer = Layer("", row)
    rewrites = [value for _, value in outer.take((REWRITE,)) if not stands_for_nothing(value)]
    if not rewrites:
        return [Record([outer], telling, first)], []
    inside = rewrites[0] if isinstance(rewrites[0], list) else [rewrites[0]]
    for rewrite in inside:
        if not isinstance(rewrite, Mapping):
            raise FactError(f"{REWRITE} {quoted(rewrite)} is {kind(rewrite)}: give an object with a prompt")
    whole = Record([outer], telling)
    questions = parts.multi_hop(whole, outer) if "questions" in outer.values else []
    layers = [Layer(f"{REWRITE}.", rewrite) for rewrite in inside]
    if len(layers) == 1:
        return [Record([layers[0], outer], telling, first)], questions
    # With several edits it is unclear to which the outer paraphrases or neighbours belong; only the name is shared.
    names = {key: value for key, value in row.items() if plain(str(key)) in NAMES["id"]}
    list(outer.take(NAMES["id"]))
    for path in outer.left():
        telling.leave(path)
    return [Record([layer, Layer("", names)], telling, first) for layer in layers], questions


def _fact(record: Record, questions: Sequence[Portability], place: str, find: bool) -> Fact:
    """The fact in a record of one edit."""
    subject, prompt = record.single("subject"), record.single("prompt", NO_PROMPT)
    target_new = record.single("target_new")
    target_true = _true_answer(record, target_new)
    paraphrases = _paraphrases(record)
    found = _found(record, subject, prompt, paraphrases) if find else None
    if found is not None:
        subject, prompt = found
    subject = _subject(record, subject, prompt)
    values = {
        "subject": subject,
        "prompt": prompt,
        "target_new": target_new,
        "target_true": target_true,
        "paraphrases": paraphrases,
        "neighbours": parts.neighbours(record, target_true),
        "relation": record.single("relation", NO_PROMPT),
        "known": _truth(record, "known"),
        "id": _id(record.single("id", NO_PROMPT)),
        "join": _join(record),
        "portability": [*parts.portability(record), *parts.asked_otherwise(record, subject, prompt), *questions],
        "subject_found": found is not None or _truth(record, "subject_found") or False,
        "place": place,
    }
    for thing in THINGS:
        if isinstance(values[thing], str) and values[thing].strip() and stands_for_nothing(values[thing]):
            raise FactError(f"{record.used[thing]} {quoted(values[thing])} stands for nothing: give a text")
    try:
        fact = Fact(**values)
    except FactError as error:
        last = f"; or let a rule take the last place {BY_RULE}"
        way_on = last if not find and _is_there_twice(prompt, subject) else ""
        raise FactError(_in_their_words(f"{error}{way_on}", record.used)) from error
    record.finish()
    return fact


def _in_their_words(message: str, used: Mapping[str, str]) -> str:
    """An error message of `Fact`, with the field's name as in the file."""
    field, blank, rest = message.partition(" ")
    return f"{used.get(field, field)}{blank}{rest}"


def _subject(record: Record, subject: Any, prompt: Any) -> Any:
    """The subject as the prompt spells it; a record without one is refused with the reason."""
    if subject is None and prompt is not None:
        raise FactError(
            "subject is missing: every method here looks a subject up in the prompt and edits at its last token, and "
            f"none works without one; add subject, spelt as in the prompt, or let a rule find it {BY_RULE}"
        )
    if not isinstance(subject, str) or not isinstance(prompt, str) or stands_for_nothing(subject):
        return subject
    given = required("subject", subject)
    spelt = spelt_as_in(required_prompt("prompt", prompt), given)
    if spelt != given:
        record.telling.say(f"{record.telling.where}: {spelling_note(given, spelt)}")
    return spelt


def _true_answer(record: Record, target_new: Any) -> Any:
    """The first true answer that is not the new one; if there is none, what a model said (`pred`).

    If `target_true` or `ground_truth` is the new answer itself, it is kept, so that `Fact` refuses it; zsRE's gold
    answer (`answers`) may be the new one.
    """
    found = record.answers("target_true")
    said = record.answers("said")
    others = [pair for pair in found if not same(pair[1], target_new)]
    if others:
        record.choose("target_true", others)
        return others[0][1]
    for key, value in found:
        if plain(key.rpartition(".")[2]) in ("target_true", "ground_truth"):
            record.used["target_true"] = key
            return value
    return next((value for _, value in said if not same(value, target_new)), None)


def _paraphrases(record: Record) -> list[Any]:
    """The paraphrases under all names, without repetitions."""
    found = record.take(NAMES["paraphrases"], NO_PROMPT)
    texts = [text for key, value in found for text in record.texts(key, value, NO_PROMPT)]
    if len(found) < 2 or not all(isinstance(text, str) for text in texts):
        return texts
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(trimmed_prompt(text), text)
    return list(first.values())


def _found(record: Record, subject: Any, prompt: Any, paraphrases: Sequence[Any]) -> Found | None:
    """The subject and its place by the rule of `found`: where a record has none, or the prompt has it twice."""
    if not isinstance(prompt, str) or stands_for_nothing(prompt, NO_PROMPT):
        return None
    prompt = required_prompt("prompt", prompt)
    if subject is None or stands_for_nothing(subject):
        found = find_subject(prompt, [text for text in paraphrases if isinstance(text, str)])
        if found is not None:
            record.telling.count("subjects that the file does not name are found by a rule")
        elif SLOT not in prompt:
            raise FactError(
                f"subject is missing, and the rule finds none in the prompt {quoted(prompt)} (no name, no words that a "
                "paraphrase shares): add subject, spelt as in the prompt"
            )
        return found
    if not isinstance(subject, str):
        return None
    subject = spelt_as_in(prompt, required("subject", subject))
    if not _is_there_twice(prompt, subject):
        return None
    record.telling.count("of a subject that the prompt has several times, the last place is taken by a rule")
    return at_last_place(prompt, subject)


def _is_there_twice(prompt: Any, subject: Any) -> bool:
    """Whether a prompt without a slot has a subject several times as words of their own."""
    if not isinstance(prompt, str) or not isinstance(subject, str) or not subject or SLOT in prompt:
        return False
    return sum(not within_word(prompt, at, at + len(subject)) for at in places(prompt, subject)) > 1


def _truth(record: Record, thing: str) -> Any:
    """A value that is true or false, as JSON or a table writes it."""
    value = record.single(thing)
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _join(record: Record) -> Any:
    """What separates prompt and answer; "" means nothing does, so it is not an empty field."""
    for layer in record.layers:
        for key, value in layer.take(NAMES["join"]):
            if isinstance(value, str) or not stands_for_nothing(value):
                record.used["join"] = key
                return value
    return None


def _id(value: Any) -> Any:
    """A name as text; it may be a number, also one that pandas has turned into a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
