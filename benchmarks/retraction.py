"""What taking one of 20 edits back leaves behind, against a session that never made that edit.

    python benchmarks/retraction.py [--facts 20] [--compared 5] [--methods A,B,…] [--json OUT.json]

For each method, facts of the bundled set that the embedded model knows are edited one after the other, and also as one
batch. From that state every edit is taken back in turn (and the retraction undone): does its prompt give the unedited
model's answer again, by greedy decoding of as many tokens as the new answer has? For some of the edits, evenly spread,
a second session edits the same facts in the same order without that one. Both are then scored on the other facts.

    back       facts whose first answer is back, with Wilson's 95 % interval
    edited, retracted, never    edit score of the other facts before, after, and in the session that never made it
    off        ‖W − W_never‖ / ‖W_never − W₀‖ over all edited layers, before and after the retraction
    ppl        perplexity after the retraction and in the session that never made the edit (unedited: first line)
    ‖W‖        largest growth of an edited matrix's norm: before, after, never
    s          seconds of one retraction without measuring, median
    most apart    greatest difference of one retracted score from the one of the session that never made the edit
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from machine import machine

from encore_core import Fact, load_model, read_facts
from encore_core.editing.session import EditSession
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.models.editable import EditableModel

METHODS = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")
PERPLEXITY_TOKENS = 2000


@dataclass(frozen=True)
class State:
    """A session measured without one of its facts.

    Attributes:
        score: edit score of the other facts.
        ppl: perplexity.
        growth: largest ‖W‖ / ‖W₀‖ − 1 of an edited layer.
        off: distance of the matrices to those of the session that never made the edit, see the module.
    """

    score: float
    ppl: float
    growth: float
    off: float


@dataclass(frozen=True)
class Row:
    """One method, one way of batching."""

    method: str
    batch_size: int
    back: int
    n: int
    seconds: float
    edited: State
    retracted: State
    never: State
    worst_score_change: float


def known_facts(n: int) -> list[Fact]:
    """Bundled facts that the model knows, each of a subject of its own, without paraphrases and neighbours."""
    found: dict[str, Fact] = {}
    for fact in read_facts("bundled"):
        if fact.known and fact.subject not in found:
            found[fact.subject] = replace(fact, paraphrases=(), neighbours=())
    return list(found.values())[:n]


def edited(lm: EditableModel, method: str, facts: Sequence[Fact], batch_size: int) -> EditSession:
    session = EditSession(lm, method, hold="matrices")
    session.prepare()
    for start in range(0, len(facts), batch_size):
        session.edit(facts[start : start + batch_size], known="edit", measure=False)
    return session


def never_made(session: EditSession, facts: Sequence[Fact], k: int, batch_size: int) -> EditSession:
    """A session that edits the same facts in the same order, but not the k-th.

    Before the batch of that fact it is the same session. In a batch, the others' targets are the same, too: each is
    searched for by itself.
    """
    other = EditSession(session.lm, session.settings.method, hold="matrices")
    first = k // batch_size
    other.load_history(session.history[:first], session.prefixes)
    for number in range(first, len(session.history)):
        items = [item for item in session.history[number].report.edited if item.fact != facts[k]]
        if items:
            targets = [item.target for item in items] if number == first else None
            other.edit([item.fact for item in items], known="edit", measure=False, targets=targets)
    return other


def state(session: EditSession, facts: Sequence[Fact], never: EditSession) -> State:
    with session.edited() as lm:
        score, ppl = evaluate(lm, facts, generate=False).edit_score, perplexity(lm, n_tokens=PERPLEXITY_TOKENS)
    growth = max(after / before for before, after in session.norms().values()) - 1
    wanted, found, layers = never.matrices(), session.matrices(), session.settings.layers
    with session.pristine() as lm:
        off = math.hypot(*(float((found[layer] - wanted[layer]).norm()) for layer in layers))
        moved = math.hypot(*(float((wanted[layer] - lm.parameter(layer).data).norm()) for layer in layers))
    return State(score, ppl, growth, off / moved)


def mean(states: Sequence[State]) -> State:
    return State(*(statistics.fmean(values) for values in zip(*(asdict(one).values() for one in states), strict=True)))


def measured(lm: EditableModel, method: str, facts: Sequence[Fact], batch_size: int, n_compared: int) -> Row:
    """Take every edit back in turn, and compare some of the results with sessions that never made the edit."""
    session = edited(lm, method, facts, batch_size)
    spread = {round(i * (len(facts) - 1) / max(1, n_compared - 1)) for i in range(n_compared)}
    back, seconds, states = 0, [], []
    for k in range(len(facts)):
        others = [fact for fact in facts if fact != facts[k]]
        never = never_made(session, facts, k, batch_size) if k in spread else None
        before = state(session, others, never) if never else None
        report = session.retract([facts[k]])
        back += report.retracted[0].is_back
        if never:
            states.append((before, state(session, others, never), state(never, others, never)))
        session.undo()
        began = time.perf_counter()
        session.retract([facts[k]], measure=False)
        seconds.append(time.perf_counter() - began)
        session.undo()
    worst = max((abs(after.score - without.score) for _, after, without in states), default=0.0)
    sides = [mean(side) for side in zip(*states, strict=True)]
    return Row(method, batch_size, back, len(facts), statistics.median(seconds), *sides, worst)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def said(row: Row) -> str:
    low, high = wilson(row.back, row.n)
    a, b, c = row.edited, row.retracted, row.never
    return (
        f"| {row.method} | {row.batch_size} | {row.back} of {row.n} ({100 * low:.0f}–{100 * high:.0f} %) "
        f"| {a.score:.1f} | {b.score:.1f} | {c.score:.1f} | {row.worst_score_change:.1f} "
        f"| {a.off:.3f} → {b.off:.3f} | {b.ppl:.2f} / {c.ppl:.2f} "
        f"| {a.growth:+.3%} → {b.growth:+.3%} / {c.growth:+.3%} | {row.seconds:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=20, help="facts edited (default 20)")
    parser.add_argument("--compared", type=int, default=5, help="edits that a second session leaves out (default 5)")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    machine()
    began, lm, facts, rows = time.perf_counter(), load_model(options.model), known_facts(options.facts), []
    print(f"perplexity of the unedited model: {perplexity(lm, n_tokens=PERPLEXITY_TOKENS):.2f}")
    print("| method | batch | back | edited | retracted | never | most apart | off | ppl | ‖W‖ | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for method in options.methods.split(","):
        for batch_size in (1, len(facts)):
            rows.append(measured(lm, method, facts, batch_size, options.compared))
            print(said(rows[-1]), flush=True)
    print(f"{time.perf_counter() - began:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
