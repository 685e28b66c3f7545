"""`encore compare`: edit the same facts with several methods, side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from encore_core.cli.editing import load, reads_texts
from encore_core.cli.fact_files import add_facts_options, facts_of, fitting
from encore_core.cli.options import add_editing_options, add_json_option, add_model_options, count, overrides
from encore_core.cli.output import Bar, notice
from encore_core.editing.batch_report import NOT_EDITED
from encore_core.editing.comparison import Arm, Side, arms_of, edit_with_each
from encore_core.editing.covariance import text_named
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.export.card import SCORED_FACTS
from encore_core.facts import Fact, check_batches
from encore_core.measures.scores import PROTOCOL, evaluate

PAPERS = "MEMIT,EMMET,AlphaEdit,ENCORE"
SHOWN_SCORES = ("edit_score", "paraphrase_score", "neighborhood_score", "overall_score", "accuracy")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `encore compare`."""
    parser = commands.add_parser(
        "compare",
        help="edit the same facts with several methods, side by side",
        description="Edit the same facts with each of several methods on the unedited model, with the same prefixes "
        "and statistics, and print the results. Nothing is written.",
    )
    add_model_options(parser)
    add_facts_options(parser, required=True)
    parser.add_argument("--methods", default=PAPERS, metavar="A,B,…", help=f"methods to compare (default {PAPERS})")
    add_editing_options(parser)
    parser.add_argument(
        "--scored", type=count, default=SCORED_FACTS, metavar="N",
        help=f"facts that are scored after the edits, at most (default {SCORED_FACTS}; 0 for none)",
    )  # fmt: skip
    add_json_option(parser)
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> None:
    facts = facts_of(options, options.limit)
    check_batches(facts, options.batch_size)
    settings = overrides(options.set)
    arms = arms_of([Arm(name.strip(), settings) for name in options.methods.split(",") if name.strip()])
    lm = load(options)
    notice(reads_texts(lm))
    text = text_named(options.statistics)
    prefixes: tuple[str, ...] = ()
    with Bar("Preparing") as bar:
        for arm in arms:
            with suppress(InputError):  # this side will say so; the others stand
                session = EditSession(lm, arm.method, seed=options.seed or 0, settings=settings, statistics_text=text)
                session.prepare(bar.share)
                prefixes = prefixes or session.prefixes_read
    facts = fitting(lm, facts, prefixes, options, scored=options.scored > 0)
    check_batches(facts, options.batch_size)
    sides = []
    with Bar("Editing", total=len(arms), unit="method") as bar:
        for side in edit_with_each(
            lm, facts, arms, batch_size=options.batch_size, seed=options.seed or 0, known=options.known,
            statistics_text=text,
            on_progress=lambda label, progress: bar.at(len(sides), f"{label}, {progress.phase} {progress.done}"),
        ):  # fmt: skip
            sides.append(side)
            bar.at(len(sides), side.label)
    if all(side.error is not None for side in sides):
        raise InputError(sides[0].error)
    found = {side.label: _side(side, facts[: options.scored]) for side in sides}
    if options.json:
        print(json.dumps({"methods": found, "seconds": sum(side.seconds for side in sides)}))
    else:
        _print(found)
    for side in sides:
        for line in dict.fromkeys(line for report in side.reports for line in report.notices):
            notice(f"{side.label}: {line}")


def _side(side: Side, scored: Sequence[Fact]) -> dict[str, Any]:
    """What one method did, as plain JSON values."""
    if side.session is None or side.error is not None:
        return {"error": side.error, "facts": [], "scores": None, "norms": {}, "seconds": side.seconds}
    scores = None
    if scored:
        with side.session.edited() as lm:
            scores = evaluate(lm, scored)
    return {
        "facts": [
            {
                "subject": item.fact.subject,
                "prompt": item.fact.text,
                "probability_before": item.probability_before,
                "probability_after": item.probability_after,
                "steps": item.steps,
                "stopped": item.stopped,
            }
            for report in side.reports
            for item in report.edited
        ],
        "scores": None if scores is None else scores.as_dict(),
        "protocol": PROTOCOL,
        "intervals": None if scores is None else scores.intervals(),
        "norms": {str(layer): list(norms) for layer, norms in side.session.norms().items()},
        "seconds": side.seconds,
    }


def _print(found: dict[str, dict[str, Any]]) -> None:
    """A line per method, and what went wrong."""
    width = max(map(len, found))
    names = ("edit", "paraphrase", "neighb.", "overall", "accuracy")
    print(f"{'':{width}} {'p before':>9} {'p after':>9} {'steps':>6} {'‖W‖ most':>9} {'s':>7}", end="")
    print("".join(f" {name:>10}" for name in names))
    for label, side in found.items():
        if side.get("error"):
            print(f"{label:{width}} failed: {side['error']}")
            continue
        facts = [fact for fact in side["facts"] if fact["stopped"] not in NOT_EDITED]
        n = max(1, len(facts))
        before, after = (sum(fact[f"probability_{when}"] for fact in facts) / n for when in ("before", "after"))
        growth = max(now / was for was, now in side["norms"].values()) - 1
        print(
            f"{label:{width}} {before:>9.4f} {after:>9.4f} {sum(fact['steps'] for fact in facts) / n:>6.1f} "
            f"{growth:>+9.2%} {side['seconds']:>7.1f}",
            end="",
        )
        scores = side["scores"] or {}
        print("".join(f" {'–' if scores.get(name) is None else f'{scores[name]:.1f}':>10}" for name in SHOWN_SCORES))
    some = next((side for side in found.values() if side.get("scores")), None)
    if some is not None:
        print(f"p: mean over facts, teacher-forced. Scores × 100 of {some['scores']['facts']} facts, teacher-forced.")
