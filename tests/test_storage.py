"""What a user's text names: a folder, a file, or nothing, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from encore_core.storage import absolute_folder, is_file, is_folder, named_path

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
