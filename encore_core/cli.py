"""The command `encore`: edit a model, score it, list the catalogue.

Exit code 0, or 2 with one line on standard error that says what was wrong. Results go to standard output or to files;
progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from encore_core import __version__
from encore_core.editor import EditProgress, EditSession, batched
from encore_core.errors import InputError, quoted
from encore_core.export import check_output_folder, write_model_folder
from encore_core.facts import duplicate_subjects, read_facts
from encore_core.methods import METHODS, check_names, find_method
from encore_core.metrics import evaluate
from encore_core.models import CATALOGUE, DTYPES, is_ready, load_model

EXIT_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the command's name; those of the process by default.

    Returns:
        the exit code.
    """
    try:
        options = _parser().parse_args(arguments)
        logging.basicConfig(level=logging.INFO if options.verbose else logging.ERROR, format="%(message)s")
        _quieten_libraries(options.verbose)
        options.command(options)
    except InputError as error:
        print(f"encore: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("encore: stopped.", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse, but with one line on standard error instead of the usage and a line."""

    def error(self, message: str) -> None:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="encore", description="Edit facts in language models and measure what that does to them.")
    parser.add_argument("--version", action="version", version=f"encore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    edit = commands.add_parser("edit", help="apply facts and write the edited model as a folder")
    _add_model_options(edit)
    edit.add_argument("--method", default="ENCORE", help=f"one of {', '.join(METHODS)} (default ENCORE)")
    edit.add_argument("--facts", required=True, metavar="FILE", help='JSON, JSONL or CSV, or "bundled"')
    edit.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist or be empty"
    )
    edit.add_argument("--limit", type=_positive, metavar="N", help="only the first N facts")
    edit.add_argument("--batch-size", type=_positive, default=100, metavar="B", help="facts a batch (default 100)")
    edit.add_argument("--seed", type=_seed, default=0, metavar="S", help="of the sampled prefixes (default 0)")
    edit.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting; repeatable")
    edit.add_argument(
        "--known",
        choices=("skip", "edit", "refuse"),
        default="skip",
        help="facts that the model says already: skip them with a notice, edit them all the same, or refuse",
    )
    edit.set_defaults(command=_edit)

    score = commands.add_parser("eval", help="score a model on facts")
    _add_model_options(score)
    score.add_argument("--facts", required=True, metavar="FILE", help='JSON, JSONL or CSV, or "bundled"')
    score.add_argument("--limit", type=_positive, metavar="N", help="only the first N facts")
    score.add_argument("--json", action="store_true", help="print one JSON object")
    score.set_defaults(command=_eval)

    models = commands.add_parser("models", help="list the models known by name")
    models.add_argument("--json", action="store_true", help="print one JSON array")
    models.add_argument("--verbose", action="store_true", help="log what is done")
    models.set_defaults(command=_models)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="smollm2-135m", help="catalogue name, folder or hub id (default smollm2-135m)"
    )
    parser.add_argument("--device", metavar="D", help="cuda, mps or cpu (default: the best one present)")
    parser.add_argument("--dtype", metavar="T", help=f"{' or '.join(DTYPES)} (default float32)")
    parser.add_argument("--verbose", action="store_true", help="log what is done")


def _edit(options: argparse.Namespace) -> None:
    # Everything that can be wrong is looked at before the model is loaded.
    facts = read_facts(options.facts, limit=options.limit, notice=_notice)
    find_method(options.method)
    overrides = _overrides(options.set)
    check_output_folder(options.out)
    for (subject, _), places in duplicate_subjects(facts).items():
        _notice(f"The subject {quoted(subject)} is edited {len(places)} times.")
    lm = _load(options)
    session = EditSession(lm, options.method, seed=options.seed, settings=overrides, keep_history=False)
    with _bar("Preparing") as bar:
        session.prepare(bar.share)

    started = time.time()
    reports = []
    with _bar("Editing", total=len(facts), unit="fact") as bar:
        for number, batch in enumerate(batched(facts, options.batch_size), 1):
            report = session.edit(batch, known=options.known, on_progress=_teller(bar, number))
            reports.append(report)
            bar.move(len(batch))
            for notice in report.notices:
                _notice(notice)
    if not session.n_edits:
        raise InputError(
            f"All {len(facts)} facts are what the model says already, so there is nothing to edit; "
            "give other answers, or use --known edit."
        )
    with _bar("Writing") as bar:
        write_model_folder(options.out, session, reports, options.facts, options.batch_size, bar.share)
    skipped = len(facts) - session.n_edits
    print(
        f"{session.n_edits} facts edited with {session.settings.method} in {time.time() - started:.1f} s"
        f"{f', {skipped} skipped' if skipped else ''}; written to {options.out}",
        file=sys.stderr,
    )


def _eval(options: argparse.Namespace) -> None:
    facts = read_facts(options.facts, limit=options.limit, notice=_notice)
    lm = _load(options)
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


# -- reading options ---------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from {least}")
    return number


def _overrides(pairs: Sequence[str]) -> dict[str, str]:
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {quoted(pair)} is not of the form NAME=VALUE, for example lambda_n=20.")
        overrides[name.strip()] = value.strip()
    check_names(overrides)
    return overrides


def _load(options: argparse.Namespace):
    with _bar("Loading") as bar:
        return load_model(options.model, options.device, options.dtype, bar.share)


# -- telling -----------------------------------------------------------------------------------------------------------


def _notice(text: str) -> None:
    tqdm.write(f"note: {text}", file=sys.stderr)


class _bar:
    """A progress bar on standard error; silent when nobody watches."""

    def __init__(self, label: str, total: float = 1.0, unit: str | None = None):
        counted = unit is not None
        self.bar = tqdm(
            total=total,
            desc=label,
            unit=unit or "",
            file=sys.stderr,
            leave=counted,
            disable=None,
            bar_format=None if counted else "{desc} {percentage:3.0f}%|{bar:20}|",
        )

    def __enter__(self) -> _bar:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def share(self, what: str, share: float) -> None:
        """Show a phase and its share done, from 0 to 1."""
        self.bar.set_description_str(what, refresh=False)
        self.bar.n = share
        self.bar.refresh()

    def move(self, n: int) -> None:
        """Show that n more are done."""
        self.bar.update(n)


def _teller(bar: _bar, batch: int):
    def tell(progress: EditProgress) -> None:
        if progress.phase == "targets":
            bar.bar.set_postfix_str(f"batch {batch}, step {progress.step}, loss {progress.loss:.2f}")
        else:
            bar.bar.set_postfix_str(f"batch {batch}, layer {progress.done} of {progress.total}")

    return tell


def _quieten_libraries(verbose: bool) -> None:
    import transformers

    if not verbose:
        transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
