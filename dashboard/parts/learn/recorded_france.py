"""What the elements of Learn show before anything is pressed: France → Rome and the sandbox, recorded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.learn.anatomy import Anatomy, LayerEdit
from dashboard.parts.learn.own_fact import FIELDS
from dashboard.parts.learn.prompt_keys import LayerKey, PromptKeys, Token
from dashboard.parts.learn.sandbox import NO_MPES, Choice, Trial
from dashboard.visitors.visitor import Visitor
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of
from encore_core.resources import ASSETS

FILE = ASSETS / "learn" / "france.json"
"""Made by `assets/learn/make.py`."""

Found = TypeVar("Found")


@cache
def _kept() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def usual_fact() -> Fact:
    """The fact that the fields hold at first."""
    return Fact(subject=FIELDS["subject"], prompt=FIELDS["prompt"], target_new=FIELDS["answer"])


def applies(key: str, fact: Fact | None) -> bool:
    """Whether the recorded result is about this fact, and nothing was computed with the button `key` yet."""
    return fact == usual_fact() and st.session_state.get(f"learn_{key}_found") is None


def say(what: str = "Recorded for France → Rome") -> None:
    """Where the figures are from."""
    kept = _kept()
    widgets.remark(
        f"{what} on {kept['model']} with {kept['method']}, {kept['date']}. The button computes it on your model."
    )


def keys() -> PromptKeys:
    """Tokens and keys of step 1."""
    kept = dict(_kept()["keys"])
    tokens = tuple(Token(**one) for one in kept.pop("tokens"))
    return PromptKeys(tokens=tokens, layers=tuple(LayerKey(**one) for one in kept.pop("layers")), **kept)


def search(make: Callable[..., Found]) -> Found:
    """The search of step 2, as `make` builds it from its fields."""
    kept = dict(_kept()["search"])
    return make(trajectory=pd.DataFrame(kept.pop("trajectory")), **kept)


def anatomy() -> Anatomy:
    """The edit of step 3, taken apart."""
    kept = dict(_kept()["anatomy"])
    layers = tuple(
        LayerEdit(**{name: tuple(value) if isinstance(value, list) else value for name, value in one.items()})
        for one in kept.pop("layers")
    )
    return Anatomy(facts=(usual_fact(),), layers=layers, **kept)


def trials() -> list[Trial]:
    """The trials of steps 6 and 7."""
    return [Trial(**one | {"choice": Choice(**one["choice"])}) for one in _kept()["trials"]]


def where() -> str:
    """How the trials were made, in words that go on a sentence."""
    kept = _kept()
    return f"recorded with the same facts on {kept['model']}, {kept['date']}"


def trials_as_on(visitor: Visitor) -> list[Trial]:
    """The trials, where a visitor's are made in the same way: model, number format, start token, seed, settings."""
    return trials() if made_with(visitor.lm, visitor.session.seed) == _kept()["made_with"] else []


def made_with(lm: EditableModel, seed: int) -> dict[str, Any]:
    """All that trials depend on besides facts and choice, as JSON values."""
    settings = asdict(settings_of(lm, "ENCORE"))
    values = {"model": lm.name, "dtype": str(lm.dtype), "start_token": lm.start_token, "seed": seed} | settings
    return json.loads(json.dumps(values))


def named(chosen: tuple[str, str]) -> str | None:
    """The name of the trial that the sliders stand for; None where it was not recorded."""
    own = _kept()["lambda_n"]
    wanted = (own * float(chosen[0]), NO_MPES if chosen[1] == "none" else int(chosen[1]))
    names = {(one.choice.lambda_n, one.choice.extra): one.choice.name for one in trials()}
    return names.get(wanted)
