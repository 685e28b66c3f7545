"""Edits as a file on the Edit page: what comes back from it, and what is refused, changing nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_runs
import torch
from refusals import NO_HUB, refusal
from safetensors.torch import save
from streamlit.testing.v1 import AppTest
from test_limits import given  # noqa: F401
from tiny_pages import errors, opened, unfolded, words

from dashboard.parts.edit import files as edit_files
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Visitor
from encore_core.editing.edit_file import edit_file_of, write_edit_file
from encore_core.editing.session import EditSession
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

FACTS = tiny_runs.FACTS


@pytest.fixture(autouse=True)
def server(monkeypatch, tiny_folder, tmp_path, surroundings):
    """A server of its own on the tiny model."""
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    monkeypatch.setattr("encore_core.hub.hub_trouble", lambda: NO_HUB)


def visitor_of(app: AppTest) -> Visitor:
    return app.session_state["visitor"]


def the_model() -> EditableModel:
    loading = models().get(os.environ["ENCORE_MODEL"])
    loading.wait(lambda what, share: None)
    return loading.lm


def kept(*batches, **settings) -> EditSession:
    """Edits that somebody else has made on that model."""
    session = EditSession(the_model(), "ENCORE", seed=3, settings={"layers": [0, 1], "steps": 4} | settings)
    for batch in batches:
        session.edit(batch, known="edit", measure=False)
    return session


def edited(app: AppTest, *batches, **settings) -> EditSession:
    """Edits on the model of a visitor, and the page run with them."""
    visitor = visitor_of(app)
    chosen = {"layers": [0, 1], "steps": 4} | settings
    visitor.start_over(settings_of(visitor.lm, "ENCORE", chosen), 3)
    for batch in batches:
        visitor.begin(batch, len(batch), "skip")
        visitor.work(lambda what, share: None)
    assert visitor.session.n_edits == sum(map(len, batches)), visitor.message
    return visitor.session


def loaded(app: AppTest, content: bytes, name: str = "../../etc/passwd") -> AppTest:
    unfolded(app, "edits_file")
    [box] = [one for one in app.file_uploader if one.key.startswith("edits_upload")]
    box.upload(name, content, "application/octet-stream").run()
    return app.button(key="edits_load").click().run()


def same(a: EditSession, b: EditSession) -> bool:
    mine, theirs = a.matrices(), b.matrices()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[layer], theirs[layer]) for layer in mine)


def test_edits_come_back_with_their_history_and_go_on(tmp_path):
    first = opened("edit")
    source = edited(first, FACTS[:1], FACTS[1:3], lambda_n=0.001)
    unfolded(first, "edits_file")
    assert any(button.label == "Download the edits" for button in first.get("download_button"))
    content = edit_files.as_bytes(source)

    app = loaded(opened("edit"), content)
    assert not app.exception and not errors(app)
    visitor = visitor_of(app)
    assert same(visitor.session, source) and visitor.session is not source
    assert "Loaded: 3 edits by ENCORE. Undo" in words(app) and "in 2 batches" in words(app)
    # The card shows the method and settings that they were made with, so the next edit goes on with these.
    assert visitor.session.settings == source.settings and visitor.session.seed == 3
    assert unfolded(app, "settings_open").number_input(key="seed").value == 3 and not app.button(key="apply").disabled
    assert visitor.edited_facts == [*FACTS[:3]] and FACTS[2].text in words(app)

    app.button(key="undo").click().run()
    assert "1 still on the model" in words(app) and source.undo() and same(visitor.session, source)
    for one in (visitor.session, source):
        one.edit(FACTS[4:5], known="edit")
    assert same(visitor.session, source)
    app.button(key="reset").click().run()
    assert not app.exception and visitor.session.n_edits == 0 and not visitor.session.matrices()


def test_edits_with_settings_that_have_no_field_can_be_gone_on_with():
    content = edit_files.as_bytes(kept(FACTS[:1], epsilon=0.3))
    app = loaded(opened("edit"), content)
    assert visitor_of(app).session.settings.epsilon == 0.3 and not app.button(key="apply").disabled
    app.button(key="reset").click().run().run()  # and are gone with the edits
    assert visitor_of(app).session.settings.epsilon == 0.1


def test_edits_that_are_replaced_are_told():
    content = edit_files.as_bytes(kept(FACTS[:1]))
    app = opened("edit")
    edited(app, FACTS[1:3])
    unfolded(app, "edits_file")
    [box] = [one for one in app.file_uploader if one.key.startswith("edits_upload")]
    box.upload("mine", content, "").run()
    assert "replaces the 2 edits on your model" in words(app) and visitor_of(app).session.n_edits == 2
    app.button(key="edits_load").click().run()
    assert "in place of the 2 that were on the model" in words(app) and visitor_of(app).session.n_edits == 1
    # The file has been taken out of the box.
    assert app.button(key="edits_load").disabled and "takes back" not in words(app)


def foreign(folder: Path, **changes) -> bytes:
    """An edit file, sound but for some values; its digest fits them."""
    edits = edit_file_of(kept(FACTS[:1]))
    write_edit_file(folder / "file", type(edits)(edits.values | changes, edits.tensors), {})
    return (folder / "file").read_bytes()


BAD = {
    "another model": (lambda p: foreign(p, base_fingerprint="0" * 16), "its weights differ"),
    "another shape": (lambda p: foreign(p, shape={"d_model": 4096, "d_mlp": 64, "n_layers": 5}), "d_model 4096"),
    "another format": (lambda p: foreign(p, dtype="bfloat16"), "made in bfloat16"),
    "no edit file": (lambda p: save({"x": torch.zeros(2)}), "not an edit file"),
    "no tensors": (lambda p: b"PK\x03\x04 of a kind", "damaged or not an edit file"),
    "empty": (lambda p: b"", "damaged or not an edit file"),
    "cut": (lambda p: foreign(p)[:-9], "damaged"),
    "changed": (lambda p: foreign(p)[:-9] + b"\x00" * 9, "damaged"),
    "method": (lambda p: foreign(p, method="ROME"), "ROME"),
    "seed": (lambda p: foreign(p, seed=2**31), "2147483648"),
    "prefixes": (lambda p: foreign(p, prefixes=["The"] * 6), "6 sampled prefixes"),
    "long prefix": (lambda p: foreign(p, prefixes=["The " * 2000]), "8,000 characters"),
    "row": (
        lambda p: foreign(p, batches=[{"edited": [{"fact": FACTS[0].to_dict(), "steps": 1}]}]),
        "fact 1 stopped is None",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name):
    make, wanted = BAD[name]
    message = refusal(edit_files.session_of, make(tmp_path), the_model())
    assert wanted in message and str(tmp_path) not in message


def test_after_a_refusal_the_edits_are_as_they_were(tmp_path):
    app = opened("edit")
    session = edited(app, FACTS[:1])
    before = session.matrices()
    app.run()
    for name in ("another model", "cut"):
        make, wanted = BAD[name]
        loaded(app, make(tmp_path))
        [error] = errors(app)
        assert wanted in error and "passwd" not in error and not app.exception
        assert visitor_of(app).session is session and session.n_edits == 1
        assert all(torch.equal(session.matrices()[layer], before[layer]) for layer in before)
    app.button(key="undo").click().run()
    assert not errors(app) and session.n_edits == 0


def test_what_goes_beyond_a_limit_is_refused(given):  # noqa: F811
    session = kept(FACTS[:3])
    content, lm = edit_files.as_bytes(session), session.lm
    given("[visitors]\nedits = 2\n")
    assert "limit of 2" in refusal(edit_files.session_of, content, lm)
    given("[visitors]\nbatch = 2\n")
    assert "3 facts per batch" in refusal(edit_files.session_of, content, lm)
    given("[visitors]\ncharacters = 4\n")
    assert "this server takes up to 4" in refusal(edit_files.session_of, content, lm)
    given("[visitors]\nupload_mb = 1\n")
    assert "more than the 1 MB" in refusal(edit_files.session_of, content + b"\x00" * 1_000_000, lm)


def test_edits_beyond_what_a_file_remembers_say_so_beforehand():
    app, session = opened("edit"), kept(*([fact] for fact in FACTS[:9] * 2))
    visitor_of(app).load(session)
    unfolded(app, "edits_file")
    assert any("cannot be loaded here again" in one.value for one in app.caption)
    loaded(app, edit_files.as_bytes(session))
    assert "use encore apply" in errors(app)[0] and visitor_of(app).session is session


def test_a_file_whose_edits_were_all_taken_back_is_loaded():
    app, session = opened("edit"), kept(FACTS[:1])
    session.retract([1])
    loaded(app, edit_files.as_bytes(session))
    assert not app.exception and not errors(app) and visitor_of(app).session.n_edits == 0
    assert len(visitor_of(app).session.history) == 2


def test_nothing_is_loaded_while_edits_are_applied():
    visitor, session = visitor_of(opened("edit")), kept(FACTS[:1])
    visitor.begin(FACTS[:2], 1, "skip")
    assert "still being applied" in refusal(visitor.load, session) and visitor.session is not session
