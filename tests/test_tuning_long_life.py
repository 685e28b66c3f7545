"""The search for settings for thousands of edits: its lives, what it keeps, how it resumes, where its row is used."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, replace
from statistics import harmonic_mean

import pytest
import tiny_models
from refusals import refusal
from test_methods import SMOLLM2, UNKNOWN
from tiny_models import Snapshot
from tiny_runs import FACTS

from encore_core import model_rows
from encore_core.cli import main
from encore_core.editing.session import EditSession
from encore_core.facts import write_facts
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.methods import SETTABLE, lengths_of, settings_for
from encore_core.model_rows import ModelRow
from encore_core.models.settings import settings_of
from encore_core.tuned_rows import Shape, TunedRow, find_row, forget_row, store_row
from encore_core.tuning import long_life
from encore_core.tuning.facts import choose_facts
from encore_core.tuning.lives import HELD_OUT, Life, Look
from encore_core.tuning.long_life import LifeTuner

BASE = tiny_models.DEFAULTS | {"lambda_n": 0.001, "steps": 2}
N, BATCH = 6, 2


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))


@pytest.fixture
def tuner(gpt2, statistics_text):
    def make(**values) -> LifeTuner:
        facts, held_out = choose_facts(gpt2, FACTS, 2 * N)
        values = {"batch_size": BATCH, "statistics_text": statistics_text, "base": BASE} | values
        return LifeTuner(gpt2, "ENCORE", facts, held_out, **values)

    return make


def plain_look(lm, one: LifeTuner, n_facts: int) -> Look:
    """What a look says, by an ordinary session."""
    session = EditSession(lm, "ENCORE", settings=BASE, statistics_text=one.ground.statistics_text)
    for start in range(0, n_facts, BATCH):
        session.edit(one.facts[start : start + BATCH], known="edit", measure=False)
    with session.pristine():
        before = perplexity(lm)
    with session.edited():
        first, last = (evaluate(lm, some) for some in (one.facts[:BATCH], one.facts[n_facts - BATCH : n_facts]))
        after = perplexity(lm)
    ratio = max(now / then for then, now in session.norms().values())
    return Look(n_facts, first.overall_score, last.overall_score, first.accuracy, last.accuracy, after / before, ratio)


def check_same(looks, others, rel: float) -> None:
    for look, other in zip(looks, others, strict=True):
        assert look.tasks == other.tasks
        numbers = [{name: value for name, value in vars(one).items() if name != "tasks"} for one in (look, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=rel)


def test_a_life_is_a_session_of_batches(tuner, gpt2):
    before = Snapshot.of(gpt2)
    one = tuner()
    life = one._live("present", {}, one.facts)
    assert before.holds(gpt2) and not life.stopped and [look.edits for look in life.looks] == [BATCH, N]
    check_same(life.looks, [plain_look(gpt2, one, look.edits) for look in life.looks], 1e-6)


def test_what_is_left():
    look = Look(100, 80.0, 60.0, 0, 0, 1.25, 1.1)
    assert look.left == pytest.approx(harmonic_mean([80, 60, 80]))
    with_tasks = Look(100, 80.0, 60.0, 0, 0, 0.9, 1.1, 150.0)  # neither text nor tasks count for more than before
    assert with_tasks.left == pytest.approx(harmonic_mean([80, 60, 100, 100]))
    assert Look(100, 80.0, 0.0, 0, 0, 1.0, 1.0).left == 0


@pytest.mark.slow
def test_a_search_stores_a_row_for_thousands_beside_the_one_for_few(tuner, gpt2, monkeypatch):
    looked = []
    one = tuner()
    found = one.search(adopt=True, on_look=looked.append)
    assert found.complete and found.row.tuned_for == "thousands" and found.row.in_force
    searched = [life for life in found.lives if not life.stage.startswith("held out")]
    assert {"present", "layers", "lambda_p", "lambda_n", "lr"} <= {life.stage for life in searched}
    assert len(found.lives) <= one.most_lives and {life.stage for life in looked} == {x.stage for x in found.lives}
    top = max(life.score for life in searched)
    [kept] = [life for life in searched if life.settings == dict(found.row.settings)]
    assert kept.score >= top - long_life.TIE
    assert kept.looks[-1].norm_ratio == min(
        life.looks[-1].norm_ratio for life in searched if life.score >= top - long_life.TIE
    )
    # Held-out facts are others.
    assert not {fact.key for fact in one.facts} & {fact.key for fact in one.held_out}
    kept = json.loads(json.dumps(asdict(found.row)))
    assert [Life.of(values) for values in kept["evidence"]["lives"]] == list(found.lives)

    few, many = settings_of(gpt2, "ENCORE"), settings_of(gpt2, "ENCORE", {"tuned_for": "thousands"})
    assert (few.standing, few.tuned_for) == ("untested", "few")
    assert (many.standing, many.tuned_for) == ("tuned here", "thousands")
    assert many.lambda_p == found.row.settings["lambda_p"] and list(many.layers) == found.row.settings["layers"]
    shape = found.row.shape
    assert find_row(shape, "ENCORE") is None and lengths_of(shape, "ENCORE") == ("few", "thousands")

    def never(*args):
        raise AssertionError("a life was repeated")

    monkeypatch.setattr(LifeTuner, "_lived", never)
    forget_row(shape, "ENCORE", "thousands")
    assert tuner().search().row.settings == found.row.settings


def test_a_search_that_is_killed_goes_on_at_its_last_look(tuner, monkeypatch):
    whole = tuner()
    expected = whole._live("present", {}, whole.facts)
    whole.file.unlink()
    edit, calls = EditSession.edit, []

    def killed(session, facts, **values):
        calls.append(len(facts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return edit(session, facts, **values)

    monkeypatch.setattr(EditSession, "edit", killed)
    one = tuner()
    with pytest.raises(KeyboardInterrupt):
        one._live("present", {}, one.facts)
    assert one._state_file.exists()
    again = tuner()
    life = again._live("present", {}, again.facts)
    assert calls == [2] * 5, "the first batch was made once, and its look taken over"
    check_same(life.looks, expected.looks, 1e-9)
    assert not again._state_file.exists()


@pytest.mark.parametrize("content", [b"", b"not a state"])
def test_a_damaged_state_costs_time_alone(tuner, content):
    one = tuner()
    one.file.parent.mkdir(parents=True)
    one._state_file.write_bytes(content)
    assert [look.edits for look in one._live("present", {}, one.facts).looks] == [BATCH, N]


def test_a_life_that_is_behind_is_stopped(tuner, monkeypatch):
    monkeypatch.setattr(long_life, "BEHIND", -1000.0)
    found = tuner().search()
    searched = [life for life in found.lives if not life.stage.startswith("held out")]
    assert all(life.stopped and len(life.looks) == 1 and life.score == 0 for life in searched)
    # The comparison is never stopped.
    assert all(not life.stopped for life in found.lives if life.stage.startswith("held out"))


def test_settings_that_cannot_be_solved_end_a_life(tuner, monkeypatch):
    from encore_core.errors import InputError

    def refuse(session, facts, **values):
        raise InputError("The equations have no solution.")

    monkeypatch.setattr(EditSession, "edit", refuse)
    one = tuner()
    life = one._live("present", {}, one.facts)
    assert (life.looks, life.score, life.stopped) == ((), 0.0, "The equations have no solution.")


def test_settings_that_give_no_P_end_a_life_and_a_restart_does_not_repeat_it(gpt2, statistics_text, monkeypatch):
    facts, held_out = choose_facts(gpt2, FACTS, 2 * N)
    values = {"batch_size": BATCH, "statistics_text": statistics_text, "base": tiny_models.DEFAULTS}
    life = LifeTuner(gpt2, "AlphaEdit", facts, held_out, **values)._live(
        "null_threshold", {"null_threshold": 1e-30}, facts
    )
    assert "No eigenvalue of the key statistics is below 1e-30" in life.stopped and life.looks == ()
    again = LifeTuner(gpt2, "AlphaEdit", facts, held_out, **values)
    monkeypatch.setattr(EditSession, "prepare", lambda *_: pytest.fail("the life was repeated"))
    assert again._live("null_threshold", {"null_threshold": 1e-30}, facts) == life


def test_the_budget_cuts_the_search_and_not_the_comparison(tuner):
    assert "not enough" in refusal(tuner().search, minutes=1e-9)
    first = tuner()
    first._live("present", {}, first.facts)
    found = tuner().search(minutes=1e-9)
    assert not found.complete and [life.stage for life in found.lives] == ["present", "held out: present"]
    assert not found.row.in_force, "what is no better than the settings for a few edits is not used"


def test_tasks_count_at_the_end(tuner, monkeypatch):
    """The tiny model's context is too short for real ones."""
    f1 = iter([40.0, 30.0])
    monkeypatch.setattr(LifeTuner, "_mean_f1", lambda self, lm: next(f1))
    one = tuner(tasks={"sst2": None})
    looks = one._live("present", {}, one.facts).looks
    assert [look.tasks for look in looks] == [None, 75.0]


def test_a_horizon_needs_two_batches(tuner):
    assert "no first and last batch" in refusal(tuner, batch_size=4)


def test_settings_for_thousands_are_those_of_a_row_and_refused_without_one():
    assert settings_for("ENCORE", **SMOLLM2, overrides={"tuned_for": "thousands"}).tuned_for == "thousands"
    assert "encore tune --horizon" in refusal(settings_for, "ENCORE", **UNKNOWN, overrides={"tuned_for": "thousands"})
    assert "tuned_for" in refusal(settings_for, "ENCORE", **SMOLLM2, overrides={"tuned_for": "ever"})
    # A list of edits names every setting: it needs no row to be loaded where there is none.
    given = {name: getattr(settings_for("ENCORE", **UNKNOWN), name) for name in SETTABLE} | {"tuned_for": "thousands"}
    assert settings_for("ENCORE", **UNKNOWN, overrides=given).tuned_for == "thousands"
    shape = Shape(**UNKNOWN)
    row = TunedRow(shape, "mine", "f" * 16, "ENCORE", {"lambda_p": 7}, False, {}, "thousands")
    store_row(row)
    assert lengths_of(shape, "ENCORE") == ("few",), "a row that is not in force"


def test_the_embedded_model_has_settings_for_thousands_of_both_rows():
    few, many = (settings_for("ENCORE-N", **SMOLLM2, overrides={"tuned_for": word}) for word in ("few", "thousands"))
    assert (few.lambda_p, few.pushes, many.lambda_p, many.pushes) == (900, 0, 2000, 2)
    assert replace(many, lambda_p=900, pushes=0, tuned_for="few") == few
    assert lengths_of(Shape(**SMOLLM2), "ENCORE") == lengths_of(Shape(**SMOLLM2), "ENCORE-N") == ("few", "thousands")


def test_a_row_tuned_here_takes_nothing_from_the_published_one_for_thousands():
    """Its lives were lived without; one from before pushes were searched says nothing of them."""
    shape = Shape(**SMOLLM2)
    store_row(TunedRow(shape, "mine", "f" * 16, "ENCORE-N", {"lambda_p": 7}, True, {}, "thousands"))
    found = settings_for("ENCORE-N", **SMOLLM2, overrides={"tuned_for": "thousands"})
    assert (found.lambda_p, found.pushes) == (7, 0)


def test_a_search_tries_the_known_settings_for_thousands_with_their_pushes(tuner, gpt2, monkeypatch):
    row = ModelRow(*astuple(gpt2.shape), {}, {}, "a paper", for_thousands={"ENCORE": {"pushes": 2}})
    monkeypatch.setattr(model_rows, "MODEL_ROWS", (row,))
    one = tuner()
    [known] = one._other_rows()
    life = one._live("known", known, one.facts)
    assert known["pushes"] == life.settings["pushes"] == 2 and not life.stopped


def test_the_command(tiny_folder, tmp_path, capsys, statistics_text, monkeypatch):
    for axis in ("_layers", "_walk"):  # the search itself is tested above
        monkeypatch.setattr(LifeTuner, axis, lambda self, *rest: None)
    facts = tmp_path / "facts.jsonl"
    write_facts(FACTS, facts)
    words = ["tune", "--model", str(tiny_folder), "--facts", str(facts), "--horizon", "4", "--batch-size", "2"]
    words += ["--device", "cpu", "--statistics", str(statistics_text), "--method", "ENCORE", "--json"]
    assert main([*words, "--estimate"]) == 0
    assert json.loads(capsys.readouterr().out)["lives"] > 3
    assert main([*words, "--adopt"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["tuned_for"] == "thousands" and row["in_force"] and row["evidence"]["facts"] == 4
    assert main(words[:-1]) == 0
    assert "Found for ENCORE" in capsys.readouterr().out
    assert main([*words, "--forget"]) == 0 and main([*words, "--forget"]) == 2
    short = [word for word in words if word not in ("--horizon", "4")]
    for bad in ([*words, "--horizon", "99999"], [*words, "--batch-size", "3"], [*short, "--downstream", str(tmp_path)],
                [*words, "--downstream", str(tmp_path / "none")]):  # fmt: skip
        capsys.readouterr()
        assert main(bad) == 2
        assert capsys.readouterr().err.count("encore:") == 1


def test_what_costs_propose_is_found_once(tuner, monkeypatch):
    one = tuner()
    one._live("present", {}, one.facts)
    one._layers()
    monkeypatch.setattr(long_life, "layer_costs", lambda *_, **__: pytest.fail("was found before"))
    again = tuner()
    again._live("present", {}, again.facts)
    again._layers()
    assert [life.settings for life in again.lives] == [life.settings for life in one.lives]


@pytest.mark.parametrize("method", ["UltraEdit", "CrispEdit"])
def test_a_method_that_follows_gradients_is_tuned_by_its_learning_rate(gpt2, statistics_text, method):
    facts, held_out = choose_facts(gpt2, FACTS, 2 * N)
    base = {"lr": 0.1, "layers": (0, 1), "steps": 2}
    one = LifeTuner(gpt2, method, facts, held_out, batch_size=BATCH, statistics_text=statistics_text, base=base)
    found = one.search()
    assert set(found.row.settings) == {"layers", "lr"} and found.complete
    tried = {life.settings["lr"] for life in found.lives if life.stage == "lr"}
    assert 0.4 in tried and max(tried) <= 100
    assert [1] in [life.settings["layers"] for life in found.lives if life.stage == "layers"]
    assert len(found.lives) <= one.most_lives and {life.stage for life in found.lives} >= {f"{HELD_OUT}present"}
