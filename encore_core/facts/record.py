"""A record of a file, read by the table of names: its values by their meaning, and the keys that are not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from encore_core.facts.names import NAMES, THINGS, plain
from encore_core.facts.notices import Telling
from encore_core.facts.texts import NO_TEXT, key_name, stands_for_nothing


class Layer:
    """One object of a record, and which of its keys were used.

    Args:
        path: prefix of its keys in messages, "" or "requested_rewrite.".
        values: the object.
    """

    def __init__(self, path: str, values: Mapping[Any, Any]):
        self.path = path
        self.values: dict[str, list[tuple[str, Any]]] = {}
        for key, value in values.items():
            self.values.setdefault(plain(str(key)), []).append((key_name(key), value))
        self.seen: set[str] = set()

    def take(self, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """The keys (with their path) and values under some names, in the names' order."""
        for name in names:
            if name in self.values:
                self.seen.add(name)
                yield from ((self.path + key, value) for key, value in self.values[name])

    def left(self) -> Iterator[str]:
        """The paths of keys that were not taken although they have values."""
        for name, entries in self.values.items():
            if name not in self.seen:
                yield from (self.path + key for key, value in entries if not stands_for_nothing(value))


class Record:
    """A record of one or more layers; inner layers take precedence.

    Args:
        layers: from the inner to the outer.
        telling: gets notices about values that are not used.
        first: names that take precedence over the order of the table.
    """

    def __init__(self, layers: Sequence[Layer], telling: Telling, first: Sequence[str] = ()):
        self.layers, self.telling, self.first = list(layers), telling, first
        self._names = {name for layer in layers for name in layer.values}
        self.used: dict[str, str] = {}
        self.inside: list[Layer] = []

    def take(self, names: Sequence[str], nothing: frozenset[str] = NO_TEXT) -> list[tuple[str, Any]]:
        """The filled values under some names, as (key, value)."""
        if self._names.isdisjoint(names):  # the usual case
            return []
        ordered = sorted(names, key=lambda name: name not in self.first) if self.first else names
        found = [pair for layer in self.layers for pair in layer.take(ordered)]
        return [(key, value) for key, value in found if not stands_for_nothing(value, nothing)]

    def answers(self, thing: str) -> list[tuple[str, Any]]:
        """The single answers under the names of a thing, with lists and `{"str": ...}` unpacked."""
        return [(key, one) for key, value in self.take(NAMES[thing]) for one in self.texts(key, value)]

    def texts(self, key: str, value: Any, nothing: frozenset[str] = NO_TEXT) -> Iterator[Any]:
        """The texts in a value, nested or not, without those that mean nothing."""
        if isinstance(value, Mapping) and "str" in value:
            for other in value:
                if other != "str":
                    self.telling.leave(f"{key}.{key_name(other)}", no_use=True)
            value = value["str"]
        if isinstance(value, (list, tuple)):
            for one in value:
                yield from self.texts(key, one, nothing)
        elif not stands_for_nothing(value, nothing):
            yield value

    def single(self, thing: str, nothing: frozenset[str] = NO_TEXT) -> Any:
        """The first filled value of a thing; a notice is given about others that differ."""
        found = [(key, one) for key, value in self.take(NAMES[thing], nothing) for one in self.texts(key, value)]
        if not found:
            return self._unfilled(thing) if thing in THINGS else None
        self.choose(thing, found)
        return found[0][1]

    def choose(self, thing: str, found: Sequence[tuple[str, Any]]) -> None:
        """Note that the first of some values is used, with a notice if others differ."""
        used, value = found[0]
        self.used[thing] = used
        for key, other in found[1:]:
            if same(other, value):
                continue
            if key == used:
                self.telling.count(f"{used} holds several values: the first is used")
            else:
                self.telling.count(f"{used} is used and {key} is not, where they differ")

    def _unfilled(self, thing: str) -> Any:
        """The first value of a thing of which none is filled, so that an error message can show it."""
        for layer in self.layers:
            for key, value in layer.take(NAMES[thing]):
                if isinstance(value, str):
                    self.used[thing] = key
                    return value
        return None

    def add(self, path: str, values: Mapping[Any, Any]) -> Layer:
        """Add an object inside the record as a layer, so that its unused keys are reported, too."""
        layer = Layer(f"{path}.", values)
        self.inside.append(layer)
        return layer

    def finish(self) -> None:
        """Report the keys that were not used."""
        for layer in (*self.layers, *self.inside):
            for path in layer.left():
                self.telling.leave(path)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, apart from whitespace around them."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip()
    return one == other
