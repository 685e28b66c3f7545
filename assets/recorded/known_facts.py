"""How probable are facts that the model knows by itself? Writes known_facts.csv beside this file.

    python assets/recorded/known_facts.py FACTS.jsonl [--first 2000]

FACTS.jsonl is a file of facts as `encore edit` reads it (CounterFact for the paper's table 1). Its first facts and the
bundled ones are asked of the embedded model as it is loaded. A fact is known when greedy decoding says its true answer
after the plain prompt (every token of the answer is the most probable one). Of the known facts the probability of the
true answer is kept, as it is defined for targets of edits (`encore_core.editing.targets.Target`): the geometric mean
over the answer's tokens, averaged over the plain prompt and the five sampled prefixes before it.

Columns: dataset (the file's name, or "bundled"), n_tokens (of the true answer), probability. No text is stored.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from encore_core.errors import InputError
from encore_core.facts import Fact, read_facts
from encore_core.forward.prompts import prefixes
from encore_core.measures.answers import answer_probabilities
from encore_core.models.editable import EditableModel, load_model
from encore_core.storage import replacing

RESULT = Path(__file__).with_name("known_facts.csv")


def known_probabilities(lm: EditableModel, sampled: Sequence[str], facts: Sequence[Fact]) -> list[tuple[int, float]]:
    """Tokens of the true answer and its probability, of every fact that the model knows."""
    asked = [fact for fact in facts if fact.target_true is not None]
    plain = answer_probabilities(lm, [(fact.text, fact.target_true) for fact in asked])
    known = [(fact, answer) for fact, answer in zip(asked, plain, strict=True) if answer.said]
    pairs = [(_behind(prefix, fact), fact.target_true) for fact, _ in known for prefix in sampled]
    prefixed = iter(answer_probabilities(lm, pairs))
    return [
        (len(answer.hits), fmean([answer.probability, *(next(prefixed).probability for _ in sampled)]))
        for _, answer in known
    ]


def _behind(prefix: str, fact: Fact) -> str:
    """The prompt as the optimisation of targets reads it, see `encore_core.forward.prompts.encode_fact`."""
    return f"{prefix}. {fact.text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("facts", type=Path)
    parser.add_argument("--first", type=int, default=2000, metavar="N", help="facts of the file (default 2000)")
    options = parser.parse_args()
    try:
        sets = {options.facts.stem: read_facts(options.facts, options.first), "bundled": read_facts("bundled")}
        lm = load_model("smollm2-135m", "cpu", "float32")
    except InputError as error:
        raise SystemExit(str(error)) from error
    sampled = prefixes(lm, seed=0)
    with replacing(RESULT) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("dataset", "n_tokens", "probability"))
        for name, facts in sets.items():
            found = known_probabilities(lm, sampled, facts)
            rows.writerows((name, n_tokens, f"{probability:.4f}") for n_tokens, probability in found)
            mean = fmean(probability for _, probability in found)
            print(f"{name}: {len(found)} of {len(facts)} facts known, mean probability {mean:.3f}", flush=True)


if __name__ == "__main__":
    main()
