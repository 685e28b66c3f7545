"""`encore app`: serve the studio."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from encore_core.cli.options import add_verbose_option
from encore_core.errors import InputError, quoted
from encore_core.processes import ENVIRONMENT
from encore_core.resources import CODE_FOLDER, SERVER_SETTINGS
from encore_core.storage import data_folder

SERVER = CODE_FOLDER / "dashboard" / "asgi.py"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `encore app`."""
    parser = commands.add_parser(
        "app",
        help="serve the studio",
        description="Serve the studio to this machine, or with --address to others. ENCORE_HOME, ENCORE_MODEL and "
        "ENCORE_CONFIG mean the same as for the other commands and make app. Ctrl-C ends it; runs go on.",
    )
    parser.add_argument("--address", metavar="IP", help="to listen at; 0.0.0.0 for all (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="N", help="to listen at (default: 8501)")
    parser.add_argument("--home", metavar="DIR", help="data folder (default: ENCORE_HOME, or ~/.encore-studio)")
    add_verbose_option(parser)
    parser.set_defaults(command=serve)


def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Returns the server's exit code.

    Raises:
        InputError: when the address or the port cannot be used, or the data folder cannot be made.
    """
    if options.home is not None:
        os.environ["ENCORE_HOME"] = str(Path(options.home).expanduser().absolute())
    data_folder()
    settings = dict(flattened(tomllib.loads(SERVER_SETTINGS.read_text(encoding="utf-8"))))
    settings["server.address"] = options.address or settings["server.address"]
    settings["server.port"] = settings["server.port"] if options.port is None else options.port
    check_address(settings["server.address"], settings["server.port"])
    # The server must not import what happens to be in the current folder.
    environment = ENVIRONMENT | os.environ | {"PYTHONSAFEPATH": "1"}
    return become([sys.executable, "-m", "streamlit", "run", str(SERVER), *flags(settings)], environment)


def become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in place of this process, so that whoever ends the process ends the command.

    Returns:
        its exit code, on Windows, where it is a process of its own.
    """
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(command[0], command, environment)
    try:
        return subprocess.run(command, env=environment).returncode
    except KeyboardInterrupt:  # the command has received it as well, and has ended
        return 0


def flattened(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Streamlit's names of settings and their values: {"theme": {"light": {"x": 1}}} is theme.light.x = 1."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}.")
        else:
            yield before + name, value


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of `streamlit run`; a list is given by repeating the option."""
    return [
        f"--{name}={str(one).lower() if isinstance(one, bool) else one}"
        for name, value in settings.items()
        for one in (value if isinstance(value, list) else [value])
    ]


def check_address(address: str, port: int) -> None:
    """Check early that a server can listen there; Streamlit would fail only after it has imported everything.

    Raises:
        InputError: when the port is out of range or taken, or the address does not belong to this machine.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"Port {port} is not between 1 and 65535.")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do, so that a port that was just released may be taken again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror as error:
        raise InputError(f"The app cannot listen at address {quoted(address)}; give 127.0.0.1.") from error
    except OSError as error:
        raise InputError(
            f"The app cannot listen at {address}, port {port} ({error.strerror}); give another with --port."
        ) from error
