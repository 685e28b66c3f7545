"""What is looked at, and what was read of it: kept in the session until the model or its edits change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import streamlit as st
import torch

from encore_core.facts import Fact
from encore_core.models.editable import EditableModel

Result = TypeVar("Result")


class Edits(Protocol):
    """What is needed of the edits; an `EditSession` is one, and so are a run's saved weights."""

    @property
    def n_edits(self) -> int: ...

    @property
    def history(self) -> Sequence[object]: ...

    def edited(self) -> AbstractContextManager[EditableModel]: ...

    def pristine(self) -> AbstractContextManager[EditableModel]: ...

    def matrices(self) -> dict[int, torch.Tensor]: ...


KEPT = 60
"""Readings kept per visitor; the least recently used are dropped first."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What the microscope looks at.

    Attributes:
        lm: the model.
        prompt: the text that is read.
        new, true: the answers that are followed; `true` is None where none is known.
        fact: whose prompt it is; None for any other prompt. The causal trace and the strength need one.
        session: the edits. Without any, only the model as loaded is shown.
        edited_layers: marked in the charts.
    """

    lm: EditableModel
    prompt: str
    new: str
    true: str | None
    fact: Fact | None
    session: Edits
    edited_layers: tuple[int, ...]

    @property
    def is_edited(self) -> bool:
        """Whether there is an "after"."""
        # An edit that was taken back leaves a trace in the matrices; a run's saved weights have no history.
        return self.session.n_edits > 0 or bool(self.session.history)

    @property
    def join(self) -> str | None:
        """What goes between prompt and answer, see `joining`."""
        return self.fact.join if self.fact is not None else None

    @property
    def answers(self) -> dict[str, str]:
        """Role → answer."""
        return {"new": self.new} | ({"true": self.true} if self.true else {})

    @property
    def _asked(self) -> tuple[Hashable, ...]:
        return self.prompt, self.new, self.true, self.join

    def before(self, what: Hashable, read: Callable[[EditableModel], Result]) -> Result:
        """A reading of the model as loaded, from what is kept or read now.

        Args:
            what: names the reading, with all that it depends on besides the prompt and the answers.
            read: makes it; the model is in its state, under its lock.
        """

        def made() -> Result:
            with self.session.pristine() as lm:
                return read(lm)

        return _kept((id(self.lm), what, self._asked), (self.lm,), made)

    def after(self, what: Hashable, read: Callable[[EditableModel], Result]) -> Result | None:
        """The same of the edited model; None without edits."""
        if not self.is_edited:
            return None

        def made() -> Result:
            with self.session.edited() as lm:
                return read(lm)

        return _kept((*self._edits, what, self._asked), self._held, made)

    def of_both(self, what: Hashable, read: Callable[[], Result]) -> Result:
        """A reading that needs both states, and puts them into place itself."""
        return _kept((*self._edits, what, self._asked), self._held, read)

    def has(self, what: Hashable) -> bool:
        """Whether `before`, and `after` if there are edits, are there without any work."""
        keys = [(id(self.lm), what, self._asked)]
        if self.is_edited:
            keys.append((*self._edits, what, self._asked))
        return all(key in _store() for key in keys)

    @property
    def _edits(self) -> tuple[Hashable, ...]:
        return "edits", id(self.session), self.session.n_edits, *map(id, self.session.history)

    @property
    def _held(self) -> tuple[Any, ...]:
        # What the key names by id must live as long as the key.
        return self.session, *self.session.history


def _store() -> OrderedDict[tuple, tuple[tuple[Any, ...], Any]]:
    return st.session_state.setdefault("microscope_kept", OrderedDict())


def _kept(key: tuple, held: tuple[Any, ...], make: Callable[[], Result]) -> Result:
    store = _store()
    if key not in store:
        store[key] = (held, make())
    store.move_to_end(key)
    while len(store) > KEPT:
        store.popitem(last=False)
    return store[key][1]
