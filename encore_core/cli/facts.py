"""`encore facts …`: convert and check files of facts, list and fetch data sets of the hub."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence

from encore_core.cli.editing import load, reads_texts
from encore_core.cli.fact_files import (
    FILE_BYTES,
    HELP,
    add_find_subjects_option,
    add_reading_options,
    facts_of,
    source_of,
)
from encore_core.cli.options import (
    add_json_option,
    add_limit_option,
    add_model_options,
    add_verbose_option,
    path,
    path_or_name,
    refuse_unused,
)
from encore_core.cli.output import Bar, notice
from encore_core.cli.places import check_file
from encore_core.errors import quoted
from encore_core.facts import FOUND, Fact, write_facts
from encore_core.facts.checking import Checked, check_facts
from encore_core.facts.hub_sets import ELSEWHERE, fetch_set, find_set, listed
from encore_core.measures.before_edits import BeforeEdits, ask_before
from encore_core.storage import gigabytes, replacing
from encore_core.words import counted

EXIT_WRONG = 1
SHOWN = 20
"""Lines of one sort that are printed; --json prints all."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    facts = commands.add_parser("facts", help="convert and check files of facts, fetch data sets")
    actions = facts.add_subparsers(required=True, metavar="ACTION")

    convert = actions.add_parser("convert", help="write a file of facts in our own form")
    convert.add_argument("facts", type=path_or_name, metavar="IN", help=HELP)
    convert.add_argument("--to", choices=("jsonl",), default="jsonl", help="form to write (default jsonl)")
    convert.add_argument("--out", required=True, type=path, metavar="FILE", help="file to write; must not exist")
    add_limit_option(convert)
    add_reading_options(convert)
    add_verbose_option(convert)
    convert.set_defaults(command=_convert)

    check = actions.add_parser(
        "check",
        help="report which parts of a file are read, which are not and why, repetitions and contradictions",
        description="The exit code is 0 when every row can be used and none contradicts another, and 1 otherwise. With "
        "--model, facts that do not fit the model count as errors too, and the answers that it gives already "
        "are listed.",
    )
    check.add_argument("facts", type=path_or_name, metavar="FILE", help=HELP)
    add_limit_option(check)
    add_find_subjects_option(check)
    add_model_options(check, default=None)
    add_json_option(check)
    check.set_defaults(command=_check)

    listing = actions.add_parser("list", help="list the data sets of the hub that are known by name")
    add_json_option(listing, "array")
    add_verbose_option(listing)
    listing.set_defaults(command=_list)

    get = actions.add_parser(
        "get",
        help="fetch a data set from the hub, and print which commit it is of and its SHA-256",
        description="Fetch a data set into the data folder, once. Where no revision is pinned, the one found is "
        "recorded, and used from then on.",
    )
    get.add_argument("name", help="from encore facts list")
    get.add_argument("--out", type=path, metavar="FILE", help="file to copy it to; must not exist")
    get.add_argument("--update", action="store_true", help="take the newest revision of a set of which none is pinned")
    add_json_option(get)
    add_verbose_option(get)
    get.set_defaults(command=_get)


def _convert(options: argparse.Namespace) -> None:
    check_file(options.out, "file of facts")
    facts = facts_of(options, options.limit)
    write_facts(facts, options.out)
    print(f"{counted(len(facts), 'fact')} written to {options.out}", file=sys.stderr)


# -- check -------------------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    if options.model is None:
        of_model = {"--device": options.device, "--dtype": options.dtype, "--start-token": options.start_token}
        refuse_unused(of_model, "is for a model; add --model")
    checked = check_facts(source_of(options.facts), options.limit, FOUND if options.find_subjects else None, FILE_BYTES)
    asked = _ask(options, checked.facts) if options.model is not None and checked.facts else None
    problems = [*checked.problems, *checked.contradictions, *(asked.do_not_fit if asked else ())]
    if options.json:
        model = {"model": asked and asked.as_dict()} if options.model is not None else {}
        print(json.dumps({"file": options.facts} | checked.as_dict() | model))
    else:
        _print(checked, asked)
        for line in checked.notices:
            print(f"note: {line}")
        _print_lines("note", checked.repeated)
        _print_lines("wrong", problems)
        if not problems:
            print("All is well.")
    return EXIT_WRONG if problems else 0


def _ask(options: argparse.Namespace, facts: Sequence[Fact]) -> BeforeEdits:
    """What a model says to the facts' prompts before any edit."""
    lm = load(options)
    notice(reads_texts(lm))
    return ask_before(lm, facts)


def _print(checked: Checked, asked: BeforeEdits | None) -> None:
    """The counts, a line each."""
    for name, value in [*checked.counts(), *([("said already", asked.in_words)] if asked else [])]:
        print(f"{name:18}{value}")
    if asked is not None:
        said = [f"{one.place}: {quoted(one.prompt)} → {quoted(one.target_new)}" for one in asked.said]
        _print_lines("said already", said)


def _print_lines(label: str, lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"{label}: {line}")
    if len(lines) > SHOWN:
        print(f"{label}: … and {len(lines) - SHOWN:,} more; --json lists all")


# -- the hub -----------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> None:
    rows = listed()
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        here = row["fetched"]
        state = "by hand" if row["where"] else gigabytes(here["bytes"]) if here else "from the hub"
        pinned = row["revision"][:8] if row["revision"] else "" if row["where"] else "not pinned"
        print(f"{row['name']:32}{'here, ' if here else ''}{state:14}{pinned:12}{row['licence']:16}{row['about']}")
    for one in ELSEWHERE.values():
        print(f"note: {one}")


def _get(options: argparse.Namespace) -> None:
    wanted = find_set(options.name)
    if options.out is not None:
        check_file(options.out, "file of facts")
    with Bar("Fetching", total=None, unit="byte") as bar:
        found = fetch_set(wanted, lambda n_bytes: bar.at(n_bytes, gigabytes(n_bytes)), options.update)
    if options.update and wanted.revision is not None:
        notice(f"The revision of {wanted.name} is pinned, so --update changes nothing.")
    path = found.path
    if options.out is not None:
        with replacing(options.out) as part:
            shutil.copyfile(found.path, part)
        path = options.out
    if found.bytes > FILE_BYTES:
        notice(f"It has {gigabytes(found.bytes)}; files of facts are read up to {gigabytes(FILE_BYTES)}, so split it.")
    if options.json:
        print(json.dumps({"name": wanted.name} | found.as_dict() | {"path": str(path)}))
        return
    pinned = "pinned" if wanted.revision else "found, and recorded"
    checked = "as pinned" if wanted.sha256 else "recorded: the name means this file now" if found.new else "as recorded"
    rows = {
        "file": str(path),
        "from": f"{found.repo}, {found.file}",
        "revision": f"{found.revision} ({pinned})",
        "SHA-256": f"{found.sha256} ({checked})",
        "licence": wanted.licence,
    }
    for name, value in rows.items():
        print(f"{name:10}{value}")
