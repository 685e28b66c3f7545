"""The System page: what it counts is what is there, and it tells nobody's secrets."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest
from tiny_pages import opened, words

from dashboard.reading.run_words import size
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor


@pytest.fixture(autouse=True)
def the_model(monkeypatch, tiny_folder, tmp_path, surroundings):
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    models.clear()
    yield
    models.clear()


def tile(app: AppTest, name: str) -> str:
    markup = "\n".join(element.proto.body for element in app.get("html"))
    return re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", markup).group(1)


def edit(app: AppTest, subject: str) -> Visitor:
    """Edit a fact as a visitor; the tiny model takes any."""
    visitor = app.session_state["visitor"]
    visitor.start_over(visitor.session.settings, 0)
    from encore_core.facts import Fact

    visitor.begin([Fact(subject, "The capital of {} is", "Rome")], 1, "refuse")
    visitor.work(lambda words, share: None)
    assert visitor.session.n_edits == 1, visitor.message
    return visitor


def test_before_anybody_has_a_model():
    app = opened("system")
    assert tile(app, "Visitors with a model") == "0" and "No model is loaded yet" in words(app)
    # A constant's description, which Streamlit draws unless told not to.
    assert "How long the size" not in words(app)
    assert "encore.toml" in words(app) and re.search(r"torch\s+\d", words(app))


def test_what_it_counts_is_there_and_what_visitors_do_is_not():
    desks = [opened("edit") for _ in range(3)]
    page = opened("system")
    assert tile(page, "Visitors with a model") == "3" and "you have not opened a model" in words(page)
    assert "with the first edit" in words(page)
    visitors = [edit(desk, subject) for desk, subject in zip(desks[:2], ("Sesame Land", "Peru"), strict=True)]
    page.run()
    held = [visitor.session.nbytes() for visitor in visitors]
    layers = visitors[0].session.settings.layers
    matrices = sum(visitors[0].lm.matrix(layer).nbytes for layer in layers)
    assert all(n_bytes > matrices for n_bytes in held)
    assert tile(page, "Memory per visitor") == size(sum(held) / 2)
    assert f"All visitors 2 {size(sum(held))}" in " ".join(words(page).split())
    assert "Sesame" not in words(page) and "Peru" not in words(page) and "Rome" not in words(page)
    assert tile(page, "Runs") == "0"
    # A visitor who has a model sees what is its own.
    desks[0].switch_page("../pages/system.py").run()
    assert not desks[0].exception
    assert f"You 1 {size(held[0])}" in " ".join(words(desks[0]).split())


def test_room_for_more_visitors_is_bound_by_memory_or_by_the_limit(monkeypatch, tmp_path):
    """Half of the free memory is left to the work itself."""
    file = tmp_path / "limits.toml"
    file.write_text("[visitors]\nvisitors = 3\n", encoding="utf-8")
    monkeypatch.setenv("ENCORE_CONFIG", str(file))
    assert "room for" not in words(opened("system"))  # what one takes is not known before a model is there
    desk = opened("edit")
    assert "room for 2 more, by the limit of 3" in words(opened("system"))
    session = desk.session_state["visitor"].session
    each = sum(session.lm.matrix(layer).nbytes for layer in session.settings.layers)
    memory = SimpleNamespace(available=3 * each, total=9 * each)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert "room for about 1 more, by half of the free memory" in words(opened("system"))


def test_limits_in_force_are_shown_and_a_code_is_not(monkeypatch, tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text('[visitors]\nfacts = 7\n[runs]\naccess_code = "open sesame"\n', encoding="utf-8")
    monkeypatch.setenv("ENCORE_CONFIG", str(file))
    said = " ".join(words(opened("system")).split())
    assert "Facts at once 7" in said and "Access code for runs asked for" in said and "sesame" not in said
    file.write_text("[visitors]\nfacts = -1\n", encoding="utf-8")
    assert "facts = -1 in [visitors] must be a whole number" in words(opened("system"))
