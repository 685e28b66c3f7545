"""Scores of both protocols against an evaluator that is not ours: nothing but transformers, one prompt at a time."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import tiny_runs
from tiny_models import CITIES

from encore_core.cli import main
from encore_core.editing.session import EditSession

spec = importlib.util.spec_from_file_location(
    "plain_evaluator", Path(__file__).parents[1] / "benchmarks" / "plain_evaluator.py"
)
plain_evaluator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain_evaluator)

RECORDS = [
    {"subject": fact.subject, "prompt": fact.text, "target_new": fact.target_new, "ground_truth": fact.target_true,
     "rephrase_prompt": f"Everybody knows. The capital of {fact.subject} is",
     "locality_prompt": f"The capital of {other.subject} is", "locality_ground_truth": other.target_true}
    for fact, other in itertools.pairwise(CITIES)
]  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_both_protocols_agree(name, request, statistics_text, tmp_path, capsys):
    lm = request.getfixturevalue(name)
    session = EditSession(lm, "MEMIT", statistics_text=statistics_text)
    session.edit(CITIES[:3], known="edit")
    with session.edited() as edited:
        folder = tiny_runs.save_model(edited, tmp_path / "model")
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    words = ["eval", f"--model={folder}", "--device=cpu", "--start-token=none", f"--facts={path}", "--json"]
    assert main([*words, "--protocol=teacher-forced,generated"]) == 0
    ours = json.loads(capsys.readouterr().out)
    theirs = plain_evaluator.scores(str(folder), RECORDS)
    for metric in ("edit", "paraphrase", "neighborhood"):
        assert ours[f"{metric}_score"] == pytest.approx(theirs[metric], abs=1e-6)
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-6)
    theirs = plain_evaluator.generated(str(folder), RECORDS)
    for part in ("edit", "paraphrase", "neighborhood"):
        for metric in ("exact", "contained"):
            found = ours["generated"]["scores"][part][metric]["value"]
            assert found == pytest.approx(theirs[f"{part} {metric}"], abs=1e-6)
    assert len({*theirs.values()}) > 1  # not all of them nothing


def test_answers_in_a_chat_agree(llama, statistics_text, tmp_path, capsys):
    session = EditSession(llama, "MEMIT", statistics_text=statistics_text)
    session.edit(CITIES[:3], known="edit")
    with session.edited() as edited:
        folder = tiny_runs.save_model(edited, tmp_path / "model")
    # A template that says little, so that the edit shows through it.
    template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}{% if add_generation_prompt %} ,{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    words = ["eval", f"--model={folder}", "--device=cpu", f"--facts={path}", "--json"]
    assert main([*words, "--protocol=generated"]) == 0
    ours = json.loads(capsys.readouterr().out)["generated"]
    assert ours["protocol"].startswith("generated: chat template")
    theirs = plain_evaluator.generated(str(folder), RECORDS, in_chat=True)
    for part in ("edit", "paraphrase", "neighborhood"):
        for metric in ("exact", "contained"):
            assert ours["scores"][part][metric]["value"] == pytest.approx(theirs[f"{part} {metric}"], abs=1e-6)
    plain = plain_evaluator.generated(str(folder), RECORDS, n_tokens=24)
    assert plain != theirs  # the template is not without effect


@pytest.mark.parametrize(
    "text",
    [" Rome. The", " Rome\nThe", "\n\nRome", " St. Louis. It", " U.S. coast. It", ' "Rome." It', " . .", " 3.5 m",
     "东京。它", " J. R. R. Tolkien? I", " Rome.", " no. 5. It"],
)  # fmt: skip
def test_both_see_the_same_end(text):
    from encore_core.measures.generated import end_of

    end = end_of(text)
    assert plain_evaluator.answer_in(text) == (text if end is None else text[: end[0]]).strip()
