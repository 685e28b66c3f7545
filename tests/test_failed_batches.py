"""A batch that fails, wherever and however, leaves the session as it was, bit for bit, and the model as it was loaded.

Over every phase, both ways of holding matrices, first and later batches, refusals and interruptions.
"""

from __future__ import annotations

import pytest
import torch
from test_editor import matrices, preserved, same
from tiny_models import CITIES, FACTS, Snapshot, hooks_and_patches

from encore_core.editing import batch, batch_measures
from encore_core.editing.edited_matrices import EditedMatrices, Sums
from encore_core.editing.keys import KeyReader
from encore_core.editing.session import EditSession
from encore_core.editing.update_rule import Preservation

FIRST, SECOND, OTHER = [CITIES[0]], [CITIES[1], CITIES[2]], [FACTS[2]]

# Of a batch with two layers: what is called, for the how many-eth time, and whether it does its work before it fails.
POINTS = {
    "looking at the model as loaded": (batch_measures, "answer_probabilities", 1, False),
    "norms before": (batch_measures, "frobenius", 2, False),
    "drafting": (EditedMatrices, "draft", 1, True),
    "targets": (batch, "optimise_targets", 1, False),
    "targets, all found": (batch, "optimise_targets", 1, True),
    "keys of the first layer": (KeyReader, "keys", 1, False),
    "states at the second layer": (KeyReader, "states", 2, False),
    "the solve of the first layer": (batch, "solve", 1, False),
    "the solve of the second layer": (batch, "solve", 2, False),
    "the first layer, written": (Sums, "add", 1, True),
    "the second layer, written": (Sums, "add", 2, True),
    "moving up to the second layer": (KeyReader, "advance", -1, True),
    "norms after": (batch_measures, "frobenius", -1, False),
    "measuring": (batch_measures, "answer_probabilities", -1, False),
    "joining what is preserved": (Preservation, "absorbed", 1, True),
    "joining what is preserved, the second layer": (Preservation, "absorbed", 2, True),
    "taking the matrices over": (EditedMatrices, "committed", 1, False),
}


class Fault(Exception):
    """Nothing that the program raises itself."""


def fail_at(patch: pytest.MonkeyPatch, where: object, name: str, time: int, after: bool, error: type) -> list[int]:
    """Let the `time`-th call of something fail. Returns a list that holds how often it was called."""
    really, calls = getattr(where, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] != time:
            return really(*args, **kwargs)
        if after:
            really(*args, **kwargs)
        raise error

    patch.setattr(where, name, call)
    return calls


def times_called(session: EditSession, facts: list, where: object, name: str) -> int:
    """How often something is called in a batch that goes well."""
    with pytest.MonkeyPatch.context() as patch:
        calls = fail_at(patch, where, name, -2, False, Fault)
        session.edit(facts, known="edit")
    return calls[0]


@pytest.fixture(params=["gpt2", "llama_tied"])
def lm(request):
    """Transposed and plain matrices; sessions do not care about the rest of a family."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("error", [Fault, pytest.param(KeyboardInterrupt, marks=pytest.mark.slow)])
@pytest.mark.parametrize("batches_before", [0, 1])
@pytest.mark.parametrize("hold", ["matrices", "factors"])
@pytest.mark.parametrize("point", POINTS)
def test_a_batch_that_fails_changes_nothing(gpt2, new_session, point, hold, batches_before, error):
    lm = gpt2
    new_session(lm).prepare()  # statistics that are gathered meanwhile would be described in other words afterwards
    session, twin = (new_twin(new_session, lm, hold, batches_before) for _ in range(2))
    other = new_session(lm, hold=hold)
    before, kept = matrices(session), preserved(session)
    files, untouched, tidy = session.statistics, Snapshot.of(lm), hooks_and_patches(lm)
    where, name, time, after = POINTS[point]
    if time < 0:
        time = times_called(new_twin(new_session, lm, hold, batches_before), SECOND, where, name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        calls = fail_at(patch, where, name, time, after, error)
        session.edit(SECOND, known="edit")
    assert calls[0] == time
    assert untouched.holds(lm) and hooks_and_patches(lm) == tidy
    assert same(matrices(session), before) and same(preserved(session), kept)
    assert (session.n_edits, len(session.history)) == (batches_before, batches_before)
    assert session.statistics == files
    # Another session on the model sees nothing of it, and disturbs nothing.
    other.edit(OTHER, known="edit")
    assert same(matrices(session), before)
    # And it goes on as one that never failed: the same edit, and all of it taken back.
    for each in (session, twin):
        each.edit(SECOND, known="edit")
    assert same(matrices(session), matrices(twin)) and same(preserved(session), preserved(twin))
    session.undo()
    assert same(matrices(session), before)


def new_twin(new_session, lm, hold: str, batches_before: int) -> EditSession:
    session = new_session(lm, hold=hold)
    for facts in (FIRST, OTHER)[:batches_before]:
        session.edit(facts, known="edit")
    return session


@pytest.mark.parametrize("hold", ["matrices", "factors"])
@pytest.mark.parametrize("batches_before", [0, 1])
@pytest.mark.parametrize("phase", ["targets", "update"])
def test_a_batch_that_is_stopped_from_its_progress_changes_nothing(lm, new_session, hold, batches_before, phase):
    """As a click on Stop does: the page's script ends inside `on_progress`."""
    session = new_twin(new_session, lm, hold, batches_before)
    before = matrices(session)

    def stop(progress):
        if progress.phase == phase:
            raise Fault

    with pytest.raises(Fault):
        session.edit(SECOND, known="edit", on_progress=stop)
    assert same(matrices(session), before) and session.n_edits == batches_before
    norms = session.norms()
    assert all(before == after for before, after in norms.values()) == (batches_before == 0)


@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_a_run_that_keeps_no_history_is_left_as_it_was_too(llama, new_session, hold):
    session, twin = (new_session(llama, hold=hold, keep_history=False) for _ in range(2))
    for each in (session, twin):
        each.edit(FIRST)
    before, kept = matrices(session), preserved(session)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Fault):
        fail_at(patch, Sums, "add", 2, True, Fault)
        session.edit(SECOND)
    assert same(matrices(session), before) and same(preserved(session), kept)
    for each in (session, twin):
        each.edit(SECOND)
    assert same(matrices(session), matrices(twin))


def test_p_that_cannot_be_compacted_stays_as_it_is(llama, new_session, monkeypatch, caplog):
    """Compacting comes after the batch was taken over: without memory for it, P keeps its thin factors."""
    monkeypatch.setattr(Preservation, "FOLD_RANK_SHARE", 0.0)
    session, twin = new_session(llama), new_session(llama)
    twin.edit(FIRST)

    def no_memory(P):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Preservation, "compact", no_memory)
        session.edit(FIRST)
    assert "no memory to compact" in caplog.text and session.n_edits == 1
    for layer, P in session._contents.preservation.items():
        assert P.recent and not twin._contents.preservation[layer].recent
        torch.testing.assert_close(P.dense(), twin._contents.preservation[layer].dense(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_the_callers_gradient_mode_does_not_matter(lm, new_session, mode, hold):
    plain, inside = new_session(lm, hold=hold), new_session(lm, hold=hold)
    plain.edit(FIRST)
    plain.edit(SECOND)
    with mode():
        inside.prepare()
        inside.edit(FIRST)
        found = inside.find_targets(SECOND)
    inside.edit(SECOND)  # with what was made in that mode
    assert same(matrices(inside), matrices(plain))
    assert all(torch.equal(a.z, b.target.z) for a, b in zip(found, plain.history[1].report.edited, strict=True))
    with mode():
        inside.undo()
    inside.edit(SECOND)
    assert same(matrices(inside), matrices(plain))
