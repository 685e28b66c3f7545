"""Mutations of texts and of JSON values that keep what is around them well formed."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from hostile_inputs import TEXTS

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, 2**31, 2**53 + 1, 2**63, -(2**64), 10**30, 10**400,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "{}", "nan", "null", [], {}, [[]], [None], {"": None},
    {"str": "x"}, ["a", "b"], [["a"]], "\ud800", "\x00", "1", "-1",
)  # fmt: skip

SNIPPETS = (
    "{}", "{", "}", "[", "]", '"', "\\", ",", ";", "\t", "|", " | ", " => ", "=>", ":", "=", "\n", "\r\n", "\r", " ",
    "\u00a0", "\u200b", "\u2028", "\ufeff", "’", "İ", "ß", "é", "e\u0301", "日本", "\U0001f600", "\x00", "\x1b", "\x85",
    "NaN", "null", "<|endoftext|>", "sep=;", "&", "?", "#", "%", "%00", "%ff", "+", ".", "/", "..", "0", "-", "9" * 20,
)  # fmt: skip

Path_ = tuple[Any, ...]


def text(value: str, rng: random.Random, words: Sequence[str] = ()) -> str:
    """A text with a small change."""
    at, end = sorted((rng.randint(0, len(value)), rng.randint(0, len(value))))
    end = min(end, at + rng.choice((1, 3, 10, 1000)))
    what = rng.randrange(11)
    if what <= 2:
        return value[:at] + rng.choice(SNIPPETS) + value[at:]
    if what == 3:
        return value[:at] + value[end:]
    if what == 4:
        return value[:at] + value[at:end] * rng.choice((2, 3, 50)) + value[end:]
    if what == 5:
        return rng.choice(TEXTS)
    if what == 6:
        return value[:at] + rng.choice(TEXTS)[:200] + value[end:]
    if what == 7:
        return rng.choice((str.upper, str.lower, str.title, str.swapcase, str.strip))(value)
    if what == 8:
        return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), value)
    if what == 9 and words:
        return value[:at] + rng.choice(list(words)) + value[end:]
    return (
        value[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)))) + value[end:]
    )


def paths(tree: Any, most: int = 3_000) -> list[Path_]:
    """Where the parts of a JSON value are, itself first."""
    found: list[Path_] = []
    waiting: list[tuple[Path_, Any]] = [((), tree)]
    while waiting and len(found) < most:
        path, value = waiting.pop(0)
        found.append(path)
        if isinstance(value, dict):
            waiting += [((*path, key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, number), part) for number, part in enumerate(value)]
    return found


def part(tree: Any, path: Sequence[Any]) -> Any:
    """What stands at a path."""
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: Sequence[Any], value: Any) -> Any:
    """The value with another part at a path. It is changed in place."""
    if not path:
        return value
    part(tree, path[:-1])[path[-1]] = value
    return tree


def drop(tree: Any, path: Sequence[Any]) -> Any:
    """The value without the part at a path. It is changed in place."""
    if path:
        del part(tree, path[:-1])[path[-1]]
    return tree


def other(value: Any, rng: random.Random, words: Sequence[str] = (), parts: Sequence[Any] = ()) -> Any:
    """Something else in place of a part: near it, of another type, or out of the way."""
    what = rng.randrange(8)
    if what == 0 or (what < 4 and not isinstance(value, (str, int, float, list))):
        return rng.choice(VALUES)
    if what < 5 and isinstance(value, str):
        return text(value, rng, words)
    if what < 5 and isinstance(value, (int, float)):
        return rng.choice(
            (value + 1, value - 1, -value, value * 1_000_000, str(value)[:40], [value], float("nan"), 0, 2**40)
        )
    if what < 5 and isinstance(value, list) and value:
        picked = rng.choice(value)
        return rng.choice((value * 2, value[:-1], value[1:], value[::-1], [*value, picked], [*value, None], picked))
    if what == 5:
        return rng.choice(([value], {"str": value}, [[value]], {"prompt": value, "target": value}, str(value)[:500]))
    if what == 6:
        return rng.choice(TEXTS)
    return rng.choice(list(parts)) if parts else rng.choice(VALUES)


def tree(value: Any, rng: random.Random, keys: Sequence[str], words: Sequence[str] = ()) -> Any:
    """A JSON value with a change in one place. It may be changed in place.

    Args:
        value: the value.
        rng: what is drawn.
        keys: names that mean something to the reader.
        words: texts that do.
    """
    where = rng.choice(paths(value))
    here = part(value, where)
    what = rng.randrange(10)
    if isinstance(here, dict) and what < 4:
        if what == 0 and here:
            moved = here.pop(rng.choice(list(here)))
            here[rng.choice(list(keys))] = moved
        else:
            values = list(here.values())
            here[rng.choice(list(keys))] = other(rng.choice(values) if values else "x", rng, words)
        return value
    if isinstance(here, list) and what < 2 and here:
        here.append(json.loads(json.dumps(rng.choice(here))))
        return value
    if what == 9 and where:
        return drop(value, where)
    if what == 8 and where:
        deep = rng.choice((3, 30, 900))
        return put(value, where, json.loads("[" * deep + "]" * deep))
    places = paths(value)
    copied = json.loads(json.dumps(part(value, rng.choice(places))))
    return put(value, where, other(here, rng, words, [copied]))


def simpler_trees(value: Any) -> Iterator[Any]:
    """JSON values with one part less, or with a shorter text, the largest parts first. Each is a new one."""
    told = json.dumps(value)
    for where in paths(value):
        if where:
            yield drop(json.loads(told), where)
    for where in paths(value):
        here = part(value, where)
        if where and isinstance(here, (list, dict)):
            yield put(json.loads(told), where, [])
            inner = list(here.values()) if isinstance(here, dict) else here
            for one in inner[:5]:
                yield put(json.loads(told), where, one)
        if isinstance(here, str) and len(here) > 1:
            for piece in (here[: len(here) // 2], here[len(here) // 2 :], here[1:], here[:-1], "x"):
                yield put(json.loads(told), where, piece)
        if isinstance(here, (int, float)) and not isinstance(here, bool) and here not in (0, 1):
            yield put(json.loads(told), where, 1)
