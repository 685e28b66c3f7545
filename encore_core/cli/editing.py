"""`encore edit`, `encore eval` and `encore models`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from encore_core.cli.options import add_model_options, overrides, positive, seed
from encore_core.cli.telling import Bar, notice, teller
from encore_core.editor import EditSession, batched
from encore_core.errors import InputError, quoted
from encore_core.export import check_output_folder, write_model_folder
from encore_core.facts import duplicate_subjects, read_facts
from encore_core.methods import METHODS, find_method
from encore_core.metrics import evaluate
from encore_core.models import CATALOGUE, EditableModel, is_ready, load_model


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands to the parser's."""
    edit = commands.add_parser("edit", help="apply facts and write the edited model as a folder")
    add_model_options(edit)
    edit.add_argument("--method", default="ENCORE", help=f"one of {', '.join(METHODS)} (default ENCORE)")
    edit.add_argument("--facts", required=True, metavar="FILE", help='JSON, JSONL or CSV, or "bundled"')
    edit.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist or be empty"
    )
    edit.add_argument("--limit", type=positive, metavar="N", help="only the first N facts")
    edit.add_argument("--batch-size", type=positive, default=100, metavar="B", help="facts a batch (default 100)")
    edit.add_argument("--seed", type=seed, default=0, metavar="S", help="of the sampled prefixes (default 0)")
    edit.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting; repeatable")
    edit.add_argument(
        "--known",
        choices=("skip", "edit", "refuse"),
        default="skip",
        help="facts that the model says already: skip them with a notice, edit them all the same, or refuse",
    )
    edit.set_defaults(command=_edit)

    score = commands.add_parser("eval", help="score a model on facts")
    add_model_options(score)
    score.add_argument("--facts", required=True, metavar="FILE", help='JSON, JSONL or CSV, or "bundled"')
    score.add_argument("--limit", type=positive, metavar="N", help="only the first N facts")
    score.add_argument("--json", action="store_true", help="print one JSON object")
    score.set_defaults(command=_eval)

    models = commands.add_parser("models", help="list the models known by name")
    models.add_argument("--json", action="store_true", help="print one JSON array")
    models.add_argument("--verbose", action="store_true", help="log what is done")
    models.set_defaults(command=_models)


def _edit(options: argparse.Namespace) -> None:
    # Everything that can be wrong is looked at before the model is loaded.
    facts = read_facts(options.facts, limit=options.limit, notice=notice)
    find_method(options.method)
    settings = overrides(options.set)
    check_output_folder(options.out)
    for (subject, _), places in duplicate_subjects(facts).items():
        notice(f"The subject {quoted(subject)} is edited {len(places)} times.")
    lm = load(options)
    session = EditSession(lm, options.method, seed=options.seed, settings=settings, keep_history=False)
    with Bar("Preparing") as bar:
        session.prepare(bar.share)

    started = time.time()
    reports = []
    with Bar("Editing", total=len(facts), unit="fact") as bar:
        for number, batch in enumerate(batched(facts, options.batch_size), 1):
            report = session.edit(batch, known=options.known, on_progress=teller(bar, number))
            reports.append(report)
            bar.move(len(batch))
            for line in report.notices:
                notice(line)
    if not session.n_edits:
        raise InputError(
            f"All {len(facts)} facts are what the model says already, so there is nothing to edit; "
            "give other answers, or use --known edit."
        )
    with Bar("Writing") as bar:
        write_model_folder(options.out, session, reports, options.facts, options.batch_size, bar.share)
    skipped = len(facts) - session.n_edits
    print(
        f"{session.n_edits} facts edited with {session.settings.method} in {time.time() - started:.1f} s"
        f"{f', {skipped} skipped' if skipped else ''}; written to {options.out}",
        file=sys.stderr,
    )


def _eval(options: argparse.Namespace) -> None:
    facts = read_facts(options.facts, limit=options.limit, notice=notice)
    lm = load(options)
    scores = evaluate(lm, facts).as_dict()
    if options.json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        shown = "–" if value is None else f"{value:.3f}" if name == "magnitude" else f"{value:.1f}"
        print(f"{name:22}{len(facts) if name == 'facts' else shown:>10}")


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


def load(options: argparse.Namespace) -> EditableModel:
    """The model that the options name, with a bar while it loads."""
    with Bar("Loading") as bar:
        return load_model(options.model, options.device, options.dtype, bar.share)
