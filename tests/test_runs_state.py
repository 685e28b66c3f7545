"""A session's state: what goes on from it is the same to the bit, and what is damaged is found out."""

from __future__ import annotations

import errno
import os

import pytest
import tiny_models
import tiny_runs
import torch
from refusals import refusal
from safetensors import SafetensorError

from encore_core import processes
from encore_core.errors import InputError
from encore_core.measures.answers import answer_probabilities, next_tokens
from encore_core.runs import resume_state as state_module
from encore_core.runs.resume_state import (
    EDITED_FILE,
    DiskFull,
    load_matrices,
    load_state,
    save_matrices,
    save_state,
    weights_digest,
)
from encore_core.runs.rows import SavedState

METHODS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")
BATCHES = [list(tiny_runs.FACTS[start : start + 2]) for start in range(0, 16, 2)]
CUTS = (1, 4, 5)


def edit(session, batches):
    for batch in batches:
        session.edit(batch, known="edit", measure=False)
    return session


@pytest.mark.parametrize(
    ("family", "method"),
    [*(("gpt2", method) for method in METHODS), ("llama", "ENCORE"), ("llama", "AlphaEdit"), ("llama_tied", "EMMET")],
)
def test_going_on_from_a_saved_state_is_the_same_to_the_bit(request, new_session, family, method, tmp_path):
    """Some cuts lie where thin factors wait to be folded into P, some right behind a folding."""
    lm = request.getfixturevalue(family)
    whole = new_session(lm, method, steps=3)
    saved = {}
    for number, batch in enumerate(BATCHES, 1):
        edit(whole, [batch])
        if number in CUTS:
            saved[number] = save_state(tmp_path, 2 * number, whole)
    for cut, state in saved.items():
        second = new_session(lm, method, steps=3)
        assert load_state(tmp_path, [state], second) == 2 * cut
        assert second.n_edits == 2 * cut and second.prefixes == whole.prefixes
        edit(second, BATCHES[cut:])
        assert weights_digest(second.matrices()) == weights_digest(whole.matrices())
        for layer, mine in second._contents.preservation.items():
            other = whole._contents.preservation[layer]
            assert torch.equal(mine.start, other.start) and len(mine.recent) == len(other.recent)
            assert all(torch.equal(a, b) for a, b in zip(mine.recent, other.recent, strict=True))


def test_saving_a_state_changes_nothing(new_session, gpt2, tmp_path):
    saving, other = new_session(gpt2, steps=3), edit(new_session(gpt2, steps=3), BATCHES[:5])
    for number, batch in enumerate(BATCHES[:5], 1):
        edit(saving, [batch])
        save_state(tmp_path, 2 * number, saving)
    assert weights_digest(saving.matrices()) == weights_digest(other.matrices())


def test_tensors_come_back_as_they_lay(new_session, gpt2, tmp_path):
    """BLAS may sum in another order for another layout or alignment."""
    session = edit(new_session(gpt2), BATCHES[:2])
    restored = new_session(gpt2)
    load_state(tmp_path, [save_state(tmp_path, 4, session)], restored)
    for layer, mine in session._contents.preservation.items():
        other = restored._contents.preservation[layer]
        assert mine.recent
        for a, b in zip([mine.start, *mine.recent], [other.start, *other.recent], strict=True):
            assert a.stride() == b.stride() and b.data_ptr() % 64 == 0
    for a, b in zip(session.matrices().values(), restored.matrices().values(), strict=True):
        assert a.stride() == b.stride() and b.data_ptr() % 64 == 0


def test_a_state_does_not_change_when_the_session_goes_on(new_session, gpt2):
    session = edit(new_session(gpt2), BATCHES[:5])
    state = session.state()
    copies = {name: tensor.clone() for name, tensor in state.tensors.items()}
    edit(session, BATCHES[5:])
    assert all(torch.equal(state.tensors[name], copy) for name, copy in copies.items())
    again = new_session(gpt2)
    again.restore(state)
    edit(again, BATCHES[5:])
    assert weights_digest(again.matrices()) == weights_digest(session.matrices())
    assert all(torch.equal(state.tensors[name], copy) for name, copy in copies.items())


def test_a_restored_session_knows_which_facts_were_edited(new_session, gpt2, tmp_path):
    """A fact edited before may be edited again, though the model says it now; another that it says is skipped."""
    session = new_session(gpt2, "MEMIT", steps=20)
    fact = tiny_models.CITIES[0]
    session.edit([fact])
    restored = new_session(gpt2, "MEMIT", steps=20)
    load_state(tmp_path, [save_state(tmp_path, 1, session)], restored)
    with restored.edited() as lm:
        assert answer_probabilities(lm, [(fact.text, fact.target_new)])[0].said
        assert next_tokens(lm, [fact.text], 1) != []
    assert restored.edit([fact], known="skip").edited[0].target is not None
    assert "nothing to undo" in refusal(restored.undo)


def test_a_session_without_edits_has_a_state_too(new_session, gpt2, tmp_path):
    restored = new_session(gpt2, seed=3)
    load_state(tmp_path, [save_state(tmp_path, 2, new_session(gpt2, seed=3))], restored)
    assert restored.matrices() == {} and restored.n_edits == 0
    whole = edit(new_session(gpt2, seed=3), BATCHES[:1])
    assert weights_digest(edit(restored, BATCHES[:1]).matrices()) == weights_digest(whole.matrices())


@pytest.mark.parametrize(
    ("other", "wanted"),
    [({"method": "MEMIT"}, "method"), ({"seed": 1}, "seed"), ({"lr": 0.25}, "lr"), ({"layers": (1, 2)}, "layers")],
    ids=str,
)
def test_a_state_of_other_settings_is_refused(new_session, gpt2, other, wanted):
    state = edit(new_session(gpt2), BATCHES[:1]).state()
    session = edit(new_session(gpt2, **other), BATCHES[1:2])
    before = weights_digest(session.matrices())
    message = refusal(session.restore, state)
    assert wanted in message or "lambda_n" in message or "preservation" in message
    assert weights_digest(session.matrices()) == before and session.n_edits == 2


def test_a_state_of_another_model_is_refused(new_session, gpt2, llama):
    state = edit(new_session(gpt2), BATCHES[:1]).state()
    assert "fingerprint" in refusal(new_session(llama).restore, state)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_states(new_session, gpt2, tmp_path):
    session = edit(new_session(gpt2), BATCHES[:2])
    older = save_state(tmp_path, 4, session)
    digest = weights_digest(session.matrices())
    newer = save_state(tmp_path, 6, edit(session, BATCHES[2:3]))
    return tmp_path, [newer, older], digest


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def write_nonsense(path):
    path.write_bytes(b"nonsense")


@pytest.mark.parametrize(
    "damage",
    [cut_short, flip_a_bit, write_nonsense, lambda path: path.unlink()],
    ids=["cut", "bit", "nonsense", "gone"],
)
def test_a_damaged_state_falls_back_to_the_one_before(new_session, gpt2, two_states, damage):
    folder, saved, digest = two_states
    damage(folder / saved[0].file)
    session = new_session(gpt2)
    assert load_state(folder, saved, session) == 4
    assert weights_digest(session.matrices()) == digest
    damage(folder / saved[1].file)
    before = new_session(gpt2)
    message = refusal(load_state, folder, saved, before)
    assert saved[0].file in message and saved[1].file in message and before.n_edits == 0


def test_a_state_that_was_never_a_state_is_refused(new_session, gpt2, tmp_path):
    digest = save_matrices(tmp_path, {})
    path = tmp_path / EDITED_FILE
    state = SavedState(2, path.name, state_module._digest(path))
    assert digest == weights_digest({})
    assert "No saved state" in refusal(load_state, tmp_path, [state], new_session(gpt2))


def test_matrices_are_kept_to_the_bit(new_session, lm, tmp_path):
    session = edit(new_session(lm), BATCHES[:2])
    state = save_state(tmp_path, 4, session)
    matrices, edits = load_matrices(tmp_path, [state])
    assert edits == 4 and weights_digest(matrices) == weights_digest(session.matrices())
    assert save_matrices(tmp_path, session.matrices()) == weights_digest(session.matrices())
    matrices, edits = load_matrices(tmp_path, [])
    assert edits is None and weights_digest(matrices) == weights_digest(session.matrices())


def test_there_are_no_matrices_before_the_first_state(tmp_path):
    assert "reach a checkpoint" in refusal(load_matrices, tmp_path, [])


def test_a_digest_minds_every_bit_and_the_layer():
    W = torch.randn(4, 3)
    other = W.clone()
    other.view(torch.int32)[0, 0] ^= 1
    digests = [weights_digest(m) for m in ({1: W}, {1: other}, {2: W}, {1: W.T.contiguous()}, {1: W.double()})]
    assert len(set(digests)) == 5 and weights_digest({1: W.T.contiguous().T}) == digests[0]
    assert weights_digest({1: W.bfloat16()}) != digests[0]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Quota exceeded"),
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_a_full_disk_leaves_the_states_there_were(new_session, gpt2, two_states, error, monkeypatch):
    folder, _, _ = two_states
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def without_room(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(state_module, "save_file", without_room)
    with pytest.raises(DiskFull, match="is full"):
        save_state(folder, 8, edit(new_session(gpt2), BATCHES[:1]))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_troubles_with_a_disk_are_said(new_session, gpt2, tmp_path, monkeypatch):
    def denied(tensors, path, metadata):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(state_module, "save_file", denied)
    with pytest.raises(InputError, match="Permission denied") as caught:
        save_state(tmp_path, 2, new_session(gpt2))
    assert not isinstance(caught.value, DiskFull)


def test_windows_flushes_files_that_are_open_for_writing_and_no_folders(tmp_path, monkeypatch):
    opened = []
    real = os.open

    def noted(path, flags):
        opened.append((path, flags))
        return real(path, flags)

    monkeypatch.setattr(processes, "ON_WINDOWS", True)
    monkeypatch.setattr(state_module.os, "open", noted)
    (tmp_path / "state").write_bytes(b"x")
    for path in (tmp_path / "state", tmp_path):
        state_module._force_to_disk(path)
    assert opened == [(tmp_path / "state", os.O_RDWR)]


def test_a_process_that_outlives_this_one_is_detached_on_every_system(tmp_path, monkeypatch):
    """From the terminal and its Ctrl-C: by a session of its own, on Windows by flags."""
    given = []

    class Started:
        def __init__(self, command, **values):
            given.append((values["start_new_session"], values["creationflags"]))

        def wait(self):
            return 0

    monkeypatch.setattr(processes.subprocess, "Popen", Started)
    for on_windows in (False, True):
        monkeypatch.setattr(processes, "ON_WINDOWS", on_windows)
        processes.start(["program"], tmp_path / "log")
    assert given == [(True, 0), (False, 0x208)]
