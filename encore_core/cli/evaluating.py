"""`encore eval`: score a model on facts, teacher-forced and by what it generates."""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encore_core.cli.editing import load, reads_texts, tell_other_start
from encore_core.cli.fact_files import HELP, add_facts_options, facts_of
from encore_core.cli.options import add_json_option, add_limit_option, add_model_options, path, positive, refuse_unused
from encore_core.cli.output import Bar, notice
from encore_core.cli.places import check_file
from encore_core.editing.edit_file import read_edit_file
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.measures.generated import CHAT_TOKENS, CHATS, TOKENS, GenerationSettings
from encore_core.measures.generated_scores import METRICS, PARTS, PROTOCOLS, GeneratedScores, evaluate_generated
from encore_core.measures.intervals import Interval
from encore_core.measures.judging import KEY, Judge
from encore_core.measures.scores import PROTOCOL, Scores, evaluate
from encore_core.models.editable import EditableModel
from encore_core.storage import replacing
from encore_core.words import counted


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    score = commands.add_parser(
        "eval",
        help="score a model on facts",
        description="Score a model on facts, each score with its 95 % interval over facts. Teacher-forced scores "
        "compare the probabilities of answers; generated ones look at what the model writes by itself.",
    )
    add_model_options(score)
    add_facts_options(score, help=f"{HELP}; those of --edits by default")
    score.add_argument("--edits", type=path, metavar="FILE", help="put these saved edits onto the model first")
    add_limit_option(score)
    add_json_option(score)
    add_protocol_options(score, PROTOCOLS[0]).add_argument(
        "--texts", type=path, metavar="FILE", help="write every answer and its scores to this CSV file; must not exist"
    )
    score.set_defaults(command=_eval)


def add_protocol_options(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    """Add the options on how facts are scored.

    Args:
        parser: of a subcommand.
        default: the protocols, as for --protocol.

    Returns:
        the group of the options on generated answers.
    """
    parser.add_argument(
        "--protocol", default=default, metavar="NAMES",
        help=f"{' or '.join(PROTOCOLS)}, or both with a comma between (default {default})",
    )  # fmt: skip
    group = parser.add_argument_group("generated answers")
    group.add_argument(
        "--chat",
        choices=CHATS,
        help="put prompts into the chat template; auto: where the model has one (default)",
    )
    group.add_argument(
        "--max-tokens", type=positive, metavar="N",
        help=f"longest answer in tokens (default {TOKENS}, in a chat {CHAT_TOKENS}); most end before",
    )  # fmt: skip
    group.add_argument(
        "--judge",
        metavar="WHERE",
        help='a command that reads {"question", "answers", "said"} as JSON and prints yes or no, or the address of an '
        f"OpenAI-compatible server (its key in {KEY}); by default no judge",
    )
    group.add_argument("--judge-model", metavar="NAME", help="model at that address")
    group.add_argument(
        "--judge-seconds", type=float, metavar="S", help=f"longest wait for a verdict (default {Judge.seconds:g})"
    )
    return group


def _eval(options: argparse.Namespace) -> None:
    protocols = protocols_of(options)
    if "generated" not in protocols:
        refuse_unused({"--texts": options.texts}, "is for generated answers; add --protocol generated")
    if options.texts is not None:
        check_file(options.texts, "file of answers")
    judge = Judge(options.judge, options.judge_model, seconds_of(options)) if options.judge is not None else None
    edits = read_edit_file(options.edits) if options.edits is not None else None
    if options.facts is None and edits is None:
        raise InputError("There are no facts to score; give --facts FILE, or --edits FILE for those in it.")
    facts = edits.facts[: options.limit] if options.facts is None else facts_of(options, options.limit)
    lm = load(options)
    notice(reads_texts(lm))
    if edits is not None:
        tell_other_start(edits, lm)
    forced = generated = None
    with lm.matrices_replaced(edits.matrices_on(lm) if edits is not None else {}):
        if "teacher-forced" in protocols:
            forced = evaluate(lm, facts)
        if "generated" in protocols:
            generated = _generated(options, lm, facts, judge)
    if options.json:
        print(json.dumps(_values(forced, generated)), flush=True)
    else:
        _print(forced, generated)
    if options.texts is not None:  # after the scores, which no full disk can take
        _write_texts(options.texts, generated)


def protocols_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The protocols asked for.

    Raises:
        InputError: for an unknown one, and for options that it has no use for.
    """
    names = tuple(dict.fromkeys(name.strip() for name in options.protocol.split(",")))
    for name in names:
        if name not in PROTOCOLS:
            raise InputError(f"--protocol {quoted(name)} is not known; give {' or '.join(PROTOCOLS)}, or both.")
    of_judge = {"--judge-model": options.judge_model, "--judge-seconds": options.judge_seconds}
    of_answers = {"--judge": options.judge, "--chat": options.chat, "--max-tokens": options.max_tokens, **of_judge}
    if "generated" not in names:
        refuse_unused(of_answers, "is for generated answers; add --protocol generated")
    if options.judge is None:
        refuse_unused(of_judge, "is for a judge; add --judge")
    return names


def seconds_of(options: argparse.Namespace) -> float:
    """How long to wait for a judge."""
    return Judge.seconds if options.judge_seconds is None else options.judge_seconds


def _generated(
    options: argparse.Namespace, lm: EditableModel, facts: Sequence[Fact], judge: Judge | None
) -> GeneratedScores:
    settings = GenerationSettings.for_model(lm, options.chat or CHATS[0], options.max_tokens)
    with Bar("Generating") as bar:
        found = evaluate_generated(
            lm, facts, settings, judge,
            lambda what, done, total: bar.share(what, done / max(1, total)),
        )  # fmt: skip
    if found.n_unjudged:
        why = next(one.unjudged for of_fact in found.per_fact for one in of_fact if one.judged is None)
        n = sum(map(len, found.per_fact))
        notice(f"the judge gave no verdict on {found.n_unjudged} of {n} answers, which are left out; the first: {why}")
    return found


def _write_texts(path: Path, found: GeneratedScores) -> None:
    rows = found.rows()
    with replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "protocol"])
        writer.writeheader()
        writer.writerows(row | {"protocol": found.protocol} for row in rows)


def _values(forced: Scores | None, generated: GeneratedScores | None) -> dict[str, Any]:
    """All of it as plain JSON values. Without the names of protocols, the scores are teacher-forced ones."""
    values: dict[str, Any] = {}
    if forced is not None:
        values |= forced.as_dict() | {"protocol": PROTOCOL, "intervals": forced.intervals()}
    if generated is not None:
        values["generated"] = generated.as_dict()
    return values


def _print(forced: Scores | None, generated: GeneratedScores | None) -> None:
    if forced is not None:
        print(PROTOCOL)
        for name in forced.as_dict():
            if name != "facts":
                _print_score(name, forced.interval(name), 3 if name == "magnitude" else 1)
    if generated is not None:
        print(generated.protocol)
        for part in PARTS:
            for metric in METRICS if generated.judge is not None else METRICS[:2]:
                _print_score(f"{part}, {metric}", generated.interval(part, metric), 1)
        for kind in generated.kinds:
            _print_score(f"portability, {kind}", generated.interval("portability", "contained", kind), 1)


def _print_score(name: str, found: Interval | None, digits: int) -> None:
    if found is None:
        print(f"  {name:26}{'–':>8}")
        return
    between = "" if found.low is None else f"{found.low:.{digits}f} to {found.high:.{digits}f}"
    value = "not a number" if math.isnan(found.value) else f"{found.value:.{digits}f}"
    print(f"  {name:26}{value:>8}   {between:18}{counted(found.n, 'fact', form='>6')}")
