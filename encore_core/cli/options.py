"""What the subcommands share: the parser, options, and the reading of values."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from encore_core.errors import InputError, quoted
from encore_core.methods import check_names
from encore_core.models.editable import DTYPES
from encore_core.storage import named_path


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, without the usage."""

    def error(self, message: str) -> None:
        """Raise an InputError with the message."""
        raise InputError(f"{message} (see {self.prog} --help)")


def add_model_options(parser: argparse.ArgumentParser, default: str | None = "smollm2-135m") -> None:
    """Add the options for loading a model, and --verbose."""
    parser.add_argument(
        "--model",
        default=default,
        help="catalogue name, folder or hub id; a hub id may be NAME@REVISION "
        f"({'default: none' if default is None else f'default {default}'})",
    )
    parser.add_argument(
        "--device",
        metavar="D",
        help="cuda, cuda:1, mps, cpu, or balanced: spread over all GPUs; what does not fit stays in the computer's "
        "memory and is copied to a GPU when it is used (default: the best one present)",
    )
    parser.add_argument("--dtype", metavar="T", help=f"{' or '.join(DTYPES)} (default float32)")
    parser.add_argument(
        "--start-token",
        metavar="T",
        help='what to put in front of every text: "none", a token of the vocabulary, or "auto" (default): nothing '
        "if the tokenizer puts a token there itself, else what suits the model",
    )
    add_verbose_option(parser)


def add_verbose_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="log what is done")


def add_json_option(parser: argparse.ArgumentParser, kind: str = "object") -> None:
    """Add --json.

    Args:
        parser: to add it to.
        kind: of JSON value that is printed.
    """
    parser.add_argument("--json", action="store_true", help=f"print one JSON {kind}")


def add_limit_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N facts")


def add_store_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=path, metavar="DIR", help="folder of runs (default: runs in the data folder)")


def add_editing_options(parser: argparse.ArgumentParser) -> None:
    """How facts are edited, for the commands that edit them at once."""
    add_limit_option(parser)
    parser.add_argument("--batch-size", type=positive, default=100, metavar="B", help="facts per batch (default 100)")
    parser.add_argument("--seed", type=seed, metavar="S", help="of the sampled prefixes (default 0)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting; repeatable"
    )
    parser.add_argument(
        "--known",
        choices=("skip", "edit", "refuse"),
        default="skip",
        help="facts that the model already says: skip them with a notice, edit them anyway, or refuse",
    )
    parser.add_argument(
        "--statistics",
        type=path_or_name,
        metavar="FILE",
        help='text for key statistics, or "bundled" (default: what encore statistics has gathered, else bundled)',
    )


def refuse_unused(given: Mapping[str, object], why: str) -> None:
    """Refuse options that would be ignored.

    Args:
        given: by name; None or False where they were left out.
        why: what follows the name: "is for --import; leave it out".

    Raises:
        InputError: for the first that was given.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise InputError(f"{name} {why}.")


def path(text: str) -> Path:
    """The type of options that name a file or folder; `~` is understood."""
    return named_path(text)


def path_or_name(text: str) -> str:
    """The type of options that name a file, a folder, or something by its name ("bundled"); `~` is understood."""
    return str(named_path(text)) if text.startswith("~") else text


def positive(text: str) -> int:
    """The type of options that take a whole number from 1."""
    return _whole(text, 1)


def seed(text: str) -> int:
    """The type of options that take a seed, a whole number from 0."""
    return _whole(text, 0)


def count(text: str) -> int:
    """The type of options that take a whole number from 0."""
    return _whole(text, 0)


def number_list(text: str) -> list[int]:
    """The type of options that take whole numbers from 1, separated by commas."""
    return [_whole(one, 1) for one in text.split(",")]


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from {least}")
    return number


def overrides(pairs: Sequence[str]) -> dict[str, str]:
    """The settings given as NAME=VALUE, by name.

    Raises:
        InputError: for another form or an unknown setting.
    """
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {quoted(pair)} is not of the form NAME=VALUE, for example lambda_n=20.")
        overrides[name.strip()] = value.strip()
    check_names(overrides)
    return overrides
