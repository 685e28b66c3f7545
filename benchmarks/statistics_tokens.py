"""How much text do key statistics need? Scores after edits with C0 from 1, 2, 5, 10 and 20 × d_mlp tokens, by source.

    python benchmarks/statistics_tokens.py FACTS.jsonl OUT.jsonl [--sources bundled,sampled] [--facts 100]

Every cell of the table (method, source, tokens) edits the same facts in the same order on a pristine model and is
scored on them; beside the scores stand perplexity on the fixed text, the growth of the last edited matrix, and the
disturbance by which `encore statistics --enough` judges. A cell is a line of OUT.jsonl; those that are there are not
computed again, so it can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from encore_core import Fact, load_model, read_facts
from encore_core.editing.batch import batched
from encore_core.editing.covariance import second_moments, windows_of
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.measures.perplexity_entropy import perplexity
from encore_core.measures.scores import evaluate
from encore_core.models.editable import EditableModel
from encore_core.statistics.convergence import disturbance
from encore_core.statistics.sufficiency import HELD_OUT_TOKENS, Probe
from encore_core.statistics.texts import text_of
from encore_core.storage import data_folder

MULTIPLES = (1, 2, 5, 10, 20)
SCORES = ("edit_score", "paraphrase_score", "neighborhood_score", "overall_score", "accuracy")


def text_file(lm: EditableModel, source: str, n_tokens: int) -> tuple[Path, list[list[int]]]:
    """A source's text as a file without its end, and the end as windows: text that is in no C0 of this table."""
    content = text_of(lm, source, n_tokens + HELD_OUT_TOKENS, lambda what, share: None).content
    windows = windows_of(lm, content, n_tokens + HELD_OUT_TOKENS)
    passages = content.strip().split("\n\n")
    held: list[str] = []
    while sum(map(len, windows_of(lm, "\n\n".join(held), 10**9))) < HELD_OUT_TOKENS and len(passages) > 1:
        held.append(passages.pop())
    if sum(map(len, windows)) < n_tokens + HELD_OUT_TOKENS:
        print(f"{source}: the text is shorter than {n_tokens + HELD_OUT_TOKENS} tokens", file=sys.stderr)
    kept = "\n\n".join(passages) + "\n"
    file = data_folder() / "texts" / f"benchmark-{hashlib.sha256(kept.encode()).hexdigest()[:12]}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(kept, encoding="utf-8")
    return file, windows_of(lm, "\n\n".join(held), HELD_OUT_TOKENS)


def cell(
    lm: EditableModel,
    facts: list[Fact],
    batch: int,
    settings: dict[str, Any],
    method: str,
    text: Path,
    held: list[list[int]],
) -> dict[str, Any]:
    """Scores and side effects of one way to take statistics."""
    session = EditSession(lm, method, settings=settings, statistics_text=text, keep_history=False)
    began = time.perf_counter()
    for some in batched(facts, batch):
        session.edit(some, known="edit", measure=False)
    seconds = time.perf_counter() - began
    with session.edited():
        scores = evaluate(lm, facts, generate=False).as_dict()
        after = perplexity(lm)
    last = session.settings.layers[-1]
    before, now = session.norms()[last]
    moments = second_moments(lm, session.settings.layers, session.settings.statistics_tokens, text)
    probe = Probe(lm, session.settings.layers, held)
    disturbed = {
        layer: disturbance(C0, probe.facts[layer], probe.text[layer], probe.lambda_p) for layer, C0 in moments.items()
    }
    return {name: scores[name] for name in SCORES} | {
        "perplexity": after, "norm_ratio": now / before, "disturbance": max(disturbed.values()), "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("facts_file")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sources", default="bundled,sampled")
    parser.add_argument("--methods", default="ENCORE,MEMIT")
    parser.add_argument("--multiples", type=int, nargs="+", default=MULTIPLES)
    parser.add_argument("--first", type=int, default=3000, help="facts of the file that are left out")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()

    lm = load_model(options.model)
    facts = read_facts(options.facts_file)[options.first :][: options.facts]
    lines = options.out.read_text("utf-8").splitlines() if options.out.is_file() else []
    rows = [json.loads(line) for line in lines]
    common = dict(pair.split("=", 1) for pair in options.set)
    for source in options.sources.split(","):
        text, held = text_file(lm, source, max(options.multiples) * lm.d_mlp)
        for method in options.methods.split(","):
            for multiple in options.multiples:
                what = {
                    "model": options.model, "method": method, "source": source, "multiple": multiple,
                    "facts": len(facts), "first": options.first, "batch": options.batch, "set": options.set,
                }  # fmt: skip
                row = next((row for row in rows if row.items() >= what.items()), None)
                if row is None:
                    settings = common | {"statistics_tokens": multiple * lm.d_mlp}
                    try:
                        row = what | cell(lm, facts, options.batch, settings, method, text, held)
                    except InputError as error:  # with too few tokens there may be no inverse, which is a result, too
                        row = what | {"refused": str(error)}
                    with options.out.open("a", encoding="utf-8") as opened:
                        opened.write(json.dumps(row) + "\n")
                if "refused" in row:
                    print(f"{method:8}{source:12}{multiple:>3} × d_mlp  refused: {row['refused']}", flush=True)
                    continue
                print(
                    f"{method:8}{source:12}{multiple:>3} × d_mlp  "
                    + " / ".join(f"{row[name]:5.1f}" for name in SCORES[:4])
                    + f"  perplexity {row['perplexity']:.1f}  norm × {row['norm_ratio']:.3f}  "
                    f"disturbance {row['disturbance']:.3g}  {row['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
