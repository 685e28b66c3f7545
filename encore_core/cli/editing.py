"""`encore edit`, `encore apply` and `encore models`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from encore_core.cli.fact_files import add_facts_options, facts_of, fitting
from encore_core.cli.options import (
    add_editing_options,
    add_json_option,
    add_model_options,
    add_verbose_option,
    count,
    overrides,
    path,
    refuse_unused,
)
from encore_core.cli.output import Bar, notice, teller
from encore_core.cli.places import check_file, check_folder, held
from encore_core.editing.batch import TooLargeChange, batched
from encore_core.editing.batch_report import SAID, BatchReport, refused_batch
from encore_core.editing.covariance import text_named
from encore_core.editing.edit_file import EditFile, edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.foretold_damage import perplexity_factor
from encore_core.editing.session import EditSession
from encore_core.errors import InputError, one_line, quoted
from encore_core.export.card import SCORED_FACTS
from encore_core.export.folder import check_output_folder, versions, write_edits, write_model_folder
from encore_core.facts import Fact, check_batches, duplicate_subjects
from encore_core.facts.joining import joined
from encore_core.methods import METHODS, find_method
from encore_core.models.editable import CATALOGUE, EditableModel, is_ready, load_model
from encore_core.words import counted

DEFAULT_METHOD = "ENCORE"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    edit = commands.add_parser(
        "edit",
        help="apply facts and write the edited model as a folder",
        description="Apply facts and write the edited model, or the edits alone. Without --out and --edits-out it is a "
        "trial: it says what came of each fact, and keeps nothing.",
    )
    add_model_options(edit)
    edit.add_argument("--method", help=f"one of {', '.join(METHODS)} (default ENCORE, or that of --edits)")
    add_facts_options(edit, required=True)
    edit.add_argument(
        "--edits",
        type=path,
        metavar="FILE",
        help="go on from these saved edits, as they were made; a fact that is among them is overwritten",
    )
    edit.add_argument(
        "--out", type=path, metavar="DIR", help="folder to write the edited model to; must not exist or be empty"
    )
    edit.add_argument(
        "--edits-out", type=path, metavar="FILE", help="file to write the edits alone to; encore apply puts them back"
    )
    edit.add_argument(
        "--scored", type=count, metavar="N",
        help=f"with --out: facts scored for the model card, before and after, at most (default {SCORED_FACTS}; 0 for "
        "none)",
    )  # fmt: skip
    edit.add_argument(
        "--foretell",
        action="store_true",
        help="say at the end what the edits cost general text, estimated from statistics",
    )
    add_editing_options(edit)
    edit.set_defaults(command=_edit)

    put = commands.add_parser("apply", help="put saved edits onto their base model and write it as a folder")
    add_model_options(put)
    put.add_argument("--edits", required=True, type=path, metavar="FILE", help="what encore edit --edits-out wrote")
    put.add_argument(
        "--out", required=True, type=path, metavar="DIR", help="folder to write; must not exist or be empty"
    )
    put.add_argument("--scored", type=count, default=SCORED_FACTS, metavar="N", help="as for encore edit")
    put.set_defaults(command=_apply)

    models = commands.add_parser("models", help="list the models known by name")
    add_json_option(models, "array")
    add_verbose_option(models)
    models.set_defaults(command=_models)


def _edit(options: argparse.Namespace) -> None:
    # Check everything that can be wrong before the model is loaded.
    facts = facts_of(options, options.limit)
    check_batches(facts, options.batch_size)
    find_method(options.method or DEFAULT_METHOD)
    settings = overrides(options.set)
    edits = _edits_to_continue(options) if options.edits is not None else None
    _check_outputs(options)
    for (subject, _), places in duplicate_subjects(facts).items():
        notice(f"The subject {quoted(subject)} is edited {len(places)} times.")
    with held(options.out):
        lm = load(options)
        notice(reads_texts(lm))
        session = _session(lm, options, settings, edits)
        _edit_and_write(session, facts, options)
    if options.foretell:  # at the end, so that nothing is lost if it cannot be foretold
        _foretell(session)


def _edit_and_write(session: EditSession, facts: Sequence[Fact], options: argparse.Namespace) -> None:
    with Bar("Preparing") as bar:
        session.prepare(bar.share)
    notice(f"Key statistics of {session.statistics}.")
    # Problems that only the model's tokenizer can show are also found before the first batch is edited.
    n_scored = SCORED_FACTS if options.scored is None else options.scored
    scored = options.out is not None and n_scored > 0
    fit = fitting(session.lm, facts, session.prefixes_read, options, scored)
    if len(fit) < len(facts):
        check_batches(fit, options.batch_size)
        facts = fit
    started = time.time()
    before = [batch.report for batch in session.history]
    reports = _edit_batches(session, facts, options)
    try:
        if options.out is not None:
            check_output_folder(options.out)  # it may have been filled meanwhile
            with Bar("Writing") as bar:
                write_model_folder(
                    options.out, session, [*before, *reports], options.facts, options.batch_size, bar.share,
                    n_scored,
                )  # fmt: skip
    finally:  # where one cannot be written, the other is
        if options.edits_out is not None:
            write_edit_file(options.edits_out, edit_file_of(session), versions())
    n_edited = _n_edited(reports)
    skipped = len(facts) - n_edited
    places = [str(place) for place in (options.out, options.edits_out) if place is not None]
    if not places:
        _print_facts(reports)
    written = f"written to {' and '.join(places)}" if places else "nothing is written without --out or --edits-out"
    first = f"{counted(n_edited, 'fact')} edited with {session.settings.method} in {time.time() - started:.1f} s"
    first += f", {skipped} skipped" if skipped else ""
    print("; ".join(filter(None, (first, session.directions_left(), written))), file=sys.stderr)


def _foretell(session: EditSession) -> None:
    with Bar("Estimating damage") as bar:
        by_layer = session.foretold_damage(bar.share)
    total, worst = sum(by_layer.values()), max(by_layer, key=by_layer.__getitem__)
    notice(
        f"Estimated damage to general text: {total:.4g} nats per token, so perplexity about × "
        f"{perplexity_factor(total):.4g}; most of it in layer {worst} ({by_layer[worst]:.3g}). It is foretold "
        "from statistics, without reading text: good for comparing edits, rough as a figure."
    )


def _edits_to_continue(options: argparse.Namespace) -> EditFile:
    """The saved edits that an edit goes on from.

    Raises:
        InputError: for a file that cannot be used, and for a method, seed or setting other than theirs.
    """
    edits = read_edit_file(options.edits)
    method, seed = edits.values["method"], edits.values["seed"]
    if options.method not in (None, method) or options.seed not in (None, seed) or options.set:
        raise InputError(
            f"The edits in {options.edits.name} were made with {quoted(method)}, seed {seed} and settings of their "
            "own, and go on with them; leave out --method, --seed and --set."
        )
    return edits


def _session(
    lm: EditableModel, options: argparse.Namespace, settings: dict[str, str], edits: EditFile | None
) -> EditSession:
    text = text_named(options.statistics)
    if edits is not None:
        tell_other_start(edits, lm)
        return edits.session_on(lm, statistics_text=text)
    return EditSession(
        lm,
        options.method or DEFAULT_METHOD,
        seed=options.seed or 0,
        settings=settings,
        statistics_text=text,
        # The history is kept only if it will be written; without it, thousands of edits take no more memory than one.
        keep_history=options.edits_out is not None,
    )


def _n_edited(reports: Sequence[BatchReport]) -> int:
    return sum(item.is_edited for report in reports for item in report.edited)


def _print_facts(reports: Sequence[BatchReport]) -> None:
    """What came of each fact, a line each."""
    print(f"{'p before':>9} {'after':>9} {'steps':>6}  {'stopped by':12} fact")
    for item in (item for report in reports for item in report.edited):
        before, after = ("–" if p is None else f"{p:.4f}" for p in (item.probability_before, item.probability_after))
        text = joined(item.fact.text, item.fact.target_new, item.fact.join)
        print(f"{before:>9} {after:>9} {item.steps:>6}  {item.stopped:12} {one_line(text)}")


def _edit_batches(session: EditSession, facts: Sequence[Fact], options: argparse.Namespace) -> list[BatchReport]:
    """Edit the facts, batch after batch; one that would change a matrix too much is left out.

    Raises:
        InputError: when none was edited.
    """
    reports = []
    with Bar("Editing", total=len(facts), unit="fact") as bar:
        for number, batch in enumerate(batched(facts, options.batch_size), 1):
            try:
                report = session.edit(batch, known=options.known, on_progress=teller(bar, number))
            except TooLargeChange as error:
                report = refused_batch(batch, str(error), 0.0)
            reports.append(report)
            bar.move(len(batch))
            for line in report.notices:
                notice(line)
    if not _n_edited(reports):
        raise InputError(_none_edited(reports))
    return reports


def _none_edited(reports: Sequence[BatchReport]) -> str:
    """Why no fact was edited."""
    outcomes = [item.outcome for report in reports for item in report.edited]
    if set(outcomes) == {SAID}:
        which = "The fact is" if len(outcomes) == 1 else f"All {len(outcomes):,} facts are"
        return f"{which} what the model says already, so nothing was edited; give other answers, or --known edit."
    reasons = dict.fromkeys(line for report in reports for line in report.notices)
    which = "The fact was not" if len(outcomes) == 1 else f"None of {len(outcomes):,} facts was"
    return f"{which} edited. {' '.join(reasons)}"


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse an edit that would go over what is there."""
    if options.out is not None:
        check_folder(options.out, options.edits_out)
    else:
        refuse_unused({"--scored": options.scored}, "is for the model card; add --out, or leave it out")
    if options.edits_out is not None:
        check_file(options.edits_out)


def _apply(options: argparse.Namespace) -> None:
    edits = read_edit_file(options.edits)
    check_folder(options.out)
    with held(options.out):
        lm = load(options)
        tell_other_start(edits, lm)
        with Bar("Applying") as bar:
            write_edits(options.out, lm, edits, options.edits, bar.share, options.scored)
    print(f"{counted(edits.values['n_edits'], 'fact')} put onto {lm.name}; written to {options.out}", file=sys.stderr)


def _models(options: argparse.Namespace) -> None:
    rows = [
        {
            "name": entry.name,
            "parameters_millions": entry.parameters,
            "licence": entry.licence,
            "source": f"package {entry.source}" if entry.embedded else entry.source,
            "ready": is_ready(entry.name),
        }
        for entry in CATALOGUE.values()
    ]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "ready" if row["ready"] else "embedded" if row["source"].startswith("package") else "from the hub"
        print(f"{row['name']:14}{row['parameters_millions']:>6} M  {state:13}{row['licence']:18}{row['source']}")


def reads_texts(lm: EditableModel) -> str:
    """How a model's texts begin, in a sentence."""
    if lm.start_text is not None:
        return f"Every text begins with the start token {lm.start_text}, in editing and in scoring."
    return "Nothing is put in front of a text but what the tokenizer puts there."


def tell_other_start(edits: EditFile, lm: EditableModel) -> None:
    if line := edits.other_start(lm):
        notice(line)


def load(options: argparse.Namespace) -> EditableModel:
    """The model that the options name, with a bar while it loads."""
    with Bar("Loading") as bar:
        lm = load_model(options.model, options.device, options.dtype, bar.share, options.start_token)
    for line in lm.notes:
        notice(line)
    return lm
