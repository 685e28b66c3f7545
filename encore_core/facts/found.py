"""Find a subject by a rule, for data sets that name none (UltraEditBench) and subjects that a prompt has twice.

The rule, in order; of several spans the longest counts, and of several places in the prompt the last:

1. a name (a run of capitalised words, or what stands in quotation marks) in the prompt and in a paraphrase
2. a name in the prompt
3. a run of words in the prompt and in a paraphrase, without articles, question words and the like at its ends

Of 1,000 zsRE records whose subjects are known, it finds 841 exactly, and of the others a part; of QAEdit's, which are
often written without capitals, 328 of 1,000. It is a guess, so it is made only where it is asked for, and such facts
say so (`Fact.subject_found`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from encore_core.facts.joining import is_unspaced
from encore_core.facts.slots import SLOT, places, within_word
from encore_core.facts.texts import folded

BY_RULE = '(subject="found", --find-subjects)'
"""In messages about rows that could be read if the rule were asked: how to ask for it."""

MOST_WORDS = 300
"""Longer texts are not compared word by word."""

_SMALL_WORDS = """
about after also an and are as at be been before being between by called can could did do does during each ever
first for from had has have he her his how if in into is it its last made many most much name named near not of on
one or our out over she should so some than that the their them then there these they this those to under until up
was we were what when where which while who whom whose why will with within would you your
"""
_SMALL = frozenset(("a", "i", *_SMALL_WORDS.split()))
"""English words that are no subject by themselves."""
_INSIDE = frozenset(
    ("of", "the", "de", "la", "le", "du", "da", "di", "del", "der", "den", "von", "van", "al", "el", "bin", "for")
)
"""Words inside names: "Bank of England"."""
_QUOTED = re.compile(r"“([^“”]{2,80})”|\"([^\"]{2,80})\"|«([^«»]{2,80})»|(?<!\w)['‘]([^'‘’]{2,80})['’](?!\w)")
_WORD = re.compile(r"[^\W_](?:[\w.&'’-]*[^\W_])?")
_OWN = re.compile(r"['’]s$")


class Found(NamedTuple):
    """A subject in its prompt.

    Attributes:
        subject: as the prompt spells it.
        prompt: with a slot in its place.
    """

    subject: str
    prompt: str


def find_subject(prompt: str, paraphrases: Sequence[str]) -> Found | None:
    """The subject of a prompt by the rule of this module.

    Args:
        prompt: without a slot.
        paraphrases: other prompts for the same fact.

    Returns:
        None if the rule finds nothing.
    """
    if SLOT in prompt:
        return None
    names = list(_names(prompt))
    others = [folded(text) for text in paraphrases]
    shared = [name for name in names if any(folded(name) in other for other in others)]
    for spans in (shared, names, _shared_runs(prompt, paraphrases)):
        for span in sorted(spans, key=len, reverse=True):
            if (found := at_last_place(prompt, span)) is not None:
                return found
    return None


def at_last_place(prompt: str, subject: str) -> Found | None:
    """The subject with its slot at the last place where it is no part of a word; None if there is none."""
    whole = [at for at in places(prompt, subject) if not within_word(prompt, at, at + len(subject))]
    if not whole or SLOT in prompt:
        return None
    return Found(subject, f"{prompt[: whole[-1]]}{SLOT}{prompt[whole[-1] + len(subject) :]}")


def _names(text: str) -> Iterator[str]:
    """Quoted spans and runs of capitalised words."""
    for found in _QUOTED.finditer(text):
        yield next(part for part in found.groups() if part is not None).strip()
    words = list(_WORD.finditer(text))
    first = 0
    while first < len(words):
        if not _is_capital(words[first][0]):
            first += 1
            continue
        last = first
        for at in range(first + 1, len(words)):
            if not _follows(text, words[at - 1], words[at]):
                break
            if _is_capital(words[at][0]) or words[at][0][0].isdigit():
                last = at
            elif words[at][0] not in _INSIDE:
                break
        yield _OWN.sub("", text[words[first].start() : words[last].end()])
        first = last + 1


def _is_capital(word: str) -> bool:
    return any(letter.isupper() for letter in word) and word.lower() not in _SMALL


def _follows(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether only a blank separates two words, or the dot of a short one ("St. Louis")."""
    between = text[one.end() : other.start()]
    return between == " " or (between == ". " and len(one[0]) <= 3)


def _shared_runs(prompt: str, paraphrases: Sequence[str]) -> Iterator[str]:
    """For each paraphrase, the longest run of words that it shares with the prompt."""
    words = _words(prompt)
    bare = [folded(text) for _, _, text in words]
    for paraphrase in paraphrases:
        others = [folded(text) for _, _, text in _words(paraphrase)]
        best = (0, 0, 0)
        before = [0] * (len(others) + 1)
        for at, word in enumerate(bare):
            run = [0] * (len(others) + 1)
            for place, other in enumerate(others):
                if word == other:
                    run[place + 1] = before[place] + 1
                    best = max(best, _weighed(words, bare, at - run[place + 1] + 1, at + 1))
            before = run
        if best[0]:
            _, first, end = best
            yield prompt[words[first][0] : words[end - 1][1]]


def _weighed(words: Sequence[tuple[int, int, str]], bare: Sequence[str], first: int, end: int) -> tuple[int, int, int]:
    """A run without the small words at its ends: its length in characters, its first word and its end."""
    while first < end and bare[first] in _SMALL:
        first += 1
    while end > first and bare[end - 1] in _SMALL:
        end -= 1
    length = words[end - 1][1] - words[first][0] if first < end else 0
    return (length, first, end) if length > 1 else (0, 0, 0)


def _words(text: str) -> list[tuple[int, int, str]]:
    """Words with their places; in scripts without blanks, every character is one."""
    found: list[tuple[int, int, str]] = []
    for word in _WORD.finditer(text):
        if any(map(is_unspaced, word[0])):
            found += [(word.start() + at, word.start() + at + 1, letter) for at, letter in enumerate(word[0])]
        else:
            bare = _OWN.sub("", word[0])
            found.append((word.start(), word.start() + len(bare), bare))
    return found[:MOST_WORDS]
