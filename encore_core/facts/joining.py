"""What separates a prompt from its answer: a blank or nothing, depending on the texts.

"The capital of Norway is" continues with " Bergen", but 挪威的首都是 with 上海, `The city is called "` with `Bergen`,
and the `22-` of a telephone number with its digits. One rule serves targets, scoring, probing, the statistics of known
facts, tasks and reports, so that what is trained is what is asked. A fact can override it (`Fact.join`).
"""

from __future__ import annotations

import unicodedata

BLANK, NOTHING = " ", ""

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3000, 0x312F),  # CJK marks, Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo, CJK strokes, Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xF900, 0xFAFF),  # Han
    (0xFE30, 0xFE4F),  # vertical forms of CJK marks
    (0xFF00, 0xFF9F),  # full-width forms, half-width Katakana
    (0x20000, 0x3FFFF),  # Han
)
"""Scripts written without blanks between words, with their marks. Korean is not among them."""

_BEGINNING = frozenset("#@")
"""Marks that begin a word: tags, addresses."""

_INSIDE = frozenset("/\\_")
"""Marks that join what follows to the word before them: paths, names."""

_QUOTES = frozenset("\"'`")
"""Quotation marks that look the same at both ends."""

_APOSTROPHES = frozenset("'’ʼ")


def joint(prompt: str, answer: str, join: str | None = None) -> str:
    """What separates a prompt and an answer.

    Args:
        prompt: blanks at its end are ignored.
        answer: blanks at its beginning are ignored.
        join: "" or " " if the fact sets it; None lets the texts decide.

    Returns:
        " " or "".
    """
    if join is not None:
        return join
    stem, answer = prompt.rstrip(" "), answer.lstrip()
    if not stem or not answer or _wants_nothing_before(answer) or _wants_nothing_behind(stem):
        return NOTHING
    return BLANK


def joined(prompt: str, answer: str, join: str | None = None) -> str:
    """The prompt continued by the answer, see `joint`."""
    return prompt.rstrip(" ") + joint(prompt, answer, join) + answer.lstrip()


def _wants_nothing_behind(stem: str) -> bool:
    """Whether a text, which does not end in a plain blank, continues without one."""
    last, before = stem[-1], stem[-2:-1]
    category = unicodedata.category(last)
    if last.isspace():  # a line end, a tab or the blank of another script separates by itself
        return True
    if last in _QUOTES:
        return _opens(stem)
    if category in ("Ps", "Pi") or last in _BEGINNING:
        return True
    if category == "Pd" or last in _INSIDE:
        return bool(before) and not before.isspace()
    if category == "Sc":
        return not stem[:-1].rstrip()[-1:].isdigit()  # "$", but "5 €"
    return is_unspaced(_last_of_a_script(stem))


def _opens(stem: str) -> bool:
    """Whether the quotation mark at the end of a text opens a quotation rather than closing one."""
    mark, before = stem[-1], stem[-2:-1]
    if mark == "'":  # an apostrophe, too: L'Italie, the dogs'
        return not before or before.isspace() or unicodedata.category(before) in ("Ps", "Pi") or before in _QUOTES
    return stem.count(mark) % 2 == 1 and not before.isdigit()  # 6'2" is a height


def _wants_nothing_before(answer: str) -> bool:
    """Whether the answer begins with something that is written without a blank before it."""
    first, second = answer[0], answer[1:2]
    if first in _APOSTROPHES:
        return second.isalpha()  # 's
    if unicodedata.category(first) in ("Pe", "Pf"):
        return True
    return first in ",.;:!?%" and not second.isalnum()  # but .NET, :root, %TEMP%


def _last_of_a_script(stem: str) -> str:
    """The last character of a particular script; punctuation and digits are common to all."""
    return next((c for c in reversed(stem) if is_unspaced(c) or unicodedata.category(c)[0] in "LM"), "")


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script written without blanks between words."""
    return bool(character) and any(low <= ord(character) <= high for low, high in _UNSPACED)
