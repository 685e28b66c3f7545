"""The one exception that is meant for the user.

Everything a user can get wrong (a file, a fact, a setting, a model name) is raised as `InputError` with one line that
says what was wrong, with which value, and what would be right. The command line prints it and exits with 2; the pages
show it in place. Any other exception that escapes is a bug.
"""

from __future__ import annotations

import unicodedata


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what, which value, what would be right.

    Args:
        message: line ends and control characters in it, for example from a name in a file, become escapes.
    """

    def __init__(self, message: object = ""):
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """A text as one line that can be shown anywhere: line ends, controls and lone surrogates become escapes."""
    if text.isprintable():
        return text
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text
    )


def quoted(value: object, limit: int = 60) -> str:
    """A value for a message: on one line and at most `limit` characters long.

    Args:
        value: anything; strings keep their quotes so that blanks and newlines can be seen.
        limit: longest text returned, in characters.
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 2] + "…" + text[-1]


def first_line(error: BaseException, limit: int = 200) -> str:
    """The message of a library's error, for use in one of ours: its first line, printable and not too long.

    Args:
        error: from a library; its message may contain parts of a user's file.
        limit: longest text returned, in characters.

    Returns:
        the text, or the error's type if it has no message.
    """
    said = (str(error).strip() or type(error).__name__).splitlines()[0][: limit + 1]
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)
    return text if len(text) <= limit else text[: limit - 1] + "…"
