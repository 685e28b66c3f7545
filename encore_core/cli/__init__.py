"""The command `encore`: edit a model, score it, run thousands of edits, list the catalogue.

Exit code 0; 1 when `encore doctor` or `encore facts check` finds something wrong; 2 when the input is wrong, with one
line on standard error that says why. Results go to standard output or to files; progress goes to standard error.

Each subcommand has a module; what they share is in `options`, `fact_files`, `places`, `output` and `watching`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from encore_core import __version__
from encore_core.cli import (
    app,
    cluster,
    compare,
    doctor,
    editing,
    evaluating,
    facts,
    layers,
    retract,
    run,
    runs,
    statistics,
    tune,
)
from encore_core.cli.options import Parser
from encore_core.errors import InputError

EXIT_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the command's name; those of the process by default.

    Returns:
        the exit code.
    """
    code = None
    _take_any_character()
    try:
        options = _parser().parse_args(arguments)
        logging.basicConfig(level=logging.INFO if options.verbose else logging.ERROR, format="%(message)s")
        _quieten_libraries(options.verbose)
        code = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has closed it (`encore runs list | head`).
        _give_up_output()
    except InputError as error:
        return _refused(error)
    except OSError as error:
        # A full disk or a file that cannot be opened is no defect of ours, so no stack is shown.
        logging.getLogger(__name__).info("The error was raised here:", exc_info=error)
        place = f"{error.filename}: " if error.filename is not None else ""
        return _refused(f"{place}{error.strerror or error}.")
    except KeyboardInterrupt:
        print("encore: stopped.", file=sys.stderr)
        return 130
    return code or 0


def _take_any_character() -> None:
    """Let standard output and error accept every character: one that the terminal's or pipe's encoding lacks is
    written as an escape, so no result is lost because of a dash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a caller of `main` may have put another kind of stream there
            stream.reconfigure(errors="backslashreplace")


def _refused(why: object) -> int:
    """Print in one line why the command failed. Returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
    with suppress(OSError):  # if even that cannot be written, the exit code must do
        print(f"encore: {' '.join(str(why).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _give_up_output() -> None:
    """Stop the interpreter from trying again, when it exits, to write what standard output has not accepted."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="encore", description="Edit facts in language models and measure what that does to them.")
    parser.add_argument("--version", action="version", version=f"encore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    app.add_commands(commands)
    editing.add_commands(commands)
    evaluating.add_commands(commands)
    compare.add_commands(commands)
    retract.add_commands(commands)
    facts.add_commands(commands)
    run.add_commands(commands)
    runs.add_commands(commands)
    cluster.add_commands(commands)
    statistics.add_commands(commands)
    doctor.add_commands(commands)
    tune.add_commands(commands)
    layers.add_commands(commands)
    return parser


def _quieten_libraries(verbose: bool) -> None:
    import transformers

    if not verbose:
        transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
