"""What a user's text names: a folder, a file, or nothing, whatever stands in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from encore_core import processes
from encore_core.runs import RunStore, start_worker
from encore_core.storage import absolute_folder, data_folder, is_file, is_folder, named_path, remove, replacing

NAMES_NOTHING = ("x" * 5000, "a\0b", "~nobody-of-this-name/x", "/" + "y/" * 3000, "", "\ud800")


@pytest.mark.parametrize("name", NAMES_NOTHING)
def test_texts_that_name_nothing_are_no_error(name):
    assert not is_folder(name) and not is_file(name) and absolute_folder(name) == name
    assert isinstance(named_path(name), Path)


def test_folders_and_files_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "folder"), "~/folder", "folder"):
        assert is_folder(name) and not is_file(name) and absolute_folder(name) == str(tmp_path / "folder")
    assert is_file("~/file") and not is_folder("~/file") and named_path("~/file") == tmp_path / "file"


def test_a_relative_data_folder_is_the_same_for_a_worker(tmp_path, monkeypatch):
    """It works in another folder than the command that starts it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENCORE_HOME", "data")
    assert data_folder() == tmp_path / "data" and RunStore().runs() == []
    given = {}
    monkeypatch.setattr(processes, "start", lambda command, log, **environment: given.update(environment))
    start_worker(RunStore(), "cpu")
    assert given == {"ENCORE_HOME": str(tmp_path / "data")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked to be killed")
def test_a_process_that_is_killed_in_a_write_leaves_one_hidden_folder(tmp_path):
    """Found by `benchmarks/kills.py`: safetensors writes under a name of its own first, beside the file asked for."""
    place = tmp_path / "file"
    place.write_text("as it was", encoding="utf-8")
    pid = os.fork()
    if pid == 0:
        try:
            with replacing(place) as part:
                (part.parent / ".tmpqFDzjE").write_text("half of it", encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(99)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    [left] = [path for path in tmp_path.iterdir() if path != place]
    assert left.is_dir() and left.name.startswith(".file.") and left.suffix == ".part"
    assert place.read_text("utf-8") == "as it was"
    remove(left)
    with replacing(place) as part:
        part.write_text("new", encoding="utf-8")
    assert [(path.name, path.read_text("utf-8")) for path in tmp_path.iterdir()] == [("file", "new")]
