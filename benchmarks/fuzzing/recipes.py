"""Targets whose input is a recipe in JSON, from which what is really tried is built."""

from __future__ import annotations

import json
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from fuzzing import mutate
from fuzzing.target import Target


class RecipeTarget(Target):
    """Mutations keep the recipe readable, so that every input gets as far as the program.

    Attributes:
        keys: names that recipes have.
        words: texts that mean something in them.
    """

    keys: Sequence[str] = ()
    words: Sequence[str] = ()
    longest = 30_000

    @abstractmethod
    def recipes(self) -> list[Any]:
        """Recipes to begin with."""

    @abstractmethod
    def try_recipe(self, recipe: Any) -> str:
        """As `check`. Of a recipe that is none, nothing is built: that is refused."""

    def changed(self, recipe: Any, rng: random.Random) -> Any:
        """A recipe with a change."""
        return mutate.tree(recipe, rng, self.keys, self.words)

    def seeds(self) -> list[bytes]:
        return [_told(recipe) for recipe in self.recipes()]

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        recipe = _read(data)
        if recipe is None or rng.random() < 0.02:
            return rng.choice(self.seeds())
        return _told(self.changed(recipe, rng))

    def check(self, data: bytes) -> str:
        recipe = _read(data)
        return "refused" if recipe is None else self.try_recipe(recipe)

    def simpler(self, data: bytes) -> Iterator[bytes]:
        for recipe in mutate.simpler_trees(_read(data)):
            yield _told(recipe)

    def shown(self, data: bytes) -> str:
        return data.decode("utf-8", "replace")[:3_000]


def _told(recipe: Any) -> bytes:
    return json.dumps(recipe).encode()


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
