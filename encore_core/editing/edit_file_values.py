"""The metadata of an edit file, checked value by value before it is used.

Anybody can write such a file, with a matching digest. So every value is checked for its type, its range and its
consistency with the others; nothing is used that is not checked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from encore_core.editing.batch_report import BY_GRADIENT, NOT_EDITED, SAID
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact

VERSION = 2
"""Files in which edits were taken back or overwritten have it; the others are also read by programs for version 1."""

FORMS = ("factors", "matrices")
SHAPE = ("d_model", "d_mlp", "n_layers")
SERIES = ("loss", "nll", "kl", "decay", "probability")
"""Values recorded during the search for a target, one per evaluation of the loss."""

PROBABILITIES = ("before", "after", "bare")
"""Probabilities of the new answer, in this order; any of them may be missing."""

CHANGES = ("loaded", "before", "after")
"""Probabilities of an answer around a retraction, in this order; any of them may be missing."""

OUTCOMES = (*NOT_EDITED, BY_GRADIENT)

MOST_PROBABILITY = 1.001
"""Rounded logarithms of probabilities may be slightly above 0."""


def check_values(values: Any) -> None:
    """Check the metadata of an edit file.

    Args:
        values: the decoded JSON; see `edit_file.EditFile`.

    Raises:
        InputError: for another version, or naming the first value that is wrong.
    """
    values = _object("the whole", values)
    version = values.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise InputError(f"The edit file has version {quoted(version)}; this program reads versions 1 and {VERSION}.")
    if values.get("form") not in FORMS:
        raise _wrong("form", values.get("form"), " or ".join(FORMS))
    for name in ("model", "method"):
        _text(name, values.get(name))
    for name in ("dtype", "base_fingerprint"):  # messages show these unquoted
        if not re.fullmatch(r"[0-9a-z_]{1,64}", _text(name, values.get(name))):
            raise _wrong(name, values[name], "a word of lower-case letters and digits")
    if values.get("start_token") is not None:
        _text("start_token", values["start_token"])
    shape = _object("shape", values.get("shape"))
    if tuple(sorted(shape)) != tuple(sorted(SHAPE)):
        raise _wrong("shape", shape, f"an object of {', '.join(SHAPE)}")
    for name in SHAPE:
        _whole(f"shape {name}", shape[name], 1)
    norms = _object("norms", values.get("norms"))
    if not norms:
        raise InputError("The edit file holds no edits; it is damaged.")
    _layers("norms", norms, shape["n_layers"])
    for layer, pair in norms.items():
        for name in ("original", "edited"):
            _number(f"norms {layer} {name}", _object(f"norms {layer}", pair).get(name), 0)
    _object("settings", values.get("settings"))
    _whole("seed", values.get("seed"), 0)
    _whole("n_edits", values.get("n_edits"), 0 if values["form"] == "factors" else 1)
    _texts("prefixes", values.get("prefixes"))
    if values["form"] == "matrices":
        _some("facts", values.get("facts"))
        return
    places: set[tuple[int, int]] = set()
    for number, batch in enumerate(_some("batches", values.get("batches"))):
        where = f"batch {number + 1}"
        _check_ended(where, _object(where, batch), number, places)
        n_edited = _check_batch(where, batch, norms)
        places |= {(number, column) for column in range(n_edited)}


def is_edited(row: Mapping[str, Any]) -> bool:
    """Whether the row of a fact says that it was edited."""
    return "steps" in row or row.get("outcome") == BY_GRADIENT


def fact_of(row: Any) -> Fact:
    """A fact from its fields.

    Raises:
        InputError: naming what is missing, unknown or wrong.
    """
    row = _object("fact", row)
    try:
        return Fact(**row)
    except TypeError as error:
        raise _wrong("fact", sorted(row), "the fields of a fact, with subject, prompt and target_new") from error


def _check_ended(where: str, batch: Mapping[str, Any], number: int, places: set[tuple[int, int]]) -> None:
    """Check which edits a batch has ended, and what it says of them. They are dropped from `places`."""
    for place in _list(f"{where} ended", batch.get("ended", [])):
        if not isinstance(place, list) or len(place) != 2 or not all(type(one) is int for one in place):
            raise _wrong(f"{where} ended", place, "pairs of whole numbers")
        if tuple(place) not in places:
            raise _wrong(f"{where} ended", place, "edits that are there")
        places.remove(tuple(place))
    retracted = _list(f"{where} retracted", batch.get("retracted", []))
    if retracted and (batch.get("edited") != [] or not batch.get("ended")):
        raise _wrong(f"{where} retracted", retracted, "empty in a batch that edits, and in one that ends no edit")
    if batch.get("restored") is not None:
        if not retracted:
            raise _wrong(f"{where} restored", batch["restored"], "left out of a batch that takes nothing back")
        _whole(f"{where} restored", batch["restored"], 1)
    for item in retracted:
        here = f"{where} retracted"
        item = _object(here, item)
        _whole(f"{here} batch", item.get("batch"), 0)
        if item["batch"] >= number:
            raise _wrong(f"{here} batch", item["batch"], "a batch before it")
        for name in ("new", "own"):
            if name == "own" and item.get(name) is None:
                continue
            change = _object(f"{here} {name}", item.get(name))
            _text(f"{here} {name} text", change.get("text"))
            for when in CHANGES:
                if change.get(when) is not None:
                    _number(f"{here} {name} {when}", change[when], 0, MOST_PROBABILITY)
        if item.get("is_back") not in (None, True, False):
            raise _wrong(f"{here} is_back", item["is_back"], "true, false or null")
    if batch.get("others") is not None:
        others = _object(f"{where} others", batch["others"])
        if set(others) != {"n", "before", "after", "largest"}:
            raise _wrong(f"{where} others", list(others), "an object of n, before, after and largest")
        _whole(f"{where} others n", others["n"], 1)
        for name in ("before", "after", "largest"):
            _number(f"{where} others {name}", others[name], 0, MOST_PROBABILITY)


def _check_batch(where: str, batch: Mapping[str, Any], norms: Mapping[str, Any]) -> int:
    """Check a batch. Returns how many facts it edited; none for a retraction."""
    n_edited, is_retraction = 0, bool(batch.get("retracted"))
    some = _list if is_retraction else _some
    for number, item in enumerate(some(f"{where} edited", batch.get("edited")), start=1):
        here = f"{where} fact {number}"
        item = _object(here, item)
        for name in PROBABILITIES:
            if item.get(name) is not None:
                _number(f"{here} {name}", item[name], 0, MOST_PROBABILITY)
        if "steps" in item:
            n_edited += 1
            _check_search(here, item)
        elif item.get("outcome", SAID) not in OUTCOMES:
            raise _wrong(f"{here} outcome", item["outcome"], " or ".join(OUTCOMES))
        elif is_edited(item):
            n_edited += 1
            _whole(f"{here} passes", item.get("passes", 1), 1)
    if not n_edited and not is_retraction:
        raise InputError(f"The edit file is damaged: {where} holds no edit.")
    for phase, seconds in _object(f"{where} seconds", batch.get("seconds")).items():
        _line(f"{where} seconds", phase)
        _number(f"{where} seconds {phase}", seconds, 0)
    pairs = _object(f"{where} norms", batch.get("norms"))
    if set(pairs) != set(norms):
        raise _wrong(f"{where} norms", list(pairs), f"an object with the layers {', '.join(norms)}")
    for layer, pair in pairs.items():
        if len(_some(f"{where} norms {layer}", pair)) != 2:
            raise _wrong(f"{where} norms {layer}", pair, "a pair, before and after")
        for norm in pair:
            _number(f"{where} norms {layer}", norm, 0)
    for line in _texts(f"{where} notices", batch.get("notices")):
        _line(f"{where} notices", line)
    return n_edited


def _check_search(where: str, item: Mapping[str, Any]) -> None:
    """Check the record of the search for a fact's target."""
    _whole(f"{where} steps", item["steps"], 0)
    _line(f"{where} stopped", item.get("stopped"))
    lengths = set()
    for name in SERIES:
        figures = _some(f"{where} {name}", item.get(name))
        lengths.add(len(figures))
        for figure in figures:
            _number(f"{where} {name}", figure)
    if len(lengths) > 1:
        raise InputError(f"The edit file is damaged: {where} has different numbers of steps in {', '.join(SERIES)}.")


# -- values ------------------------------------------------------------------------------------------------------------


def _wrong(where: str, value: Any, right: str) -> InputError:
    return InputError(f"The edit file is damaged: {where} is {quoted(value)}, but must be {right}.")


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "an object")
    return value


def _list(where: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    return value


def _some(where: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong(where, value, "a list that is not empty")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "a text")
    return value


def _line(where: str, value: Any) -> None:
    if len(_text(where, value).splitlines()) > 1:
        raise _wrong(where, value, "one line")


def _texts(where: str, value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(where, value, "a list of texts")
    return value


def _number(where: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Check for a finite number in a range; Python's JSON reader accepts NaN and infinity."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    # A whole number with hundreds of digits is finite, but does not fit a float.
    if not (low <= number <= high and abs(number) <= 1e300):
        limits = "" if low == -math.inf else f" from {low:g}" + ("" if high == math.inf else f" to {high:g}")
        raise _wrong(where, value, f"a finite number{limits}")


def _whole(where: str, value: Any, low: int) -> None:
    if type(value) is not int or not low <= value < 2**63:
        raise _wrong(where, value, f"a whole number from {low}")


def _layers(where: str, values: Mapping[str, Any], n_layers: int) -> None:
    for layer in values:
        if not (layer.isascii() and layer.isdecimal() and str(int(layer[:9])) == layer and int(layer) < n_layers):
            raise _wrong(where, layer, f"the number of a layer below {n_layers}")
