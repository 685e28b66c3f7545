"""How long the views of "Look inside" take, and where ten facts that the model knows are recalled.

    python benchmarks/microscope.py [--model smollm2-135m] [--facts 10]

The facts are the first bundled ones whose true answer the model says. Each is traced on the model as loaded; then the
first is edited, and every view is made once more on both models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from machine import machine

from encore_core import EditSession, Fact, load_model, read_facts
from encore_core.measures.answer_tokens import answer_tokens
from encore_core.measures.answers import Question, answer_probabilities
from encore_core.measures.direct_effects import moved, read_directly
from encore_core.measures.fact_trace import KINDS, fact_trace
from encore_core.measures.logit_lens import logit_lens
from encore_core.measures.strength import strengths
from encore_core.models.editable import EditableModel


def known_facts(lm: EditableModel, wanted: int) -> list[Fact]:
    """The first bundled facts whose true answer the model says."""
    facts = [fact for fact in read_facts("bundled") if fact.target_true]
    questions = [Question(fact.text, str(fact.target_true), fact.join) for fact in facts[: 20 * wanted]]
    said = answer_probabilities(lm, questions)
    return [fact for fact, answer in zip(facts, said, strict=False) if answer.said][:wanted]


def trace_all(lm: EditableModel, facts: Sequence[Fact]) -> None:
    """Print where each fact is recalled, and how many are where the paper found facts."""
    as_published, seconds = 0, []
    for fact in facts:
        started = time.perf_counter()
        trace = fact_trace(lm, fact)
        seconds.append(time.perf_counter() - started)
        peaks = {kind: trace.peak(kind) for kind in KINDS}
        as_published += peaks["MLP"].as_published
        told = ", ".join(
            f"{kind} {peak.layer} at {peak.token.strip()!r} ({peak.effect:+.2f})" for kind, peak in peaks.items()
        )
        mark = "as published" if peaks["MLP"].as_published else "elsewhere"
        print(f"{fact.text!r}, {len(trace.places)} tokens, {seconds[-1]:.1f} s: {told}: {mark}", flush=True)
    print(f"MLP peak at the subject's last token, early or middle layers: {as_published} of {len(facts)} facts")
    print(f"a trace of three kinds: {min(seconds):.1f} to {max(seconds):.1f} s")


def time_views(lm: EditableModel, fact: Fact) -> None:
    """Print the seconds of each view of one edited fact, both models together; the second of two tries."""
    session = EditSession(lm)
    session.edit([fact])
    answers = [fact.target_new, str(fact.target_true)]

    def both(read: Callable[[EditableModel], object]) -> list[object]:
        with session.pristine():
            before = read(lm)
        with session.edited():
            return [before, read(lm)]

    views: dict[str, Callable[[], object]] = {
        "logit lens": lambda: both(lambda lm: logit_lens(lm, fact.text, answers)),
        "tokens": lambda: both(lambda lm: answer_tokens(lm, fact.text, answers)),
        "what moved the answer": lambda: moved(*both(lambda lm: read_directly(lm, fact.text, answers))),
        "strength": lambda: strengths(lm, session.matrices(), fact),
        "causal trace": lambda: both(lambda lm: fact_trace(lm, fact)),
    }
    for name, view in views.items():
        for _ in range(2):
            started = time.perf_counter()
            view()
            seconds = time.perf_counter() - started
        print(f"{name}, {fact.text!r} before and after: {seconds:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=10)
    arguments = parser.parse_args()
    machine()
    lm = load_model(arguments.model)
    facts = known_facts(lm, arguments.facts)
    time_views(lm, facts[0])
    trace_all(lm, facts)


if __name__ == "__main__":
    main()
