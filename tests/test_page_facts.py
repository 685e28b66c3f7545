"""Facts on the pages Edit and Run: bad rows and "Use the other …", what readers say, subjects in another spelling."""

from __future__ import annotations

import json
import re

import pytest
from refusals import NO_HUB
from streamlit.testing.v1 import AppTest
from tiny_pages import errors, markup, opened, words

from dashboard.visitors.models import models

GOOD = [
    {"subject": name, "prompt": "The capital of {} is", "target_new": answer}
    for name, answer in (("Spain", "Oslo"), ("Hungary", "Lima"), ("Peru", "Rome"))
]
BAD = {"subject": "Atlantis", "prompt": "The capital of Mu is", "target_new": "Rome"}


@pytest.fixture(scope="module", autouse=True)
def server(tiny_folder, tmp_path_factory):
    """A server of its own on the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", tmp_path_factory.mktemp("nothing") / "recorded")
        patch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
        models.clear()
        yield
        models.clear()


def table(app: AppTest, records: list[dict]) -> AppTest:
    """Paste records on the Edit page."""
    if app.segmented_control(key="source").value != "Table":
        app.segmented_control(key="source").set_value("Table").run()
    app.text_area(key="pasted").set_value("\n".join(map(json.dumps, records)))
    return app.run()


def others(app: AppTest) -> list:
    """The boxes that offer to go on without bad rows."""
    return [box for box in app.checkbox if box.label.startswith("Use the other")]


def n_edits(app: AppTest) -> int:
    return int(re.search(r'data-testid="n-edits">(\d+)<', markup(app)).group(1))


def test_edit_lists_bad_rows_and_goes_on_with_the_others_when_asked():
    app = table(opened("edit"), [GOOD[0], BAD, GOOD[1], BAD | {"target_new": ""}])
    (said,) = errors(app)
    assert "2 of 4 rows cannot be used:" in said and "line 2: prompt" in said and "line 4: " in said
    assert [box.label for box in others(app)] == ["Use the other 2"] and "facts read" not in markup(app)
    app.button(key="apply").click().run()
    assert n_edits(app) == 0 and any("2 of 4 rows" in text for text in errors(app))

    others(app)[0].check().run()
    assert "2 facts read, 1 batch." in markup(app) and "2 of 4 rows are left out:" in words(app)
    app.button(key="apply").click().run()
    assert not app.exception and not errors(app) and n_edits(app) == 2

    others(app)[0].uncheck().run()
    assert errors(app) and "facts read" not in markup(app)


def test_another_file_with_bad_rows_asks_anew():
    app = table(opened("edit"), [*GOOD, BAD])
    others(app)[0].check().run()
    assert "3 facts read" in markup(app)
    table(app, [BAD, *GOOD])
    assert [(box.label, box.value) for box in others(app)] == [("Use the other 3", False)] and errors(app)
    table(app, [BAD])  # nothing to go on with
    assert not others(app) and any("record 1: prompt" in text for text in errors(app))
    table(app, GOOD)
    assert not others(app) and not errors(app) and "3 facts read" in markup(app)


def test_many_bad_rows_are_counted():
    app = table(opened("edit"), [GOOD[0], *[BAD] * 15])
    (said,) = errors(app)
    assert "15 of 16 rows" in said and "line 11: " in said and "line 12: " not in said and "and 5 more" in said


def test_edit_says_what_the_reader_left_and_where_a_contradiction_is():
    app = table(opened("edit"), [*GOOD, GOOD[0] | {"target_new": "Rome", "note": 1, "pre": {"a": 1}}])
    assert "keys ignored: 'note'" in words(app) and "of no use to an edit, ignored: 'pre'" in words(app)
    app.number_input(key="batch_size").set_value(10).run()
    app.button(key="apply").click().run()
    assert n_edits(app) == 0 and any("lines 1 and 4 contradict each other" in text for text in errors(app))


def test_a_typed_subject_in_another_spelling_is_mended_with_a_word():
    app = opened("edit")
    app.segmented_control(key="source").set_value("Your own").run()
    app.text_input(key="subject").set_value("spain ")
    app.text_input(key="prompt").set_value("The capital of Spain is").run()
    app.text_input(key="target_new").set_value("Oslo").run()
    assert not errors(app) and "The subject 'spain' is taken as 'Spain', as the prompt spells it." in words(app)
    app.button(key="apply").click().run()
    assert n_edits(app) == 1
    app.text_input(key="subject").set_value("Spain").run()
    assert "is taken as" not in words(app)
    app.text_input(key="subject").set_value("Portugal").run()
    assert any("does not contain the subject" in text for text in errors(app))


def test_run_lists_bad_rows_and_goes_on_with_the_others_when_asked():
    app = opened("run")
    app.segmented_control(key="run_source").set_value("paste").run()
    lines = "\n".join(map(json.dumps, [*GOOD, BAD, GOOD[0] | {"target_new": "Bonn", "subject": "Japan", "note": 1}]))
    app.text_area(key="run_pasted").set_value(lines).run()
    assert any("1 of 5 rows cannot be used:" in text and "line 4: prompt" in text for text in errors(app))
    assert [box.label for box in others(app)] == ["Use the other 4"] and app.button(key="start").disabled
    others(app)[0].check().run()
    assert "4 facts. First: The capital of Spain is Oslo" in words(app)
    assert "1 of 5 rows are left out:" in words(app) and "keys ignored: 'note'" in words(app)
    assert app.number_input(key="run_n").value == 4


def test_run_reads_a_file_of_this_machine_without_its_bad_rows(tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, [BAD, *GOOD])), encoding="utf-8")
    app = opened("run")
    app.segmented_control(key="run_source").set_value("file").run()
    app.text_input(key="run_path").set_value(str(file)).run()
    assert any("line 1: prompt" in text for text in errors(app)) and len(others(app)) == 1
    others(app)[0].check().run()
    assert "3 facts. First: The capital of Spain is Oslo" in words(app)


def test_run_takes_the_long_set():
    app = opened("run")
    app.segmented_control(key="run_source").set_value("long").run()
    [said] = [text for text in words(app).split("\n") if "facts. First:" in text] or [words(app)]
    assert int(re.search(r"([\d,]+) facts\. First:", said)[1].replace(",", "")) >= 10_000
    app.number_input(key="run_n").set_value(10_000).run()
    assert not errors(app)


def test_what_a_table_fact_lacks_is_said_and_not_counted():
    fact = GOOD[0] | {"paraphrase_prompts": ["Spain is governed from"]}
    told = words(table(opened("edit"), [fact]))
    assert "no neighbours, so nothing is said of what else changed" in told
    assert "shown but not counted" in told and "no paraphrases" not in told
    told = words(table(opened("edit"), [GOOD[0]]))
    assert "no neighbours" in told and "no paraphrases" in told
    full = fact | {
        "target_true": "Madrid",
        "neighborhood_prompts": [{"prompt": "Peru is ruled from", "target": "Lima"}],
    }
    told = words(table(opened("edit"), [full]))
    assert "nothing is said" not in told and "not counted" not in told
