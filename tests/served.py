"""The app as a process of its own on a free port, and a headless browser to look at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-default-apps", "--disable-sync", "--no-first-run", "--mute-audio"]  # fmt: skip


@contextmanager
def app(start_seconds: float = 180.0, script: str = "dashboard/asgi.py") -> Iterator[str]:
    """The address of a running app; the process is gone afterwards.

    Args:
        start_seconds: how long it may take to answer.
        script: what is served, as `streamlit run` takes it.

    Raises:
        RuntimeError: when it does not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "streamlit", "run", script, f"--server.port={port}"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(server, f"{address}/_stcore/health", start_seconds)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen, url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the app ended with {server.returncode} before it answered")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the app did not answer within {seconds:.0f} s")


PATIENCE = 120_000
"""ms for a click or a wait that says nothing else: a page on busy cores draws late."""


@contextmanager
def browser():
    """A headless Chromium, driven by Playwright.

    Its contexts are private windows; `kept_context` gives one of a profile on disk, where the browser keeps what it
    compiled of scripts, too, as most people's does. All of them look away from the app's content security policy, under
    which Playwright could not wait for a condition (it evaluates text); whoever tests the policy asks for
    `new_context(bypass_csp=False)`.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profiles:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        original = chromium.new_context

        def new_context(**options):
            context = original(**{"bypass_csp": True, **options})
            context.set_default_timeout(PATIENCE)
            return context

        def kept_context(**options):
            profile = tempfile.mkdtemp(dir=profiles)
            options = {"executable_path": CHROMIUM, "args": FLAGS, "bypass_csp": True, **options}
            context = playwright.chromium.launch_persistent_context(profile, **options)
            context.set_default_timeout(PATIENCE)
            return context

        chromium.new_context = new_context
        chromium.kept_context = kept_context
        chromium.new_page = lambda **options: chromium.new_context(**options).new_page()
        try:
            yield chromium
        finally:
            chromium.close()
