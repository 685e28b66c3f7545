"""Edit files: what they restore, to the bit, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file, save_file
from tiny_models import CITIES, FACTS, Snapshot

from encore_core.edit_file import edit_file_of, read_edit_file, write_edit_file


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def edited(lm, new_session):
    """Of two batches. Tests leave it as they found it."""
    session = new_session(lm)
    session.edit([CITIES[0]])
    session.edit([CITIES[1], CITIES[2]], known="edit")
    return session


def saved(session, tmp_path, **values):
    path = tmp_path / "mine.edits"
    write_edit_file(path, edit_file_of(session, **values), {"torch": torch.__version__})
    return path


def test_replayed_factors_give_the_same_bits_and_the_same_history(edited, lm, new_session, tmp_path, statistics_text):
    before = Snapshot.of(lm)
    edits = read_edit_file(saved(edited, tmp_path))
    assert edits.form == "factors" and edits.facts == list(CITIES)
    assert same(edits.matrices_on(lm), edited.matrices())
    restored = edits.session_on(lm, statistics_text=statistics_text)
    assert [batch.report.edited[0].fact for batch in restored.history] == [CITIES[0], CITIES[1]]
    for mine, theirs in zip(restored.history, edited.history, strict=True):
        for one, other in zip(mine.report.edited, theirs.report.edited, strict=True):
            assert torch.equal(one.target.z, other.target.z) and one.target.loss == other.target.loss
            assert (one.steps, one.stopped, one.probability_after) == (
                other.steps,
                other.stopped,
                other.probability_after,
            )
    # Going on and going back are what they would have been.
    for session in (restored, edited):
        session.edit([FACTS[2]], known="edit")
    assert same(restored.matrices(), edited.matrices())
    edited.undo()
    restored.undo()
    assert same(restored.matrices(), edited.matrices())
    restored.undo()
    first = new_session(lm)
    first.edit([CITIES[0]])
    assert same(restored.matrices(), first.matrices()) and restored.n_edits == 1
    assert before.holds(lm)


def test_without_history_the_matrices_themselves_are_saved(lm, new_session, tmp_path):
    session = new_session(lm, keep_history=False)
    session.edit(CITIES, known="edit")
    edits = read_edit_file(saved(session, tmp_path, facts=CITIES))
    assert edits.form == "matrices" and edits.facts == list(CITIES)
    assert same(edits.matrices_on(lm), session.matrices())
    assert "encore apply" in refusal(edits.session_on, lm)


def test_factors_that_outweigh_the_matrices_are_not_saved(lm, new_session, tmp_path):
    session = new_session(lm, steps=2)
    for _ in range(20):
        session.edit(CITIES, known="edit", measure=False)
    edits = read_edit_file(saved(session, tmp_path))
    assert edits.form == "matrices" and same(edits.matrices_on(lm), session.matrices())


def test_another_model_is_refused(edited, lm, gpt2, llama, tmp_path):
    edits = read_edit_file(saved(edited, tmp_path))
    other = gpt2 if lm is llama else llama
    assert "d_model" in refusal(edits.matrices_on, other)
    parameter = lm.model.get_input_embeddings().weight.data
    right, lm.fingerprint = lm.fingerprint, "0" * 16
    try:
        assert "fingerprint" in refusal(edits.session_on, lm)
    finally:
        lm.fingerprint = right
    assert parameter is not None


def test_nothing_edited_is_nothing_to_save(lm, new_session):
    assert "Nothing has been edited" in refusal(edit_file_of, new_session(lm))


def test_damage_is_found(edited, tmp_path):
    path = saved(edited, tmp_path)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "mine.edits" in refusal(read_edit_file, path)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    path.write_bytes(bytes(flipped))
    assert "damaged" in refusal(read_edit_file, path)
    path.write_bytes(whole)
    assert "more than" in refusal(read_edit_file, path, 1000)
    assert "No such file" in refusal(read_edit_file, tmp_path / "nowhere")
    save_file({"x": torch.zeros(2)}, path)
    assert "no edit file" in refusal(read_edit_file, path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99}, {"form": "code"}, {"norms": {}}, {"norms": {"x": {"original": 1, "edited": 1}}},
        {"model": None},
        {"batches": []}, {"batches": 3}, {"batches": [{"edited": [{"fact": {"subject": "a"}, "steps": 1}]}]},
        {"seed": "../x"}, {"settings": 4}, {"prefixes": None},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_metadata_is_refused_in_one_line(edited, lm, tmp_path, change):
    """Even where somebody has made the digest anew."""
    edits = edit_file_of(edited)
    path = tmp_path / "hostile"
    write_edit_file.__wrapped__ if hasattr(write_edit_file, "__wrapped__") else None
    hostile = type(edits)(edits.values | change, edits.tensors)
    try:
        write_edit_file(path, hostile, {})
    except Exception:  # what cannot even be written cannot be read
        return

    def use():
        read_edit_file(path).session_on(lm)

    refusal(use)


@pytest.mark.parametrize("settings", [{"lambda_p": -1}, {"layers": [99]}, {"nonsense": 1}, {"layers": [1]}], ids=str)
def test_settings_that_cannot_be_used_are_refused(edited, lm, tmp_path, settings):
    edits = edit_file_of(edited)
    hostile = type(edits)(edits.values | {"settings": edits.values["settings"] | settings}, edits.tensors)
    path = tmp_path / "hostile"
    write_edit_file(path, hostile, {})
    refusal(lambda: read_edit_file(path).session_on(lm))


def test_tensors_of_another_shape_are_refused(edited, lm, tmp_path):
    edits = edit_file_of(edited)
    for name in list(edits.tensors)[:3]:
        tensors = {**edits.tensors, name: edits.tensors[name][:-1].clone()}
        path = tmp_path / "hostile"
        write_edit_file(path, type(edits)(edits.values, tensors), {})
        assert "damaged" in refusal(lambda: read_edit_file(tmp_path / "hostile").session_on(lm))


def test_any_reader_of_safetensors_reads_it(edited, tmp_path):
    path = saved(edited, tmp_path)
    tensors = load_file(path)
    layer = edited.settings.layers[0]
    update = edited.history[0].updates[layer]
    assert torch.equal(tensors[f"0.A.{layer}"] @ tensors[f"0.Y.{layer}"].T, update.delta())
    assert json.loads(json.dumps(edit_file_of(edited).values))
