"""The search for hyper-parameters: what it tries, what it keeps, how it goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, replace

import pytest
import tiny_models
from refusals import refusal
from test_methods import UNKNOWN
from tiny_models import Snapshot
from tiny_runs import FACTS

from encore_core import model_rows
from encore_core.cli import main
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import write_facts
from encore_core.measures.answers import Answer
from encore_core.methods import override, settings_for
from encore_core.model_rows import ModelRow
from encore_core.models.editable import load_model
from encore_core.models.settings import settings_of
from encore_core.tuned_rows import Shape, TunedRow, find_row, forget_row, store_result, store_row
from encore_core.tuning.facts import choose_facts
from encore_core.tuning.ground import Ground
from encore_core.tuning.search import Tuner

BASE = tiny_models.DEFAULTS | {"lambda_n": 0.001, "steps": 4}
ALPHA = tiny_models.DEFAULTS | {"steps": 4}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))


@pytest.fixture
def tuner(gpt2, statistics_text):
    def make(**values) -> Tuner:
        facts, held_out = choose_facts(gpt2, FACTS, 6)
        return Tuner(gpt2, "ENCORE", facts, held_out, statistics_text=statistics_text, base=BASE, **values)

    return make


def test_a_search_finds_and_stores_a_row_and_a_restart_tries_nothing_again(tuner, gpt2, monkeypatch):
    before = Snapshot.of(gpt2)
    searched = tuner()
    found = searched.search()
    assert before.holds(gpt2) and found.complete
    seen = [trial for trial in found.trials if not trial.stage.startswith("held out")]
    assert {"present", "lambda_p", "lambda_n", "lr"} <= {trial.stage for trial in seen}
    best = max(trial.overall for trial in seen)
    [kept] = [t for t in seen if {n: t.settings[n] for n in searched.names} == found.row.settings]
    assert kept.overall >= best - 1 and kept.norm_ratio == min(t.norm_ratio for t in seen if t.overall >= best - 1)
    assert [t.stage for t in found.trials[-2:]] == ["held out: present", "held out: found"]
    assert all(t.norm_ratio > 1 and t.perplexity_ratio > 0 and t.seconds > 0 for t in found.trials)
    # The settings of the model are now these.
    settings = settings_of(gpt2, "ENCORE")
    assert settings.standing == "tuned here" and settings.lambda_p == found.row.settings["lambda_p"]
    assert settings_of(gpt2, "MEMIT").standing == "untested"

    def never(*args):
        raise AssertionError("a trial was repeated")

    forget_row(found.row.shape, "ENCORE")
    again = tuner()
    monkeypatch.setattr(Tuner, "_measure", never)
    assert again.search().row.settings == found.row.settings


def test_a_trial_is_an_ordinary_edit(tuner, gpt2, new_session):
    """Targets found once and handed over give what an edit from nothing gives."""
    one = tuner()
    one._on_trial = lambda trial: None
    trial = one._try("present", {}, one.facts)
    session = new_session(gpt2, lambda_n=0.001, steps=4)
    session.edit(one.facts, known="edit")
    ratio = max(after / before for before, after in session.norms().values())
    assert trial.norm_ratio == pytest.approx(ratio, rel=1e-6)


def test_the_budget_cuts_the_search_and_not_the_comparison(tuner):
    found = tuner().search(minutes=1e-6)
    assert not found.complete
    assert [trial.stage for trial in found.trials] == ["present", "held out: present", "held out: found"]
    whole = tuner().search()
    assert whole.complete and len(whole.trials) > 3


def test_facts_are_halved_and_too_few_are_refused(gpt2):
    seen, unseen = choose_facts(gpt2, FACTS, 8)
    assert len(seen) == len(unseen) == 4 and not {f.key for f in seen} & {f.key for f in unseen}
    assert "are needed" in refusal(choose_facts, gpt2, FACTS, 100)
    assert "0 can be searched" in refusal(choose_facts, gpt2, tiny_models.FACTS, 4)
    assert "too few" in refusal(choose_facts, gpt2, FACTS, 2)


def test_the_estimate_bounds_the_trials(tuner):
    cost = tuner().estimate()
    assert cost.seconds > 0 and len(tuner().search().trials) <= cost.trials


ROW = TunedRow(Shape(**UNKNOWN), "mine", "f" * 16, "ENCORE", {"lambda_p": 7, "layers": [1, 2]}, True, {})


def test_the_three_standings():
    assert settings_for("ENCORE", **UNKNOWN).standing == "untested"
    store_row(ROW)
    tuned = settings_for("ENCORE", **UNKNOWN)
    assert (tuned.standing, tuned.lambda_p, tuned.layers) == ("tuned here", 7, (1, 2))
    assert settings_for("ENCORE", **UNKNOWN, fingerprint="f" * 16) == tuned
    other = settings_for("ENCORE", **UNKNOWN, fingerprint="0" * 16)
    assert other.standing == "untested" and other.lambda_p == 7
    assert override(tuned, {"lambda_p": 8}, 12).standing == "untested"
    assert override(tuned, {"lambda_p": 7}, 12).standing == "tuned here"
    assert forget_row(ROW.shape, "ENCORE") and not forget_row(ROW.shape, "ENCORE")


def test_a_row_that_is_not_in_force_or_cannot_be_read_changes_nothing(tmp_path):
    file = store_row(replace(ROW, in_force=False))
    assert settings_for("ENCORE", **UNKNOWN).standing == "untested" and find_row(ROW.shape, "ENCORE") is not None
    for text in ("", "[]", "{}", '{"version": 1}', file.read_text("utf-8").replace('"ENCORE"', '"MEMIT"')):
        file.write_text(text, encoding="utf-8")
        assert find_row(ROW.shape, "ENCORE") is None


def test_what_is_found_does_not_take_a_better_row_out_of_force():
    worse = replace(ROW, settings={"lambda_p": 1000}, in_force=False)
    assert store_result(worse) is not None and find_row(ROW.shape, "ENCORE") == worse
    assert store_result(ROW) is not None
    assert store_result(worse) is None and find_row(ROW.shape, "ENCORE") == ROW
    assert settings_for("ENCORE", **UNKNOWN).lambda_p == 7
    adopted = replace(worse, in_force=True)
    assert store_result(adopted) is not None and find_row(ROW.shape, "ENCORE") == adopted


def test_a_model_with_published_settings_has_them_whatever_was_adopted(gpt2, monkeypatch):
    shape = gpt2.shape
    row = ModelRow(*astuple(shape), {"lambda_p": 5}, {}, "a paper", for_thousands={"ENCORE": {"lambda_p": 6}})
    monkeypatch.setattr(model_rows, "MODEL_ROWS", (row,))
    published = lambda method, *edits: Ground(gpt2, method, 0, None, None).is_published(*edits)  # noqa: E731
    for adopted in (False, True):
        if adopted:
            store_row(replace(ROW, shape=shape))
        assert settings_of(gpt2, "ENCORE").validated == (not adopted)
        assert published("ENCORE") and published("ENCORE", "thousands") and not published("MEMIT", "thousands")
        assert not published("ENCORE-N"), "nothing was published for this method"


def test_trials_are_kept_apart_by_all_that_they_depend_on(gpt2, tiny_folder, statistics_text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(statistics_text.read_text("utf-8") + " And more of it.", encoding="utf-8")
    started = load_model(str(tiny_folder), "cpu", start_token="<|begin|>")
    files = {
        Ground(lm, "ENCORE", 0, text, BASE).file(1, FACTS[:2])
        for lm, text in ((gpt2, statistics_text), (gpt2, other), (started, statistics_text))
    }
    assert started.fingerprint == gpt2.fingerprint and len({file.name for file in files}) == 3
    copy = tmp_path / "copy.txt"
    copy.write_bytes(statistics_text.read_bytes())
    assert Ground(gpt2, "ENCORE", 0, copy, BASE).file(1, FACTS[:2]) in files


def test_settings_that_cannot_be_edited_with_say_why_and_are_written_as_json(tuner, gpt2, monkeypatch):
    def refuse(*args, **values):
        raise InputError("no such update")

    monkeypatch.setattr(EditSession, "edit", refuse)
    one = tuner()
    trial = one._measure("present", one.ground.session({}), {}, list(FACTS[:2]))
    assert (trial.overall, trial.norm_ratio, trial.perplexity_ratio) == (0, None, None)
    assert trial.stopped == "no such update" and json.dumps(asdict(trial), allow_nan=False)


def test_settings_that_give_no_P_are_a_trial_and_a_restart_does_not_repeat_it(gpt2, statistics_text, monkeypatch):
    facts, held_out = choose_facts(gpt2, FACTS, 6)
    make = lambda: Tuner(gpt2, "AlphaEdit", facts, held_out, statistics_text=statistics_text, base=ALPHA)  # noqa: E731
    trial = make()._try("null_threshold", {"null_threshold": 1e-30}, facts)
    assert "No eigenvalue of the key statistics is below 1e-30" in trial.stopped and trial.overall == 0
    again = make()
    monkeypatch.setattr(EditSession, "prepare", lambda *_: pytest.fail("the trial was repeated"))
    assert again._try("null_threshold", {"null_threshold": 1e-30}, facts) == trial


def test_settings_that_cannot_be_edited_with_are_not_put_in_force(tuner, monkeypatch):
    def refuse(*args, **values):
        raise InputError("no such update")

    monkeypatch.setattr(EditSession, "edit", refuse)
    found = tuner().search(minutes=1e-6)
    assert all(trial.stopped for trial in found.trials) and not found.row.in_force


def test_what_the_model_says_is_asked_with_what_joins_prompt_and_answer(gpt2, monkeypatch):
    asked = []

    def answers(lm, some):
        asked.extend(some)
        return [Answer(-1.0, (False,))] * len(some)

    monkeypatch.setattr("encore_core.tuning.facts.answer_probabilities", answers)
    choose_facts(gpt2, [replace(fact, join="") for fact in FACTS], 6)
    assert asked and all(one.join == "" for one in asked)


def test_the_command(tiny_folder, tmp_path, capsys, statistics_text):
    facts = tmp_path / "facts.jsonl"
    write_facts(FACTS, facts)
    words = ["tune", "--model", str(tiny_folder), "--facts", str(facts), "--n-facts", "4", "--device", "cpu"]
    words += ["--statistics", str(statistics_text), "--method", "ENCORE", "--json"]
    assert main([*words, "--estimate"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] > 3
    assert main([*words, "--minutes", "0.001"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["in_force"] and len(row["evidence"]["trials"]) == 3 and not row["evidence"]["complete"]
    assert main([*words, "--forget"]) == 0 and main([*words, "--forget"]) == 2
    for bad in (
        ["--batch-size", "5"],
        ["--horizon", "2"],
        ["--minutes", "0"],
        ["--n-facts", "3"],
        ["--n-facts", "999"],
        ["--method", "ROME"],
    ):
        capsys.readouterr()
        assert main([*words, *bad]) == 2
        assert capsys.readouterr().err.count("encore:") == 1


def test_a_method_without_targets_is_tuned_by_its_learning_rate(gpt2, statistics_text):
    facts, held_out = choose_facts(gpt2, FACTS, 12)
    one = Tuner(gpt2, "UltraEdit", facts, held_out, statistics_text=statistics_text, base={"lr": 0.1, "layers": (0, 1)})
    found = one.search()
    assert set(found.row.settings) == {"layers", "lr"} and found.complete and found.row.evidence["trace"] is None
    assert {trial.stage for trial in found.trials} == {
        "present",
        "layers",
        "lr",
        "held out: present",
        "held out: found",
    }
    assert len(found.trials) <= one.estimate().trials
