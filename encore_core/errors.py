"""The one exception that is meant for the person in front of the program.

Everything a user can get wrong (a file, a fact, a setting, a model name) is raised as `InputError` with one line that
says what was wrong, with which value, and what would be right. The command line prints it and exits with 2; the pages
show it in place. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what, which value, what would be right."""


def quoted(value: object, limit: int = 60) -> str:
    """The value as it stands in a message: on one line and no longer than `limit` characters.

    Args:
        value: anything; strings keep their quotes so that blanks and newlines can be seen.
        limit: longest text returned, in characters.
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 2] + "…" + text[-1]


def reason(error: BaseException, limit: int = 200) -> str:
    """What an exception says, as part of a message: on one line, printable, at most `limit` characters.

    Args:
        error: of a library that read somebody's file, whose content may be in what it says.
        limit: longest text returned, in characters.

    Returns:
        the name of its type where it says nothing.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
