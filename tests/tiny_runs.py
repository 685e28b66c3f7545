"""Runs of a tiny model: its folder, facts, plans, and a worker inside the test's own process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tiny_models

from encore_core.facts import Fact
from encore_core.runs import MeasurePlan, PreparedRun, RunPlan, RunStore, prepare
from encore_core.runs.worker import Worker

_COUNTRIES, _CITIES = list(tiny_models.COUNTRIES), list(tiny_models.COUNTRIES.values())

FACTS = tuple(
    Fact(
        country,
        template,
        _CITIES[(number + shift) % len(_CITIES)],
        _CITIES[number],
        paraphrases=(f"I know that the city of {country} is",),
        neighbours=((template.replace("{}", _COUNTRIES[number - 1]), _CITIES[number - 1]),),
        relation="capital",
    )
    for shift, template in enumerate(tiny_models.TEMPLATES, 2)
    for number, country in enumerate(_COUNTRIES)
)
"""27 facts of the kind that the tiny models have learned; each country is edited three times."""

EVERYTHING = MeasurePlan(sample_facts=4, batch_facts=2, share_cap=None)
QUICK = replace(
    EVERYTHING,
    protocols=("teacher-forced",),
    generate=False,
    perplexity=False,
    foretold_damage=False,
    generation_entropy=False,
)
"""Without what takes longest on a tiny model: its tokenizer makes many tokens of a text."""

SETTINGS = tiny_models.DEFAULTS | {"lambda_n": 0.001, "steps": 4}


def save_model(lm, folder: Path) -> Path:
    """A tiny model saved as anybody would save one."""
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def plan(folder: Path, text: Path, **values) -> RunPlan:
    """A plan for the tiny model: ten facts in batches of two, a checkpoint every four."""
    method = values.get("method", "ENCORE")
    settings = dict(SETTINGS)
    if method not in ("ENCORE", "MEMIT+norm"):
        del settings["lambda_n"]
    usual = {
        "model": str(folder), "n_edits": 10, "batch_size": 2, "checkpoint_every": 4, "overrides": settings,
        "statistics_text": str(text), "device": "cpu", "measure": QUICK,
    }  # fmt: skip
    return RunPlan(**(usual | values))


def prepared(folder: Path, text: Path, **values) -> PreparedRun:
    return prepare(plan(folder, text, **values), FACTS)


def worker(store: RunStore, **values) -> Worker:
    """A worker that ends as soon as the queue is empty."""
    return Worker(store, "cpu", **({"idle_seconds": 0.0} | values))


def small_tasks(folder: Path) -> Path:
    """Data of the downstream tasks with three tests each."""
    single = [{"sentence": "good", "label": n % 2} for n in range(13)]
    pairs = [{"sentence1": "a", "sentence2": "b", "label": n % 2} for n in range(13)]
    rows = {
        "sst2": single,
        "cola": single,
        "mrpc": pairs,
        "rte": pairs,
        "nli": [
            {"sentence1": "a", "sentence2": "b", "label": ("entailment", "not_entailment")[n % 2]} for n in range(13)
        ],
        "mmlu": [{"question": "q", "choices": ["1", "2", "3", "4"], "answer": n % 4} for n in range(13)],
    }
    for name, of_task in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of_task)), encoding="utf-8")
    return folder
