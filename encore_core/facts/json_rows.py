"""The records of JSON: an array, JSON lines, one object, and lists that are wrapped, keyed or stored by columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from encore_core.errors import quoted
from encore_core.facts.forms import is_record
from encore_core.facts.names import NAMES, REWRITE, has, plain
from encore_core.facts.notices import Telling
from encore_core.facts.texts import FactError, empty, kind, named

Row = tuple[str, Any]  # its place in the file, and a record or a FactError

MOST_LEVELS = 4


def is_json(text: str, name: str) -> bool:
    """Whether a text is JSON, by its beginning or the file's name."""
    return text.lstrip()[0] in "[{" or name.lower().endswith((".json", ".jsonl"))


def json_rows(text: str, name: str, telling: Telling) -> Iterable[Row]:
    """The records of a JSON array, of JSON lines, of a single object, or of an object with the records in it.

    Raises:
        FactError: when the text as a whole cannot be used.
    """
    lines = text.split("\n")  # not splitlines(): a JSON string may contain U+2028 and others
    filled = [line for line in lines if line.strip()]
    if len(filled) > 1 and filled[0].lstrip()[0] == "{" and isinstance(_parsed(filled[0]), dict):
        return _json_lines(lines, telling)
    whole = _parsed(text, telling=telling)
    if isinstance(whole, FactError):
        raise FactError(f"{name}: {whole}")
    records = _records(whole, name, telling)
    if records is None:
        raise FactError(
            f"{name}: holds {kind(whole)} ({quoted(whole)}), not a list of facts: give a JSON array of objects, "
            "or one object a line"
        )
    return [(f"record {number}", record) for number, record in enumerate(records, start=1)]


def _json_lines(lines: Sequence[str], telling: Telling) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _parsed(line, one_line=True, telling=telling)


def _parsed(text: str, one_line: bool = False, telling: Telling | None = None) -> Any:
    """The JSON value of a text, or the FactError that says where it is broken."""

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if telling is not None and len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = [key for key in values if counts[key] > 1]
            telling.say(f"keys there twice in one object: {named(twice)}; the last of each counts")
        return values

    try:
        return json.loads(text, object_pairs_hook=made)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno}, column {error.colno}"
        return FactError(
            f"malformed JSON at {place} ({error.msg}), "
            f"near {quoted(error.doc[max(0, error.pos - 20) : error.pos + 20])}: correct it there"
        )
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, or very deep nesting
        return FactError(f"malformed JSON ({error}): give a list of plain objects")


def _records(value: Any, name: str, telling: Telling, level: int = 0) -> list[Any] | None:
    """The records in a JSON value; None where there are none.

    Raises:
        FactError: when there are several lists to choose from.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping) or level > MOST_LEVELS:
        return None
    names = {plain(str(key)) for key in value}
    if has(names, "prompt") or REWRITE in names:
        turned = _turned(value, telling)
        return [value] if turned is None else turned
    if (split := _split(value)) is not None:
        return split
    lists = {key: one for key, one in value.items() if isinstance(one, list) and any(map(is_record, one))}
    if len(lists) > 1:
        raise FactError(f"{name}: holds several lists of facts ({named(list(lists))}): save the one wanted as a file")
    if lists:
        [(key, found)] = lists.items()
        return _inside(value, key, found, telling)
    if is_record(value):
        return [value]
    if value and all(isinstance(one, Mapping) for one in value.values()) and any(map(is_record, value.values())):
        return [_with_id(record, key) for key, record in value.items()]
    for key, one in value.items():
        if isinstance(one, Mapping) and (found := _records(one, name, telling, level + 1)) is not None:
            return _inside(value, key, found, telling)
    return None


def _inside(value: Mapping[str, Any], key: str, found: list[Any], telling: Telling) -> list[Any]:
    """Records found under a key; the keys beside it are ignored, with a notice."""
    telling.say(f"facts are read from {quoted(key)}")
    for other, one in value.items():
        if other != key and not empty(one):
            telling.leave(other)
    return found


def _with_id(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A record of a keyed object, with its key as its name if it has no other."""
    return dict(record) if has({plain(str(name)) for name in record}, "id") else {**record, "id": key}


def _split(value: Mapping[str, Any]) -> list[Any] | None:
    """The records of pandas' `to_json(orient="split")`."""
    columns, rows = value.get("columns"), value.get("data")
    if not (isinstance(columns, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return None
    return [dict(zip(map(str, columns), row, strict=False)) for row in rows]


def _turned(value: Mapping[str, Any], telling: Telling) -> list[Any] | None:
    """The records of an object of columns, each a list or `{"0": ..., "1": ...}` as pandas' `to_json()` writes."""
    keys = [key for key in value if plain(key) in (*NAMES["subject"], *NAMES["prompt"])]
    shapes = {(type(value[key]), len(value[key])) for key in keys if isinstance(value[key], (list, dict))}
    if len(keys) < 2 or len(shapes) != 1 or not all(isinstance(value[key], (list, dict)) for key in keys):
        return None
    [(shape, length)] = shapes
    columns = {key: one for key, one in value.items() if isinstance(one, shape) and len(one) == length}
    for key, one in value.items():
        if key not in columns and not empty(one):
            telling.leave(key)
    index = range(length) if shape is list else list(value[keys[0]])
    if shape is dict:
        return [{key: one.get(at) for key, one in columns.items()} for at in index]
    return [{key: one[at] for key, one in columns.items()} for at in index]
