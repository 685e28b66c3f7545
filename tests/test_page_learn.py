"""The page Learn: what its steps compute, against formulas written out, and the page itself on a tiny model."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pandas as pd
import pytest
import tiny_models
import tiny_pages
import torch
from tiny_models import Snapshot
from tiny_pages import address_of, markup, opened, pressed, words

from dashboard.charts import learn as charts
from dashboard.charts.palette import DARK, LIGHT
from dashboard.parts.learn import anatomy, prompt_keys, recorded_france, sandbox, sandbox_card
from dashboard.talk import method_steps
from encore_core.editing import shared_search
from encore_core.editing.session import EditSession
from encore_core.facts import Fact, read_facts
from encore_core.measures.scores import evaluate
from encore_core.runs import series
from encore_core.runs.recorded import recorded_runs

FACT = Fact("New Zealand", "The capital of {} is", "Rome")
IDS = tiny_pages.IDS
HOSTILE = "<img src=x onerror=alert(1)> **b** $x$"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_tokens_make_up_the_prompt_and_the_subjects_last_one_is_marked(lm):
    tokens = prompt_keys.tokens_of(lm, FACT)
    ids = lm.tokenizer("The capital of New Zealand is")["input_ids"]
    assert [token.id for token in tokens] == ids
    roles = [token.role for token in tokens]
    [last] = [place for place, role in enumerate(roles) if role == "last"]
    up_to_subject = lm.tokenizer("The capital of New Zealand")["input_ids"]
    assert last == len(up_to_subject) - 1 and "subject" not in roles[last:]
    assert lm.tokenizer.decode([token.id for token in tokens if token.role]).strip() == "New Zealand"


def test_a_subject_of_one_token_is_its_own_last_one(gpt2):
    roles = [token.role for token in prompt_keys.tokens_of(gpt2, Fact("Paris", "In {} it rains", "x"))]
    assert roles.count("last") == 1


def test_keys_are_what_enters_the_edited_matrix(lm, new_session):
    session = new_session(lm)
    weights = Snapshot.of(lm)
    found = prompt_keys.keys_of(session, FACT)
    assert weights.holds(lm) and [one.layer for one in found.layers] == [0, 1]
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def key(layer: int, text: str, subject: str) -> torch.Tensor:
        """The plain way: the whole model on one text, the input of one module."""
        inputs = []
        handle = lm.down_projections[layer].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([lm.tokenizer(text)["input_ids"]]))
        handle.remove()
        until = len(lm.tokenizer(text[: text.rindex(subject) + len(subject)])["input_ids"])
        return inputs[0].reshape(-1, lm.d_mlp)[until - 1]

    for one in found.layers:
        plain = key(one.layer, FACT.text, "New Zealand")
        assert one.key_norm == pytest.approx(float(plain.norm()), rel=1e-4)
        assert one.value_norm == pytest.approx(float((lm.matrix(one.layer) @ plain).norm()), rel=1e-4)
        largest = plain.square().sort(descending=True).values
        assert largest[: one.half].sum() >= largest.sum() / 2 > largest[: one.half - 1].sum()
        cosine = torch.nn.functional.cosine_similarity
        behind = [key(one.layer, f"{prefix}. {FACT.text}", "New Zealand") for prefix in session.prefixes]
        assert one.same == pytest.approx(min(float(cosine(plain, k, dim=0)) for k in behind), abs=1e-4)
        other = key(one.layer, FACT.text.replace("New Zealand", found.foil), found.foil)
        assert one.other == pytest.approx(float(cosine(plain, other, dim=0)), abs=1e-4)
    assert not seen and (found.d_model, found.d_mlp) == (lm.d_model, lm.d_mlp)


def test_the_other_subject_is_never_the_readers_own(gpt2, new_session):
    session = new_session(gpt2)
    assert prompt_keys.keys_of(session, Fact("Japan", "The capital of {} is", "Rome")).foil == "Norway"


# -- an edit taken apart -----------------------------------------------------------------------------------------------


def test_the_factor_is_found_without_p():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 9, dtype=torch.float64, generator=generator)
    G = root @ root.T
    L = torch.linalg.cholesky(G + torch.eye(6, dtype=torch.float64))
    assert torch.allclose(anatomy.factor_of(G @ torch.linalg.inv(L).T), L, atol=1e-12)


def test_a_batch_is_taken_apart_after_another_was_taken_back(llama, new_session):
    session = new_session(llama)
    first, second = tiny_models.CITIES[:2]
    session.edit([first], known="edit")
    session.edit([second], known="edit")
    whole = anatomy.take_apart(session)
    session.retract([1])
    found = anatomy.take_apart(session)
    assert found.facts == (second,) and found.number == 2
    assert [one.delta_norm for one in found.layers] == pytest.approx([one.delta_norm for one in whole.layers])
    # A fact that overwrites another was solved for on the matrices without that one.
    session.edit([replace(second, target_new="Oslo")], known="edit")
    again = anatomy.take_apart(session)
    assert again.number == 4 and max(one.error for one in again.layers) < 1e-9


@pytest.mark.parametrize(
    ("family", "method"),
    [("gpt2", "ENCORE"), ("gpt2", "EMMET"), ("gpt2", "AlphaEdit"), ("llama", "ENCORE"), ("llama_tied", "AlphaEdit")],
)
def test_an_edit_taken_apart_is_the_edit_that_was_made(request, new_session, family, method):
    """Against P itself and the dense formula, which the page does not have."""
    lm = request.getfixturevalue(family)
    session = new_session(lm, method)
    session.edit([tiny_models.CITIES[0]], known="edit")
    before = {layer: lm.oriented(layer, matrix).clone() for layer, matrix in session.matrices().items()}
    P = {layer: preservation.dense() for layer, preservation in session._contents.preservation.items()}
    session.edit(list(tiny_models.CITIES[1:]), known="edit")
    kept, weights = session.matrices(), Snapshot.of(lm)
    found = anatomy.take_apart(session)
    assert weights.holds(lm) and len(session.history) == 2 and found.number == 2 and len(found.facts) == 2
    assert all(kept[layer] is matrix for layer, matrix in session.matrices().items())
    slack = session.settings.slack(2)
    for one in found.layers:
        after = lm.oriented(one.layer, session.matrices()[one.layer])
        update = session.history[-1].updates[one.layer]
        assert (one.K, one.R, one.system, one.delta) == (
            (lm.d_mlp, 2), (lm.d_model, 2), (2, 2), (lm.d_model, lm.d_mlp))  # fmt: skip
        assert one.delta_norm == pytest.approx(float(update.delta().norm()))
        assert one.delta_norm == pytest.approx(float((after - before[one.layer]).norm()), rel=1e-3)
        assert one.norm_before == pytest.approx(float(before[one.layer].norm()), rel=1e-5)
        assert one.norm_after == pytest.approx(float(after.norm()), rel=1e-5)
        assert one.error < 1e-9
        # Y = P K L⁻ᵀ, so P K = Y Lᵀ and KᵀPK has the eigenvalues of (Y Lᵀ)ᵀ P⁻¹ (Y Lᵀ); of AlphaEdit's P there is none.
        if method != "AlphaEdit":
            M = update.Y.T @ torch.linalg.solve(P[one.layer], update.Y)  # L⁻¹ KᵀPK L⁻ᵀ, with eigenvalues g / (1 + g)
            g = torch.linalg.eigvalsh(M)
            wanted = slack + g / (1 - g)
            assert one.system_range == pytest.approx((float(wanted[0]), float(wanted[-1])), rel=1e-3)
    # Each layer takes its share of what is missing, and less is missing after all of them. Of two columns' lengths the
    # mean a and the root of their squares' sum are such that a √2 ≤ root ≤ 2 a.
    for j, one in enumerate(found.layers):
        whole = one.residual_norm * (len(found.layers) - j)
        assert 1.4142 * one.missing <= whole * 1.0001 and whole <= 2.0001 * one.missing
    assert found.left < found.layers[0].missing


# -- the sandbox -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_settings(monkeypatch, statistics_text):
    """Sessions that the pages make, with settings under which the tiny model takes edits."""
    original = EditSession.__init__

    def made(self, lm, method="ENCORE", *, settings=None, **values):
        wanted = tiny_models.DEFAULTS | {"steps": 20} | (settings or {}) | {"layers": (0, 1)}
        original(self, lm, method, settings=wanted, statistics_text=statistics_text, **values)

    monkeypatch.setattr(EditSession, "__init__", made)


def test_a_trial_says_what_an_edit_under_these_settings_brings(gpt2, tiny_settings):
    weights, before = Snapshot.of(gpt2), set(gpt2.shared)
    shown = []
    choice = sandbox.Choice(0.02, 2)
    found = sandbox.attempt(gpt2, tiny_models.CITIES, choice, 0, lambda what, share: shown.append(share))
    assert weights.holds(gpt2) and not {key for key in gpt2.shared if key[0] == "P"} - before
    session = EditSession(gpt2, "ENCORE", settings={"lambda_n": 0.02, "mpes_extra_steps": 2})
    report = session.edit(list(tiny_models.CITIES), known="edit")
    with session.edited() as lm:
        scores = evaluate(lm, tiny_models.CITIES, generate=False)
    assert (found.edit, found.paraphrase, found.facts) == (scores.edit_score, scores.paraphrase_score, 3)
    growth = max(100 * (after / loaded - 1) for loaded, after in session.norms().values())
    assert found.growth == pytest.approx(growth)
    assert found.steps == pytest.approx(sum(item.steps for item in report.edited) / 3)
    assert found.probability == pytest.approx(sum(item.probability_after for item in report.edited) / 3)
    assert shown == sorted(shown) and shown[0] >= 0 and shown[-1] <= 1


def test_a_higher_price_means_less_growth_and_mpes_fewer_steps(gpt2, tiny_settings):
    def attempt(lambda_n, extra):
        return sandbox.attempt(gpt2, tiny_models.CITIES, sandbox.Choice(lambda_n, extra), 0, lambda *_: None)

    cheap, dear, patient = attempt(0.0, 0), attempt(100.0, 0), attempt(0.0, sandbox.NO_MPES)
    assert dear.growth < cheap.growth and dear.probability < cheap.probability
    assert cheap.steps < patient.steps and cheap.choice.method == "ENCORE" and patient.choice.method == "MEMIT+norm"


def test_another_price_does_not_search_again(gpt2, tiny_settings, monkeypatch):
    facts = tiny_models.CITIES

    def attempt(lambda_n, extra):
        return sandbox.attempt(gpt2, facts, sandbox.Choice(lambda_n, extra), 5, lambda *_: None)

    first = attempt(1.0, 1)
    alone = EditSession(gpt2, "MEMIT+norm", seed=5, settings={"lambda_n": 1.0}).edit(list(facts), known="edit")
    monkeypatch.setattr(shared_search, "RuleSearch", lambda *_, **__: pytest.fail("was searched before"))
    dear = attempt(50.0, 1)
    assert dear.steps == first.steps and dear.growth < first.growth
    assert attempt(50.0, 1) is dear is sandbox.done_before(gpt2, facts, dear.choice, 5)  # as for another visitor
    assert sandbox.done_before(gpt2, facts, dear.choice, 6) is None
    patient = attempt(1.0, sandbox.NO_MPES)  # goes on from where the first stopped
    assert patient.steps == sum(item.steps for item in alone.edited) / len(facts) > first.steps


def test_facts_of_the_sandbox_are_known_and_of_different_kinds():
    facts = sandbox.facts_for(read_facts("bundled"))
    assert len(facts) == sandbox.N_FACTS == len({fact.relation for fact in facts})
    assert all(fact.known and fact.paraphrases and fact.neighbours for fact in facts)


# -- charts and texts --------------------------------------------------------------------------------------------------


def test_points_of_the_trade_off():
    frame = pd.DataFrame(
        [("a <b>", 0.1, 100, 50, 90, True, True), ("b", 0.3, 80, None, 70, False, False)],
        columns=["name", "growth", "edit", "paraphrase", "neighbourhood", "mpes", "recorded"],
    )
    for colours in (LIGHT, DARK):
        chart = charts.trade_off(frame, "b", colours)
        drawn = [(trace.x[0], trace.y[0]) for trace in chart.figure.data if trace.xaxis == "x"]
        assert drawn == [(0.1, 100), (0.3, 80)]
        early, late = chart.figure.data[:2]
        assert early.marker.symbol != late.marker.symbol and early.marker.color != late.marker.color
        assert early.marker.line.width == (1,) and late.marker.line.width == (4,)  # the newest is ringed
        assert "<b>" not in early.customdata[0]
        assert early.marker.opacity[0] < late.marker.opacity[0] == 1  # pale: it was recorded


def test_what_is_missing_layer_by_layer():
    frame = pd.DataFrame({"place": [0, 1], "name": ["layer 6", "after"], "missing": [48.4, 9.6]})
    chart = charts.missing(frame, LIGHT)
    assert (
        list(chart.figure.data[0].y) == [48.4, 9.6]
        and chart.figure.layout.xaxis.ticktext[1].strip("\u2068\u2069") == "after"
    )


def test_seven_steps_of_our_own_words():
    assert len(method_steps.STEPS) == 7 == len(method_steps.BY_KEY)
    assert all(step.text and step.equations and step.symbols for step in method_steps.STEPS)


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, surroundings):
    """No runs of one's own, none recorded; the tiny model as the one that the app loads."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "none")


@pytest.fixture
def with_recorded(places, recorded_folder, monkeypatch):
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", recorded_folder)


def test_the_page_is_read_from_end_to_end_without_a_model(with_recorded):
    app = opened("learn")
    for number, step in enumerate(method_steps.STEPS, start=1):
        assert f"{number} · {step.title}" in words(app) and address_of(app)["step"] == [step.key]
        assert [element.value for element in app.latex] == [f"$$\n{equation}\n$$" for equation in step.equations]
        assert 'role="alert"' not in markup(app)
        if number < len(method_steps.STEPS):
            pressed(app, "learn_next")
    assert app.button(key="learn_next").disabled and "visitor" not in app.session_state
    assert f"6 · {method_steps.STEPS[5].title}" in words(pressed(app, "learn_previous"))


def test_a_link_brings_a_step_and_its_fact_back():
    app = opened("learn", step="target", subject="Japan", prompt="{} has", answer="Oslo")
    assert address_of(app) == {"step": ["target"], "subject": ["Japan"], "prompt": ["{} has"], "answer": ["Oslo"]}
    assert "Japan" in words(app)
    app = opened("learn", step="norm", lambda_n="16", extra="none")
    assert (app.select_slider(key="learn_factor").value, app.select_slider(key="learn_extra").value) == ("16", "none")


def test_nonsense_in_a_link_is_left_out(with_recorded):
    app = opened("learn", step="eleven", subject="x" * 5000, at="9" * 400, lambda_n="-1", extra="99", run="nobody-1")
    assert address_of(app)["step"] == ["fact"] and len(app.text_input(key="learn_subject").value) == 300
    app = opened("learn", step="breaks", at="7", run=[IDS[0], "nobody-1"])
    assert "nobody-1" in words(app) and address_of(app) == {"step": ["breaks"], "run": [IDS[0]], "at": ["4"]}


@pytest.mark.parametrize(("field", "value"), [("subject", " "), ("prompt", "no slot"), ("answer", "")])
def test_a_fact_that_is_none_is_one_line(field, value):
    app = opened("learn")
    app.text_input(key=f"learn_{field}").set_value(value).run()
    assert markup(app).count('role="alert"') == 1 and app.button(key="learn_tokens").disabled


def test_tokens_of_any_prompt_are_text_and_never_markup(tiny_settings):
    app = opened("learn", subject=HOSTILE, prompt="I saw {} today", answer="Rome")
    app = pressed(app, "learn_tokens")
    assert "last token of the subject" in words(app) and "<img" not in markup(app)
    assert 'class="es-token es-token-last"' in markup(app) and "layer 0" in words(app)
    # Another prompt: what was computed is of the one before, and that is said.
    app.text_input(key="learn_subject").set_value("Japan").run()
    assert "have changed since" in words(app) and 'class="es-token ' not in markup(app)


def test_a_prompt_too_long_for_the_model_is_one_line(tiny_settings):
    app = pressed(opened("learn", prompt="word " * 50 + "{} is"), "learn_tokens")
    assert markup(app).count('role="alert"') == 1 and "at most 96" in words(app)


def test_the_search_is_followed_step_by_step(tiny_settings, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    app = pressed(opened("learn", step="target"), "learn_search")
    _, frame = found["learn search"]
    slider = app.slider(key="learn_search_step")
    assert slider.value == slider.max == frame["step"].max() and f"{frame['loss'].iloc[-1]:.3g}" in words(app)
    slider.set_value(1).run()
    for name in ("probability", "loss", "nll", "kl", "decay"):
        assert f"{frame[name].iloc[1]:.3g}" in words(app)
    assert "after step 1" in words(app)
    visitor = app.session_state["visitor"]
    [target] = visitor.session.find_targets([Fact("France", "The capital of {} is", "Rome")], mpes=False)
    assert frame["loss"].tolist() == list(target.loss) and visitor.session.n_edits == 0


def test_an_edit_is_made_taken_apart_and_undone(tiny_settings):
    app = pressed(opened("learn", step="update"), "learn_anatomy")
    visitor = app.session_state["visitor"]
    assert visitor.session.n_edits == 1 and "64 × 1" in words(app) and "32 × 64" in words(app)
    found = anatomy.take_apart(visitor.session)
    for one in found.layers:
        growth = 100 * (one.norm_after / one.norm_before - 1)
        assert f"{one.norm_before:.3f}" in words(app) and f"{growth:+.4f} %" in words(app)
        assert f"{100 * one.delta_norm / one.norm_before:.2f} %" in words(app) and f"{one.residual_norm:.2f}" in words(
            app
        )
    visitor.undo()
    app.run()
    assert (
        not app.exception and "Make this edit" in app.button(key="learn_anatomy").label and "64 × 1" not in words(app)
    )


def test_an_edit_that_is_refused_is_one_line(tiny_settings):
    app = pressed(
        opened("learn", step="update", answer="Paris", subject="France", prompt="The capital of {} is"), "learn_anatomy"
    )
    [line] = re.findall(r'role="alert".*?</div>', markup(app), re.DOTALL)
    assert "says already" in html.unescape(line) and app.session_state["visitor"].session.n_edits == 0


@pytest.mark.parametrize("step", ["again", "breaks"])
def test_without_runs_the_steps_about_runs_say_so(step):
    assert "No run has reached its first checkpoint yet" in words(opened("learn", step=step))


def test_figures_of_the_runs_are_those_of_the_store(with_recorded, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    app = opened("learn", step="again", at="4")
    norms = series.norms(recorded_runs(), IDS)
    for run in IDS:
        of_run = norms[(norms["run"] == run) & (norms["edits"] == 4)]
        assert f"{of_run['ratio'].max():.3f}" in words(app)
    _, frame = found["learn norms"]
    assert set(frame["layer"]) == {0, 1} and len(frame) == 2 * 2 * 4
    assert re.search(r"\d \(\d+ to \d+\)", words(app)) and "Facts" in words(app)  # a score with its interval, and n
    app.select_slider(key="learn_at").set_value(8).run()
    assert address_of(app) == {"step": ["again"], "run": list(IDS), "at": ["8"]} and "after 8 edits" in words(app)


def test_forgetting_and_shares_are_read_at_the_checkpoint(with_recorded, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    app = opened("learn", step="breaks", at="8")
    stored = series.contributions(recorded_runs(), [IDS[0]], [8])
    edited = stored[(stored["kind"] == "MLP") & stored["layer"].isin([0, 1])]["share"].sum()
    assert f"{100 * edited:.1f} %" in words(app)
    _, frame = found["learn first"]
    first = series.scores(recorded_runs(), IDS, subsets=["first"], metrics=["edit_score"])
    assert sorted(frame[frame["metric"] == "edit_score"]["value"]) == sorted(first["value"])
    assert "What is left of the first batch" in words(app)


@pytest.fixture
def quick_trials(monkeypatch, tiny_settings):
    monkeypatch.setattr(sandbox_card, "facts_for", lambda facts: list(tiny_models.CITIES[:2]))


def test_settings_tried_are_kept_and_touch_nobodys_edits(quick_trials, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    app = pressed(opened("learn", step="norm", lambda_n="0", extra="none"), "learn_trial")
    assert "λn 0, no MPES" in words(app) and "visitor" in app.session_state
    app.select_slider(key="learn_factor").set_value("4")
    app.select_slider(key="learn_extra").set_value("0").run()
    app = pressed(app, "learn_trial")
    _, frame = found["learn trade-off"]
    assert list(frame["mpes"]) == [False, True] and frame["lambda_n"].iloc[1] == 80
    assert frame["growth"].iloc[1] < frame["growth"].iloc[0]
    assert app.session_state["visitor"].session.n_edits == 0
    # Once computed, not computed again.
    monkeypatch.setattr(sandbox_card, "attempt", lambda *_: pytest.fail("was known"))
    assert address_of(app) == {"step": ["norm"], "lambda_n": ["4"], "extra": ["0"]}
    assert "computed since" not in words(pressed(app, "learn_trial"))
    assert "pale points" not in words(app)  # what was recorded on another model does not stand beside it


def test_recorded_trials_stand_beside_ones_own_where_they_were_made_alike(quick_trials, monkeypatch):
    found = tiny_pages.cards(monkeypatch)
    alike = lambda lm, seed: recorded_france._kept()["made_with"]  # noqa: E731
    monkeypatch.setattr(recorded_france, "made_with", alike)
    app = pressed(opened("learn", step="norm", lambda_n="0", extra="none"), "learn_trial")
    assert "The pale points were recorded" in words(app) and "recorded" in markup(app)
    _, frame = found["learn trade-off"]
    assert list(frame["recorded"]).count(False) == 1 and frame["recorded"].sum() >= 5


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError()])
def test_what_fails_inside_is_one_line_without_its_words(quick_trials, monkeypatch, error):
    monkeypatch.setattr(sandbox_card, "attempt", lambda *_: (_ for _ in ()).throw(error))
    app = pressed(opened("learn", step="mpes"), "learn_trial")
    assert markup(app).count('role="alert"') == 1 and "secret" not in words(app)


def test_a_model_that_cannot_be_loaded_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_MODEL", str(tmp_path / "no-model"))
    app = pressed(opened("learn"), "learn_tokens")
    assert markup(app).count('role="alert"') == 1 and "does not exist" in words(app)
