"""RippleEdits: sentences with their answers, and six criteria of questions, as records of the usual names.

    edit          {prompt: "The capital of Norway is Bergen.", subject_id, relation, target_id, original_fact}
    a criterion   [{test_queries: [{prompt, answers: [{value, aliases}], subject_id, relation}], test_condition,
                  condition_queries}]

Where the answer begins follows from a question with the same answer, from the original sentence, or from the only "is".
The subject is given as an id alone; its text is what the sentence shares with the questions about the same id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from encore_core.errors import quoted
from encore_core.facts.found import BY_RULE, Found, at_last_place, find_subject
from encore_core.facts.names import kind_of, plain
from encore_core.facts.notices import Telling
from encore_core.facts.texts import FactError, key_name, stands_for_nothing

FOLLOWS = ("logical_generalization", "compositionality_i", "compositionality_ii", "subject_aliasing")
"""Criteria whose answers follow from the edit."""
STAYS = ("relation_specificity", "relation_specifity", "forgetfulness", "preservation")
"""Criteria whose answers must stay; the set's own description spells the first in both ways."""

ORIGINAL = ("original_fact", "previous_fact")
"""Where the sentence is that was true before; the second is what the set's own description calls it."""

MOST_WORDS = 80
"""Of a longer sentence, only the last words are looked at for its subject; the set's have twenty."""

_ANSWER_BEGINS = re.compile(r" (?:is|are|was|were)(?= )")
_TEMPLATE = frozenset(
    ("the", "name", "of", "is", "are", "was", "were", "which", "in", "to", "a", "an", "at", "by", "on", "for")
)


def is_ripple(row: Any) -> bool:
    """Whether an object is a record of RippleEdits."""
    if not isinstance(row, Mapping) or not isinstance(row.get("edit"), Mapping):
        return False
    return isinstance(row["edit"].get("prompt"), str) and bool({"subject_id", "target_id"} & set(row["edit"]))


def plain_record(row: Mapping[str, Any], telling: Telling, find: bool) -> dict[str, Any]:
    """A record of RippleEdits under the usual names.

    Args:
        row: the record.
        telling: gets notices about what is not used.
        find: whether the general rule may find the subject where the questions do not show it.

    Raises:
        FactError: when the answer or the subject cannot be told from the record.
    """
    edit = row["edit"]
    queries = list(_queries(row, telling))
    original = _original(edit)
    stem, answer, true = _split(edit, original, [query for _, query in queries], _given(row, "target_new"))
    named = _given(row, "subject")
    found = _subject(edit, stem, [query for _, query in queries]) if named is None else at_last_place(stem, named)
    if found is None and find and named is None:
        found = find_subject(stem, ())
    if found is None and named is not None:
        raise FactError(f"edit.prompt {quoted(stem)} does not contain the subject {quoted(named)}: spell it as there")
    if found is None:
        raise FactError(
            f"edit.prompt {quoted(stem)}: the record gives its subject as an id alone, and no question about "
            f"the same id shows its text; add subject, or let a rule find it {BY_RULE}"
        )
    if named is None:
        telling.count("the subject is taken from what the questions about the same id share with the sentence")
    _leave_the_rest(edit, telling)
    kept = {key: value for key, value in row.items() if plain(str(key)) not in ("edit", *FOLLOWS, *STAYS)}
    made = {
        "subject": found.subject,
        "prompt": found.prompt,
        "target_new": answer,
        "target_true": true,
        "relation": edit.get("relation"),
        "subject_found": named is None,
        "portability": [
            {"prompt": query["prompt"], "answers": _answers(query), "kind": kind_of(criterion)}
            for criterion, query in queries
            if plain(criterion) in FOLLOWS
        ],
        "locality": [
            {"prompt": query["prompt"], "answers": _answers(query)}
            for criterion, query in queries
            if plain(criterion) in STAYS
        ],
    }
    for key in sorted(made.keys() & kept.keys() - {"subject", "target_new"}):
        telling.leave(key)
    return kept | made


def _leave_the_rest(edit: Mapping[str, Any], telling: Telling) -> None:
    """Name the keys of an edit that are not used."""
    for key, value in edit.items():
        if key in ORIGINAL and isinstance(value, Mapping):
            for inner in sorted(value.keys() - {"prompt", "relation"}):
                telling.leave(f"edit.{key}.{key_name(inner)}", no_use=True)
        elif key not in ("prompt", "relation", "subject", "target_new") and not stands_for_nothing(value):
            telling.leave(f"edit.{key_name(key)}", no_use=key in ("subject_id", "target_id", *ORIGINAL))


def _given(row: Mapping[str, Any], key: str) -> str | None:
    """A text that the user has added to the record, or to its edit."""
    return next((text for text in (row.get(key), row["edit"].get(key)) if isinstance(text, str) and text.strip()), None)


def _queries(row: Mapping[str, Any], telling: Telling) -> Iterator[tuple[str, dict[str, Any]]]:
    """The test questions that have a text, each with its criterion."""
    for key, tests in row.items():
        if plain(str(key)) not in (*FOLLOWS, *STAYS) or stands_for_nothing(tests):
            continue
        name = key_name(key)
        for test in tests if isinstance(tests, list) else [tests]:
            asked = test.get("test_queries") if isinstance(test, Mapping) else None
            if not isinstance(asked, list) or not all(isinstance(query, Mapping) for query in asked):
                raise FactError(f"{name}: {quoted(test)} is no test: give an object with a list test_queries")
            if not stands_for_nothing(test.get("condition_queries")):
                telling.count("condition_queries, which ask what the model knows before the edit, are not used")
            if len(asked) > 1:
                telling.count("test_condition is not used: each question of a test is scored by itself")
            for query in asked:
                text = next((query[k] for k in ("prompt", "phrase") if not stands_for_nothing(query.get(k))), None)
                if text is None:
                    telling.count(f"{name}: questions without a text are left out")
                else:
                    yield str(key), {**query, "prompt": text}


def _answers(query: Mapping[str, Any]) -> list[Any]:
    """The right answers to a question, with their other names."""
    answers = query.get("answers")
    found: list[Any] = []
    for one in answers if isinstance(answers, list) else [answers]:
        named = [one.get("value"), one.get("aliases")] if isinstance(one, Mapping) else [one]
        for value in named:
            found += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(value for value in found if isinstance(value, str) and not stands_for_nothing(value)))


def _original(edit: Mapping[str, Any]) -> str | None:
    """The sentence that was true before."""
    for key in ORIGINAL:
        before = edit.get(key)
        if isinstance(before, Mapping) and isinstance(before.get("prompt"), str):
            return before["prompt"].strip()
    return None


def _split(
    edit: Mapping[str, Any], original: str | None, queries: Sequence[Mapping[str, Any]], given: str | None
) -> tuple[str, str, str | None]:
    """The sentence without its answer, the answer, and the answer that was true before."""
    sentence = edit["prompt"].strip()
    body = sentence.removesuffix(".").rstrip()
    if given is not None and body.endswith(f" {given.strip()}"):
        stem = body[: -len(given.strip())].rstrip()
    else:
        stem = _stem_by_answer(edit, body, queries)
    if stem is None and original is not None:
        stem = _shared_stem(sentence, original)
    if stem is None:
        places = [match.end() for match in _ANSWER_BEGINS.finditer(body)]
        stem = body[: places[0]] if len(places) == 1 else None
    answer = "" if stem is None else body[len(stem) :].strip()
    if not answer:
        raise FactError(f"edit.prompt {quoted(sentence)}: nothing shows where its answer begins; add target_new")
    true = None
    if original is not None and original.startswith(f"{stem} "):
        true = original[len(stem) :].strip().removesuffix(".").strip() or None
    return stem, answer, true


def _stem_by_answer(edit: Mapping[str, Any], body: str, queries: Sequence[Mapping[str, Any]]) -> str | None:
    """The sentence without the longest answer that it ends in, of questions with the same answer by its id."""
    target = edit.get("target_id")
    ends = [
        answer
        for query in queries
        if target is not None and isinstance(query.get("target_ids"), list) and target in query["target_ids"]
        for answer in _answers(query)
        if body.endswith(f" {answer}")
    ]
    return body[: -len(max(ends, key=len))].rstrip() if ends else None


def _shared_stem(sentence: str, original: str) -> str | None:
    """The words that two sentences begin with, up to the last "is" if the answers begin alike, too."""
    one, other = sentence.split(" "), original.split(" ")
    n_same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    stem = " ".join(one[:n_same]) if n_same else ""
    places = [match.end() for match in _ANSWER_BEGINS.finditer(f"{stem} ")]
    return (stem[: places[-1]] if places else stem) or None


def _subject(edit: Mapping[str, Any], stem: str, queries: Sequence[Mapping[str, Any]]) -> Found | None:
    """What the sentence shares with most questions about the same id by other relations, without the words of all."""
    words = stem.split(" ")[-MOST_WORDS:]
    places = [at for at, word in enumerate(words) if word.lower() not in _TEMPLATE]
    runs: Counter[str] = Counter()
    for query in queries:
        if query.get("subject_id") != edit.get("subject_id") or query.get("relation") == edit.get("relation"):
            continue
        if not isinstance(query["prompt"], str) or query.get("query_type") == "two_hop":
            continue
        padded = f" {query['prompt']} "
        runs.update(
            {
                run
                for first in places
                for last in places
                if first <= last and f" {(run := ' '.join(words[first : last + 1]))} " in padded
            }
        )
    capital = {run for run in runs if any(letter.isupper() for letter in run)}
    for run in sorted(capital or runs, key=lambda run: (runs[run], len(run), run), reverse=True):
        if (found := at_last_place(stem, run)) is not None:
            return found
    return None
