"""Look inside a run, on the page Contributions: the weights that it last saved, or why there are none."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_pages
import tiny_runs
from refusals import NO_HUB
from tiny_pages import IDS, address_of, errors, opened, words

from dashboard.visitors.models import models
from encore_core.measures.logit_lens import logit_lens
from encore_core.runs import RunStore
from encore_core.runs.resume_state import load_matrices


@pytest.fixture(autouse=True)
def own_store(monkeypatch, tmp_path, surroundings, tiny_folder, recorded_folder):
    """The tiny model, a store of the test's own, and recorded runs; loading gathers no statistics."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", recorded_folder)
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)
    monkeypatch.setattr("encore_core.editing.session.EditSession.prepare", lambda self, progress=None: None)
    models.clear()
    yield
    models.clear()


@pytest.fixture
def run_id(tiny_folder, statistics_text) -> str:
    """A run of ten edits that is done."""
    store = RunStore()
    [run_id] = store.submit([tiny_runs.prepared(tiny_folder, statistics_text, method="MEMIT")])
    tiny_runs.worker(store).serve()
    return run_id


def test_a_run_of_this_machine(run_id, monkeypatch):
    shown = tiny_pages.cards(monkeypatch)
    app = opened("contributions", run=run_id)
    assert "visitor" not in app.session_state and "keeps the weights that it last saved" in " ".join(
        caption.value for caption in app.caption
    )
    tiny_pages.pressed(app, "microscope_of_run")
    assert not errors(app) and "before and after 10 edits" in words(app)
    app.number_input(key="microscope_fact_of_run").set_value(3).run()
    fact = RunStore().facts(run_id)[2]
    lm = app.session_state["visitor"].lm
    matrices, _ = load_matrices(RunStore().folder_of(run_id), RunStore().states(run_id))
    with lm.matrices_replaced(matrices):
        after = logit_lens(lm, fact.text, [fact.target_new, fact.target_true])

    def cells() -> np.ndarray:
        frame = shown["lens map"][1]
        return frame.pivot(index="row", columns="column", values="value").to_numpy()

    np.testing.assert_allclose(cells(), after.probabilities[0], atol=1e-6)
    app.segmented_control(key="microscope_moment").set_value("before").run()
    before = logit_lens(lm, fact.text, [fact.target_new, fact.target_true])
    np.testing.assert_allclose(cells(), before.probabilities[0], atol=1e-6)
    assert np.abs(after.probabilities - before.probabilities).max() > 1e-3
    for inside in ("tokens", "moved", "strength"):
        app.segmented_control(key="microscope_view").set_value(inside).run()
        assert not app.exception and not errors(app), inside
    assert "MLP 0" in set(shown["direct effects"][1]["label"])
    ends = shown["strength"][1].query("role == 'rewrite' and answer == 'new'")["probability"]
    assert abs(ends.iloc[0] - ends.iloc[-1]) > 1e-4


def test_a_link_brings_back_the_fact_and_the_view(run_id):
    app = tiny_pages.pressed(opened("contributions", run=run_id), "microscope_of_run")
    app.number_input(key="microscope_fact_of_run").set_value(3)
    app.segmented_control(key="microscope_view").set_value("tokens").run()
    query = address_of(app)
    assert query["fact"] == ["3"] and query["inside"] == ["tokens"]
    again = tiny_pages.pressed(opened("contributions", **query), "microscope_of_run")
    assert again.number_input(key="microscope_fact_of_run").value == 3
    assert again.segmented_control(key="microscope_view").value == "tokens" and address_of(again) == query


def test_a_link_to_a_fact_that_the_run_does_not_have_opens_its_last_one(run_id):
    app = opened("contributions", run=run_id, fact="11", look="nobody-2345", inside="x-ray")
    app = tiny_pages.pressed(app, "microscope_of_run")
    assert app.number_input(key="microscope_fact_of_run").value == 10 and not errors(app)


def test_a_recorded_run_says_why_not(monkeypatch):
    app = opened("contributions", run=IDS[0])
    told = words(app)
    assert "come without their matrices" in told and "nobody can look inside" in told and not errors(app)
    assert not [button for button in app.button if button.key == "microscope_of_run"]


def test_a_run_that_has_saved_nothing(tiny_folder, statistics_text):
    run_id = tiny_pages.run_in_progress(tiny_folder, statistics_text)
    app = opened("contributions", run=run_id)
    assert f"{run_id} has saved no weights yet" in words(app) and not errors(app)


def test_another_model_is_refused(run_id, monkeypatch, llama, tmp_path):
    other = tiny_runs.save_model(llama, tmp_path / "other")
    monkeypatch.setenv("ENCORE_MODEL", str(other))
    models.clear()
    app = tiny_pages.pressed(opened("contributions", run=run_id), "microscope_of_run")
    assert any("choose the run's model in the sidebar" in text for text in errors(app))


def test_weights_that_are_gone(run_id):
    for file in RunStore().folder_of(run_id).glob("*.safetensors"):
        file.unlink()
    app = tiny_pages.pressed(opened("contributions", run=run_id), "microscope_of_run")
    assert any("No edited matrices" in text for text in errors(app))


def test_visitors_share_the_weights_of_a_run(run_id):
    first, second = (tiny_pages.pressed(opened("contributions", run=run_id), "microscope_of_run") for _ in range(2))
    one, other = (app.session_state["microscope_weights"][-1].matrices() for app in (first, second))
    assert one.keys() == other.keys() and all(one[layer] is other[layer] for layer in one)
