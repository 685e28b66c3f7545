"""Processes of this machine: starting one that outlives this one; whether one is alive; boot, memory and commit of this
one."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from encore_core.resources import CODE_FOLDER, INSTALLED, PACKAGE

ON_WINDOWS = os.name == "nt"

ENVIRONMENT = {
    # Threads that wait by spinning starve the pages on the same cores, see `runtime`.
    "OMP_WAIT_POLICY": "PASSIVE",
    # From the first allocation on, keep large blocks for the next step instead of mapping them again.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    # Without it CUDA's matrix products may sum in another order each time, and a resumed run would differ.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


_DETACHED_ON_WINDOWS = 0x00000200 | 0x00000008
"""CREATE_NEW_PROCESS_GROUP and DETACHED_PROCESS, which `subprocess` names on Windows alone."""


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
    """Start a process that outlives this one.

    Args:
        command: program and arguments.
        log: file to which its output is appended.
        environment: variables in addition to this process's.

    Raises:
        OSError: when no process can be started.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Neither Ctrl-C nor the end of the terminal or the app should end it.
            start_new_session=not ON_WINDOWS,
            creationflags=_DETACHED_ON_WINDOWS if ON_WINDOWS else 0,
            cwd=CODE_FOLDER,
            env=ENVIRONMENT | os.environ | environment,
        )
    # Something has to wait for its end, or it would stay listed as a zombie as long as this process lives.
    threading.Thread(target=process.wait, name="waits for a process", daemon=True).start()
    return process


def host() -> str:
    """The machine's name."""
    return socket.gethostname() or platform.node() or "unknown"


def boot_id() -> str:
    """An id of this boot of the machine, by which process ids from an earlier boot are known to be void."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(round(psutil.boot_time()))


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; zombies do not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def memory_bytes() -> tuple[int, int]:
    """This process's resident memory now, and its peak (as far as the system says), in bytes."""
    info = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # on Windows the first call gives the peak
        return info.rss, getattr(info, "peak_wset", info.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In kilobytes, except on macOS.
    return info.rss, max(info.rss, peak if platform.system() == "Darwin" else 1024 * peak)


@functools.cache
def program_digest() -> str:
    """12 hex digits of the program's own modules, as they are when this is first asked: of two processes that have the
    same, neither can end in other bits because of the program."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        if not file.is_relative_to(INSTALLED):  # pages, which a checkout has elsewhere
            digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def commit(folder: Path = CODE_FOLDER) -> str | None:
    """The commit of the code in a git checkout, followed by "+" if files have been changed since; else None."""
    if not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    # Reading the state must not take locks that would block the user's own git commands.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True, env=environment
    )
    return done.stdout.strip()
