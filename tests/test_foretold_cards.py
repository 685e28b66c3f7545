"""Estimated damage on Contributions (which layers pay) and on Models (which blocks to edit)."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pandas as pd
import pytest
import tiny_pages
import tiny_runs
from tiny_models import DEFAULTS
from tiny_pages import errors, markup, opened, pressed

from dashboard.charts import foretold as charts
from dashboard.charts.palette import LIGHT
from dashboard.charts.runs import Line
from dashboard.parts.edit.foretold import HOW_FAR
from dashboard.parts.models import blocks_card
from dashboard.reading import foretold_rows
from encore_core.editing.layer_costs import BlockCost, layer_costs
from encore_core.runs import RunStore, series
from encore_core.runs.recorded import recorded_runs

MEASURES = pd.DataFrame(
    [
        ("a", 0, "perplexity", 40.0), ("a", 0, "foretold_damage", 0.0), ("a", 0, "foretold_damage.1", 0.0),
        ("a", 0, "foretold_damage.2", 0.0), ("a", 10, "perplexity", 50.0), ("a", 10, "foretold_damage", 0.04),
        ("a", 10, "foretold_damage.1", 0.01), ("a", 10, "foretold_damage.2", 0.03),
        ("b", 0, "perplexity", 40.0), ("b", 10, "perplexity", 90.0),
    ],
    columns=["run", "edits", "metric", "value"],
)  # fmt: skip


def test_rows_have_layers_their_sum_and_the_logarithm_of_the_ratio():
    frame = foretold_rows.of_runs(MEASURES)
    assert set(frame["run"]) == {"a"}  # nothing was foretold of b
    last = frame[frame["edits"] == 10].set_index(["kind", "layer"])["value"]
    found = {(kind, None if pd.isna(layer) else int(layer)): value for (kind, layer), value in last.items()}
    assert found == pytest.approx(
        {("sum", None): 0.04, ("layer", 1): 0.01, ("layer", 2): 0.03, ("measured", None): math.log(1.25)}
    )
    [told] = foretold_rows.what_costs_most(frame, {"a": "ENCORE"})
    assert told == (
        "ENCORE, after 10 edits: the change of layer 2 costs most, 75 % of 0.04 nats per token, estimated; log "
        "perplexity ratio on the fixed text: 0.22."
    )
    chart = charts.over_edits(frame, [Line("a", "ENCORE", "ENCORE", (1, 2))], LIGHT)
    drawn = {trace.name: list(trace.y) for trace in chart.figure.data}
    assert drawn == {
        "layer 1": [0.01], "layer 2": [0.03], "all layers, estimated": [0.04],
        "measured on a text": [pytest.approx(math.log(1.25))],
    }  # fmt: skip
    assert foretold_rows.of_runs(MEASURES[MEASURES["run"] == "b"]).empty
    # A last checkpoint that had no time for it.
    later = pd.concat([MEASURES, pd.DataFrame([("a", 20, "perplexity", 60.0)], columns=MEASURES.columns)])
    assert foretold_rows.what_costs_most(foretold_rows.of_runs(later), {"a": "ENCORE"}) == [told]


def test_blocks_have_medians_quartiles_and_the_share_reached():
    costs = [BlockCost(4, (1.0, 2.0, 3.0, 10.0), (5, 6, 7, 25), (True, True, True, False))]
    [row] = foretold_rows.of_blocks(costs, (4,)).itertuples(index=False)
    assert (row.layer, row.damage, row.steps, row.reached, row.edited) == (4, 2.5, 7, 75.0, True)
    assert row.low < row.damage < row.high
    [single] = foretold_rows.of_blocks([BlockCost(0, (2.0,), (5,), (True,))], (4,)).itertuples(index=False)
    assert single.low == single.damage == single.high == 2.0 and not single.edited


def test_contributions_shows_which_layers_pay(tiny_folder, statistics_text, monkeypatch, tmp_path):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    store = RunStore()
    quick = tiny_runs.QUICK
    ids = [
        store.submit([tiny_runs.prepared(tiny_folder, statistics_text, measure=measure)])[0]
        for measure in (quick, replace(quick, foretold_damage=True))
    ]
    tiny_runs.worker(store).serve()
    drawn = tiny_pages.cards(monkeypatch)
    page = opened("contributions", run=ids)
    assert not errors(page) and re.search("change of layer [01] costs most", markup(page))
    chart, frame = drawn["foretold over edits"]
    assert set(frame["kind"]) == {"layer", "sum"} and set(frame["run"]) == {ids[1]}
    last = frame[frame["edits"] == 10]
    by_kind = last.groupby("kind")["value"].sum()
    assert by_kind["layer"] == pytest.approx(by_kind["sum"]) and by_kind["sum"] > 0
    assert any(trace.name == "all layers, estimated" for trace in chart.figure.data)
    page = opened("contributions", run=ids[:1])
    assert not errors(page) and "costs most" not in markup(page)


def test_models_searches_at_every_block_of_the_model_at_hand(tiny_folder, statistics_text, monkeypatch, tmp_path):
    from test_page_models import page_of

    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    seen = []

    def few(lm, facts, method, progress):
        settings = {name: value for name, value in DEFAULTS.items() if name != "layers"}
        seen.append(layer_costs(lm, facts[:2], method, [0, 1], settings=settings, text=statistics_text))
        return seen[-1]

    monkeypatch.setattr(blocks_card, "layer_costs", few)
    drawn = tiny_pages.cards(monkeypatch)
    page = pressed(page_of(tiny_folder), "blocks")
    assert not errors(page) and "By this estimate the cheapest blocks are" in markup(page)
    [costs] = seen
    _, frame = drawn["cost by block"]
    assert list(frame["layer"]) == [one.layer for one in costs] == [0, 1]
    assert list(frame["damage"]) == pytest.approx([one.median_damage for one in costs])


def test_models_gives_the_command_for_another_model(tiny_folder, monkeypatch):
    from test_page_models import page_of

    monkeypatch.setenv("ENCORE_MODEL", "another")
    page = page_of(tiny_folder)
    assert any(f"encore layers --model {tiny_folder}" in element.value for element in page.code)
    assert not any(button.key == "blocks" for button in page.button)


def test_how_far_the_estimate_is_to_be_trusted_is_what_the_recorded_runs_show():
    store = recorded_runs()
    factors, methods = [], set()
    for run in store.runs():
        frame = series.measures(store, [run.id], None).pivot(index="edits", columns="metric", values="value")
        if "foretold_damage" not in frame or "perplexity" not in frame or 0 not in frame.index:
            continue
        lost = (frame["perplexity"] / frame["perplexity"][0]).map(math.log)
        found = (lost / frame["foretold_damage"])[(frame.index > 0) & (lost > 0)].dropna()
        factors += list(found)
        methods |= {run.method} if len(found) else set()
    assert len(methods) == 15 and "fifteen methods" in HOW_FAR
    assert f"was {min(factors):.1f} to {max(factors):.1f} times as large" in HOW_FAR
