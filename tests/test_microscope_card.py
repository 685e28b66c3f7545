"""The card "Look inside" on a small page of the test's own: what it shows is what is measured, and is read once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
from streamlit.testing.v1 import AppTest
from tiny_pages import cards, errors, words

from dashboard.parts.microscope import Looked
from dashboard.parts.microscope.saved_edits import SavedEdits
from encore_core.facts import Neighbour
from encore_core.measures.answer_tokens import answer_tokens
from encore_core.measures.direct_effects import moved, read_directly
from encore_core.measures.fact_trace import fact_trace
from encore_core.measures.logit_lens import logit_lens
from encore_core.measures.strength import strengths

FACT = replace(
    tiny_models.CITIES[0],
    paraphrases=("The largest city of France is",),
    neighbours=(Neighbour("The capital of Italy is", "Rome"), Neighbour("The capital of Spain is", "Madrid")),
)
ANSWERS = ["Rome", "Paris"]
PAGE = """
import streamlit as st
from dashboard.parts import microscope
microscope.show(st.session_state["looked"])
"""


@pytest.fixture
def session(llama, new_session):
    session = new_session(llama)
    session.edit([FACT])
    return session


def looked(session, **changes) -> Looked:
    values = {"lm": session.lm, "prompt": FACT.text, "new": "Rome", "true": "Paris", "fact": FACT, "session": session,
              "edited_layers": session.settings.layers}  # fmt: skip
    return Looked(**values | changes)


def opened(what: Looked, inside: str = "lens", **state) -> AppTest:
    app = AppTest.from_string(PAGE, default_timeout=60)
    app.session_state["looked"] = what
    app.session_state["microscope_view"] = inside
    for name, value in state.items():
        app.session_state[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    return " ".join(words(app).split())


# -- the views ---------------------------------------------------------------------------------------------------------


def test_logit_lens(session, monkeypatch):
    shown = cards(monkeypatch)
    app = opened(looked(session), microscope_moment="before")
    before = logit_lens(session.lm, FACT.text, ANSWERS)
    with session.edited() as lm:
        after = logit_lens(lm, FACT.text, ANSWERS)

    def cells() -> np.ndarray:
        frame = shown["lens map"][1]
        return frame.pivot(index="row", columns="column", values="value").to_numpy()

    np.testing.assert_allclose(cells(), before.probabilities[0])
    app.segmented_control(key="microscope_moment").set_value("after").run()
    np.testing.assert_allclose(cells(), after.probabilities[0])
    app.segmented_control(key="microscope_followed").set_value("true").run()
    np.testing.assert_allclose(cells(), after.probabilities[1])
    app.segmented_control(key="microscope_moment").set_value("difference").run()
    floor = np.maximum(after.probabilities[1], 1e-5) / np.maximum(before.probabilities[1], 1e-5)
    np.testing.assert_allclose(cells(), floor)
    app.segmented_control(key="microscope_followed").set_value("top").run()
    np.testing.assert_allclose(cells(), after.top_probabilities - before.top_probabilities)
    frame = shown["lens map"][1]
    changed = before.top_ids != after.top_ids
    assert [bool(word) for word in frame["word"]] <= list(changed.ravel())
    assert sorted(set(frame[frame["edited"]]["row_name"])) == [str(layer) for layer in session.settings.layers]
    lines = shown["lens by layer"][1]
    assert len(lines) == 4 * (session.lm.n_layers + 1)
    assert not errors(app)


def test_causal_trace_waits_for_its_button(session, monkeypatch):
    calls = []

    def counted(*args, **settings):
        calls.append(args)
        return fact_trace(*args, **settings)

    monkeypatch.setattr("dashboard.parts.microscope.trace.fact_trace", counted)
    shown = cards(monkeypatch)
    app = opened(looked(session), "trace")
    assert not calls and "causal trace" not in shown
    app.button(key="microscope_trace").click().run()
    assert not app.exception and len(calls) == 2
    with session.edited() as lm:
        after = fact_trace(lm, FACT)
    frame = shown["causal trace"][1]
    for kind, part in frame.groupby("kind"):
        np.testing.assert_allclose(part.pivot(index="row", columns="column", values="value").to_numpy(),
                                   after.maps[kind])  # fmt: skip
    before = fact_trace(session.lm, FACT)
    app.segmented_control(key="microscope_moment").set_value("difference").run()
    frame = shown["causal trace"][1]
    of_mlps = frame[frame["kind"] == "MLP"].pivot(index="row", columns="column", values="value").to_numpy()
    effects = after.maps["MLP"] - after.noisy - before.maps["MLP"] + before.noisy
    np.testing.assert_allclose(of_mlps, effects, atol=1e-9)
    assert len(calls) == 2 and "draws" in " ".join(caption.value for caption in app.caption)
    # Another edit makes what was traced of the edited model out of date, and nothing else.
    session.edit([replace(FACT, target_new="Lima")], known="edit")
    app.run()
    app.button(key="microscope_trace").click().run()
    assert len(calls) == 3


def test_tokens(session, monkeypatch):
    shown = cards(monkeypatch)
    app = opened(looked(session, new="Rome and old"), "tokens")
    frame = shown["answer tokens"][1]
    before = answer_tokens(session.lm, FACT.text, ["Rome and old", "Paris"])
    with session.edited() as lm:
        after = answer_tokens(lm, FACT.text, ["Rome and old", "Paris"])
    for number, role in enumerate(("new", "true")):
        part = frame[frame["answer"] == role]
        assert list(part["before"]) == [token.probability for token in before[number]]
        assert list(part["after"]) == [token.probability for token in after[number]]
        assert list(part["rank_after"]) == [token.rank for token in after[number]]
    assert f"Rome and old is {len(before[0])} tokens" in said(app)


def test_what_moved_the_answer(session, monkeypatch):
    shown = cards(monkeypatch)
    app = opened(looked(session), "moved")
    before = read_directly(session.lm, FACT.text, ANSWERS)
    with session.edited() as lm:
        found = moved(before, read_directly(lm, FACT.text, ANSWERS))

    def total() -> float:
        return float(shown["direct effects"][1]["effect"].sum())

    assert total() == pytest.approx(found.change[0] - found.change[1], abs=1e-4)
    new, true = (token.strip() for token in found.answer_tokens)
    assert f"The lead of “{new}” over “{true}” changed by" in said(app)
    app.segmented_control(key="microscope_logit").set_value("true").run()
    assert total() == pytest.approx(found.change[1], abs=1e-4)
    rows = shown["direct effects"][1]
    assert set(rows[rows["edited"]]["label"]) == {f"MLP {layer}" for layer in session.settings.layers}


def test_strength(session, monkeypatch):
    shown = cards(monkeypatch)
    app = opened(looked(session), "strength")
    found = strengths(session.lm, session.matrices(), FACT)
    frame = shown["strength"][1]
    rewrite = frame[(frame["role"] == "rewrite") & (frame["answer"] == "new")]
    assert list(rewrite["beta"]) == list(found.betas)
    assert list(rewrite["probability"]) == [answer.probability for answer in found.rewrite.new_answers]
    app.slider(key="microscope_beta").set_value(0.5).run()
    step = found.betas.index(0.5)
    n_right = sum(not path.ahead(step) for path in found.of("neighbour"))
    assert f"{n_right} of 2" in said(app) and "β = 0.5" in said(app)
    marks = [trace for trace in shown["strength"][0].figure.data if list(trace.x) == [0.5, 0.5]]
    assert len(marks) == 3  # one in every panel


# -- around them -------------------------------------------------------------------------------------------------------


def test_nothing_edited_yet(llama, new_session):
    session = new_session(llama)
    for inside, told in (("lens", "as loaded"), ("tokens", "is one token"), ("moved", "make an edit"),
                         ("strength", "make an edit first")):  # fmt: skip
        app = opened(looked(session), inside)
        assert told in said(app), inside
        assert not [control for control in app.segmented_control if control.key == "microscope_moment"]


def test_a_prompt_without_a_fact_or_a_true_answer(session):
    plain = looked(session, prompt="I live in", fact=None, true=None)
    assert "which words are the subject" in said(opened(plain, "trace"))
    assert "pick a fact" in said(opened(plain, "strength"))
    for inside in ("lens", "tokens", "moved"):
        app = opened(plain, inside)
        assert not errors(app) and "Rome" in said(app)


def test_what_is_closed_is_not_computed_and_what_was_read_is_kept(session, monkeypatch):
    calls: list[str] = []
    for name, place in (("logit_lens", "lens"), ("read_directly", "moved"), ("strengths", "strength")):
        monkeypatch.setattr(
            f"dashboard.parts.microscope.{place}.{name}",
            lambda *args, _name=name, _real={"logit_lens": logit_lens, "read_directly": read_directly,
                                             "strengths": strengths}[name], **more: calls.append(_name)
            or _real(*args, **more),
        )  # fmt: skip
    app = opened(looked(session))
    assert calls == ["logit_lens"] * 2
    app.segmented_control(key="microscope_moment").set_value("difference").run()
    assert calls == ["logit_lens"] * 2
    app.segmented_control(key="microscope_view").set_value("moved").run()
    assert calls[2:] == ["read_directly"] * 2
    session.undo()
    session.edit([replace(FACT, target_new="Lima")])
    app.run()
    assert calls[4:] == ["read_directly"]  # only the edited model's is out of date


def test_bad_input_is_one_line(session):
    for inside in ("lens", "tokens", "moved"):
        app = opened(looked(session, prompt="word " * 400), inside)
        assert any("at most 160" in text for text in errors(app)), inside
    long = replace(FACT, paraphrases=("word " * 400,))
    assert any("at most 160" in text for text in errors(opened(looked(session, fact=long), "strength")))


def test_edits_that_were_all_taken_back_leave_a_before_and_an_after(session):
    session.retract([1])
    app = opened(looked(session))
    assert session.n_edits == 0 and "before and after edits that were all taken back" in said(app)
    assert app.segmented_control(key="microscope_moment") is not None
    session.undo()
    session.undo()
    assert "as loaded, nothing edited yet" in said(opened(looked(session)))


def test_a_model_that_broke_is_drawn(session):
    broken = {layer: matrix * float("nan") for layer, matrix in session.matrices().items()}
    what = replace(looked(session), session=SavedEdits(session.lm, broken, 3))
    for inside in ("lens", "tokens", "moved", "strength"):
        app = opened(what, inside)
        assert not errors(app), inside
        assert inside not in ("lens", "moved") or "no longer finite numbers" in said(app)
    app = opened(what, "trace")
    app.button(key="microscope_trace").click().run()
    assert not app.exception and not errors(app) and "no longer finite numbers" in said(app)


def test_a_failure_inside_is_one_line(session, monkeypatch):
    def broken(*args, **more):
        raise RuntimeError("out of cheese")

    monkeypatch.setattr("dashboard.parts.microscope.lens.logit_lens", broken)
    app = opened(looked(session))
    assert "failed inside the program" in errors(app)[0] and "cheese" not in said(app)


def test_hostile_texts_are_shown_as_they_are(session):
    app = opened(looked(session, new="<b>$x$</b>", true="**Paris** :smile:"), "tokens")
    assert "<b>$x$</b> is" in said(app) and not errors(app)
    labels = opened(looked(session, new="<b>$x$</b>", true="**Paris**")).segmented_control(key="microscope_followed")
    assert r"\*\*Paris\*\*" in labels.options


def test_links():
    app = AppTest.from_function(_link_page).run()
    assert not app.exception


def _link_page():
    import streamlit as st

    from dashboard.parts import microscope

    if microscope.view() != {}:
        raise ValueError(microscope.view())
    microscope.restore({"inside": ["trace"], "moment": ["nonsense"]})
    if microscope.view() != {"inside": "trace"}:
        raise ValueError(microscope.view())
    microscope.restore({"moment": ["difference"]})
    if microscope.view() != {"moment": "difference"}:  # what a link leaves out is as usual
        raise ValueError(st.session_state)
