"""`encore retract`: take edits of an edit file back, whichever they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from encore_core.cli.editing import load, tell_other_start
from encore_core.cli.options import add_json_option, add_model_options, number_list, path, path_or_name
from encore_core.cli.output import Bar, notice
from encore_core.cli.places import check_file
from encore_core.editing.batch_report import BatchReport
from encore_core.editing.covariance import text_named
from encore_core.editing.edit_file import edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.edit_list import MadeEdit, Wanted
from encore_core.editing.retraction import told
from encore_core.editing.session import EditSession
from encore_core.errors import InputError, one_line, quoted
from encore_core.export.folder import versions


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `encore retract`."""
    parser = commands.add_parser(
        "retract",
        help="take back any of the saved edits",
        description="Take edits of an edit file back, and say what that leaves behind. Without --edits-out it is a "
        "trial that keeps nothing; with neither --subject nor --number it lists the edits.",
    )
    add_model_options(parser)
    parser.add_argument("--edits", required=True, type=path, metavar="FILE", help="what encore edit --edits-out wrote")
    parser.add_argument("--subject", metavar="S", help="take back the edit of this subject")
    parser.add_argument(
        "--prompt", metavar="P", help="which of the subject's edits: its prompt, with {} or as it reads"
    )
    parser.add_argument("--number", type=number_list, metavar="N,…", help="take back edits by number, from 1")
    parser.add_argument("--edits-out", type=path, metavar="FILE", help="file to write the edits to without these")
    parser.add_argument(
        "--statistics",
        type=path_or_name,
        metavar="FILE",
        help="as for the encore edit that made them (default: what it uses by default)",
    )
    add_json_option(parser)
    parser.set_defaults(command=_retract)


def _retract(options: argparse.Namespace) -> None:
    if options.prompt is not None and options.subject is None:
        raise InputError(f"--prompt {quoted(options.prompt)} needs --subject; or give --number.")
    if options.number and options.subject is not None:
        raise InputError("Give --subject or --number, not both.")
    lists = options.subject is None and not options.number
    if lists and options.edits_out is not None:
        raise InputError("There is no edit to take back; give --subject or --number.")
    edits = read_edit_file(options.edits)
    if options.edits_out is not None:
        check_file(options.edits_out)
    lm = load(options)
    tell_other_start(edits, lm)
    session = edits.session_on(lm, statistics_text=text_named(options.statistics))
    if lists:
        _list(session, options.json)
        return
    wanted = options.number or [_of_subject(session.edits(), options.subject, options.prompt)]
    with Bar("Taking back") as bar:
        report = session.retract(wanted, on_progress=lambda at: bar.share("Taking back", at.done / at.total))
    if options.edits_out is not None:
        write_edit_file(options.edits_out, edit_file_of(session), versions())
    for line in report.notices:
        notice(line)
    if options.json:
        print(json.dumps(_values(session, report)))
    else:
        print("\n".join(map(one_line, told(report))))
    what = f"{len(report.retracted)} taken back, {session.n_edits} left, {sum(report.seconds.values()):.1f} s"
    notice(f"{what}; written to {options.edits_out}" if options.edits_out else f"{what}; nothing is written")


def _of_subject(edits: Sequence[MadeEdit], subject: str, prompt: str | None) -> Wanted:
    """The number of the edit that a subject and perhaps a prompt name.

    Raises:
        InputError: when there is none, or several live ones.
    """
    found = [
        edit for edit in edits if edit.fact.subject == subject and prompt in (None, edit.fact.prompt, edit.fact.text)
    ]
    if not found:
        what = f"subject {quoted(subject)}" + (f" and the prompt {quoted(prompt)}" if prompt is not None else "")
        raise InputError(f"No edit has the {what}; encore retract --edits FILE lists them.")
    live = [edit for edit in found if edit.is_live]
    if len({edit.fact.key for edit in live}) > 1:
        numbers = ", ".join(str(edit.number) for edit in live)
        raise InputError(f"{len(live)} edits have the subject {quoted(subject)}; give --prompt, or --number {numbers}.")
    return (live or found)[-1].number


def _list(session: EditSession, as_json: bool) -> None:
    """Print the edits of a file, one a line."""
    edits = session.edits()
    if as_json:
        print(json.dumps({"edits": [_edit_values(edit) for edit in edits]}))
        return
    print(f"{'no.':>4} {'batch':>5} {'p before':>9} {'after':>9}  {'':15} fact")
    for edit in edits:
        probabilities = (edit.edited.probability_before, edit.edited.probability_after)
        before, after = ("–" if p is None else f"{p:.4f}" for p in probabilities)
        state = "" if edit.is_live else f"{'taken back' if edit.retracted else 'overwritten'}, {edit.ended_by + 1}"
        print(f"{edit.number:>4} {edit.batch + 1:>5} {before:>9} {after:>9}  {state:15} {one_line(str(edit))}")


def _edit_values(edit: MadeEdit) -> dict[str, Any]:
    return {
        "number": edit.number,
        "batch": edit.batch + 1,
        "subject": edit.fact.subject,
        "prompt": edit.fact.prompt,
        "target_new": edit.fact.target_new,
        "probability_before": edit.edited.probability_before,
        "probability_after": edit.edited.probability_after,
        "live": edit.is_live,
    }


def _values(session: EditSession, report: BatchReport) -> dict[str, Any]:
    """A retraction as plain JSON values."""
    return {
        "retracted": [
            {
                "subject": one.fact.subject,
                "prompt": one.fact.prompt,
                "batch": one.batch + 1,
                "new": asdict(one.new),
                "own": asdict(one.own) if one.own else None,
                "is_back": one.is_back,
            }
            for one in report.retracted
        ],
        "others": asdict(report.others) if report.others else None,
        "n_edits": session.n_edits,
        "norms": {str(layer): list(norms) for layer, norms in session.norms().items()},
        "seconds": sum(report.seconds.values()),
    }
