"""Where the subject stands in a prompt: the slot `{}`, and subjects spelt another way than in their prompt."""

from __future__ import annotations

import unicodedata

from encore_core.errors import quoted
from encore_core.facts.texts import FactError, folded

SLOT = "{}"
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼʹʻ＇`´"), "'")
MOST_COMPARED = 10_000_000
"""Characters of the prompt times those of the subject, beyond which no other spelling is looked for."""


def with_slot(prompt: str, subject: str) -> str:
    """The prompt with exactly one slot, put in place of the subject where there is none yet."""
    found = places(prompt, subject)
    inside = {at + i for at in found for i in range(len(subject))} if SLOT in subject else set()
    # a subject such as "f{}" brings braces of its own, which are no slot
    slots = [at for at in places(prompt, SLOT) if at not in inside]
    shown = f"prompt {quoted(prompt)}"
    if len(slots) > 1 or (slots and inside):
        raise FactError(f"{shown} has the slot {SLOT} {prompt.count(SLOT)} times: put it in once, for the subject")
    if slots:
        return prompt
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
    """The subject in the prompt's spelling, where that is the only thing between them.

    Capitals, apostrophes (' ’ ʼ) and Unicode form (composed or not, half width or full) may differ. A match is whole
    words: "US" is not in "famous".

    Args:
        prompt: with the subject in it, in whatever spelling.
        subject: as it is named.

    Returns:
        what stands in the prompt, if the prompt has neither slot nor the very subject, and exactly one place that
        matches; else the subject as it is.
    """
    if not subject or subject in prompt or SLOT in prompt:
        return subject
    found = _alike(prompt, subject)
    return prompt[found[0][0] : found[0][1]] if len(found) == 1 else subject


def spelling_note(subject: str, spelt: str) -> str:
    """What to tell of a subject whose spelling `spelt_as_in` has mended."""
    return f"the subject {quoted(subject)} is taken as {quoted(spelt)}, as the prompt spells it"


def _alike(prompt: str, subject: str) -> list[tuple[int, int]]:
    """Start and end of the places in the prompt that match the subject but for its spelling."""
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
        # neither border may lie within one character of the prompt, such as "ß" of "ss"
        whole = (first == 0 or starts[first - 1] < start) and starts[last - 1] < end
        if whole and not _within_word(prompt, start, end):
            found.append((start, end))
    return found


def _pieces(text: str) -> list[tuple[int, str]]:
    """The characters as people see them, each with where it starts, without capitals and differences of form."""
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
    """True for what belongs to the character before it: combining marks, vowels and finals of Hangul, kana's marks."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f"


def _within_word(text: str, start: int, end: int) -> bool:
    """True if a letter or figure goes on across either border. Scripts without capitals need no gaps between words."""

    def wordy(character: str) -> bool:
        return character.isdigit() or character.lower() != character.upper()

    before = start > 0 and wordy(text[start - 1]) and wordy(text[start])
    return before or (end < len(text) and wordy(text[end - 1]) and wordy(text[end]))


def places(text: str, part: str) -> list[int]:
    """Where `part` begins in `text`, overlapping occurrences included."""
    found = []
    at = text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return found


def fill(text: str, subject: str) -> str:
    """`text` with its slot replaced; by slicing, as `str.format` would trip over other braces."""
    start = text.index(SLOT)
    return text[:start] + subject + text[start + len(SLOT) :]
