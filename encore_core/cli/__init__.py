"""The command `encore`: edit a model, score it, run thousands of edits, list the catalogue.

Exit code 0; 1 when `encore doctor` finds something wrong; 2 when the input is wrong, with one line on standard
error that says why. Results go to standard output or to files; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from encore_core import __version__
from encore_core.cli import app, doctor, editing, run, runs, statistics, tune
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
        # The reader of the output has stopped reading (`encore runs list | head`).
        _give_up_output()
    except InputError as error:
        return _refused(error)
    except OSError as error:
        # A full disk or a file that cannot be opened is the system's problem, not a defect that needs a traceback.
        logging.getLogger(__name__).info("The error was raised here:", exc_info=error)
        place = f"{error.filename}: " if error.filename is not None else ""
        return _refused(f"{place}{error.strerror or error}.")
    except KeyboardInterrupt:
        print("encore: stopped.", file=sys.stderr)
        return 130
    return code or 0


def _take_any_character() -> None:
    """Let standard output and error take every character, whatever the encoding of the terminal or pipe. A character
    that it cannot show is written as an escape, so that no result is lost because of a dash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a caller may have replaced the stream
            stream.reconfigure(errors="backslashreplace")


def _refused(why: object) -> int:
    """Say in one line why the command was refused. Returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
    with suppress(OSError):  # if not even that can be written, the exit code says it
        print(f"encore: {' '.join(str(why).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _give_up_output() -> None:
    """Keep the interpreter from trying again, at its end, to write what standard output has not taken."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="encore", description="Edit facts in language models and measure what that does to them.")
    parser.add_argument("--version", action="version", version=f"encore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    app.add_commands(commands)
    editing.add_commands(commands)
    run.add_commands(commands)
    runs.add_commands(commands)
    statistics.add_commands(commands)
    doctor.add_commands(commands)
    tune.add_commands(commands)
    return parser


def _quieten_libraries(verbose: bool) -> None:
    import transformers

    if not verbose:
        transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
