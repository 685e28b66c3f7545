"""Edit sessions: what an edit does to its own matrices, that it does nothing else, that undo gives the same bits."""

from __future__ import annotations

import copy
import threading
import weakref

import pytest
import tiny_models
import torch
from refusals import refusal
from test_keys import naive_keys, naive_states
from tiny_models import CITIES, FACTS, Snapshot, hooks_and_patches

from encore_core.editing import session_contents, shared_by_sessions
from encore_core.editing.batch import batched
from encore_core.editing.batch_report import AppliedBatch, BatchReport
from encore_core.editing.covariance import second_moments
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.session import EditSession
from encore_core.editing.update_rule import LowRankUpdate, Preservation
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities
from encore_core.measures.norms import frobenius
from encore_core.methods import METHODS
from encore_core.models.editable import wrap

FIRST, SECOND, THIRD = [CITIES[0]], [CITIES[1], CITIES[2]], [FACTS[2]]


def matrices(session: EditSession) -> dict[int, torch.Tensor]:
    """Copies of every edited layer's matrix as the session runs it."""
    with session.edited() as lm:
        return {layer: lm.matrix(layer).clone() for layer in range(lm.n_layers)}


def same(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a)


def initial(session: EditSession) -> dict[int, Preservation]:
    return session._initial_preservation(session._statistics_files())


def preserved(session: EditSession) -> dict[int, torch.Tensor]:
    return {layer: p.dense() for layer, p in session._contents.preservation.items()}


@pytest.fixture(params=["gpt2", "llama-tied"])
def lm(request):
    """Transposed and plain matrices; sessions do not care about the rest of a family."""
    return request.getfixturevalue(request.param.replace("-", "_"))


@pytest.fixture
def pristine_after(lm):
    """Fails a test after which the model's own weights, hooks or forwards are not what they were."""
    before, tidy = Snapshot.of(lm), hooks_and_patches(lm)
    yield
    assert before.holds(lm)
    assert hooks_and_patches(lm) == tidy


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_method_raises_the_answer(request, new_session, family, method):
    lm = request.getfixturevalue(family)
    before = Snapshot.of(lm)
    # Eight steps of the usual length take a tiny model's states hardly anywhere.
    further = {"search_step": 0.3} if METHODS[method].published.get("search") else {}
    session = new_session(lm, method, **further)
    report = session.edit(CITIES, known="edit")
    assert before.holds(lm)
    for item in report.edited:
        assert item.probability_after > 1.5 * item.probability_before
    with session.edited():
        edited = [
            answer.probability for answer in answer_probabilities(lm, [(fact.text, fact.target_new) for fact in CITIES])
        ]
    base = [
        answer.probability for answer in answer_probabilities(lm, [(fact.text, fact.target_new) for fact in CITIES])
    ]
    assert edited == pytest.approx([item.probability_after for item in report.edited], rel=1e-6)
    assert base == pytest.approx([item.probability_before for item in report.edited], rel=1e-6)
    changed = {layer for layer, matrix in matrices(session).items() if not torch.equal(matrix, lm.matrix(layer))}
    assert changed == set(session.settings.layers) == set(report.norms)


def published_update(method, C0, K, R, settings) -> torch.Tensor:
    """A first batch's Δ, written out as in the papers (see `test_update_rule`)."""
    eye = torch.eye(len(C0), dtype=torch.float64)
    if method == "AlphaEdit":
        values, vectors = torch.linalg.eigh(C0)
        P = vectors[:, values < settings["null_threshold"]] @ vectors[:, values < settings["null_threshold"]].T
        return R @ K.T @ P @ torch.linalg.inv(K @ K.T @ P + settings["l2"] * eye)
    if method == "EMMET":
        A = torch.linalg.inv(settings["lambda_p"] * C0)
        epsilon = 0.1 if K.shape[1] > 1 else 0.0
        return R @ torch.linalg.inv(epsilon * torch.eye(K.shape[1], dtype=torch.float64) + K.T @ A @ K) @ K.T @ A
    lambda_n = settings["lambda_n"] if method == "ENCORE" else 0.0
    return R @ K.T @ torch.linalg.inv(settings["lambda_p"] * C0 + lambda_n * eye + K @ K.T)


@pytest.mark.parametrize(
    ("method", "n_facts"), [("MEMIT", 3), ("EMMET", 3), ("EMMET", 1), ("AlphaEdit", 3), ("ENCORE", 3)]
)
def test_an_edit_is_the_published_one(llama, new_session, method, n_facts):
    """From targets to the stored matrices: naive keys and states layer by layer, dense solves of the expressions."""
    facts = CITIES[:n_facts]
    layers = (0, 1, 2)
    # Weights so large that every term of every expression counts.
    settings = {"lambda_p": 300.0, "null_threshold": 1.0, "l2": 20.0, "layers": layers, "statistics_tokens": 2000}
    if method == "ENCORE":
        settings["lambda_n"] = 20.0
    session = new_session(llama, method, **settings)
    report = session.edit(facts, known="edit")
    moments = second_moments(llama, layers, 2000, session.statistics_text)
    z = torch.stack([item.target.z for item in report.edited], 1).double()
    expected = {}
    for j, layer in enumerate(layers):
        with llama.matrices_replaced(expected):
            K, h = naive_keys(llama, facts, session.prefixes, layer), naive_states(llama, facts, layers[-1])
        delta = published_update(method, moments[layer].double(), K, (z - h) / (len(layers) - j), settings)
        expected[layer] = (llama.matrix(layer).double() + delta).float()
        found = matrices(session)[layer].double() - llama.matrix(layer).double()
        assert float((found - delta).norm()) <= 2e-3 * float(delta.norm())
        assert report.norms[layer] == pytest.approx(
            (float(llama.matrix(layer).norm()), float(expected[layer].norm())), rel=1e-5
        )


def test_residuals_are_read_anew_and_shared_out_over_the_layers(llama, new_session):
    """With slack 0 a single fact is met, so after the last layer the state is near the target."""
    session = new_session(llama, "EMMET", layers=(0, 1))
    report = session.edit(FIRST)
    z = report.edited[0].target.z.double()
    with session.edited():
        reached = naive_states(llama, FIRST, 1)[:, 0]
    base = naive_states(llama, FIRST, 1)[:, 0]
    # The key is a mean over contexts, so the plain prompt's state comes close to the target, not onto it.
    assert float((reached - z).norm()) < 0.6 * float((base - z).norm())


def test_sequential_edits_join_what_is_preserved(llama, new_session):
    together, apart = new_session(llama), new_session(llama, sequential=False)
    start = {layer: p.dense() for layer, p in initial(new_session(llama)).items()}
    for session in (together, apart):
        session.edit(FIRST)
        session.edit(SECOND, known="edit")
    for layer in together.settings.layers:
        assert torch.equal(apart._contents.preservation[layer].dense(), start[layer])
        assert not torch.allclose(together._contents.preservation[layer].dense(), start[layer])
    assert not same(matrices(together), matrices(apart))


def test_bfloat16_products_need_a_processor_that_has_them(gpt2, new_session, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert "no bfloat16 units" in refusal(new_session, gpt2, bfloat16="true")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert new_session(gpt2, bfloat16="true").settings.bfloat16


def test_a_bfloat16_model_is_edited(gpt2, new_session):
    lm = wrap(copy.deepcopy(gpt2.model).to(torch.bfloat16), gpt2.tokenizer, "tiny-gpt2-bf16")
    before = Snapshot.of(lm)
    session = new_session(lm)
    report = session.edit(CITIES, known="edit")
    assert lm.checked_paths == {1: "packed"}
    assert all(item.probability_after > item.probability_before for item in report.edited)
    assert all(matrix.dtype == torch.bfloat16 for matrix in matrices(session).values())
    session.undo()
    assert before.holds(lm)
    assert same(matrices(session), {layer: lm.matrix(layer) for layer in range(lm.n_layers)})


# -- undo, reset, failures ---------------------------------------------------------------------------------------------


def test_undo_and_reset_are_bit_for_bit(lm, new_session, pristine_after):
    session = new_session(lm)
    states = [(matrices(session), preserved(session))]
    for batch in (FIRST, SECOND, THIRD):
        session.edit(batch, known="edit")
        states.append((matrices(session), preserved(session)))
    assert session.n_edits == 4
    for number, batch in ((2, THIRD), (1, SECOND), (0, FIRST)):
        taken_back = session.undo()
        assert [item.fact for item in taken_back.report.edited] == list(batch)
        assert same(matrices(session), states[number][0])
        if number:
            assert same(preserved(session), states[number][1])
        assert len(session.history) == number
    assert session.n_edits == 0
    with pytest.raises(InputError, match="nothing to undo"):
        session.undo()
    session.edit(SECOND, known="edit")
    assert session.reset() == 1
    assert same(matrices(session), states[0][0])
    assert (session.n_edits, session.history) == (0, [])


@pytest.mark.parametrize("d_share", [0.125, 0.01], ids=["thin", "folded"])
def test_what_was_undone_was_never_there(lm, new_session, pristine_after, monkeypatch, d_share):
    """edit a, edit b, undo, edit c is edit a, edit c; also when what is preserved has been folded in the meantime."""
    monkeypatch.setattr("encore_core.editing.update_rule.Preservation.FOLD_RANK_SHARE", d_share)
    detour, straight = new_session(lm), new_session(lm)
    detour.edit(FIRST)
    detour.edit(SECOND, known="edit")
    detour.undo()
    detour.edit(THIRD, known="edit")
    straight.edit(FIRST)
    straight.edit(THIRD, known="edit")
    assert same(matrices(detour), matrices(straight))
    assert same(preserved(detour), preserved(straight))
    assert detour.n_edits == straight.n_edits == 2
    detour.undo()
    detour.edit(THIRD, known="edit")
    assert same(matrices(detour), matrices(straight))


def test_an_update_that_is_not_finite_is_refused(llama, new_session, monkeypatch):
    session = new_session(llama)
    before = Snapshot.of(llama)
    add = Sums.add

    def overflow(sums, lm, layer, update):
        add(sums, lm, layer, update)
        if layer == 1:
            sums.exact[layer][0, 0] = float("inf")

    monkeypatch.setattr(Sums, "add", overflow)
    with pytest.raises(InputError, match="layer 1 is not finite"):
        session.edit(FIRST)
    assert before.holds(llama)
    assert session.matrices() == {}


def test_the_base_comes_back_when_reading_fails(lm, new_session, pristine_after):
    session = new_session(lm)
    session.edit(FIRST)
    with pytest.raises(ZeroDivisionError), session.edited():
        raise ZeroDivisionError


# -- sessions side by side ---------------------------------------------------------------------------------------------


def test_sessions_do_not_see_each_other(lm, new_session, pristine_after):
    one, other, fresh = new_session(lm), new_session(lm), new_session(lm)
    one.edit(FIRST)
    seen = matrices(one)
    other.edit(SECOND)
    assert same(matrices(one), seen)
    assert same(matrices(fresh), {layer: lm.matrix(layer) for layer in range(lm.n_layers)})
    other.reset()
    assert same(matrices(one), seen)
    fresh.edit(FIRST)
    assert same(matrices(fresh), seen)
    # They share the prefixes and the starting matrices, and none has written to them.
    assert fresh._contents.preservation[0].start.data_ptr() == one._contents.preservation[0].start.data_ptr()


def test_pristine_is_pristine_inside_edited(lm, new_session, pristine_after):
    """Blocks may be nested, within a session and between sessions; every one runs the base with its own edits alone."""
    one, other = new_session(lm), new_session(lm, layers=(1, 2))
    one.edit(FIRST)
    base = {layer: lm.matrix(layer).clone() for layer in range(lm.n_layers)}
    edited = matrices(one)
    with one.edited():
        with one.pristine():
            assert all(torch.equal(lm.matrix(layer), base[layer]) for layer in base)
            with one.edited():
                assert all(torch.equal(lm.matrix(layer), edited[layer]) for layer in base)
        report = other.edit(SECOND)
        norms = one.norms()
        with other.edited():
            assert torch.equal(lm.matrix(0), base[0])
        assert all(torch.equal(lm.matrix(layer), edited[layer]) for layer in base)
    assert norms == {layer: (frobenius(base[layer]), frobenius(edited[layer])) for layer in (0, 1)}
    straight = new_session(lm, layers=(1, 2))
    expected = straight.edit(SECOND)
    assert same(matrices(straight), matrices(other))
    assert [i.probability_before for i in report.edited] == [i.probability_before for i in expected.edited]


def test_threads_get_what_they_would_have_got_alone(gpt2, new_session):
    before = Snapshot.of(gpt2)
    batches = [FIRST, SECOND, THIRD, [CITIES[2]]]
    serial = [new_session(gpt2, seed=0) for _ in batches]
    for session, batch in zip(serial, batches, strict=True):
        session.edit(batch)
        session.edit(FIRST, known="edit")
    parallel = [new_session(gpt2, seed=0) for _ in batches]
    norms, failures = [], []
    done = threading.Event()

    def work(session, batch):
        try:
            session.edit(batch)
            session.edit(FIRST, known="edit")
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    def look(session):
        while not done.is_set():
            norms.append(session.norms()[0])

    bystander = threading.Thread(target=look, args=(new_session(gpt2),))
    bystander.start()
    threads = [threading.Thread(target=work, args=pair) for pair in zip(parallel, batches, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    bystander.join()
    assert not failures
    for a, b in zip(serial, parallel, strict=True):
        assert same(matrices(a), matrices(b))
    assert len(set(norms)) == 1  # a session without edits sees the base model, whatever the others do
    assert norms[0][0] == norms[0][1]
    assert before.holds(gpt2)


# -- which facts -------------------------------------------------------------------------------------------------------


def test_contradictions_are_refused_and_repetitions_dropped(llama, new_session):
    session = new_session(llama)
    other = Fact("France", "The capital of {} is", "Lima")
    with pytest.raises(InputError, match="contradict"):
        session.edit([CITIES[0], CITIES[2], other])
    assert session.history == []
    report = session.edit([CITIES[0], CITIES[2], CITIES[0]])
    assert [item.fact for item in report.edited] == [CITIES[0], CITIES[2]]
    assert len(report.notices) == 1
    assert "dropped" in report.notices[0]
    session.edit([other])  # in a later batch it is a new edit
    with session.edited():
        rome, lima = answer_probabilities(llama, [(other.text, "Rome"), (other.text, "Lima")])
    assert lima.probability > rome.probability


def test_no_facts(llama, new_session):
    with pytest.raises(InputError, match="no fact"):
        new_session(llama).edit([])


@pytest.fixture
def said(llama) -> Fact:
    """A fact that the model says already."""
    fact = Fact("Japan", "The capital of {} is", "Tokyo")
    assert answer_probabilities(llama, [(fact.text, fact.target_new)])[0].said
    return fact


def test_what_the_model_says_already_is_refused(llama, new_session, said):
    session = new_session(llama)
    with pytest.raises(InputError, match=r"'Tokyo' is what the model says already after 'The capital of Japan is'"):
        session.edit([CITIES[0], said])
    assert session.history == []
    with pytest.raises(InputError, match="says already"):
        session.edit([said], measure=False)


def test_or_skipped_with_a_notice(llama, new_session, said):
    session, alone = new_session(llama), new_session(llama)
    report = session.edit([said, CITIES[0]], known="skip")
    assert "Skipped" in report.notices[0]
    assert "Tokyo" in report.notices[0]
    skipped, edited = report.edited
    assert (skipped.fact, skipped.steps, skipped.stopped, skipped.target) == (said, 0, "already said", None)
    assert skipped.probability_before == pytest.approx(
        answer_probabilities(llama, [(said.text, "Tokyo")])[0].probability
    )
    assert edited.target is not None
    assert session.n_edits == 1
    alone.edit([CITIES[0]])
    assert same(matrices(session), matrices(alone))
    everything_known = new_session(llama).edit([said], known="skip")
    assert everything_known.edited[0].target is None
    assert {"targets", "keys", "update", "measuring"} <= set(everything_known.seconds)


def test_or_edited_all_the_same(llama, new_session, said):
    session = new_session(llama)
    report = session.edit([said], known="edit")
    assert report.edited[0].target is not None
    assert session.n_edits == 1


def test_the_same_fact_again_is_a_new_edit(llama, new_session):
    session = new_session(llama)
    first = session.edit(FIRST)
    with session.edited():
        assert answer_probabilities(llama, [(FIRST[0].text, FIRST[0].target_new)])[0].said
    second = session.edit(FIRST)  # said by now, but it was edited before
    assert second.edited[0].target is not None
    assert session.n_edits == 1 and len(session.history) == 2  # it took the first one's place
    assert second.edited[0].probability_before == first.edited[0].probability_before  # always of the base model
    session.reset()
    session.edit(FIRST)


def test_what_an_edit_made_known_is_known(llama, new_session):
    """A paraphrase that an earlier edit has taught counts as said; after undo it does not."""
    session = new_session(llama)
    session.edit(FIRST)
    again = Fact("France", "The largest city of {} is", "Rome")
    with session.edited():
        known = answer_probabilities(llama, [(again.text, "Rome")])[0].said
    if known:
        with pytest.raises(InputError, match="says already"):
            session.edit([again])
    session.undo()
    assert session.edit([again]).edited[0].target is not None


def test_without_history_there_is_no_undo_but_a_reset(llama, new_session):
    session = new_session(llama, keep_history=False)
    session.edit(FIRST)
    assert session.history == []
    with pytest.raises(InputError, match="keeps no history"):
        session.undo()
    session.reset()
    assert same(matrices(session), {layer: llama.matrix(layer) for layer in range(llama.n_layers)})
    assert session.n_edits == 0


def test_a_session_that_shares_no_more_holds_one_P_a_layer(llama, new_session, monkeypatch):
    monkeypatch.setattr("encore_core.editing.update_rule.Preservation.FOLD_RANK_SHARE", 0.0)
    llama.shared.clear()  # sessions of other tests may hold what is in it
    alone, other = new_session(llama, keep_history=False), new_session(llama, keep_history=False)
    alone.stop_sharing()
    initial = [weakref.ref(P.start) for P in alone._contents.preservation.values()]
    for batch in (FIRST, SECOND):
        alone.edit(batch, known="edit")
        other.edit(batch, known="edit")
    # It has matrices of its own by now, and nobody keeps those that it began with.
    assert all(P.owns_start for P in alone._contents.preservation.values())
    assert not any(start() is not None for start in initial)
    assert same(matrices(alone), matrices(other))


# -- reports -----------------------------------------------------------------------------------------------------------


def test_progress_and_report(llama, new_session):
    told = []
    session = new_session(llama)
    report = session.edit(CITIES, known="edit", on_progress=told.append)
    phases = [progress.phase for progress in told]
    assert phases == sorted(phases)  # targets, then update
    assert [(p.done, p.total) for p in told if p.phase == "update"] == [(1, 2), (2, 2)]
    assert told[phases.count("targets") - 1].done == len(CITIES)
    assert all(p.loss is not None for p in told if p.phase == "targets")
    assert set(report.seconds) == {"targets", "keys", "update", "measuring"}
    assert all(seconds >= 0 for seconds in report.seconds.values())
    for layer, (original, now) in session.norms().items():
        assert original == pytest.approx(float(llama.matrix(layer).norm()))
        assert now == pytest.approx(float(matrices(session)[layer].norm()))
        assert report.norms[layer] == pytest.approx((original, now))


def test_measuring_can_be_left_out(llama, new_session):
    measured, unmeasured = new_session(llama), new_session(llama)
    measured.edit(FIRST)
    report = unmeasured.edit(FIRST, measure=False, known="edit")
    assert (report.edited[0].probability_before, report.edited[0].probability_after) == (None, None)
    assert same(matrices(measured), matrices(unmeasured))


def test_prefixes_are_seeded_and_taken_from_the_base_model(gpt2, new_session):
    session = new_session(gpt2)
    prefixes = session.prefixes
    assert len(prefixes) == 5
    assert prefixes == new_session(gpt2).prefixes != new_session(gpt2, seed=1).prefixes
    session.edit(FIRST)
    state = torch.random.get_rng_state()
    with session.edited():
        assert new_session(gpt2, seed=7).prefixes == new_session(gpt2, seed=7).prefixes
    assert torch.equal(state, torch.random.get_rng_state())
    gpt2.shared.clear()
    assert session.prefixes == prefixes
    in_edited = new_session(gpt2, seed=7).prefixes
    gpt2.shared.clear()
    with session.edited():
        assert new_session(gpt2, seed=7).prefixes == in_edited


def test_the_oldest_starting_matrices_go_when_there_are_too_many(llama, new_session, monkeypatch):
    llama.shared.clear()
    one_session = 2 * 8 * llama.d_mlp**2
    monkeypatch.setattr(shared_by_sessions, "SHARED_BYTES", 2 * one_session)
    sessions = [new_session(llama, lambda_n=weight) for weight in (0.001, 0.002, 0.003)]
    for session in sessions:
        session.edit(FIRST)
        held = [value for value in llama.shared.values() if isinstance(value, torch.Tensor)]
        assert sum(value.nbytes for value in held) <= 2 * one_session
    # Undo needs the first one's again; it is made anew and gives the same bits.
    sessions[0].edit(SECOND, known="edit")
    after = matrices(sessions[0])
    sessions[0].edit(THIRD, known="edit")
    sessions[0].undo()
    assert same(matrices(sessions[0]), after)


def test_batches():
    assert [len(batch) for batch in batched(FACTS, 2)] == [2, 2, 1]
    assert [fact for batch in batched(FACTS, 2) for fact in batch] == list(FACTS)
    for size in (0, -3):
        with pytest.raises(InputError, match=f"Batch size {size} "):
            list(batched(FACTS, size))


# -- the embedded model ------------------------------------------------------------------------------------------------


@pytest.mark.embedded
def test_france_moves_its_capital_to_rome_and_back(embedded_model):
    before = Snapshot.of(embedded_model)
    session = EditSession(embedded_model, method="ENCORE")
    report = session.edit([Fact(subject="France", prompt="The capital of {} is", target_new="Rome")])
    item = report.edited[0]
    assert item.probability_after > 20 * item.probability_before
    assert item.stopped == "mpes"
    assert all(now > original for original, now in report.norms.values())
    with session.edited() as lm:
        rome, paris = answer_probabilities(
            lm, [("The capital of France is", "Rome"), ("The capital of France is", "Paris")]
        )
    pristine = answer_probabilities(embedded_model, [("The capital of France is", "Paris")])[0]
    assert rome.probability == pytest.approx(item.probability_after, rel=1e-4)
    assert rome.probability > paris.probability
    assert paris.probability < 0.5 * pristine.probability
    session.undo()
    assert before.holds(embedded_model)
    assert same(matrices(session), {layer: embedded_model.matrix(layer) for layer in range(embedded_model.n_layers)})


# -- sums and factors --------------------------------------------------------------------------------------------------


def test_sessions_that_hold_factors_give_the_same_bits(lm, statistics_text, pristine_after):
    """Whatever is run in between, and with one set of matrices for all of them."""
    settings = tiny_models.DEFAULTS | {"lambda_n": 0.001}
    whole, thin, other = (
        EditSession(lm, settings=settings, statistics_text=statistics_text, hold=hold)
        for hold in ("matrices", "factors", "factors")
    )
    for batch in (FIRST, SECOND):
        reports = [session.edit(batch, known="edit") for session in (whole, thin)]
        assert reports[0].norms == reports[1].norms
        other.edit(THIRD, known="edit")
        assert same(matrices(whole), matrices(thin)) and whole.norms() == thin.norms()
    states = [session.state() for session in (whole, thin)]
    assert states[0].values == states[1].values
    assert all(torch.equal(states[0].tensors[name], states[1].tensors[name]) for name in states[0].tensors)
    for session in (whole, thin):
        session.undo()
    assert same(matrices(whole), matrices(thin)) and same(preserved(whole), preserved(thin))
    thin.reset()
    assert same(matrices(thin), {layer: lm.matrix(layer) for layer in range(lm.n_layers)})


@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_what_was_handed_out_stays_as_it_was_through_later_edits(lm, new_session, hold):
    session, again = (new_session(lm, keep_history=keep, hold=hold) for keep in (True, False))
    session.edit(FIRST, known="edit")
    state, run, exact = session.state(), session.matrices(), session.exact_matrices()
    before, kept = matrices(session), preserved(session)
    copies = [{layer: matrix.clone() for layer, matrix in some.items()} for some in (run, exact)]
    session.edit(SECOND, known="edit")
    assert same(run, copies[0]) and same(exact, copies[1])
    again.restore(state)
    assert same(matrices(again), before) and same(preserved(again), kept)


def test_factors_are_held_where_memory_is_short(gpt2, new_session, monkeypatch):
    needed = 2 * gpt2.d_model * gpt2.d_mlp * 4
    for free, short in (
        (session_contents.ROOM_FOR_SESSIONS * needed, False),
        (session_contents.ROOM_FOR_SESSIONS * needed - 1, True),
    ):
        monkeypatch.setattr(session_contents, "free_memory", lambda device, free=free: free)
        assert new_session(gpt2).holds_factors == short
        assert not new_session(gpt2, keep_history=False).holds_factors


@pytest.mark.parametrize("hold", ["matrices", "factors"])
def test_bfloat16_loses_nothing_over_many_batches(gpt2, statistics_text, hold):
    """200 updates, each below half a unit in the last place: a float32 sum rounded once, not 200 roundings."""
    lm = wrap(copy.deepcopy(gpt2.model).to(torch.bfloat16), gpt2.tokenizer, "tiny-gpt2-bf16")
    settings = tiny_models.DEFAULTS | {"lambda_n": 0.001}
    session = EditSession(lm, settings=settings, statistics_text=statistics_text, hold=hold)
    layer = session.settings.layers[0]
    generator = torch.Generator().manual_seed(0)
    base = lm.matrix(layer).clone()
    oracle, naive, batches = base.float(), base.clone(), []
    for _ in range(200):
        A, Y = (torch.randn(size, 1, dtype=torch.float64, generator=generator) for size in (lm.d_model, lm.d_mlp))
        update = LowRankUpdate(1e-4 * A.abs(), 0.1 * Y.abs())
        batches.append(AppliedBatch(BatchReport((), {}, {}), {layer: update}))
        oracle = (oracle.double() + update.delta()).float()
        naive = (naive.double() + update.delta()).to(torch.bfloat16)
    lost = float((naive.double() - oracle.double()).norm()) / float((oracle - base.float()).norm())
    assert lost > 0.3  # what rounding after every batch would have done
    session.load_history(batches, session.prefixes)
    assert torch.equal(matrices(session)[layer], oracle.to(torch.bfloat16))
    # The finer sum goes on elsewhere, too.
    restored = EditSession(lm, settings=settings, statistics_text=statistics_text, keep_history=False)
    restored.restore(session.state())
    assert torch.equal(lm.oriented(layer, restored._contents.matrices.held.exact[layer]), oracle)
