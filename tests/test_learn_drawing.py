"""The drawing on Learn, what stands there before anything is pressed, and the cards that plans open at."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny_pages import opened, words

from dashboard.parts.learn import block_drawing, recorded_france
from dashboard.parts.learn.target_search_card import Search
from dashboard.talk import lessons, pointing, tour
from dashboard.talk.method_steps import STEPS
from encore_core.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_runs(monkeypatch, tmp_path, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))


# -- the drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.key)
def test_every_step_lights_its_part_of_the_one_drawing(step):
    assert step.lit and set(step.lit) <= set(block_drawing.PARTS)
    drawing = ElementTree.fromstring(block_drawing.markup(step.lit, step.drawn))
    groups = [node.get("class").split() for node in drawing.iter("g")]
    assert sum("es-lit" in names for names in groups) == len(step.lit) < len(groups)
    [svg] = drawing.iter("svg")
    assert svg.get("role") == "img" and svg.get("aria-label") == step.drawn
    assert "".join(drawing.find("figcaption").itertext()) == step.drawn


def test_steps_light_different_parts_and_together_all_of_them():
    lit = [frozenset(step.lit) for step in STEPS]
    assert len(set(lit)) == len(STEPS)
    assert set(block_drawing.PARTS) - set().union(*lit) == {"up"}  # no step is about it


def test_the_drawing_has_no_colour_of_its_own():
    style = (ROOT / "assets" / "style" / "studio.css").read_text(encoding="utf-8")
    of_drawing = "\n".join(line for line in style.splitlines() if ".es-block" in line)
    assert "var(--es-edited)" in of_drawing and not re.search(r"#[0-9a-fA-F]{3,6}\b(?!atch)", of_drawing)
    assert "#" not in re.sub(r"url\(#[\w-]+\)", "", "".join(block_drawing.PARTS.values()))


# -- France, recorded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "shown"),
    [("fact", "cos, other contexts"), ("target", "p of the answer"), ("update", "‖z − h‖"), ("mpes", "Growth of ‖W‖"),
     ("norm", "Growth of ‖W‖")],
)  # fmt: skip
def test_every_element_shows_the_recorded_result_before_anything_is_pressed(step, shown):
    app = opened("learn", step=step)
    said = words(app)
    assert shown in said and "on smollm2-135m" in said and "The button computes" in said
    assert [proto for proto in app.get("bidi_component") if proto.proto.component_name.endswith(".layer")]


def test_it_is_not_shown_for_another_fact():
    app = opened("learn", step="fact", subject="Norway", prompt="The capital of {} is", answer="Rome")
    assert "smollm2-135m with ENCORE" not in words(app)


def test_what_was_recorded_is_consistent():
    keys, search, anatomy = recorded_france.keys(), recorded_france.search(Search), recorded_france.anatomy()
    assert [token.text for token in keys.tokens if token.role] == [" France"]
    assert [one.layer for one in keys.layers] == [one.layer for one in anatomy.layers]
    rows = search.trajectory
    assert list(rows["step"]) == list(range(len(rows))) and rows["probability"].iloc[-1] > rows["probability"].iloc[0]
    parts = rows["nll"] + rows["kl"] + rows["decay"]
    assert rows["loss"].to_numpy() == pytest.approx(parts.to_numpy(), rel=1e-3)
    missing = [one.missing for one in anatomy.layers]
    assert missing == sorted(missing, reverse=True) and anatomy.left < missing[0]
    assert max(one.error for one in anatomy.layers) < 1e-3
    trials = {(one.choice.lambda_n, one.choice.extra): one for one in recorded_france.trials()}
    own = sorted({choice[0] for choice in trials})
    assert trials[own[0], 1].growth > trials[own[-1], 1].growth
    assert recorded_france.named(("1", "1")) == trials[own[1], 1].choice.name
    assert recorded_france.named(("16", "none")) is None, "not every choice was recorded"


# -- where plans open --------------------------------------------------------------------------------------------------


def test_cards_that_plans_open_at_are_there():
    source = "\n".join(path.read_text(encoding="utf-8") for folder in ("pages", "dashboard")
                       for path in (ROOT / folder).rglob("*.py"))  # fmt: skip
    plans = [*lessons.bundled().values(), tour.plan()]
    named = {step.at for plan in plans for step in plan.steps if step.at}
    assert len(named) >= 8 and all(step.at for step in tour.plan().steps)
    for at in named:
        pattern = re.escape(at) if not at.startswith("lesson_") else r"lesson_\{number\}"
        assert re.search(rf'key=f?"{pattern}"', source), at


def test_a_key_that_is_none_is_refused():
    plan = (
        'title = "a"\nminutes = 1\nfor = "b"\n[[steps]]\ntitle = "c"\nminutes = 1\nsay = "d"\nopen = "edit"\nat = "a b"'
    )
    with pytest.raises(InputError, match="is not a key of a card"):
        lessons.read(plan.encode(), "plan.toml")


def test_a_lesson_step_points_at_its_card_and_only_on_its_own_page(monkeypatch):
    said = []
    monkeypatch.setattr(pointing, "point_at", lambda at, place, framed=False: said.append((at, framed)))
    opened("learn", step="again", give="collapse-and-rescue.2")
    opened("models", give="collapse-and-rescue.2")
    opened("learn", step="fact", tour="4")
    assert said == [("card_learn", False), ("learn_text", True)]
