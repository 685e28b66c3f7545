"""Ray itself: whether it is installed, and connecting to a cluster, with one clear line where that fails."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from packaging.version import Version

from encore_core.errors import InputError, first_line, quoted

LEAST_VERSION = "2.60"
LOCAL, AUTO = "local", "auto"
NAMESPACE = "encore"
ANSWER_SECONDS = 5.0


def ray_module() -> Any:
    """The module `ray`.

    Raises:
        InputError: when it is not installed, or too old.
    """
    # Set before Ray is imported. It would tell its makers about the cluster, and warn on every start that it does.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"Ray is not installed ({first_line(error)}); install it with pip install 'encore-studio[ray]'."
        ) from error
    found = metadata.version("ray")
    if Version(found) < Version(LEAST_VERSION):
        raise InputError(f"Ray {found} is too old; install {LEAST_VERSION} or newer: pip install 'encore-studio[ray]'.")
    return ray


def checked_address(address: str) -> str:
    """An address in its own words: "local", "auto" or "HOST:PORT".

    Raises:
        InputError: for another text.
    """
    text = address.strip() if isinstance(address, str) else ""
    if text in (LOCAL, AUTO):
        return text
    host, colon, port = text.rpartition(":")
    if text.startswith("ray://") or not (colon and host and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise InputError(
            f'Address {quoted(address)} is not one of a Ray cluster; give HOST:PORT as `ray start` printed it, "auto" '
            'for the cluster that this machine is a part of, or "local" for one made for the purpose.'
        )
    return text


def check_answers(address: str) -> None:
    """Refuse an address at which nobody listens, before Ray waits for it for minutes.

    Raises:
        InputError: naming it.
    """
    if address in (LOCAL, AUTO):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return
    except OSError as error:
        raise InputError(
            f"The Ray cluster at {address} does not answer ({error.strerror or error}); start it with "
            "`ray start --head` there, or give the address that it printed."
        ) from error


@contextmanager
def connected(address: str, **options: Any) -> Iterator[Any]:
    """Ray, connected to a cluster for the duration of the block.

    Args:
        address: from `checked_address`.
        options: more arguments of `ray.init`, for a local cluster.

    Yields:
        the module `ray`.

    Raises:
        InputError: when it does not answer, or has other versions of Ray or Python.
    """
    ray = ray_module()
    check_answers(address)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": NAMESPACE}
    if address == LOCAL:
        quiet["include_dashboard"] = False
        # As polite as our own worker (see `runs.worker`); Ray's 15 would starve beside anything else on the machine.
        os.environ.setdefault("RAY_worker_niceness", "5")
    try:
        ray.init(address=address, **quiet, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(_why_not(address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _why_not(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return (
            f"The Ray cluster at {address} has other versions than this process: {text[:300]}; install the same ones."
        )
    if address == AUTO:
        return 'This machine is a part of no Ray cluster; start one with `ray start --head`, or give "local".'
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    return f"The Ray cluster at {address} cannot be used ({first_line(error)}); " + (
        "is its token in ~/.ray/auth_token here?" if token else "if it asks for a token, set RAY_AUTH_MODE=token."
    )
