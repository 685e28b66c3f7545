"""What runs record and pages show, against an exported model measured by plain transformers alone."""

from __future__ import annotations

import json
from dataclasses import replace

import plain_measures
import pytest
import tiny_pages
import tiny_runs
import torch
from plain_measures import TOLERANCE, Asked
from test_run_pages import rows_of
from tiny_pages import opened
from transformers import AutoModelForCausalLM, AutoTokenizer

from encore_core.runs import RunStore
from encore_core.runs.export import export_run

MEASURED = replace(tiny_runs.QUICK, sample_facts=6)
FACTS = [
    Asked(
        fact.text,
        fact.target_new,
        fact.target_true,
        list(fact.paraphrases),
        [(neighbour.prompt, neighbour.target) for neighbour in fact.neighbours],
    )
    for fact in tiny_runs.FACTS[:10]
]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def exported(request, statistics_text, tmp_path_factory):
    """A data folder with a finished run of a tiny model, and the run's export with its model."""
    home = tmp_path_factory.mktemp("measured")
    folder = tiny_runs.save_model(request.getfixturevalue(request.param), home / "model")
    store = RunStore(home / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(home))
        torch.set_num_threads(1)
        [run_id] = store.submit([tiny_runs.prepared(folder, statistics_text, method="MEMIT", measure=MEASURED)])
        tiny_runs.worker(store).serve()
        export_run(store, run_id, home / "export", with_model=True)
    return home, run_id


def test_an_exported_run_is_what_plain_transformers_find(exported):
    home, _ = exported
    found = plain_measures.differences(home / "export", FACTS)
    assert found.keys() == {"norm, relative", "share", "signed share", "score", "magnitude"}
    assert max(found.values()) < TOLERANCE, found


def test_the_comparison_can_fail(exported, tmp_path):
    """A model other than the one measured is told from it, in every kind of figure that can be."""
    home, _ = exported
    other = tmp_path / "export"
    other.mkdir()
    for file in (home / "export").glob("*.*"):
        (other / file.name).write_bytes(file.read_bytes())
    report = json.loads((home / "export" / "run.json").read_text("utf-8"))
    for loaded in (AutoModelForCausalLM, AutoTokenizer):
        loaded.from_pretrained(report["plan"]["model"]).save_pretrained(other / "model")
    found = plain_measures.differences(other, FACTS)
    assert min(found[kind] for kind in ("norm, relative", "share", "signed share", "score", "magnitude")) > TOLERANCE


def test_pages_show_what_plain_transformers_find(exported, monkeypatch, tmp_path):
    home, run_id = exported
    monkeypatch.setenv("ENCORE_HOME", str(home))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "nothing")
    model = AutoModelForCausalLM.from_pretrained(home / "export" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "export" / "model")
    cards = tiny_pages.cards(monkeypatch)

    opened("norms")
    frame = cards["norms by layer"][1]
    shown = frame[frame["edits"] == 10].set_index("layer")["ratio"]
    before = AutoModelForCausalLM.from_pretrained(home / "model")
    of_model, original = plain_measures.norms(model), plain_measures.norms(before)
    wanted = {layer: norm / original[layer] for layer, norm in of_model.items()}
    assert shown.to_dict() == pytest.approx(wanted, abs=TOLERANCE) and max(wanted.values()) > 1 + TOLERANCE

    opened("contributions")
    [frame] = [frame for key, (_, frame) in cards.items() if key.endswith("before and after")]
    longest = min(plain_measures.PASSAGE_CHARACTERS, model.config.max_position_embeddings - 8)
    parts = plain_measures.contributions(model, tokenizer, plain_measures.passages(longest))
    shown = frame[frame["edits"] == 10].set_index("label")["share"]
    assert shown.to_dict() == pytest.approx({label: share for label, (share, _) in parts.items()}, abs=TOLERANCE)

    app = opened("compare", run=run_id)
    table = {row[0]: row[1] for row in rows_of(app)}
    places = plain_measures.subsets(10, 0, 2, MEASURED.sample_facts, MEASURED.batch_facts)["sample"]
    wanted = plain_measures.scores(model, tokenizer, [FACTS[place] for place in places])
    for name, metric in {
        "Edit score": "edit_score",
        "Neighbourhood score": "neighborhood_score",
        "Accuracy": "accuracy",
    }.items():
        assert float(table[name].split()[0]) == pytest.approx(wanted[metric], abs=0.5), name
