"""`encore app`: which command serves the studio, with which settings, and what it refuses before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from encore_core.cli import app, main
from encore_core.resources import SERVER_SETTINGS


@pytest.fixture
def started(monkeypatch) -> list:
    """The command that would have been run, and its environment."""
    found = []

    def become(command, environment):
        found.append((command, environment))
        return 0

    monkeypatch.setattr(app, "become", become)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_server_gets_the_settings_of_make_app(started, tmp_path, monkeypatch):
    monkeypatch.delenv("ENCORE_HOME")
    port = free_port()
    assert main(["app", "--port", str(port), "--home", str(tmp_path / "data")]) == 0
    [(command, environment)] = started
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"] and Path(command[4]).is_file()
    assert {f"--server.port={port}", "--server.address=127.0.0.1", "--runner.magicEnabled=false"} <= set(command)
    assert "--theme.dark.sidebar.backgroundColor=#161D25" in command
    assert sum(word.startswith("--theme.headingFontSizes=") for word in command) == 6
    assert environment["ENCORE_HOME"] == str(tmp_path / "data") and (tmp_path / "data").is_dir()
    assert environment["OMP_WAIT_POLICY"] and environment["PYTHONSAFEPATH"] == "1"


def test_every_setting_of_the_file_is_one_that_streamlit_knows():
    import tomllib

    from streamlit import config

    known = config.get_config_options()
    names = [name for name, _ in app.flattened(tomllib.loads(SERVER_SETTINGS.read_text(encoding="utf-8")))]
    assert names and set(names) <= set(known)


def test_a_port_that_is_taken_is_said_before_anything_is_started(started, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err and started == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "0"], "not between 1 and 65535"),
        (["--port", "x"], "invalid int value"),
        (["--address", "no such host"], "cannot listen at address 'no such host'"),
        (["--address", "192.0.2.1"], "cannot listen at 192.0.2.1"),
    ],
)
def test_what_cannot_be_served_is_one_line(words, said, started, capsys):
    assert main(["app", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and started == []


def test_the_data_folder_of_the_surroundings_is_used(started):
    assert main(["app", "--port", str(free_port())]) == 0
    assert started[0][1]["ENCORE_HOME"] == os.environ["ENCORE_HOME"]


@pytest.mark.skipif(os.name != "posix", reason="on Windows the server is a process of its own")
def test_whoever_ends_the_command_ends_the_server():
    """Docker, systemd and kill know the command's process alone; a server that outlived it would keep the port."""
    server = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"from encore_core.cli.app import *; become([sys.executable, '-c', {server!r}], os.environ)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert int(command.stdout.readline()) == command.pid
        command.terminate()
        assert command.wait(10) == -signal.SIGTERM
