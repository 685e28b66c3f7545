"""The texts of facts: which count as missing, how texts are trimmed and compared, and the error that names them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from encore_core.errors import InputError, one_line, quoted

BLANKS = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
"""The blanks of Unicode (category Zs). Line ends and tabs are not among them, because they can belong to a prompt."""

NO_TEXT = frozenset(
    (
        "nan", "NaN", "null", "NULL", "<NA>", "N/A", "n/a", "#N/A",
        "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "</s>",
    )
)  # fmt: skip
"""Texts that mean nothing: what pandas, Excel and databases write for an empty cell, and the end-of-text tokens that
some data sets have in place of an answer."""
NO_PROMPT = NO_TEXT | {"None", "none"}
"""The same for prompts and names. "None" can be an answer ("How many moons has Venus?"), but no prompt."""


class FactError(InputError):
    """A fact, a batch or a file of facts that cannot be used.

    Attributes:
        problems: one message for each bad row of a file, `"line 3: target_new '' is blank ..."`; empty if the message
            is about one fact or the whole file.
        facts: the `Fact`s in the file's other rows, which can be used without the bad ones.
    """

    def __init__(self, message: str, problems: Sequence[str] = (), facts: Sequence[Any] = ()):
        super().__init__(message)
        self.problems = tuple(problems)
        self.facts = tuple(facts)


def required(name: str, value: Any) -> str:
    """A text that must not be blank, without the whitespace around it.

    Raises:
        FactError: when it is missing, blank or no text.
    """
    return trimmed(_checked(name, value))


def required_prompt(name: str, value: Any) -> str:
    """A text that must not be blank, without the blanks around it; line ends and tabs stay.

    Raises:
        FactError: as `required`.
    """
    return trimmed_prompt(_checked(name, value))


def trimmed(text: str) -> str:
    """An answer, a subject or a name without whitespace around it."""
    return text.strip()


def trimmed_prompt(text: str) -> str:
    """A prompt without blanks around it."""
    return text.strip(BLANKS)


def _checked(name: str, value: Any) -> str:
    if value is None:
        raise FactError(f"{name} is missing: give a text")
    if not isinstance(value, str):
        raise FactError(f"{name} {quoted(value)} is {kind(value)}: give a text, in quotes")
    if blank(value):
        raise FactError(f"{name} {quoted(value)} is blank: give a text with at least one visible character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FactError(
            f"{name} {quoted(value)} holds half a character (a lone surrogate): give valid Unicode"
        ) from error
    return value


def optional(name: str, value: Any) -> str | None:
    """Like `required`, but None for a missing or blank text."""
    return None if empty(value) else required(name, value)


def listed(name: str, value: Any, *single: type) -> Sequence[Any]:
    """A list as it is, a single value (a text, an object or one of the given types) as a list of one, None as empty.

    Raises:
        FactError: for any other value.
    """
    if empty(value) and not isinstance(value, str):
        return ()
    if isinstance(value, (str, Mapping, *single)):
        return (value,)
    if isinstance(value, (list, tuple)):
        return value
    raise FactError(f"{name} {quoted(value)} is {kind(value)}: give a list")


def blank(text: str) -> bool:
    """True for text of only spaces, controls and invisible marks."""
    if text[:1].isalnum():  # true for nearly all texts
        return False
    return all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text)


def empty(value: Any) -> bool:
    """True for None, NaN, blank text, and lists and objects without content."""
    if isinstance(value, str):
        return blank(value)
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, (list, tuple, Mapping)) and not value


def stands_for_nothing(value: Any, words: frozenset[str] = NO_TEXT) -> bool:
    """True for empty values, for the texts that mean nothing, and for lists of only these."""
    if isinstance(value, (list, tuple)):
        return all(stands_for_nothing(one, words) for one in value)
    return empty(value) or (isinstance(value, str) and value.strip() in words)


def folded(text: str) -> str:
    """The text for comparisons that ignore capitals, Unicode form and the width of gaps."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def kind(value: Any) -> str:
    """The type of a value, in the terms of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a {type(value).__name__}"


def named(names: Sequence[str], most: int = 5) -> str:
    """Names for a message; only the first ones if there are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(map(quoted, names[:most]))}{more}"


def key_name(key: Any, limit: int = 60) -> str:
    """A key or column for a message, without quotes: on one line and not too long, whatever its name."""
    text = one_line(str(key))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def name_of(path: Any) -> str:
    """A file's name for messages, always on one line."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 200 else quoted(text)
