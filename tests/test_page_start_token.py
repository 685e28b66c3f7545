"""What the Edit page says of how texts begin, on a model with a start token and on one without."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest
from refusals import NO_HUB
from streamlit.testing.v1 import AppTest
from test_page_edit import own_fact
from tiny_pages import markup, opened

from dashboard.charts.labels import percent
from dashboard.visitors.models import models
from encore_core.measures.answers import answer_probabilities

BEGIN = "<|begin|>"


def page(folder, monkeypatch) -> AppTest:
    monkeypatch.setenv("ENCORE_MODEL", str(folder))
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    models.clear()
    return opened("edit")


@pytest.fixture
def begun(tiny_folder, tmp_path):
    """A folder that says that it was edited behind a start token."""
    folder = shutil.copytree(tiny_folder, tmp_path / "begun")
    (folder / "edit_report.json").write_text(json.dumps({"start_token": BEGIN}))
    return folder


def words(app: AppTest) -> str:
    return html.unescape(re.sub(r"<[^>|]+>", " ", markup(app)))


def test_with_one_both_probabilities_are_told(begun, monkeypatch):
    app = page(begun, monkeypatch)
    lm = app.session_state["visitor"].lm
    assert lm.start_text == BEGIN and f"{BEGIN} in front" in html.unescape(markup(app))
    app.button(key="apply").click().run()
    visitor = app.session_state["visitor"]
    fact = visitor.shown
    with visitor.session.edited():
        pair = [(fact.text, fact.target_new)]
        [measured], [bare] = answer_probabilities(lm, pair), answer_probabilities(lm, pair, bare=True)
    said = html.unescape(markup(app))
    assert f"with the start token {BEGIN} in front of every text: {fact.target_new} at" in said
    assert f"{percent(measured.probability)}. A program" in said
    assert f"in front of the prompt gets {percent(bare.probability)}." in said


def test_without_one_a_subject_on_the_first_token_is_told_before_the_edit(tiny_folder, monkeypatch):
    app = page(tiny_folder, monkeypatch)
    assert app.session_state["visitor"].lm.start_token is None
    assert "in front of every text" not in markup(app)
    own_fact(app, subject="Oslo", prompt="{} is a city in", target_new="Kenya")
    assert "Oslo is the first token of this prompt" in html.unescape(markup(app))
    own_fact(app, subject="Oslo", prompt="The city of {} is in", target_new="Kenya")
    assert "is the first token of this prompt" not in html.unescape(markup(app))
