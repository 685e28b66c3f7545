"""How far the foretold damage can be trusted: against KL(unedited ‖ edited) per token on text in no statistics.

    python benchmarks/foretold.py lives FOLDER            # the checkpoints of `search.py run … --keep-states`
    python benchmarks/foretold.py facts FACTS.jsonl [--facts 40] [--method ENCORE] [--tokens 3000]
    python benchmarks/foretold.py runs [STORE]            # runs that measured both; by default the recorded ones

`lives` reads the saved states of a folder's runs and what was measured at them. `facts` edits single facts, one after
the other on the unedited model, and measures each. `runs` compares with the log perplexity ratio of the fixed text
instead, which needs no model. All print every pair, the ratio, and Spearman's rank correlation.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from search import divergence, groups_of, held_out, log_probs

from encore_core import load_model, read_facts
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.methods import SETTABLE
from encore_core.runs import RunStore, series
from encore_core.runs.recorded import recorded_runs
from encore_core.runs.resume_state import load_state
from encore_core.runs.rows import SavedState


def rank_correlation(pairs: list[tuple[float, float]]) -> float:
    """Spearman's: the correlation of ranks."""
    import pandas as pd

    frame = pd.DataFrame(pairs)
    return float(frame[0].rank().corr(frame[1].rank()))


def tell(what: str, pairs: list[tuple[float, float]]) -> None:
    if not pairs:
        print(f"{what}: nothing was measured")
        return
    ratios = sorted(foretold / measured for foretold, measured in pairs)
    middle = ratios[len(ratios) // 2]
    print(
        f"{what}: n = {len(pairs)}, foretold / measured {ratios[0]:.2f} to {ratios[-1]:.2f}, median {middle:.2f}; "
        f"rank correlation {rank_correlation(pairs):.3f}"
    )


def lives(options: argparse.Namespace) -> None:
    lm = load_model(options.model)
    every: list[tuple[float, float]] = []
    for file in sorted(options.folder.glob("*.jsonl")):
        first, *rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        settings = {name: value for name, value in first["settings"].items() if name in SETTABLE}
        states, pairs = options.folder / f"{file.stem}-states", []
        for row in rows:
            if row.get("state") is None or not (states / row["state"][1]).is_file():
                continue
            session = EditSession(lm, first["settings"]["method"], settings=settings, keep_history=False)
            load_state(states, [SavedState(*row["state"])], session)
            foretold = sum(session.foretold_damage().values())
            pairs.append((foretold, row["kl"]))
            print(f"{file.stem} {row['edits']:>6} edits: foretold {foretold:.4f}, KL {row['kl']:.4f}", flush=True)
        if pairs:
            tell(file.stem, pairs)
        every += pairs
    tell("all", every)


def facts(options: argparse.Namespace) -> None:
    lm = load_model(options.model)
    session = EditSession(lm, options.method)
    session.prepare()
    windows = held_out(lm, session.settings.statistics_tokens, options.tokens)
    with session.pristine():
        before = [log_probs(lm, rows) for rows in groups_of(windows)]
    pairs: list[tuple[float, float]] = []
    for fact in read_facts(options.facts_file)[options.first :]:
        try:
            session.edit([fact], known="refuse", measure=False)
        except InputError as error:
            print(f"left out: {error}")
            continue
        foretold, measured = sum(session.foretold_damage().values()), divergence(session, windows, before)
        pairs.append((foretold, measured))
        print(f"{fact.subject}: foretold {foretold:.2e}, KL {measured:.2e}", flush=True)
        session.undo()
        if len(pairs) == options.facts:
            break
    tell(f"single facts, {options.method}", pairs)


def runs(options: argparse.Namespace) -> None:
    store = RunStore(options.store) if options.store else recorded_runs()
    every: list[tuple[float, float]] = []
    for run in store.runs():
        frame = series.measures(store, [run.id], None).pivot(index="edits", columns="metric", values="value")
        if "foretold_damage" not in frame or "perplexity" not in frame or 0 not in frame.index:
            continue
        lost = (frame["perplexity"] / frame["perplexity"][0]).map(math.log)
        known = frame["foretold_damage"].notna() & lost.notna() & (frame.index > 0)
        both = known & (lost > 0)
        if known.sum() > both.sum():
            left_out = known.sum() - both.sum()
            print(f"{run.id}: {left_out} checkpoints with a perplexity below the unedited model's, left out")
        pairs = list(zip(frame["foretold_damage"][both], lost[both], strict=True))
        for edits, (foretold, measured) in zip(frame.index[both], pairs, strict=True):
            print(f"{run.id} {edits:>6} edits: foretold {foretold:.4f}, log perplexity ratio {measured:.4f}")
        if pairs:
            tell(run.id, pairs)
        every += pairs
    tell("all", every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    of_lives = commands.add_parser("lives")
    of_lives.add_argument("folder", type=Path)
    of_lives.set_defaults(command=lives)
    of_facts = commands.add_parser("facts")
    of_facts.add_argument("facts_file", type=Path)
    of_facts.add_argument("--facts", type=int, default=40)
    of_facts.add_argument("--first", type=int, default=5000, help="facts of the file that are left out")
    of_facts.add_argument("--method", default="ENCORE")
    of_facts.add_argument("--tokens", type=int, default=3000, help="of text that KL is measured on")
    of_facts.set_defaults(command=facts)
    of_runs = commands.add_parser("runs")
    of_runs.add_argument("store", type=Path, nargs="?", help="folder of runs")
    of_runs.set_defaults(command=runs)
    for one in (of_lives, of_facts):
        one.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
