"""The place of the subject in a prompt: the slot `{}`, and subjects that the prompt spells differently."""

from __future__ import annotations

import unicodedata

from encore_core.errors import quoted
from encore_core.facts.texts import FactError, folded

SLOT = "{}"
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼʹʻ＇`´"), "'")
MOST_COMPARED = 10_000_000
"""Limit of the prompt's characters times the subject's; above it, no other spelling is looked for."""


def with_slot(prompt: str, subject: str) -> str:
    """The prompt with exactly one slot, which replaces the subject if there is none yet.

    A subject that occurs several times, but only once as a word of its own, is meant there.

    Raises:
        FactError: when there are several slots, or none and the subject does not occur exactly once.
    """
    found = places(prompt, subject)
    inside = {at + i for at in found for i in range(len(subject))} if SLOT in subject else set()
    # a subject such as "f{}" contains braces itself, which are no slot
    slots = [at for at in places(prompt, SLOT) if at not in inside]
    shown = f"prompt {quoted(prompt)}"
    if len(slots) > 1 or (slots and inside):
        raise FactError(f"{shown} has the slot {SLOT} {prompt.count(SLOT)} times: put it in once, for the subject")
    if slots:
        return prompt
    if len(found) > 1 and SLOT not in subject:  # "i" in "i want to be with you" is a word only once
        whole = [at for at in found if not within_word(prompt, at, at + len(subject))]
        found = whole if len(whole) == 1 else found
    if len(found) == 1:
        made = prompt[: found[0]] + SLOT + prompt[found[0] + len(subject) :]
        if made != prompt and SLOT in subject and subject in made:
            raise FactError(
                f"{shown} has braces next to the subject {quoted(subject)} that read as the subject again: "
                "put something between them"
            )
        return made
    if found:
        raise FactError(
            f"{shown} has the subject {quoted(subject)} {len(found)} times: "
            f"write {SLOT} where the subject stands, e.g. {quoted(prompt.replace(subject, SLOT, 1))}"
        )
    hint = ""
    if folded(subject) in folded(prompt) or _alike(prompt, subject):
        hint = " (it is there in another spelling: capitals, spaces or accents)"
    raise FactError(
        f"{shown} does not contain the subject {quoted(subject)}{hint}: "
        f"write the subject exactly as in the prompt, or {SLOT} where it belongs"
    )


def spelt_as_in(prompt: str, subject: str) -> str:
    """The subject in the prompt's spelling, if only the spelling differs.

    Capitals, apostrophes (' ’ ʼ) and Unicode form (composed or not, half width or full) may differ. Only whole words
    match: "US" is not in "famous".

    Args:
        prompt: with the subject in any spelling.
        subject: as given.

    Returns:
        the prompt's spelling, if the prompt has neither a slot nor the exact subject, and exactly one match; else the
        subject as it is.
    """
    if not subject or subject in prompt or SLOT in prompt:
        return subject
    found = _alike(prompt, subject)
    return prompt[found[0][0] : found[0][1]] if len(found) == 1 else subject


def spelling_note(subject: str, spelt: str) -> str:
    """The notice about a subject whose spelling `spelt_as_in` has changed."""
    return f"the subject {quoted(subject)} is taken as {quoted(spelt)}, as the prompt spells it"


def _alike(prompt: str, subject: str) -> list[tuple[int, int]]:
    """Start and end of the places in the prompt that match the subject apart from its spelling."""
    if len(prompt) * len(subject) > MOST_COMPARED:
        return []
    wanted = [bare for _, bare in _pieces(subject)]
    pieces = _pieces(prompt)
    starts = [start for start, _ in pieces] + [len(prompt)]
    bare = [text for _, text in pieces]
    found = []
    for first in range(len(bare) - len(wanted) + 1):
        last = first + len(wanted)
        if bare[first:last] != wanted:
            continue
        start, end = starts[first], starts[last]
        # neither end may lie within one character of the prompt, such as "ß" for "ss"
        whole = (first == 0 or starts[first - 1] < start) and starts[last - 1] < end
        if whole and not within_word(prompt, start, end):
            found.append((start, end))
    return found


def _pieces(text: str) -> list[tuple[int, str]]:
    """The visible characters, each with its start, without differences of capitals and Unicode form."""
    pieces: list[tuple[int, str]] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and _joins(text[end]):
            continue
        bare = unicodedata.normalize("NFKD", text[start:end].translate(APOSTROPHES))
        bare = unicodedata.normalize("NFKD", bare.casefold())
        # one character may be several ("ﬁ", "ß"), which match those written one by one
        cuts = [at for at in range(1, len(bare)) if not _joins(bare[at])]
        pieces += [(start, bare[a:b]) for a, b in zip([0, *cuts], [*cuts, len(bare)], strict=True)]
        start = end
    return pieces


def _joins(character: str) -> bool:
    """True for parts of the character before: combining marks, Hangul vowels and finals, half-width kana marks."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f"


def within_word(text: str, start: int, end: int) -> bool:
    """True if a word continues across either end. Scripts without capitals need no gaps between words."""

    def wordy(character: str) -> bool:
        return character.isdigit() or character.lower() != character.upper()

    before = start > 0 and wordy(text[start - 1]) and wordy(text[start])
    return before or (end < len(text) and wordy(text[end - 1]) and wordy(text[end]))


def places(text: str, part: str) -> list[int]:
    """The positions of `part` in `text`, overlapping ones included."""
    found = []
    at = text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return found


def fill(text: str, subject: str) -> str:
    """`text` with the subject in its slot; by slicing, because `str.format` would fail at other braces."""
    start = text.index(SLOT)
    return text[:start] + subject + text[start + len(SLOT) :]
