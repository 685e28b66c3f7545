"""The gallery and the form of a typed fact on Edit: which cards are in sight, what a press does, what is offered."""

from __future__ import annotations

import html
import re

import pytest
from refusals import NO_HUB
from tiny_pages import address_of, errors, markup, opened, pressed, words

from dashboard.parts.edit import gallery
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.reading.model_readings import Readings
from dashboard.visitors.models import models
from encore_core.facts import read_facts
from encore_core.measures.answers import Answer

FACTS = tuple(read_facts("bundled"))


def shown(**values) -> gallery.Groups:
    return gallery.shown(FACTS, **{"relation": "any", "known_only": True, "search": "", "pages": 1, **values})


# -- which cards -------------------------------------------------------------------------------------------------------


def test_a_dozen_of_three_kinds_is_in_sight_and_more_on_demand():
    groups = shown()
    assert list(groups.cards) == ["capital", "language", "landmark_city"]
    assert [len(places) for places in groups.cards.values()] == [4, 4, 4]
    assert groups.n_all == sum(bool(fact.known) for fact in FACTS) and groups.has_more
    more = shown(pages=2)
    assert len(more.cards) == 6 and {kind: more.cards[kind] for kind in groups.cards} == groups.cards
    all_kinds = shown(pages=99)
    assert set(all_kinds.cards) == {fact.relation for fact in FACTS} == set(gallery.KINDS) and not all_kinds.has_more


def test_a_kind_shows_all_of_its_facts():
    assert len(shown(relation="capital").cards["capital"]) == 12
    groups = shown(relation="capital", known_only=False, pages=99)
    assert len(groups.cards["capital"]) == groups.n_all == sum(fact.relation == "capital" for fact in FACTS)
    assert not groups.has_more


def test_every_word_of_a_search_counts():
    groups = shown(search="  PARIS capital ", known_only=False, pages=9)
    found = [FACTS[place] for places in groups.cards.values() for place in places]
    assert "France" in [fact.subject for fact in found] and len(found) == groups.n_all
    assert all("paris" in f"{fact.text} {fact.target_true} {fact.target_new}".casefold() for fact in found)
    assert shown(search="paris").n_all > shown(search="paris capital").n_all > 0
    nothing = shown(search="no such fact anywhere")
    assert nothing.cards == {} and nothing.n_all == 0 and not nothing.has_more


def test_the_fact_of_a_link_comes_first():
    place = next(place for place, fact in enumerate(FACTS) if fact.relation == "sport" and fact.known)
    assert next(iter(shown(first=place).cards.items())) == ("sport", [place, *shown(first=place).cards["sport"][1:]])


# -- on the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def server(tiny_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", tmp_path_factory.mktemp("nothing") / "recorded")
        patch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
        models.clear()
        yield
        models.clear()


def cards(app) -> dict[str, str]:
    """Label → key of the cards in sight."""
    return {button.label: button.key for button in app.button if re.fullmatch(r"gallery_\d+", button.key or "")}


def sentence(app) -> str:
    found = re.search(r'<p class="es-sentence".*?</p>', markup(app), re.DOTALL).group()
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())


def test_a_press_puts_a_card_into_the_editor_and_marks_it():
    app = opened("edit")
    assert len(cards(app)) == 12 and "**France**: Paris → Rome" in cards(app)
    label, key = list(cards(app).items())[2]
    place = int(key.removeprefix("gallery_"))
    pressed(app, key)
    fact = bundled_facts()[place]
    assert app.session_state["example"] == place and fact.subject in label
    assert sentence(app).startswith(fact.prompt.partition("{")[0].strip()) and fact.target_new in sentence(app)
    assert list(cards(app)).index(label) == 2  # it stays where it is
    styles = "".join(element.proto.body for element in app.get("html") if "<style>" in element.proto.body)
    assert f".st-key-gallery_{place} button" in styles and ".st-key-gallery_0 button" not in styles
    assert address_of(app) == {"fact": [fact.id]}
    app.segmented_control(key="source").set_value("Your own").run()
    assert app.text_input(key="subject").value == fact.subject


def test_search_kind_and_more_leave_the_chosen_fact_alone():
    app = opened("edit")
    chosen = sentence(app)
    app.text_input(key="gallery_search").set_value("colosseum").run()
    assert [label.split("**")[1] for label in cards(app)] and sentence(app) == chosen
    app.text_input(key="gallery_search").set_value("no such thing").run()
    assert not cards(app) and "No such fact" in words(app) and sentence(app) == chosen
    app.text_input(key="gallery_search").set_value("").run()
    app.selectbox(key="relation").set_value("capital").run()
    assert len(cards(app)) == 12
    pressed(app, "gallery_more")
    assert len(cards(app)) == 24
    app.checkbox(key="known_only").uncheck().run()
    assert len(cards(app)) == 12  # from the beginning
    assert not errors(app)


def test_a_link_to_a_fact_shows_its_card_first():
    fact = next(fact for fact in FACTS if fact.relation == "currency" and fact.known)
    app = opened("edit", fact=fact.id)
    assert next(iter(cards(app))).startswith(f"**{fact.subject}**") and fact.target_new in sentence(app)


# -- a fact of one's own -----------------------------------------------------------------------------------------------

ITALY = {"subject": "Italy", "prompt": "The capital of {} is", "target_new": "Madrid", "target_true": ""}


@pytest.fixture
def says(monkeypatch):
    """`says(text, right)`: how the unedited model goes on, and to which prompts it gives the right answer."""

    def speak(text: str, right=lambda prompt: True) -> list[str]:
        asked: list[str] = []

        def continuation(self, prompt: str) -> str:
            asked.append(prompt)
            return text

        def probabilities(self, pairs, bare: bool = False) -> list[Answer]:
            return [Answer(-0.1, (right(pair[0] if isinstance(pair, tuple) else pair.prompt),)) for pair in pairs]

        monkeypatch.setattr(Readings, "continuation", continuation)
        monkeypatch.setattr(Readings, "answer_probabilities", probabilities)
        return asked

    return speak


def own(**values):
    app = opened("edit")
    app.segmented_control(key="source").set_value("Your own").run()
    for key in ("paraphrases", "neighbours"):
        app.text_area(key=key).set_value("")
    for key, text in (ITALY | values).items():
        app.text_input(key=key).set_value(text)
    return app.run()


def test_the_models_own_answer_is_taken_with_one_press(says):
    says(" Rome. The city")
    app = own()
    assert "The model says: Rome" in words(app) and app.text_input(key="target_true").value == ""
    pressed(app, "use_answer")
    assert app.text_input(key="target_true").value == "Rome" and "use_answer" not in [b.key for b in app.button]
    assert "Rome" in sentence(app)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" located in the heart of <b>it</b>", "The model goes on: “located in the heart of <b>it</b>”"),
        (" Madrid.", "That is the new answer already"),
        ("", "That is no short answer"),
    ],
)
def test_what_cannot_be_offered_is_said(says, text, wanted):
    says(text)
    app = own()
    assert wanted in html.unescape(markup(app)) and "<b>it" not in markup(app)
    assert "use_answer" not in [button.key for button in app.button]


def test_neighbours_are_proposed_that_the_model_knows(says):
    says(" Rome.", lambda prompt: "France" in prompt or "Spain" in prompt or "Norway" in prompt)
    app = own(target_new="Lima")
    assert "No neighbours yet" in words(app)
    pressed(app, "propose")
    lines = app.text_area(key="neighbours").value.splitlines()
    assert "The capital of France is => Paris" in lines and len(lines) == 3
    assert "3 neighbours proposed" in words(app) and not errors(app)
    # They count as long as they stand there.
    app.text_area(key="neighbours").set_value("\n".join(lines[:2])).run()
    assert "proposed" not in words(app) and "2 neighbours show what else changes" in words(app)


def test_what_cannot_be_proposed_is_said(says):
    says(" Rome.", lambda prompt: False)
    assert "the model gives the right answer to none" in words(pressed(own(), "propose"))
    says(" tuna.")
    app = pressed(own(subject="My cat", prompt="{} likes to eat", target_new="tea"), "propose")
    assert (
        "no kind of fact in the gallery fits this prompt" in words(app) and app.text_area(key="neighbours").value == ""
    )


def test_a_fact_that_cannot_be_asked_offers_nothing(says):
    asked = says(" Rome.")
    app = own(prompt="no subject in it")
    assert "propose" not in [button.key for button in app.button] and errors(app)
    assert "no subject in it" not in asked


def test_what_came_with_the_example_does_not_stay_with_another_fact():
    app = opened("edit")
    app.segmented_control(key="source").set_value("Your own").run()
    assert app.text_input(key="target_true").value == "Paris" and app.text_area(key="neighbours").value
    app.text_input(key="subject").set_value("Italy").run()
    # The same question about another subject: its true answer is another one, its paraphrases and neighbours fit.
    assert app.text_input(key="target_true").value == "" and app.text_area(key="neighbours").value
    app.text_input(key="target_true").set_value("Rome").run()
    app.text_area(key="paraphrases").set_value("{} is governed from").run()
    app.text_input(key="prompt").set_value("The largest city of {} is").run()
    assert app.text_area(key="neighbours").value == ""
    # What the visitor typed stays.
    assert app.text_input(key="target_true").value == "Rome"
    assert app.text_area(key="paraphrases").value == "{} is governed from"
