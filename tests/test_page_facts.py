"""Facts on the pages Edit and Run: bad rows and "Use the other …", what readers say, subjects in another spelling."""

from __future__ import annotations

import json
import re

import pytest
import tiny_runs
from refusals import NO_HUB
from streamlit.testing.v1 import AppTest
from tiny_pages import address_of, errors, markup, opened, words

from dashboard.elements import fact_rows, hub_set_field
from dashboard.visitors import access
from dashboard.visitors.models import models
from encore_core import hub
from encore_core.facts import hub_sets, parse_facts
from encore_core.facts.batches import as_lines
from encore_core.facts.hub_sets import HubSet
from encore_core.runs import RunStore

HUB_TROUBLE = hub.hub_trouble

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
    assert "First edit: The capital of France is Paris → Rome" in words(app)
    app.selectbox(key="run_source").set_value("paste").run()
    lines = "\n".join(map(json.dumps, [*GOOD, BAD, GOOD[0] | {"target_new": "Bonn", "subject": "Japan", "note": 1}]))
    app.text_area(key="run_pasted").set_value(lines).run()
    assert any("1 of 5 rows cannot be used:" in text and "line 4: prompt" in text for text in errors(app))
    assert [box.label for box in others(app)] == ["Use the other 4"] and app.button(key="start").disabled
    others(app)[0].check().run()
    assert "4 facts. First edit: The capital of Spain is → Oslo" in words(app)
    assert "1 of 5 rows are left out:" in words(app) and "keys ignored: 'note'" in words(app)
    assert app.number_input(key="run_n").value == 4


def test_run_reads_a_file_of_this_machine_without_its_bad_rows(tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, [BAD, *GOOD])), encoding="utf-8")
    app = opened("run")
    app.selectbox(key="run_source").set_value("file").run()
    app.text_input(key="run_path").set_value(str(file)).run()
    assert any("line 1: prompt" in text for text in errors(app)) and len(others(app)) == 1
    others(app)[0].check().run()
    assert "3 facts. First edit: The capital of Spain is → Oslo" in words(app)


def test_a_link_to_run_holds_the_facts_and_the_model_that_it_can_name():
    app = opened("run", facts="long", edits="300", model="gpt2-xl")
    assert (app.selectbox(key="run_source").value, app.number_input(key="run_n").value) == ("long", 300)
    assert app.selectbox(key="run_model").value == "gpt2-xl"
    assert address_of(app)["facts"] == ["long"] and address_of(app)["model"] == ["gpt2-xl"]
    app.selectbox(key="run_source").set_value("paste").run()
    assert "facts" not in address_of(app) and "edits" not in address_of(app)
    assert "facts" not in address_of(opened("run", facts="/etc/passwd"))


def test_a_run_that_a_link_names_and_that_is_gone_is_told(tiny_folder, statistics_text, tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    RunStore().submit([tiny_runs.prepared(tiny_folder, statistics_text, name="there")])
    app = opened("run", run="gone-1234")
    assert "There is no run 'gone-1234' here (any more), so another one is shown." in words(app)
    assert "There is no run" not in words(opened("run"))


def test_run_takes_the_long_set():
    app = opened("run")
    app.selectbox(key="run_source").set_value("long").run()
    [said] = [text for text in words(app).split("\n") if "facts. First edit:" in text] or [words(app)]
    assert int(re.search(r"([\d,]+) facts\. First edit:", said)[1].replace(",", "")) >= 10_000
    app.number_input(key="run_n").set_value(10_000).run()
    assert not errors(app)


def test_what_a_table_fact_lacks_is_said_and_not_counted():
    fact = GOOD[0] | {"paraphrase_prompts": ["Spain is governed from"]}
    told = words(table(opened("edit"), [fact]))
    assert "no neighbours, so side effects are not tested" in told
    assert "shown but not counted" in told and "no paraphrases" not in told
    told = words(table(opened("edit"), [GOOD[0]]))
    assert "no neighbours" in told and "no paraphrases" in told
    full = fact | {
        "target_true": "Madrid",
        "neighborhood_prompts": [{"prompt": "Peru is ruled from", "target": "Lima"}],
    }
    told = words(table(opened("edit"), [full]))
    assert "nothing is said" not in told and "not counted" not in told


# -- what was read, and subjects by rule -------------------------------------------------------------------------------

NAMELESS = {"prompt": "What is the capital of Norway?", "rephrase_prompt": "Norway's capital?", "ans": "Rome"}


def rule(app: AppTest):
    """The boxes that let a rule find subjects."""
    return [box for box in app.checkbox if box.label == "Find the subjects by a rule"]


def test_edit_says_what_was_read_and_left_and_gives_it_as_jsonl():
    asked = [{"prompt": "a", "answers": ["b"], "kind": "alias"}]
    records = [GOOD[0] | {"portability": asked}, GOOD[1], GOOD[0], GOOD[1] | {"target_new": "Bonn"}]
    app = table(opened("edit"), records)
    said = " ".join(words(app).split())
    assert (
        "Facts 4" in said and "Portability 1: alias 1" in said and "Repeated 1" in said and "Contradictions 1" in said
    )
    assert "line 3 repeats line 1" in said and "lines 2 and 4 contradict each other" in said and not rule(app)
    app.number_input(key="limit").set_value(2).run()
    assert "2 facts read" in words(app) and "There are more in the file" in words(app)
    given = fact_rows.Given.pasted("\n".join(map(json.dumps, records)), "the pasted table")
    lines = as_lines(given.checked(None, False).facts)
    assert parse_facts(lines) == list(given.checked(None, False).facts)


def test_the_name_of_ones_file_is_told_to_nobody_else():
    """What was read is kept for all who give the same; messages name the file."""
    bad = b"subject,prompt,target_new\n,The capital of {} is,Oslo\n"
    for name in ("mine.csv", "yours.csv"):
        given = fact_rows.Given(name, bad)
        error = given.checked(None, False).error
        assert str(error).startswith(f"{name}: ") and str(error).count(".csv") == 1


def test_a_rule_finds_subjects_where_the_visitor_asks_and_they_are_marked():
    app = table(opened("edit"), [NAMELESS])
    assert any("subject is missing" in text and "--find" not in text for text in errors(app)) and len(rule(app)) == 1
    rule(app)[0].check().run()
    assert not errors(app) and "One subject was found by a rule" in words(app)
    assert "(subject found by a rule: Norway)" in words(app)
    app.button(key="apply").click().run()
    assert n_edits(app) == 1 and "Norway → Rome (subject found by a rule: Norway)" in words(app)
    rule(app)[0].uncheck().run()
    assert errors(app)

    app = opened("run")
    app.selectbox(key="run_source").set_value("paste").run()
    app.text_area(key="run_pasted").set_value("\n".join(map(json.dumps, [NAMELESS, GOOD[0]]))).run()
    assert any("1 of 2 rows cannot be used" in text for text in errors(app))
    rule(app)[0].check().run()
    assert (
        not errors(app) and "2 facts. First edit:" in words(app) and "(subject found by a rule: Norway)" in words(app)
    )
    [ready, *_] = app.session_state["run_prepared"][1]
    assert ready.plan.find_subjects and not ready.plan.skip_bad
    # a table of columns without a subject is refused as a whole, and helped all the same
    app.text_area(key="run_pasted").set_value("prompt,target_new\nThe capital of Norway is,Rome\n").run()
    assert errors(app) and len(rule(app)) == 1
    rule(app)[0].check().run()
    assert not errors(app) and "1 fact. First edit: The capital of Norway is → Rome" in words(app)


def test_edit_asks_the_model_at_a_press_which_answers_it_gives_already():
    app = opened("edit")
    visitor = app.session_state["visitor"]
    said = visitor.before.continuation("The capital of Spain is").split()[0]
    app = table(app, [GOOD[0] | {"target_new": said}, *GOOD[1:], GOOD[1] | {"prompt": "so " * 300 + "{} is"}])
    assert "Given already" not in words(app)
    app.button(key="ask_table").click().run()
    page = words(app)
    found = visitor.before.before_edits(tuple(parse_facts("\n".join(map(json.dumps, [
        GOOD[0] | {"target_new": said}, *GOOD[1:]])))))  # fmt: skip
    assert f"{len(found.said)} of 3 new answers" in page and "teacher-forced" in page
    assert found.said[0].target_new == said
    assert "do not fit the model" in page and "line 4" in page
    app.number_input(key="limit").set_value(2).run()
    assert "Given already" not in words(app)


def test_rows_that_are_left_out_are_in_the_plan():
    app = opened("run")
    app.selectbox(key="run_source").set_value("paste").run()
    app.text_area(key="run_pasted").set_value("\n".join(map(json.dumps, [*GOOD, GOOD[0] | {"prompt": 5}]))).run()
    [box] = [box for box in app.checkbox if box.label.startswith("Use the other")]
    box.check().run()
    [ready, *_] = app.session_state["run_prepared"][1]
    assert ready.plan.skip_bad and not ready.plan.find_subjects and not errors(app)


# -- data sets of the hub ----------------------------------------------------------------------------------------------


@pytest.fixture
def sets(hub_of_tests, monkeypatch):
    """A hub with a data set, known by the name "tiny"."""
    one = HubSet("tiny", "org/facts", "data/facts.json", "Three facts", "mit")
    for place in (hub_sets, hub_set_field):
        monkeypatch.setattr(place, "HUB_SETS", {"tiny": one})
    monkeypatch.setattr("encore_core.hub.hub_trouble", HUB_TROUBLE)
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0, 0.0))
    hub_of_tests.add("datasets/org/facts", {one.file: json.dumps(GOOD).encode()})
    return hub_of_tests


def test_a_data_set_is_fetched_and_used_on_both_pages(sets, monkeypatch):
    app = opened("run")
    app.selectbox(key="run_source").set_value("hub").run()
    page = words(app)
    assert "ultraeditbench is not fetched by name" in page and "tiny" in page and app.button(key="start").disabled
    app.selectbox(key="run_set").set_value("tiny").run()
    assert any("is not here yet" in text for text in errors(app))
    monkeypatch.setattr(access, "may_start", lambda: False)
    app.button(key="run_set_fetch").click().run()
    assert any("needs the access code" in text for text in errors(app)) and not sets.log
    monkeypatch.setattr(access, "may_start", lambda: True)
    app.button(key="run_set_fetch").click().run()
    assert not app.exception and "recorded for this name" in words(app) and "another file is refused" in words(app)
    assert "3 facts. First edit: The capital of Spain is → Oslo" in words(app) and not errors(app)

    app = opened("edit")
    app.segmented_control(key="source").set_value("Table").run()
    app.selectbox(key="table_set").set_value("tiny").run()
    assert "3 facts read" in words(app) and not errors(app)
    app.text_area(key="pasted").set_value("anything").run()  # and it is said which of the two is used
    assert app.text_area(key="pasted").label == "Pasted text (the data set below is used)"
    app.button(key="apply").click().run()
    assert n_edits(app) == 3


def test_a_data_set_without_the_hub(sets, monkeypatch):
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    app = opened("edit")
    app.segmented_control(key="source").set_value("Table").run()
    app.selectbox(key="table_set").set_value("tiny").run()
    app.button(key="table_set_fetch").click().run()
    assert any("has not been fetched yet, and the hub cannot be reached" in text for text in errors(app))
