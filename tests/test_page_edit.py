"""The Edit page, driven by Streamlit's AppTest on the tiny model: batches, methods, and mistakes in what is
typed. What is typed with ill intent is in `test_hostile_inputs`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_inputs import MIXED
from refusals import NO_HUB
from streamlit.runtime.scriptrunner import StopException
from streamlit.testing.v1 import AppTest
from tiny_pages import APP, errors, figures, markup, opened, unfolded

from dashboard.charts.labels import label
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor


@pytest.fixture(scope="module", autouse=True)
def server(tiny_folder, tmp_path_factory):
    """A server of its own on the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", tmp_path_factory.mktemp("nothing") / "recorded")
        patch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
        models.clear()
        yield
        models.clear()


def n_edits(app: AppTest) -> int:
    return int(re.search(r'data-testid="n-edits">(\d+)<', markup(app)).group(1))


def marks(app: AppTest, name: str) -> list[float]:
    """x of the marks of one kind in the probability chart, for instance "new answer, after"."""
    (trace,) = [trace for figure in figures(app) for trace in figure["data"] if trace.get("name") == name]
    return trace["x"]


def own_fact(app: AppTest, **values: str) -> AppTest:
    """Type a fact of one's own; the fields that are not given are left empty."""
    if app.segmented_control(key="source").value != "Your own":
        app.segmented_control(key="source").set_value("Your own").run()
    for name in ("subject", "prompt", "target_new", "target_true"):
        app.text_input(key=name).set_value(values.get(name, ""))
    for name in ("paraphrases", "neighbours"):
        app.text_area(key=name).set_value(values.get(name, ""))
    return app.run()


def pasted(app: AppTest, text: str) -> AppTest:
    if app.segmented_control(key="source").value != "Table":
        app.segmented_control(key="source").set_value("Table").run()
    app.text_area(key="pasted").set_value(text)
    return app.run()


# -- edits ------------------------------------------------------------------------------------------------------------


def test_visitors_never_see_each_others_edits():
    mine, yours = opened("edit"), opened("edit")
    unedited = figures(yours)
    mine.button(key="apply").click().run()
    yours.run()
    assert (n_edits(mine), n_edits(yours)) == (1, 0)
    assert figures(yours) == unedited
    yours.text_input(key="free_prompt").set_value("The capital of France is certainly").run()
    mine.text_input(key="free_prompt").set_value("The capital of France is certainly").run()
    assert marks(mine, "new answer, before")[-1] == pytest.approx(marks(yours, "new answer")[-1], rel=1e-5)
    assert marks(mine, "new answer, after")[-1] > marks(yours, "new answer")[-1]


def test_an_undo_whose_run_is_ended_is_done_once(monkeypatch):
    """Another rerun can end the one that was to undo: while it waits, before anything is done, or just afterwards."""
    app = pasted(
        opened("edit"), "subject,prompt,target_new\nFrance,The capital of {} is,Rome\nPeru,The capital of {} is,Oslo"
    )
    app.number_input(key="batch_size").set_value(1).run()
    app.button(key="apply").click().run()
    visitor, undo = app.session_state["visitor"], Visitor.undo
    assert visitor.session.n_edits == 2

    def ended(self):
        raise StopException

    monkeypatch.setattr(Visitor, "undo", ended)
    app.button(key="undo").click().run()
    assert visitor.session.n_edits == 2 and visitor.asked == "undo"
    monkeypatch.setattr(Visitor, "undo", undo)
    app.run()
    assert visitor.session.n_edits == 1 and visitor.asked is None

    def refused():
        raise StopException

    with monkeypatch.context() as patch:
        patch.setattr("streamlit.rerun", refused)  # the first that could end the run once it is undone
        app.button(key="undo").click().run()
    app.run()
    app.run()
    assert visitor.session.n_edits == 0 and visitor.asked is None and "Undone" in visitor.message.text


def test_a_table_is_applied_in_batches_and_scored():
    app = pasted(
        opened("edit"),
        "subject,prompt,target_new,target_true\n"
        "Spain,The capital of {} is,Oslo,Madrid\n"
        "Spain,The capital of {} is,Oslo,Madrid\n"
        "Hungary,The capital of {} is,Lima,Budapest\n"
        '"=1+1","{} is a formula from the land of",Peru,\n',
    )
    assert "4 facts read, 1 batch" in markup(app)
    app.number_input(key="batch_size").set_value(2).run()
    assert "4 facts read, 2 batches" in markup(app)
    app.button(key="apply").click().run()
    assert not app.exception and not errors(app)
    assert n_edits(app) == 3 and "in 2 batches" in markup(app)
    assert "is in the batch already" in markup(app)  # the repetition is dropped with a word
    app.button(key="undo").click().run()
    assert n_edits(app) == 1


def test_another_method_asks_before_it_drops_edits():
    app = opened("edit")
    app.selectbox(key="method").set_value("MEMIT").run()
    assert "<dd>MEMIT</dd>" in markup(app)  # nothing is on the model: no question
    app.selectbox(key="method").set_value("ENCORE").run()
    app.button(key="apply").click().run()
    app.selectbox(key="method").set_value("MEMIT").run()
    assert app.button(key="apply").disabled and n_edits(app) == 1 and "<dd>ENCORE</dd>" in markup(app)
    app.button(key="keep_method").click().run()
    assert app.selectbox(key="method").value == "ENCORE" and not app.button(key="apply").disabled
    app.selectbox(key="method").set_value("MEMIT").run()
    app.button(key="start_over").click().run()
    assert n_edits(app) == 0 and "<dd>MEMIT</dd>" in markup(app)


def test_fields_that_the_search_does_not_read_are_out_of_sight_and_keep_what_was_typed():
    app = unfolded(opened("edit"), "settings_open")

    def field(label):
        return next((one for one in (*app.number_input, *app.selectbox) if one.label == label), None)

    field("Learning rate").set_value(0.25).run()
    assert field("η, step") is None
    field("Search for targets").set_value("natural_gradient").run()
    assert field("Learning rate") is None and all(map(field, ("η, step", "Decay of η", "ε of F̂")))
    field("Search for targets").set_value("adam").run()
    assert field("Learning rate").value == 0.25 and field("η, step") is None


def test_a_model_that_cannot_be_loaded_leaves_the_present_one(tmp_path, tiny_folder):
    app = opened("edit")
    # AppTest does not know that this select box takes text of the visitor's own, so the text is put in behind it.
    app.session_state["model_name"] = str(tmp_path)
    next(b for b in app.button if b.label == "Load model").click()
    app.selectbox(key="model_name").options.append(str(tmp_path))
    app.run()
    assert not app.exception
    assert any("config.json" in text for text in errors(app))
    assert tiny_folder.name in markup(app)


# -- bad input ---------------------------------------------------------------------------------------------------------

FACT = {"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}

BAD_FACTS = {
    "subject missing": (FACT | {"prompt": "The capital is"}, "does not contain the subject"),
    "subject twice": (FACT | {"prompt": "France, oh France is"}, "2 times"),
    "slot twice": (FACT | {"prompt": "{} and {} are"}, "2 times"),
    "blank subject": (FACT | {"subject": "  "}, "subject"),
    "blank prompt": (FACT | {"prompt": ""}, "prompt"),
    "blank target": (FACT | {"target_new": "\u200b "}, "target_new"),
    "target equals true": (FACT | {"target_new": "Paris"}, "same as target_true"),
    "neighbour without answer": (FACT | {"target_true": "", "neighbours": "The capital of Spain is"}, "neighbours"),
    "neighbour with blank answer": (FACT | {"neighbours": "The capital of Spain is =>"}, "neighbours"),
    "said already": (FACT | {"target_new": "Paris", "target_true": ""}, "says already"),
    "too many characters": (FACT | {"subject": "word " * 9000}, "characters"),
    "too many tokens": (FACT | {"subject": "𓀀" * 3900, "target_true": "Lyon"}, "tokens"),
}  # fmt: skip

BAD_TABLES = {
    "empty": ("\n  \n", "empty"),
    "no such columns": ("a,b\n1,2\n", "subject"),
    "column missing": ("subject,prompt\nFrance,The capital of {} is\n", "target_new"),
    "blank cell": ("subject,prompt,target_new\nFrance,The capital of {} is,\n", "line 2"),
    "malformed JSON": ('[{"subject": "France",', "malformed JSON"),
    "malformed line": ('{"subject":"A","prompt":"{} is","target_new":"b"}\n{"subject":\n', "line 2"),
    "not a list": ("[1, 2]", "record 1"),
    "nested": ("[" * 5000, "JSON"),
    "contradiction": (
        "subject,prompt,target_new\nFrance,The capital of {} is,Rome\nFrance,The capital of {} is,Oslo\n",
        "contradict",
    ),
}


@pytest.fixture(scope="module")
def desk() -> AppTest:
    """One visitor for all bad input: each mistake has to leave the page usable for the next."""
    return opened("edit")


@pytest.mark.parametrize("name", BAD_FACTS)
def test_a_bad_fact_is_refused_in_place(desk, name):
    values, wanted = BAD_FACTS[name]
    own_fact(desk, **values)
    desk.button(key="apply").click().run()
    assert not desk.exception
    assert any(wanted in text.replace("&#x27;", "'") for text in errors(desk)), errors(desk)
    assert n_edits(desk) == 0
    for field, text in values.items():  # nothing typed is lost
        assert desk.session_state[field] == text


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused_in_place(desk, name):
    text, wanted = BAD_TABLES[name]
    pasted(desk, text)
    desk.button(key="apply").click().run()
    assert not desk.exception
    assert any(wanted in error for error in errors(desk)), errors(desk)
    assert n_edits(desk) == 0
    assert desk.text_area(key="pasted").value == text


def test_hostile_text_can_be_edited():
    app = own_fact(opened("edit"), subject="<b>$x$</b> {a}", prompt="The **capital** of {} is", target_new="Rome")
    app.button(key="apply").click().run()
    assert not app.exception and not errors(app)
    assert n_edits(app) == 1
    assert "&lt;b&gt;$x$&lt;/b&gt; {a}" in markup(app)


# -- parts without a model ---------------------------------------------------------------------------------------------


def test_charts_know_neither_streamlit_nor_torch():
    code = "import sys, dashboard.charts.answers; print({'streamlit', 'torch'} & set(sys.modules))"
    root = Path(APP).parent.parent
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.parametrize("text", MIXED)
def test_chart_labels_are_literal(text):
    shown = label(text, 40)
    assert "<" not in shown and "$" not in shown and "\n" not in shown
    assert len(re.sub(r"&#?\w+;", "x", shown)) <= 42
