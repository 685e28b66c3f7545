"""The one exception that is meant for the person in front of the program.

Everything a user can get wrong (a file, a fact, a setting, a model name) is raised as `InputError` with one line that
says what was wrong, with which value, and what would be right. The command line prints it and exits with 2; the pages
show it in place. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import unicodedata


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what, which value, what would be right.

    Args:
        message: line ends and control characters in it, of a name in somebody's file for example, become escapes.
    """

    def __init__(self, message: object = ""):
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """A text as one line that can be shown everywhere: line ends, controls and halves of characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text
    )


def quoted(value: object, limit: int = 60) -> str:
    """The value as it stands in a message: on one line and no longer than `limit` characters.

    Args:
        value: anything; strings keep their quotes so that blanks and newlines can be seen.
        limit: longest text returned, in characters.
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 2] + "…" + text[-1]


def first_line(error: BaseException, limit: int = 200) -> str:
    """The message of somebody else's error, as part of one of ours: its first line, printable and not too long.

    Args:
        error: of a library; what it says may hold the content of somebody's file.
        limit: longest text returned, in characters.

    Returns:
        the kind of the error where it has no message.
    """
    said = (str(error).strip() or type(error).__name__).splitlines()[0][: limit + 1]
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)
    return text if len(text) <= limit else text[: limit - 1] + "…"
