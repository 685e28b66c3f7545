"""What the two protocols say of the same edits: teacher-forced and generated scores of four methods.

    python benchmarks/protocols.py OUT.json [--data ../shared/data] [--facts 200] [--only qaedit]

Answers are generated from the plain prompt and, where the model has a chat template, as answers in a chat.
The first facts of QAEdit and of CounterFact that the model takes, as one batch, with each method on the unedited model.
A method that is in OUT.json already is left out, so that a run that was stopped goes on. Without the data it says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import machine

from encore_core.editing.comparison import ComparedSessions
from encore_core.errors import InputError
from encore_core.facts import Fact, read_facts
from encore_core.measures import intervals
from encore_core.measures.generated import GenerationSettings, has_chat_template
from encore_core.measures.generated_scores import PARTS, GeneratedScores, evaluate_generated
from encore_core.measures.scores import Scores, check_scorable, evaluate
from encore_core.models.editable import EditableModel, load_model
from encore_core.storage import replacing

METHODS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")
SETS = {"qaedit": "qaedit_1k.json", "counterfact": "counterfact_10k.jsonl"}
NO_EDIT = "unedited"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", choices=SETS)
    options = parser.parse_args()
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    lm, computer = load_model(options.model), machine()
    for name, file in SETS.items():
        if options.only in (None, name):
            if not (options.data / file).is_file():
                print(f"{name}: {file} is not there")
                continue
            facts = chosen(lm, read_facts(options.data / file, on_error="skip", notice=print), options.facts)
            for method, values in measured(lm, facts, found.setdefault(name, {})):
                found[name][method] = values | {"machine": computer}
                with replacing(options.out) as new:
                    new.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print_tables(found)


def chosen(lm: EditableModel, facts: Sequence[Fact], n: int) -> list[Fact]:
    """The first facts that fit into the model's context, one for each question."""
    kept: dict[str, Fact] = {}
    for fact in facts:
        if len(kept) == n:
            break
        try:
            check_scorable(lm, fact)
        except InputError as error:
            print(f"left out: {error}")
            continue
        kept.setdefault(fact.asked, fact)
    return list(kept.values())


def measured(lm: EditableModel, facts: Sequence[Fact], known: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is still to be measured of a set, method by method."""
    if NO_EDIT not in known:
        with lm.matrices_replaced({}):
            yield NO_EDIT, scored(lm, facts) | {"seconds": 0.0, "edited": 0}
    left = [method for method in METHODS if method not in known]
    if not left:
        return
    compared = ComparedSessions(lm, left)
    for method in left:
        began = time.perf_counter()
        report = compared.edit(method, facts, known="edit")
        took = time.perf_counter() - began
        with compared.sessions[method].edited() as edited:
            yield method, scored(edited, facts) | {"seconds": took, "edited": len(report.edited)}


def scored(lm: EditableModel, facts: Sequence[Fact]) -> dict[str, Any]:
    """Both protocols as plain values, and the gap between them for the edited prompts."""
    began = time.perf_counter()
    forced = evaluate(lm, facts, generate=False)
    half = time.perf_counter()
    generated = {"plain": evaluate_generated(lm, facts, GenerationSettings.usual(False))}
    ended = time.perf_counter()
    if has_chat_template(lm):
        generated["chat"] = evaluate_generated(lm, facts, GenerationSettings.usual(True))
    return {
        "forced": {name: pair(forced, name) for name in ("edit_score", "paraphrase_score", "neighborhood_score",
                                                         "accuracy", "overall_score")},
        "generated": {
            way: {part: {metric: pair(one, part, metric) for metric in ("exact", "contained")} for part in PARTS}
            | {"gap": gap(forced, one), "protocol": one.protocol}
            for way, one in generated.items()
        },
        "seconds_forced": half - began,
        "seconds_plain": ended - half,
    }  # fmt: skip


def pair(scores: Scores | GeneratedScores, *names: str) -> dict[str, Any] | None:
    """A score with its interval as plain values."""
    found = scores.interval(*names)
    return None if found is None else found._asdict()


def gap(forced: Scores, generated: GeneratedScores) -> dict[str, Any] | None:
    """The edit score minus the share of texts that contain the answer, in points, for the edited prompts."""
    found = intervals.of_difference([one.edit for one in forced.per_fact], generated.of_facts("edit", "contained"))
    return None if found is None else found.times(100.0)._asdict()


def shown(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    between = "" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})"
    return f"{found['value']:.1f}{between}"


def sentence(way: str, gaps: dict[str, dict[str, Any]]) -> str:
    """What the gaps between the protocols come to: edit score minus the share of texts that contain the answer."""
    beyond = {
        method: one for method, one in gaps.items() if one["low"] is not None and not one["low"] <= 0 <= one["high"]
    }
    if not beyond:
        return f"{way}: no difference between the protocols beyond chance, for any of {len(gaps)} methods."
    least, most = (kind(beyond, key=lambda method: beyond[method]["value"]) for kind in (min, max))
    span = f"{shown(beyond[least])} points ({least})"
    if most != least:
        span += f" to {shown(beyond[most])} ({most})"
    flatters = "teacher-forced scores are higher" if beyond[least]["value"] > 0 else "teacher-forced scores differ"
    n = beyond[least]["n"]
    return f"{way}: {flatters} by {span}; beyond chance for {len(beyond)} of {len(gaps)} methods, n = {n}."


PAIRS = (("edit", "edit_score"), ("paraphrase", "paraphrase_score"), ("neighborhood", "neighborhood_score"))


def print_tables(found: dict[str, Any]) -> None:
    """A table a set and way to generate, as in RESULTS.md, and the sentence that it comes to."""
    for name, methods in found.items():
        for way in next(iter(methods.values()))["generated"]:
            print(f"\n{name}, {way}")
            print("| method | accuracy, forced | is the answer, generated | edited prompts: forced; contain the answer "
                  "| paraphrases | neighbours | forced − contained |")  # fmt: skip
            print("|---|---|---|---|---|---|---|")
            for method, one in methods.items():
                forced, generated = one["forced"], one["generated"][way]
                both = [f"{shown(forced[score])}; {shown(generated[part]['contained'])}" for part, score in PAIRS]
                cells = [shown(forced["accuracy"]), shown(generated["edit"]["exact"]), *both, shown(generated["gap"])]
                print(f"| {method} | {' | '.join(cells)} |")
            gaps = {method: one["generated"][way]["gap"] for method, one in methods.items() if method != NO_EDIT}
            if gaps:
                print(sentence(way, gaps))
        # Earlier figures have no times.
        ratio = [one["seconds_plain"] / one["seconds_forced"] for one in methods.values() if "seconds_plain" in one]
        if ratio:
            print(f"Generating took {min(ratio):.2f} to {max(ratio):.2f} times what teacher-forced scoring took.")


if __name__ == "__main__":
    main()
