"""What a target of the fuzzing is, and how it says that a property does not hold."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from encore_core.errors import InputError

LONGEST_MESSAGE = 2_500
"""Characters of a refusal. A file's first five bad rows are spelt out in one, and each may quote several values."""

Result = TypeVar("Result")


class Broken(Exception):
    """A property does not hold.

    Args:
        kind: which one, in words that are the same each time; findings are told apart by it.
        detail: with which values.
    """

    def __init__(self, kind: str, detail: object = ""):
        super().__init__(f"{kind}: {detail}"[:2_000])
        self.kind = kind


class Target(ABC):
    """Something that takes input from outside.

    Attributes:
        name: of the target, as the command line takes it.
        about: what is fuzzed, for the table of results.
        modules: whose branches guide the search.
        longest: bytes of an input.
        seconds: of processor time that one input may take.
        allowed: events of `guard.FORBIDDEN` that have nothing to do with the input.
    """

    name: str
    about: str
    modules: Sequence[str]
    longest = 100_000
    seconds = 5.0
    allowed: Sequence[str] = ()

    def setup(self, folder: Path) -> None:
        """Import what is fuzzed and make what it needs.

        Args:
            folder: an empty one. Nothing may be written anywhere else.
        """
        return  # nothing, for a target that needs nothing

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Inputs to begin with: valid ones, and what has gone wrong elsewhere."""

    @abstractmethod
    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        """Another input that is made of one."""

    @abstractmethod
    def check(self, data: bytes) -> str:
        """Try an input.

        Returns:
            what became of it, "taken" or "refused".

        Raises:
            Broken: when a property does not hold. Any other exception is a finding, too.
        """

    def simpler(self, data: bytes) -> Iterator[bytes]:
        """Inputs that are made of one by leaving something out, the boldest first."""
        step = max(1, len(data) // 2)
        while step >= 1:
            for start in range(0, len(data), step):
                yield data[:start] + data[start + step :]
            step //= 2

    def shown(self, data: bytes) -> str:
        """An input in words, for the report."""
        return repr(data[:1_500])


def check_line(line: str, what: str) -> None:
    """A line for people has to be one line that can be shown everywhere.

    Raises:
        Broken: when it is not.
    """
    if not line.strip():
        raise Broken(f"{what} is empty")
    if len(line.splitlines()) > 1:
        raise Broken(f"{what} has several lines", line)
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", line):
        raise Broken(f"{what} holds control characters or half a character", ascii(line))
    if len(line) > LONGEST_MESSAGE:
        raise Broken(f"{what} is very long", f"{len(line)} characters: {line[:500]}")


def attempt(call: Callable[[], Result]) -> Result | InputError:
    """What a call returns, or the refusal that it raises, which is checked.

    Raises:
        Broken: for a refusal that is not one line.
    """
    try:
        return call()
    except InputError as error:
        check_line(str(error), "a refusal")
        return error
