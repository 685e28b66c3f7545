"""Odd model folders: the doctor, loading and the page say the same of each, in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import odd_models
import pytest
import torch
import transformers
from odd_models import FOLDERS, Odd
from refusals import NO_HUB
from tiny_pages import app_at, errors, words

from encore_core import doctor
from encore_core.cli import main
from encore_core.errors import InputError
from encore_core.model_check import check_model
from encore_core.models import inspection
from encore_core.models.catalogue import Source
from encore_core.models.checkpoint import read_config
from encore_core.models.editable import load_model
from encore_core.models.inspection import inspect_files
from encore_core.models.memory import Sizes


def page_of(model: Path):
    app = app_at("models")
    app.session_state["models_name"] = str(model)
    app.run()
    assert not app.exception, app.exception
    return app


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    return odd_models.sound_folders(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def surroundings_without_hub(tmp_path, monkeypatch, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "hub_trouble", lambda: NO_HUB)
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)


def verdict(look, folder: Path, *options) -> tuple[str | None, tuple[str, ...]]:
    """The refusal, if there is one, and the notes."""
    try:
        found = look(str(folder), "cpu", *options)
    except InputError as error:
        return str(error), ()
    return None, found.notes


@pytest.mark.parametrize("row", FOLDERS.values(), ids=FOLDERS)
def test_the_doctor_says_what_loading_says(row: Odd, sound, tmp_path):
    folder = odd_models.make(row, sound, tmp_path / "model")
    refusal, notes = verdict(load_model, folder)
    refused_by_doctor, noted_by_doctor = verdict(check_model, folder)
    assert refused_by_doctor == refusal
    # Of a model that is used the doctor knows more: that nobody tuned it, for one.
    assert noted_by_doctor[: len(notes)] == notes
    if row.refused is None:
        assert refusal is None and len(notes) == (row.note is not None)
        assert row.note is None or row.note in notes[0]
    else:
        assert refusal is not None and row.refused in refusal and "\n" not in refusal
    assert not any("\n" in note for note in notes)


def one_line(said: str, begins: str) -> str:
    [line] = [line for line in said.splitlines() if line.startswith(begins)]
    return line.removeprefix(begins)


@pytest.mark.parametrize("case", ["NaN", "an index that names a file elsewhere", "a tokenizer of three words"])
def test_the_commands_refuse_alike(case, sound, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_packages", list)
    folder = odd_models.make(FOLDERS[case], sound, tmp_path / "model")
    assert main(["doctor", "--model", str(folder), "--device", "cpu"]) == 1
    refused = one_line(capsys.readouterr().out, f"wrong: Model {str(folder)!r}"[:60])
    out = tmp_path / "out"
    assert main(["edit", "--model", str(folder), "--device", "cpu", "--facts", "bundled", "--out", str(out)]) == 2
    assert one_line(capsys.readouterr().err, f"encore: Model {str(folder)!r}"[:61]) == refused
    assert not out.exists()


def test_the_commands_tell_the_same_note(sound, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_packages", list)
    monkeypatch.setattr(doctor.embedded_model, "installed", lambda: Path("weights.gguf"))
    folder = odd_models.make(FOLDERS["an adapter beside"], sound, tmp_path / "model")
    assert main(["doctor", "--model", str(folder), "--device", "cpu"]) == 0
    told = one_line(capsys.readouterr().out, "note: An adapter")
    edit = ["edit", "--model", str(folder), "--device", "cpu", "--facts", "bundled", "--limit", "1"]
    assert main([*edit, "--set", "steps=1", "--edits-out", str(tmp_path / "edits.safetensors")]) == 0
    assert one_line(capsys.readouterr().err, "note: An adapter") == told


@pytest.mark.parametrize("case", ["NaN", "cut off", "no layers"])
def test_the_page_says_it_too(case, sound, tmp_path):
    folder = odd_models.make(FOLDERS[case], sound, tmp_path / "model")
    [error] = errors(page_of(folder))
    assert error == verdict(load_model, folder)[0]


def test_the_page_tells_the_note(sound, tmp_path):
    folder = odd_models.make(FOLDERS["one weight too many"], sound, tmp_path / "model")
    app = page_of(folder)
    assert not errors(app) and "extra is in the files but not used." in words(app)


def test_an_adapter_is_not_put_on_where_peft_is_installed(sound, tmp_path, monkeypatch):
    """transformers does that by itself then, and says nothing."""
    for module in (transformers.models.auto.auto_factory, transformers.integrations.peft):
        monkeypatch.setattr(module, "is_peft_available", lambda: True)
    tried: list[str] = []
    monkeypatch.setattr(transformers.PreTrainedModel, "load_adapter", lambda self, *_, **__: tried.append("adapter"))
    folder = odd_models.make(FOLDERS["an adapter beside"], sound, tmp_path / "model")
    assert "is not applied" in load_model(str(folder), "cpu").notes[0] and not tried
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert tried == ["adapter"]


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def assembled(monkeypatch) -> list[torch.dtype]:
    """In which formats weights are loaded in order to be looked at."""
    formats: list[torch.dtype] = []
    real = inspection.assemble
    monkeypatch.setattr(inspection, "assemble", lambda *args: (formats.append(args[3]), real(*args))[1])
    return formats


def test_large_weights_are_looked_at_in_the_format_of_their_files(sound, tmp_path, monkeypatch, assembled):
    """Which maps them into memory; in another they would be copied."""
    monkeypatch.setattr(inspection, "COPIED", 0)
    for case, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("sound", torch.float32)):
        check_model(str(odd_models.make(FOLDERS[case], sound, tmp_path / case)), "cpu")
        assert assembled[-1] == dtype
    nan = odd_models.make(FOLDERS["NaN in bfloat16"], sound, tmp_path / "nan")
    assert verdict(check_model, nan) == verdict(load_model, nan)
    assert assembled[-1] == torch.bfloat16


def test_mapped_weights_take_no_memory_of_their_own(sound):
    """What `inspection` rests on: loading in the format of the files copies nothing."""
    lm = load_model(str(sound["llama"]), "cpu")
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("needs /proc")
    places = [line.split()[0].split("-") for line in mapped.read_text().splitlines() if str(sound["llama"]) in line]
    at = lm.matrix(0).data_ptr()
    assert any(int(begin, 16) <= at < int(end, 16) for begin, end in places)


def test_files_are_read_again_only_when_they_have_changed(sound, tmp_path, assembled):
    folder = odd_models.make(FOLDERS["sound"], sound, tmp_path / "model")
    assert check_model(str(folder), "cpu").problems == check_model(str(folder), "cpu").problems
    assert len(assembled) == 1
    FOLDERS["NaN"].change(folder)
    for _ in range(2):
        assert "not finite" in verdict(check_model, folder)[0]
    assert len(assembled) == 2


def test_progress_is_told(sound, tmp_path):
    told: list[float] = []
    folder = odd_models.make(FOLDERS["sound"], sound, tmp_path / "model")
    check_model(str(folder), "cpu", progress=lambda what, share: told.append(share))
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1


def of_the_hub(folder: Path, *missing: str) -> Source:
    """A model of the hub whose files are in a folder, but for some."""
    hub = SimpleNamespace(missing=missing, fetch_weights=lambda tell: None, origin="someone/some-model@0")
    return Source(str(folder), hub)


def test_nothing_is_fetched_for_it(monkeypatch, tmp_path):
    """Of a model of the hub whose weights are not all in its cache nothing but the small files is read."""
    monkeypatch.setattr(inspection, "assemble", lambda *args: pytest.fail("it was loaded"))
    found = inspect_files("a model", of_the_hub(tmp_path, "model.safetensors"), Sizes(*range(1, 8)), torch.float32)
    assert found.refusal is None and "not in the hub's cache" in found.notes[0]


@pytest.mark.parametrize(("case", "refused", "noted"), [("NaN", "not finite", 0), ("one weight too many", None, 1)])
def test_a_model_in_the_hubs_cache_is_looked_through(sound, tmp_path, case, refused, noted):
    folder = odd_models.make(FOLDERS[case], sound, tmp_path / "model")
    sizes = Sizes.of_config(read_config(case, str(folder)), case)
    found = inspect_files(case, of_the_hub(folder), sizes, torch.float32)
    assert (found.refusal is None) == (refused is None) and len(found.notes) == noted
    assert refused is None or refused in found.refusal
