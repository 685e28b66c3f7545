"""Checks of single values of settings, plans and limits: a value is returned as its type, or refused in one wording.

whole("Setting steps", "7", 1, 1000, typed=True)        # 7
whole("batch_size", 0, 1, 100_000)                      # batch_size = 0 must be a whole number from 1 to 100,000.
raise unknown("Unknown setting", "lambdap", SETTABLE)   # Unknown setting 'lambdap'; did you mean 'lambda_p'?

In messages, `name` comes before the value and may say more, such as the file; `place` comes after it: "in [visitors]".
A value that a person typed (`typed`) may be text; one from a program or JSON must have the type itself, and then a
truth value is not a number.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from encore_core.errors import InputError, quoted

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
"""What may be typed for a truth value, in any case."""


def whole(name: str, value: Any, low: int, high: int, *, typed: bool = False, place: str = "") -> int:
    """A whole number.

    Raises:
        InputError: for another value, or one out of range.
    """
    found = _read(value) if typed else value if _is(int, value) else math.nan
    if not low <= found <= high or found != int(found):  # not a number fails every comparison
        raise _refused(name, value, place, f"a whole number from {low:,} to {high:,}")
    return int(found)


def number(
    name: str, value: Any, low: float, high: float, *, above: bool = False, typed: bool = False, place: str = ""
) -> float:
    """A number; with `above` it must be more than `low`.

    Raises:
        InputError: for another value, one that is not finite, or one out of range.
    """
    found = _read(value) if typed else value if _is(int | float, value) else math.nan
    if not low <= found <= high or (above and found == low):
        words = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        raise _refused(name, value, place, f"a number {words}")
    return float(found)


def flag(name: str, value: Any, *, typed: bool = False, place: str = "") -> bool:
    """A truth value.

    Raises:
        InputError: for another value.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if typed else ""
    if text not in (*TRUE, *FALSE):
        raise _refused(name, value, place, "true or false")
    return text in TRUE


def choice(name: str, value: Any, choices: Sequence[str], *, place: str = "") -> str:
    """One of several texts.

    Raises:
        InputError: for another value.
    """
    if not isinstance(value, str) or value not in choices:
        *most, last = (f'"{one}"' for one in choices)
        raise _refused(name, value, place, f"{', '.join(most)} or {last}" if most else last)
    return value


def unknown(what: str, name: Any, names: Iterable[str], *, place: str = "") -> InputError:
    """The error for an unknown name: it suggests a similar known name, or lists all of them.

    Args:
        what: the beginning of the message: "Unknown setting".
        name: what was given.
        names: the known names.
        place: what to put after the name.
    """
    names = tuple(names)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}."
    return InputError(f"{what} {quoted(name)}{_behind(place)}; {hint}")


def _is(kind: Any, value: Any) -> bool:
    """Whether a value is a number of a kind, and not a truth value, which would pass as one."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _read(value: Any) -> float:
    """The number in a value; NaN if there is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # the last for whole numbers of hundreds of digits
        return math.nan


def _refused(name: str, value: Any, place: str, right: str) -> InputError:
    return InputError(f"{name} = {quoted(value)}{_behind(place)} must be {right}.")


def _behind(place: str) -> str:
    return f" {place}" if place else ""
