"""What can be proposed for a typed fact: the model's own answer, and neighbours from the facts that come along."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from encore_core.facts import SLOT, Fact, Neighbour

MOST_WORDS = 4
MOST_CHARACTERS = 40
LINKS = ("of", "the", "de", "da", "do", "du", "la", "le", "del", "der", "van", "von", "al", "bin")
"""Words in small letters that stand inside names; at the end of one they are cut off."""
N_PROPOSED, N_ASKED = 5, 24
"""Neighbours that are proposed, and those that the model is asked to find as many that it knows."""

_END = re.compile(r"[\n\r\t.,;:!?\"“”«»()\[\]{}|/。、，！？；：「」]|\s[-–—]\s|<")


def short_answer(text: str, known: Iterable[str] = ()) -> str | None:
    """The answer at the beginning of what a model writes on, without what it says about it.

    A name ends with its last capital letter ("New York City is known" → "New York City"); other words count up to the
    next mark of punctuation, if they are few.

    Args:
        text: the continuation of a prompt.
        known: answers that are taken whole where the text begins with one ("Trinidad and Tobago").

    Returns:
        None when the text does not begin with a short answer.
    """
    begins = [answer for answer in known if re.match(rf"{re.escape(answer)}(?!\w)", text.strip())]
    if begins:
        return max(begins, key=len)
    phrase = _END.split(text.strip(), maxsplit=1)[0].strip()
    words = phrase.split()
    if not words:
        return None
    if len(words) > 1 and _is_name(words[0] if words[0].lower() != "the" else words[1]):
        name = [words[0]]
        for word in words[1:]:
            if not _is_name(word) and word.lower() not in LINKS:
                break
            name.append(word)
        while len(name) > 1 and name[-1].lower() in LINKS:
            name.pop()
        words = name
        n_words = sum(word.lower() not in LINKS for word in words)
    elif phrase == text.strip() and len(words) > 1:
        return None  # it ends where the text was cut off
    else:
        n_words = len(words) + 1  # a phrase in small letters is sooner a sentence than a name is
    answer = " ".join(words)
    return answer if n_words <= MOST_WORDS and len(answer) <= MOST_CHARACTERS else None


def _is_name(word: str) -> bool:
    return word[:1].isupper() or word[:1].isdigit()


def candidates(fact: Fact, facts: Sequence[Fact], answer: str | None = None) -> list[Neighbour]:
    """Neighbours that the model should be asked about: the typed prompt with other subjects of the same relation.

    The relation is that of a fact that is asked in the same words, or else the one relation in which the subject, or
    some subject, has this answer. Subjects with the fact's own true answer come first, those with the new answer are
    left out: nothing could be seen in them.

    Args:
        fact: as typed.
        facts: those that come with the program.
        answer: its true answer, if the fact gives none.

    Returns:
        at most `N_ASKED`; empty when no relation fits.
    """
    true = fact.target_true or answer
    relation = _relation(fact, facts, true)
    if relation is None:
        return []
    others = [other for other in facts if other.relation == relation and other.target_true
              and _same(other.subject) != _same(fact.subject)
              and _same(other.target_true) != _same(fact.target_new)]  # fmt: skip
    others.sort(key=lambda other: (not other.known, _same(other.target_true) != _same(true)))
    prompts: dict[str, Neighbour] = {}
    for other in others:
        text = fact.prompt.replace(SLOT, other.subject, 1)
        prompts.setdefault(text, Neighbour(text, other.target_true))
    return list(prompts.values())[:N_ASKED]


def _relation(fact: Fact, facts: Iterable[Fact], true: str | None) -> str | None:
    words, subject, answer = _same(fact.prompt), _same(fact.subject), _same(true)
    by_subject: set[str] = set()
    by_answer: Counter[str] = Counter()
    for other in facts:
        if other.relation is None:
            continue
        asked = [other.prompt, *(text.replace(other.subject, SLOT, 1) for text in other.paraphrases)]
        if words in map(_same, asked):
            return other.relation
        if answer and _same(other.target_true) == answer:
            by_answer[other.relation] += 1
            if _same(other.subject) == subject:
                by_subject.add(other.relation)
    for found in (by_subject, by_answer):
        if len(found) == 1:
            return next(iter(found))
    return None


def _same(text: str | None) -> str:
    """A text without differences of capitals and spacing."""
    return " ".join((text or "").casefold().split())
