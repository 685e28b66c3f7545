"""Notices about a file: each once, however many rows it applies to."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from encore_core.errors import one_line
from encore_core.facts.names import KNOWN, NO_USE, SAID_BY_MODELS, plain
from encore_core.facts.texts import named

MOST_KEYS = 20
"""Keys named in one line."""


class Telling:
    """Notices about one file.

    Args:
        name: of the file; every line begins with it.
        notice: called with one line each; None for no notices.
        keys: the word for keys: "columns" in tables, "keys" in JSON.

    Attributes:
        where: the current row, see `count`.
    """

    def __init__(self, name: str, notice: Callable[[str], None] | None, keys: str = "keys"):
        self.name, self.notice, self.keys = name, notice, keys
        self.where = ""
        self._told: set[str] = set()
        self._counts: dict[str, list] = {}
        self._unknown: dict[str, None] = {}
        self._useless: dict[str, None] = {}

    def say(self, line: str) -> None:
        """Say a line now, unless it was said before."""
        if self.notice and line not in self._told:
            self._told.add(line)
            self.notice(one_line(f"{self.name}: {line}"))

    def count(self, line: str) -> None:
        """Say a line at the end, with the number of rows it applies to and the first of them."""
        entry = self._counts.setdefault(line, [0, self.where, self.where])
        if not entry[0] or entry[2] != self.where:
            entry[0] += 1
        entry[2] = self.where

    def leave(self, path: str, no_use: bool = False) -> None:
        """Note a key that is ignored, by its path; it is named at the end."""
        last = plain(path.rpartition(".")[2])
        no_use = no_use or last in NO_USE or last.startswith(SAID_BY_MODELS)
        (self._useless if no_use else self._unknown)[path] = None

    def finish(self) -> None:
        """Say what was counted and which keys were ignored."""
        for line, (number, first, _) in self._counts.items():
            self.say(f"{line} ({first if number == 1 else f'{number:,} rows, the first: {first}'})")
        if self._unknown:
            self.say(f"{self.keys} ignored: {named(list(self._unknown), MOST_KEYS)}{self._meant()}")
        if self._useless:
            self.say(f"{self.keys} of no use to an edit, ignored: {named(list(self._useless), MOST_KEYS)}")

    def _meant(self) -> str:
        """The names of the table that are similar to the unknown ones."""
        names = [name for name in map(plain, list(self._unknown)[:MOST_KEYS]) if name not in KNOWN]
        close = [difflib.get_close_matches(name, KNOWN, 1, 0.85) for name in names]
        found = list(dict.fromkeys(name for names in close for name in names))
        return f" (did you mean {', '.join(found)}?)" if found else ""
