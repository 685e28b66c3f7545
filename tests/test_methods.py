"""The tables of methods and hyper-parameters, how overrides are read, and what is refused with which words."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest
from refusals import refusal

from encore_core.editing.session import EditSession
from encore_core.methods import METHODS, PAPER, SETTABLE, find_method, override, settings_for
from encore_core.model_rows import MODEL_ROWS, default_layers
from encore_core.models.settings import settings_of

PAPERS_ROWS = [name for name, row in METHODS.items() if row.source == PAPER]
PAPER_TABLES = Path(__file__).parents[2] / "shared/data/paper_tables.csv"
SMOLLM2 = {"model_type": "llama", "n_layers": 30, "d_model": 576, "n_vocab": 49152}
SHAPES = {
    "GPT2-XL": {"model_type": "gpt2", "n_layers": 48, "d_model": 1600, "n_vocab": 50257},
    "Llama2-7B": {"model_type": "llama", "n_layers": 32, "d_model": 4096, "n_vocab": 32000},
    "Llama3-8B": {"model_type": "llama", "n_layers": 32, "d_model": 4096, "n_vocab": 128256},
}
UNKNOWN = {"model_type": "llama", "n_layers": 12, "d_model": 64, "n_vocab": 100}


@pytest.mark.parametrize(
    ("name", "preservation", "norm", "equality", "mpes"),
    [
        ("MEMIT", "inverse", False, False, False),
        ("EMMET", "inverse", False, True, False),
        ("AlphaEdit", "null_space", False, False, False),
        ("ENCORE", "inverse", True, False, True),
        ("MEMIT+MPES", "inverse", False, False, True),
        ("EMMET+MPES", "inverse", False, True, True),
        ("AlphaEdit+MPES", "null_space", False, False, True),
        ("MEMIT+norm", "inverse", True, False, False),
    ],
)
def test_the_rows(name, preservation, norm, equality, mpes):
    row = METHODS[name]
    assert (row.preservation, row.norm_constraint, row.equality, row.mpes) == (preservation, norm, equality, mpes)
    settings = settings_for(name, **SMOLLM2)
    assert (settings.lambda_n > 0) == norm
    assert (settings.mpes, settings.equality, settings.preservation) == (mpes, equality, preservation)
    assert row.summary.endswith(".")
    for n_facts in (1, 2, 100):
        assert settings.slack(n_facts) == ((0.1 if n_facts > 1 else 0.0) if equality else 1.0)


LATER_ROWS = {
    "SPHERE": "arXiv 2510.01172", "AlphaEdit+NAS": "arXiv 2602.02543", "ENCORE+NAS": "", "ENCORE-N": "",
    "BetaEdit": "arXiv 2605.09285",
    "LyapLock": "arXiv 2505.15702", "UltraEdit": "arXiv 2505.14679", "StableEdit": "ICML 2026",
}  # fmt: skip
"""Rows from elsewhere, and the paper of each; ours have none."""


def test_there_are_no_other_rows():
    assert len(PAPERS_ROWS) == 8
    assert {name: row.source for name, row in METHODS.items() if name not in PAPERS_ROWS} == LATER_ROWS


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("method", PAPERS_ROWS)
def test_published_hyper_parameters(model, method):
    settings = settings_for(method, **SHAPES[model])
    assert settings.validated
    assert settings.clamp == 0.75
    assert settings.weight_decay == 0.5
    assert settings.kl_factor == 0.0625
    assert (settings.null_threshold, settings.l2, settings.epsilon) == (0.02, 10, 0.1)
    assert settings.lr == (0.1 if "AlphaEdit" in method and "Llama" in model else 0.5)
    emmet = "EMMET" in method
    if model == "GPT2-XL":
        assert settings.layers == ((17,) if emmet else (13, 14, 15, 16, 17))
        assert settings.steps == 20
    else:
        assert settings.layers == ((5,) if emmet else (4, 5, 6, 7, 8))
        assert settings.steps == 25


@pytest.mark.skipif(not PAPER_TABLES.is_file(), reason="the paper's tables are not beside this checkout")
@pytest.mark.parametrize("model", SHAPES)
def test_the_papers_own_table(model):
    """λp, λn and MPES steps as printed in tables 6 to 8 (CounterFact)."""
    with PAPER_TABLES.open(encoding="utf-8") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if row["table"] in ("6", "7", "8") and row["dataset"] == "CounterFact" and row["model"] == model
        ]
    assert rows
    ours = {"Norm Constraint": "MEMIT+norm"} | {name.replace("+", " + "): name for name in METHODS}
    checked = 0
    for row in rows:
        assert row["quantity"] in ("lambda_p", "lambda_n", "mpes_extra_steps")
        settings = settings_for(ours[row["method"]], **SHAPES[model])
        assert getattr(settings, row["quantity"]) == float(row["value"]), row
        checked += 1
    assert checked >= 11


def test_the_embedded_model_has_a_row():
    settings = settings_for("ENCORE", **SMOLLM2)
    assert settings.validated
    assert settings.layers == (6, 7, 8, 9, 10)
    assert settings.steps == 20
    assert settings.statistics_tokens == 30_000


@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: f"{row.model_type}-{row.d_model}-{row.n_vocab}")
def test_every_row_makes_settings_for_every_method(row):
    for method in METHODS:
        settings = settings_for(
            method, model_type=row.model_type, n_layers=row.n_layers, d_model=row.d_model, n_vocab=row.n_vocab or 1
        )
        assert settings.layers[-1] < row.n_layers - 1
        # What the tables say would be accepted from a user as well.
        assert override(settings, {name: asdict(settings)[name] for name in SETTABLE}, row.n_layers) == settings


def test_a_model_without_a_row_is_marked_untested():
    settings = settings_for("MEMIT", **UNKNOWN)
    assert not settings.validated
    assert settings.layers == default_layers(12)


@pytest.mark.parametrize("n_layers", range(2, 100))
def test_default_layers_can_be_edited(n_layers):
    layers = default_layers(n_layers)
    assert 1 <= len(layers) <= 5
    assert list(layers) == list(range(layers[0], layers[-1] + 1))
    assert layers[0] >= 0
    assert layers[-1] <= n_layers - 2


def test_overrides_and_the_validated_mark():
    base = settings_for("ENCORE", **SMOLLM2)
    assert override(base, {}, 30) == base
    assert override(base, {"steps": str(base.steps), "layers": "6-10"}, 30).validated  # equal to the table's
    changed = override(base, {"lambda_p": "15000", "steps": "7", "sequential": "no", "layers": "3,4"}, 30)
    assert not changed.validated
    assert (changed.lambda_p, changed.steps, changed.sequential, changed.layers) == (15000.0, 7, False, (3, 4))
    assert isinstance(changed.steps, int)
    assert base.steps == 20  # nothing is written to


@pytest.mark.parametrize(
    ("value", "layers"),
    [("6-10", (6, 7, 8, 9, 10)), ("6,7,9", (6, 7, 9)), ("6", (6,)), (6, (6,)), ([6, 7], (6, 7)), ((0, 28), (0, 28)),
     ("[6, 7]", (6, 7)), ("6-8, 10", (6, 7, 8, 10)), (" 3 - 5 ", (3, 4, 5))],
)  # fmt: skip
def test_layers(value, layers):
    assert override(settings_for("ENCORE", **SMOLLM2), {"layers": value}, 30).layers == layers


@pytest.mark.parametrize(
    "value",
    ["", "a", "5-3", "3,3", "7,6", "-1", "29", "28-29", "1-2-3", "0-99999999999", None, [], [None], [6.5], 6.5,
     float("nan"), float("inf"), [[6]], {"a": 1}, "6..10", [29], [-1]],
    ids=repr,
)  # fmt: skip
def test_layers_that_are_refused(value):
    message = refusal(override, settings_for("ENCORE", **SMOLLM2), {"layers": value}, 30)
    assert "layers" in message
    assert "between 0 and 28" in message
    assert repr(value)[:20] in message


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [
        ("lambda_p", 0, "above 0", "1e+12"), ("lambda_p", "-1", "above 0", "1e+12"),
        ("lambda_n", -0.1, "from 0", "1e+12"), ("epsilon", "x", "from 0", "1e+06"),
        ("null_threshold", 0, "above 0", "1e+12"), ("l2", None, "above 0", "1e+12"),
        ("steps", 0, "from 1", "1,000"), ("steps", 2.5, "from 1", "1,000"), ("steps", 1001, "from 1", "1,000"),
        ("steps", "ten", "from 1", "1,000"), ("lr", 0, "above 0", "100"), ("lr", "nan", "above 0", "100"),
        ("lr", float("inf"), "above 0", "100"), ("clamp", -1, "above 0", "100"),
        ("weight_decay", [], "from 0", "1e+06"), ("kl_factor", "", "from 0", "1e+06"),
        ("mpes_extra_steps", -1, "from 0", "1,000"), ("statistics_tokens", 99, "from 100", "1,000,000,000"),
    ],
)  # fmt: skip
def test_values_out_of_range(name, value, low, high):
    message = refusal(override, settings_for("ENCORE", **SMOLLM2), {name: value}, 30)
    assert all(part in message for part in (name, repr(value), low, high))


def test_a_number_of_hundreds_of_digits_is_out_of_range():
    """An edit file may have one, and it is no float."""
    for name in ("lambda_p", "steps"):
        message = refusal(override, settings_for("ENCORE", **SMOLLM2), {name: 10**400}, 30)
        assert name in message and "must be a" in message and len(message) < 300


@pytest.mark.parametrize("name", ["sequential", "bfloat16"])
def test_truth_values(name):
    base = settings_for("ENCORE", **SMOLLM2)
    for value, meaning in (
        ("true", True),
        ("Yes", True),
        (1, True),
        (True, True),
        ("0", False),
        ("no", False),
        (False, False),
    ):
        assert getattr(override(base, {name: value}, 30), name) is meaning
    message = refusal(override, base, {name: "perhaps"}, 30)
    assert name in message
    assert "'perhaps'" in message


def test_unknown_settings_and_methods():
    base = settings_for("ENCORE", **SMOLLM2)
    assert "did you mean 'lambda_p'" in refusal(override, base, {"lambdap": 1}, 30)
    assert "lambda_n" in refusal(override, base, {"zzz": 1}, 30)
    for name in ("validated", "equality", "preservation", "method"):  # a row's own, not to be set
        assert repr(name) in refusal(override, base, {name: "x"}, 30)
    message = refusal(find_method, "ROME")
    assert "'ROME'" in message
    assert all(name in message for name in METHODS)
    for nonsense in (None, 3, ""):
        refusal(find_method, nonsense)
    assert find_method(" encore ").name == "ENCORE"
    assert find_method("memit+MPES").name == "MEMIT+MPES"


def test_a_session_refuses_before_it_works(llama):
    assert "'ROME'" in refusal(EditSession, llama, "ROME")
    assert "steps" in refusal(EditSession, llama, settings={"steps": 0})
    assert "between 0 and 4" in refusal(EditSession, llama, settings={"layers": "5"})
    assert settings_of(llama, "ENCORE").layers == default_layers(6)


def test_a_norm_constraint_is_refused_where_the_method_has_none():
    """MEMIT with λn would be another method under MEMIT's name."""
    for name in ("MEMIT", "EMMET", "AlphaEdit"):
        assert "norm constraint" in refusal(settings_for, name, **SMOLLM2, overrides={"lambda_n": 5})
        assert settings_for(name, **SMOLLM2, overrides={"lambda_n": 0}).lambda_n == 0
    assert settings_for("MEMIT+norm", **SMOLLM2, overrides={"lambda_n": 7}).lambda_n == 7
