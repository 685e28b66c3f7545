"""Every page's state in its address: what a page writes there, and what it makes of an address that is opened."""

from __future__ import annotations

import pytest
from refusals import NO_HUB
from tiny_pages import address_of, errors, opened, words

TYPED = {
    "subject": "Peru",
    "prompt": "The capital of {} is",
    "new": "Oslo",
    "true": "Lima",
    "paraphrases": "The main city of {} is",
    "neighbours": "The capital of Chile is => Santiago",
}


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)


# -- Edit --------------------------------------------------------------------------------------------------------------


def test_a_typed_fact_its_method_and_a_prompt_to_try_are_in_the_link_and_come_back():
    app = opened("edit")
    app.segmented_control(key="source").set_value("Your own").run()
    for name in ("subject", "prompt"):
        app.text_input(key=name).set_value(TYPED[name])
    app.text_input(key="target_new").set_value("Oslo")
    app.text_input(key="target_true").set_value("Lima")
    for name in ("paraphrases", "neighbours"):
        app.text_area(key=name).set_value(TYPED[name])
    app.selectbox(key="method").set_value("MEMIT").run()
    app.text_input(key="free_prompt").set_value("Machu Picchu is in").run()
    wanted = TYPED | {"method": "MEMIT", "try": "Machu Picchu is in"}
    assert address_of(app) == {name: [text] for name, text in wanted.items()}

    other = opened("edit", **wanted)
    assert not errors(other) and address_of(other) == address_of(app)
    assert (
        other.session_state["source"] == "Your own" and other.text_area(key="neighbours").value == TYPED["neighbours"]
    )
    assert other.session_state["visitor"].session.settings.method == "MEMIT"
    assert other.text_input(key="free_prompt").value == "Machu Picchu is in"


def test_an_example_is_in_the_link_by_its_id():
    app = opened("edit")
    assert list(address_of(app)) == ["fact"]
    assert opened("edit", fact=address_of(app)["fact"][0]).session_state["source"] == "Example"


def test_a_request_that_carries_the_address_before_the_last_reverts_nothing():
    """Two changes in quick succession: the browser sends the second with the address from before the first."""
    app = opened("edit")
    before = address_of(app)
    app.segmented_control(key="source").set_value("Your own").run()
    app.query_params.clear()
    app.query_params.update(before)
    app.text_input(key="subject").set_value("Peru").run()
    assert app.session_state["source"] == "Your own" and address_of(app)["subject"] == ["Peru"]
    app.run()  # the browser has caught up; the address from before is a link that somebody follows now
    app.query_params.clear()
    app.query_params.update(before)
    app.run()
    assert app.session_state["source"] == "Example" and address_of(app) == before


def test_texts_too_long_for_an_address_are_left_out_of_it():
    app = opened("edit", **TYPED | {"neighbours": "x" * 3000})
    assert len(app.text_area(key="neighbours").value) == 1000
    app.text_area(key="neighbours").set_value("The capital of Chile is => Santiago\n" * 40).run()
    assert "neighbours" not in address_of(app) and address_of(app)["subject"] == ["Peru"]


def test_nonsense_in_a_link_to_edit_is_left_out():
    app = opened("edit", method="ROME", fact="no/such", **{"try": ""})
    assert not errors(app) and app.selectbox(key="method").value == "ENCORE"
    assert app.session_state["source"] == "Example"


# -- Run ---------------------------------------------------------------------------------------------------------------


def test_a_plan_is_in_the_link_and_comes_back():
    app = opened("run")
    assert address_of(app) == {}
    app.multiselect(key="run_methods").set_value(["MEMIT", "ENCORE"])
    app.number_input(key="run_n").set_value(120)
    app.number_input(key="run_batch").set_value(30)
    app.number_input(key="run_every").set_value(60)
    app.number_input(key="run_seed").set_value(7)
    app.selectbox(key="run_order").set_value("shuffled").run()
    wanted = {"method": ["MEMIT", "ENCORE"], "edits": ["120"], "batch": ["30"], "every": ["60"], "seed": ["7"],
              "order": ["shuffled"]}  # fmt: skip
    assert not errors(app) and address_of(app) == wanted

    other = opened("run", **{name: values if len(values) > 1 else values[0] for name, values in wanted.items()})
    assert not errors(other) and address_of(other) == wanted
    values = {key: other.number_input(key=key).value for key in ("run_n", "run_batch", "run_every", "run_seed")}
    assert values == {"run_n": 120, "run_batch": 30, "run_every": 60, "run_seed": 7}
    assert other.multiselect(key="run_methods").value == ["MEMIT", "ENCORE"]


@pytest.mark.parametrize(
    "query",
    [{"method": "ROME"}, {"edits": "-5"}, {"edits": "9" * 40}, {"batch": "two"}, {"order": "up"}, {"run": "../../x"}],
)
def test_nonsense_in_a_link_to_run_is_left_out(query):
    app = opened("run", **query)
    assert not errors(app) and address_of(app) == {}


# -- Models ------------------------------------------------------------------------------------------------------------


def test_the_model_that_is_looked_at_is_in_the_link_and_comes_back(tiny_folder):
    app = opened("models", model=str(tiny_folder))
    assert address_of(app) == {"model": [str(tiny_folder)]} and not errors(app)
    assert "GPT-2" in words(app) and app.selectbox(key="models_name").value == str(tiny_folder)


def test_a_link_to_a_model_that_is_not_there_says_so():
    app = opened("models", model="no-such-model")
    assert len(errors(app)) == 1 and "no-such-model" in errors(app)[0]
