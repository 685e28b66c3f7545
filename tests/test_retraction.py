"""Any edit of a session taken back, and facts edited again: against sessions that never made the edit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from refusals import refusal
from test_editor import initial, matrices, preserved, same
from test_failed_batches import Fault, fail_at
from tiny_models import CITIES, FACTS, Snapshot, continued, hooks_and_patches

from encore_core.editing import batch, batch_measures, retraction
from encore_core.editing.batch_report import AppliedBatch
from encore_core.editing.edit_file import EditFile, edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.edited_matrices import EditedMatrices, Sums
from encore_core.editing.retraction import told
from encore_core.editing.session import EditSession
from encore_core.editing.update_rule import Preservation
from encore_core.facts import Fact
from encore_core.measures.answers import Question, answer_probabilities, questions
from encore_core.models.editable import EditableModel

FRANCE, NEW_ZEALAND, KENYA = CITIES
ITALY = Fact("Italy", "People from {} live in the city of", "Oslo", "Rome")
PAPERS = ("MEMIT", "EMMET", "AlphaEdit", "ENCORE")


@pytest.fixture(params=["gpt2", "llama_tied"])
def lm(request):
    """Transposed and plain matrices; sessions do not care about the rest of a family."""
    return request.getfixturevalue(request.param)


def session_of(new_session, lm: EditableModel, *batches, method: str = "ENCORE", **options) -> EditSession:
    session = new_session(lm, method, **options)
    for facts in batches:
        session.edit(facts, known="edit")
    return session


def probabilities(session: EditSession, facts) -> list[float]:
    with session.edited() as lm:
        return [answer.probability for answer in answer_probabilities(lm, questions(facts))]


def off(session: EditSession, other: EditSession) -> float:
    """How far a session's matrices are from those of another, as a share of what that one changed."""
    with session.pristine() as lm:
        base = {layer: lm.parameter(layer).data for layer in session.settings.layers}
    mine, theirs = session.matrices(), other.matrices()
    apart = sum(float((mine[layer] - theirs[layer]).norm()) ** 2 for layer in base) ** 0.5
    return apart / sum(float((theirs[layer] - base[layer]).norm()) ** 2 for layer in base) ** 0.5


# -- what a retraction leaves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PAPERS)
@pytest.mark.parametrize("gone", [[FRANCE], [KENYA], [NEW_ZEALAND, ITALY]], ids=["first", "of a batch", "two"])
def test_p_is_that_of_a_session_that_never_absorbed_the_keys(llama, new_session, monkeypatch, method, gone):
    keys: list[torch.Tensor] = []
    really = batch.solve
    monkeypatch.setattr(batch, "solve", lambda R, K, PK, slack: keys.append(K) or really(R, K, PK, slack))
    batches = ([FRANCE], [NEW_ZEALAND, KENYA], [ITALY])
    session = session_of(new_session, llama, *batches, method=method)
    edits = [fact for facts in batches for fact in facts]
    start = initial(session)
    n_layers = len(session.settings.layers)
    found_keys = {
        layer: torch.cat(keys[number::n_layers], dim=1) for number, layer in enumerate(session.settings.layers)
    }
    session.retract(gone)
    for layer, P in preserved(session).items():
        K = found_keys[layer][:, [i for i, fact in enumerate(edits) if fact not in gone]]
        P0 = start[layer].dense()
        wanted = P0 - P0 @ K @ torch.linalg.inv(torch.eye(K.shape[1], dtype=K.dtype) + K.T @ P0 @ K) @ K.T @ P0
        assert float((P - wanted).norm()) <= 1e-6 * float(wanted.norm())


@pytest.mark.parametrize("method", PAPERS)
@pytest.mark.parametrize("sequential", [True, False])
def test_matrices_come_near_those_of_a_session_that_never_made_the_edit(llama, new_session, method, sequential):
    """They would be equal if the later facts' keys and targets did not depend on the edit."""
    settings = {"method": method, "sequential": sequential}
    session = session_of(new_session, llama, [FRANCE], [NEW_ZEALAND], [KENYA], **settings)
    never = session_of(new_session, llama, [FRANCE], [KENYA], **settings)
    before = off(session, never)
    report = session.retract([NEW_ZEALAND])
    assert off(session, never) < 0.5 * before
    [one] = report.retracted
    [without] = probabilities(never, [NEW_ZEALAND])
    assert one.is_back and abs(one.new.after - without) < 0.05
    for mine, theirs in zip(
        probabilities(session, [FRANCE, KENYA]), probabilities(never, [FRANCE, KENYA]), strict=True
    ):
        assert abs(mine - theirs) < 0.1


def test_the_last_edit_taken_back_is_undone_up_to_rounding(lm, new_session):
    session, once = (session_of(new_session, lm, [FRANCE]) for _ in range(2))
    session.edit([NEW_ZEALAND], known="edit")
    session.retract([NEW_ZEALAND.key])
    assert off(session, once) < 1e-4
    for layer, P in preserved(once).items():
        torch.testing.assert_close(preserved(session)[layer], P, rtol=1e-6, atol=1e-9 * float(P.abs().max()))


def test_what_it_reports_is_what_the_models_say(llama, new_session):
    session = session_of(new_session, llama, [FRANCE], [NEW_ZEALAND], [KENYA])
    own = [Question(FRANCE.text, "Paris")]
    before, others_before = probabilities(session, [FRANCE]), probabilities(session, [NEW_ZEALAND, KENYA])
    report = session.retract([FRANCE])
    after, others_after = probabilities(session, [FRANCE]), probabilities(session, [NEW_ZEALAND, KENYA])
    with session.pristine() as lm:
        loaded = answer_probabilities(lm, [*questions([FRANCE]), *own])
    with session.edited() as lm:
        own_after = answer_probabilities(lm, own)[0]
        says = continued(lm, [FRANCE.text], 1)
    with session.pristine() as lm:
        assert report.retracted[0].is_back == (says == continued(lm, [FRANCE.text], 1))
    [one] = report.retracted
    assert (one.fact, one.batch, one.new.text, one.own.text) == (FRANCE, 0, "Rome", "Paris")
    for found, wanted in (
        ((one.new.before, one.new.after, one.new.loaded), (before[0], after[0], loaded[0].probability)),
        ((one.own.after, one.own.loaded), (own_after.probability, loaded[1].probability)),
        ((report.others.before, report.others.after), (sum(others_before) / 2, sum(others_after) / 2)),
    ):
        assert found == pytest.approx(wanted, rel=1e-4)
    changes = [abs(a - b) for a, b in zip(others_before, others_after, strict=True)]
    assert report.others.n == 2 and report.others.largest == pytest.approx(max(changes), abs=1e-5)
    assert report.edited == () and set(report.norms) == set(session.settings.layers)
    first, last = told(report)
    assert first.startswith("The capital of France is: Rome ") and "as loaded" in first and "2 other edits" in last


def test_without_measuring_nothing_but_the_edit_is_reported(llama, new_session):
    session = session_of(new_session, llama, [FRANCE])
    report = session.retract([1], measure=False)
    [one] = report.retracted
    assert (one.new.text, one.new.after, one.own, one.is_back, report.others) == ("Rome", None, None, None, None)
    assert told(report) == ["The capital of France is: Rome"]


def test_a_fact_without_a_true_answer_is_followed_by_what_the_model_says(llama, new_session):
    session = session_of(new_session, llama, [replace(FRANCE, target_true=None)])
    [one] = session.retract([FRANCE.key]).retracted
    assert "Paris".startswith(one.own.text) and one.own.loaded > 0.5  # as many tokens as the new answer has


def test_a_fact_whose_answer_other_edits_have_changed_is_set_back(llama, new_session, monkeypatch):
    """As the capital is when the largest city is edited. Without setting back it is as if it was never edited."""
    other = Fact("France", "The largest city of {} is", "Oslo", "Paris")
    batches = [FRANCE], [other]
    never = session_of(new_session, llama, [other], method="AlphaEdit")
    with never.edited() as lm:
        assert continued(lm, [FRANCE.text], 1) != continuations_as_loaded(lm)
    plain, session = (session_of(new_session, llama, *batches, method="AlphaEdit") for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr("encore_core.editing.session.set_back", lambda lm, facts, prefixes, settings, batch: batch)
        assert not plain.retract([FRANCE]).retracted[0].is_back
    report = session.retract([FRANCE])
    assert report.retracted[0].is_back and session.history[-1].updates and not plain.history[-1].updates
    # What was set back is not preserved.
    assert same(preserved(session), preserved(plain))


def continuations_as_loaded(lm: EditableModel) -> list[str]:
    with lm.matrices_replaced({}):
        return continued(lm, [FRANCE.text], 1)


# -- history -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_undo_and_going_on_are_bit_for_bit(lm, new_session, hold):
    session, twin = (session_of(new_session, lm, [FRANCE], [NEW_ZEALAND, KENYA], hold=hold) for _ in range(2))
    before, kept, pristine, tidy = matrices(session), preserved(session), Snapshot.of(lm), hooks_and_patches(lm)
    session.retract([2])
    assert pristine.holds(lm) and hooks_and_patches(lm) == tidy
    gone = matrices(session)
    assert not same(gone, before)
    assert session.undo().is_retraction
    assert same(matrices(session), before) and same(preserved(session), kept)
    # As if it had never been, and again.
    for each in (session, twin):
        each.retract([NEW_ZEALAND])
        each.edit([FACTS[2]], known="edit")
        each.retract([KENYA.key, FRANCE.key])
    assert same(matrices(session), matrices(twin)) and same(preserved(session), preserved(twin))
    session.undo()
    session.undo()
    assert same(matrices(session), gone)
    session.reset()
    assert session.n_edits == 0 and not session.history and not session.edits()
    assert same(session.matrices(), {})


@pytest.mark.parametrize("hold", ["factors"])
def test_sessions_that_hold_factors_give_the_same_bits(lm, new_session, hold):
    one, other = (session_of(new_session, lm, [FRANCE], [NEW_ZEALAND], hold=way) for way in ("matrices", hold))
    for session in (one, other):
        session.retract([FRANCE])
        session.edit([replace(NEW_ZEALAND, target_new="Lima")])
    assert same(matrices(one), matrices(other)) and same(preserved(one), preserved(other))


def test_edits_are_listed_with_what_became_of_them(llama, new_session):
    session = session_of(new_session, llama, [FRANCE], [NEW_ZEALAND, KENYA])
    session.retract([NEW_ZEALAND])
    session.edit([replace(FRANCE, target_new="Lima"), ITALY], known="edit")
    edits = session.edits()
    assert [(edit.number, edit.batch, edit.fact.target_new, edit.is_live) for edit in edits] == [
        (1, 0, "Rome", False), (2, 1, "Madrid", False), (3, 1, "Lima", True), (4, 3, "Lima", True),
        (5, 3, "Oslo", True),
    ]  # fmt: skip
    assert [(edit.ended_by, edit.retracted) for edit in edits] == [
        (3, False), (2, True), (None, False), (None, False), (None, False),
    ]  # fmt: skip
    assert session.live_edits() == [edit for edit in edits if edit.is_live]
    assert edits[2].edited is session.history[1].report.edited[1]
    assert session.n_edits == 3 and session._contents.edited_keys == {FRANCE.key, KENYA.key, ITALY.key}
    session.undo()
    assert [edit.is_live for edit in session.edits()] == [True, False, True] and session.n_edits == 2
    session.undo()
    assert session.n_edits == len(session.live_edits()) == 3
    with_keys = session.nbytes()
    bare = [
        AppliedBatch(one.report, {layer: replace(update, K=None) for layer, update in one.updates.items()})
        for one in session.history
    ]
    session.load_history(bare, session.prefixes)
    d_mlp, n_layers = llama.d_mlp, len(session.settings.layers)
    assert with_keys - session.nbytes() >= 3 * 8 * d_mlp * n_layers  # the keys are counted


def test_what_was_taken_back_may_be_edited_again(llama, new_session):
    session = session_of(new_session, llama, [FRANCE])
    session.retract([FRANCE])
    assert session.n_edits == 0 and session.edit([FRANCE]).edited[0].target is not None
    # It was taken back, so a fact that the model says is known again.
    session.retract([FRANCE])
    with session.edited() as lm:
        [said] = continued(lm, [FRANCE.text], 1)
    assert "says already" in refusal(session.edit, [replace(FRANCE, target_new=said.strip(), target_true=None)])
    assert [edit.retracted for edit in session.edits()] == [True, True]


def test_the_state_of_a_session_carries_what_was_released(llama, new_session):
    session = session_of(new_session, llama, [FRANCE], [NEW_ZEALAND])
    session.retract([FRANCE])
    other = new_session(llama)
    other.restore(session.state())
    for each in (session, other):
        each.edit([KENYA], known="edit")
    assert same(matrices(other), matrices(session)) and same(preserved(other), preserved(session))


# -- failures ----------------------------------------------------------------------------------------------------------

POINTS = {
    "looking at the model as loaded": (retraction, "answer_probabilities", 1, False),
    "norms before": (batch_measures, "frobenius", 2, False),
    "drafting": (EditedMatrices, "draft", 1, True),
    "taking out of the first layer": (retraction, "removal", 1, True),
    "taking out of the second layer": (retraction, "removal", 2, False),
    "the second layer, written": (Sums, "add", 2, True),
    "leaving what is preserved": (Preservation, "without", 2, True),
    "what it says without the edit": (retraction, "generate", 2, False),
    "measuring": (retraction, "answer_probabilities", 3, False),
    "taking the matrices over": (EditedMatrices, "committed", 1, False),
}


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("hold", ["matrices", "factors"])
@pytest.mark.parametrize("point", POINTS)
def test_a_retraction_that_fails_changes_nothing(gpt2, new_session, point, hold, error):
    session, twin = (session_of(new_session, gpt2, [FRANCE], [NEW_ZEALAND, KENYA], hold=hold) for _ in range(2))
    before, kept, untouched, tidy = matrices(session), preserved(session), Snapshot.of(gpt2), hooks_and_patches(gpt2)
    where, name, time, after = POINTS[point]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        calls = fail_at(patch, where, name, time, after, error)
        session.retract([NEW_ZEALAND])
    assert calls[0] == time
    assert untouched.holds(gpt2) and hooks_and_patches(gpt2) == tidy
    assert same(matrices(session), before) and same(preserved(session), kept)
    assert session.n_edits == 3 and len(session.history) == 2 and all(edit.is_live for edit in session.edits())
    for each in (session, twin):
        each.retract([NEW_ZEALAND])
    assert same(matrices(session), matrices(twin)) and same(preserved(session), preserved(twin))


def test_stopped_from_its_progress_it_changes_nothing(lm, new_session):
    session = session_of(new_session, lm, [FRANCE])
    before = matrices(session)

    def stop(progress):
        if progress.done == progress.total:
            raise Fault

    with pytest.raises(Fault):
        session.retract([FRANCE], on_progress=stop)
    assert same(matrices(session), before) and session.n_edits == 1


def test_what_cannot_be_taken_back_is_refused_in_one_line(llama, new_session):
    session = new_session(llama)
    assert "no edit has been made" in refusal(session.retract, [1])
    session.edit([FRANCE])
    session.edit([NEW_ZEALAND], known="edit")
    session.edit([replace(FRANCE, target_new="Lima")], known="edit")
    session.retract([NEW_ZEALAND])
    before = matrices(session)
    for wanted, why in (
        ([], "name at least one"),
        ([0], "no edit number 0; give a number from 1 to 3"),
        ([4], "no edit number 4"),
        ([KENYA], "'The largest city of Kenya is' → 'Lima' is not among the 3 edits"),
        ([("Kenya", "x {}")], "is not among the 3 edits"),
        ([FRANCE], "'The capital of France is' → 'Rome' was edited again in batch 3; take that one back"),
        ([1], "was edited again in batch 3; take that one back"),
        ([2], "'Madrid' was taken back already, in batch 4"),
        ([FRANCE.key, NEW_ZEALAND.key], "was taken back already"),
    ):
        assert why in refusal(session.retract, wanted)
    assert same(matrices(session), before)
    session.retract([FRANCE.key, 3, replace(FRANCE, target_new="Lima")])  # one edit, named three times
    assert session.n_edits == 0
    none = session_of(new_session, llama, [FRANCE], keep_history=False)
    assert "keeps no history" in refusal(none.retract, [FRANCE])


# -- facts edited again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PAPERS)
def test_a_fact_edited_again_leaves_nothing_of_its_first_edit(llama, new_session, method):
    lima = replace(NEW_ZEALAND, target_new="Lima")
    session = session_of(new_session, llama, [FRANCE], [NEW_ZEALAND], [KENYA], method=method)
    report = session.edit([lima, ITALY], known="edit")
    assert [line for line in report.notices if "take" in line] == [
        "'People from New Zealand live in the city of' → 'Madrid' was edited in batch 2; that edit is taken back, and "
        "this one takes its place."
    ]
    assert session.n_edits == 4 and session.history[-1].ended == ((1, 0),)
    never = session_of(new_session, llama, [FRANCE], [KENYA], [lima, ITALY], method=method)
    # Not equal: the later facts' keys were read with the first edit there.
    for layer, P in preserved(never).items():
        assert float((preserved(session)[layer] - P).norm()) < 0.1 * float(P.norm())
    assert abs(probabilities(session, [lima])[0] - probabilities(never, [lima])[0]) < 0.15
    # The first answer is that of the unedited model.
    [one] = session.retract([lima]).retracted
    assert one.is_back and one.own.text == "Wellington" and one.own.after > one.new.after
    assert probabilities(session, [NEW_ZEALAND])[0] < 0.2
    session.undo()
    session.undo()
    assert [edit.is_live for edit in session.edits()] == [True] * 3


def test_runs_that_keep_no_history_edit_on_as_before(llama, new_session):
    session = session_of(new_session, llama, [FRANCE], [replace(FRANCE, target_new="Lima")], keep_history=False)
    assert session.n_edits == 2
    assert all(not P.released for P in session._contents.preservation.values())


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(lm, new_session) -> EditSession:
    """Of two batches, a retraction and an edit that overwrites."""
    session = session_of(new_session, lm, [FRANCE], [NEW_ZEALAND, KENYA])
    session.retract([KENYA])
    session.edit([replace(FRANCE, target_new="Lima"), FACTS[2]], known="edit")
    return session


def saved(session, tmp_path, edits: EditFile | None = None) -> EditFile:
    write_edit_file(tmp_path / "mine.edits", edits or edit_file_of(session), {})
    return read_edit_file(tmp_path / "mine.edits")


def test_edit_files_carry_retractions(changed, lm, tmp_path, statistics_text):
    edits = saved(changed, tmp_path)
    assert edits.values["version"] == 2 and edits.values["n_edits"] == 3
    assert edits.facts == [edit.fact for edit in changed.live_edits()]
    assert same(edits.matrices_on(lm), changed.matrices())
    restored = edits.session_on(lm, statistics_text=statistics_text)
    assert same(preserved(restored), preserved(changed)) and restored.n_edits == 3
    for mine, theirs in zip(restored.history, changed.history, strict=True):
        assert (mine.ended, mine.report.retracted, mine.report.others) == (
            theirs.ended, theirs.report.retracted, theirs.report.others,
        )  # fmt: skip
        assert all(torch.equal(update.K, theirs.updates[layer].K) for layer, update in mine.updates.items())
    for session in (restored, changed):
        session.retract([NEW_ZEALAND])
    assert same(restored.matrices(), changed.matrices()) and same(preserved(restored), preserved(changed))
    for _ in range(3):
        restored.undo()
        changed.undo()
        assert same(restored.matrices(), changed.matrices())


def test_files_without_keys_can_be_taken_back_from_and_say_so(lm, new_session, tmp_path, statistics_text):
    session = session_of(new_session, lm, [FRANCE], [NEW_ZEALAND, KENYA])
    edits = edit_file_of(session)
    assert edits.values["version"] == 1  # which programs for it can read
    old = EditFile(edits.values, {name: tensor for name, tensor in edits.tensors.items() if ".K." not in name})
    restored = saved(session, tmp_path, old).session_on(lm, statistics_text=statistics_text)
    assert same(restored.matrices(), session.matrices())
    report, other = restored.retract([NEW_ZEALAND]), session.retract([NEW_ZEALAND])
    assert "holds no keys" in report.notices[0] and not other.notices
    assert off(restored, session) < 1e-3
    assert report.retracted[0].new.after == pytest.approx(other.retracted[0].new.after, abs=1e-3)


def test_when_all_is_taken_back_the_file_says_so(lm, new_session, tmp_path, statistics_text):
    session = session_of(new_session, lm, [FRANCE])
    session.retract([FRANCE])
    edits = saved(session, tmp_path)
    assert edits.facts == [] and edits.values["n_edits"] == 0
    restored = edits.session_on(lm, statistics_text=statistics_text)
    restored.undo()
    assert [edit.fact for edit in restored.live_edits()] == [FRANCE]


@pytest.mark.parametrize(
    ("batch_number", "put", "told"),
    [
        (2, {"ended": 3}, "batch 3 ended is 3"),
        (2, {"ended": [[1]]}, "pairs of whole numbers"),
        (2, {"ended": [[True, 0]]}, "pairs of whole numbers"),
        (2, {"ended": [[2, 0]]}, "edits that are there"),
        (2, {"ended": [[0, 5]]}, "edits that are there"),
        (2, {"ended": [[0, 0], [0, 0]]}, "edits that are there"),
        (3, {"ended": [[1, 1]]}, "edits that are there"),  # taken back in batch 3
        (2, {"ended": [[1, 1], [1, 0]]}, "no usable tensor"),
        (2, {"retracted": []}, "batch 3 edited is []"),
        (2, {"retracted": [3]}, "retracted is 3"),
        (3, {"retracted": [3]}, "empty in a batch that edits"),
        (2, {"restored": 0}, "restored is 0"),
        (3, {"restored": 1}, "left out of a batch that takes nothing back"),
        (2, {"others": {"n": 1}}, "an object of n, before, after and largest"),
        (2, {"others": {"n": 1, "before": -1, "after": 0, "largest": 0}}, "others before is -1"),
    ],
    ids=str,
)
def test_hostile_retractions_are_refused(changed, lm, tmp_path, batch_number, put, told):
    edits = edit_file_of(changed)
    values = json.loads(json.dumps(edits.values))
    values["batches"][batch_number] |= put
    assert told in refusal(lambda: saved(changed, tmp_path, EditFile(values, edits.tensors)).session_on(lm))


@pytest.mark.parametrize(
    ("put", "told"),
    [
        ({"batch": 2}, "a batch before it"),
        ({"new": None}, "new is None"),
        ({"new": {"text": 3}}, "new text is 3"),
        ({"own": {"text": "a", "after": 2}}, "own after is 2"),
        ({"is_back": "yes"}, "is_back is 'yes'"),
        ({"fact": {"subject": "a"}}, "fact"),
    ],
    ids=str,
)
def test_hostile_records_of_facts_taken_back_are_refused(changed, lm, tmp_path, put, told):
    edits = edit_file_of(changed)
    values = json.loads(json.dumps(edits.values))
    values["batches"][2]["retracted"][0] |= put
    assert told in refusal(lambda: saved(changed, tmp_path, EditFile(values, edits.tensors)).session_on(lm))
