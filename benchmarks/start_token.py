"""What a start token does to facts about the first token of their text, to scores, perplexity and tasks.

    python benchmarks/start_token.py FACTS.jsonl OUT.jsonl [--facts 200] [--downstream DIR] [--tests 20]

The same facts are edited as one batch by each method on a model loaded with its start token ("auto") and without one
("none"), and scored as that model reads texts. MEMIT, EMMET and AlphaEdit search for the same targets before any edit,
so one search serves the three. Beside that the facts of `FIRST_TOKEN`, whose subject is the first token of the prompt:
each edited alone on a pristine model, and the new answer's probability in the prompt as it is typed. A line of
OUT.jsonl is one result; those that are there are not computed again, so it can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from encore_core import Fact, load_model, read_facts
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import Target
from encore_core.measures.answers import answer_probabilities
from encore_core.measures.downstream import evaluate_tasks
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.measures.tasks import load_tasks
from encore_core.models.editable import EditableModel

METHODS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")

FIRST_TOKEN = tuple(
    Fact(subject, prompt, new, true)
    for subject, prompt, new, true in (
        ("Paris", "{} is the capital of", "Spain", "France"),
        ("Chicago", "{} is located in the country of", "Japan", "the United States"),
        ("France", "{} has the capital", "Rome", "Paris"),
        ("Microsoft", "{} was founded by", "Elvis Presley", "Bill Gates"),
        ("Tokyo", "{} is the capital of", "Chile", "Japan"),
        ("Berlin", "{} is the capital of", "Peru", "Germany"),
        ("London", "{} is the capital of", "Canada", "England"),
        ("Madrid", "{} is the capital of", "Norway", "Spain"),
        ("Moscow", "{} is the capital of", "Brazil", "Russia"),
        ("Cairo", "{} is the capital of", "Mexico", "Egypt"),
        ("Toronto", "{} is located in the country of", "India", "Canada"),
        ("Amazon", "{} was founded by", "Mozart", "Jeff Bezos"),
        ("Egypt", "{} is located on the continent of", "Europe", "Africa"),
        ("Spain", "{} is located on the continent of", "Asia", "Europe"),
        ("Einstein", "{} developed the theory of", "evolution", "relativity"),
    )
)


class Searches:
    """Targets on the model as loaded, found once for all methods that search for them with equal settings."""

    def __init__(self) -> None:
        self.found: dict[tuple, list[Target]] = {}

    def of(self, session: EditSession, facts: list[Fact]) -> list[Target]:
        key = (target_settings(session.settings), session.settings.layers[-1], tuple(facts))
        if key not in self.found:
            self.found[key] = session.find_targets(facts)
        return self.found[key]


def first_token(lm: EditableModel, method: str, searches: Searches) -> dict[str, Any]:
    """Each fact alone on a pristine model; probabilities in the prompt as typed."""
    rows = []
    for fact in FIRST_TOKEN:
        session = EditSession(lm, method)
        [edited] = session.edit([fact], known="edit", targets=searches.of(session, [fact])).edited
        rows.append({
            "fact": f"{fact.text} → {fact.target_new}",
            "true_before": answer_probabilities(lm, [(fact.text, fact.target_true)])[0].probability,
            "before": edited.probability_before,
            "after": edited.probability_after,
            "after_bare": edited.probability_bare,
            "steps": edited.steps,
        })  # fmt: skip
    return {"median_after": statistics.median(row["after"] for row in rows), "facts": rows}


def measured(lm: EditableModel, facts: list[Fact], tasks: dict, n_tests: int) -> dict[str, Any]:
    """Scores, perplexity and tasks of the model as it stands."""
    scores = evaluate(lm, facts).as_dict()
    f1 = {name: one.f1 for name, one in evaluate_tasks(lm, tasks, n_tests).items()} if tasks else {}
    return {"scores": scores, "perplexity": perplexity(lm), "f1": f1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=200, help="facts edited and scored (default 200)")
    parser.add_argument("--downstream", type=Path, metavar="DIR", help="folder with the tasks' data")
    parser.add_argument("--tests", type=int, default=20, help="tests a task (default 20)")
    options = parser.parse_args()
    facts = read_facts(options.facts, limit=options.n)
    tasks = load_tasks(options.downstream) if options.downstream else {}
    there = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    done = {(row["start_token"], row["what"], row["method"]) for row in there}

    def keep(start: str, what: str, method: str | None, began: float, values: dict[str, Any]) -> None:
        row = {"start_token": start, "what": what, "method": method, "seconds": time.perf_counter() - began, **values}
        with options.out.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(start, what, method, f"{row['seconds']:.0f} s", flush=True)

    for start in ("auto", "none"):
        lm = load_model(options.model, start_token=start)
        EditSession(lm).prepare()
        searches = Searches()
        for method in METHODS:
            if (start, "first token", method) not in done:
                keep(start, "first token", method, time.perf_counter(), first_token(lm, method, searches))
        if (start, "scores", None) not in done:
            keep(start, "scores", None, time.perf_counter(), measured(lm, facts, tasks, options.tests))
        for method in METHODS:
            if (start, "scores", method) in done:
                continue
            began = time.perf_counter()
            session = EditSession(lm, method)
            session.edit(facts, known="edit", targets=searches.of(session, facts))
            with session.edited():
                values = measured(lm, facts, tasks, options.tests)
            norms = {layer: after / before for layer, (before, after) in session.norms().items()}
            keep(start, "scores", method, began, values | {"growth": max(norms.values())})


if __name__ == "__main__":
    main()
