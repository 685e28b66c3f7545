"""The same on a GPU: edits, measures and runs of tiny models against those on the CPU, and nothing left to chance.

Skipped where there is none. Numbers are compared as float32 in another order of summing allows.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_models
import tiny_runs
import torch
from test_placement import cuda
from tiny_models import CITIES, FACTS, PREFIXES, continued

from encore_core.editing import targets
from encore_core.editing.keys import KeyReader
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import optimise_targets
from encore_core.forward import cuda_graph
from encore_core.measures.answers import next_tokens
from encore_core.measures.perplexity_entropy import generation_entropy, perplexity
from encore_core.measures.scores import evaluate
from encore_core.measures.sublayers import measure_contributions
from encore_core.methods import METHODS
from encore_core.models.editable import EditableModel, wrap
from encore_core.runs import RunStore
from encore_core.runs.resume_state import load_matrices, weights_digest
from encore_core.runs.worker import Worker

pytestmark = cuda


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request) -> tuple[EditableModel, EditableModel]:
    """A tiny model on the CPU, and a copy of it on the GPU."""
    here = request.getfixturevalue(request.param)
    return here, wrap(copy.deepcopy(here.model).to("cuda"), here.tokenizer, here.name)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As workers run, see `runs.worker`."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_targets(pair, new_session, fast):
    found = []
    for lm in pair:
        session = new_session(lm)
        settings = replace(target_settings(session.settings), mpes=False)
        with lm.lock:
            found.append(optimise_targets(lm, FACTS, PREFIXES, session.settings.layers[-1], settings, fast=fast))
        assert not fast or lm.checked_paths[session.settings.layers[-1]] == "packed"
    for here, there in zip(*found, strict=True):
        assert there.z.device.type == "cuda" and (there.steps, there.stopped) == (here.steps, here.stopped)
        torch.testing.assert_close(there.z.cpu(), here.z, rtol=1e-3, atol=1e-3 * float(here.z.abs().max()))


def test_stopping_steps_are_those_of_looking_every_time(pair, new_session, monkeypatch):
    """On a GPU several steps are queued before anybody looks; a fact is taken from the step at which it stopped."""
    _, lm = pair
    found = []
    for between in (1, 4):
        monkeypatch.setattr(targets, "_steps_between_stop_tests", lambda _, n=between: n)
        session = new_session(lm, steps=15)
        with lm.lock:
            found.append(optimise_targets(lm, FACTS, PREFIXES, 1, target_settings(session.settings)))
    for every, fourth in zip(*found, strict=True):
        assert (every.steps, every.stopped) == (fourth.steps, fourth.stopped)
        torch.testing.assert_close(every.z, fourth.z, rtol=1e-4, atol=1e-4 * float(every.z.abs().max()))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_steps_are_recorded_and_find_the_same(pair, new_session, monkeypatch, bfloat16, deterministic):
    """As without recording, for facts that stop early, too; and nothing is refused."""
    _, lm = pair
    found, records = [], []
    real = cuda_graph.recorded
    monkeypatch.setattr(cuda_graph, "recorded", lambda work: records.append(work) or real(work))
    for most in (0, targets.MOST_REPLAYED_FLOP):
        monkeypatch.setattr(targets, "MOST_REPLAYED_FLOP", most)
        settings = target_settings(new_session(lm, steps=15, bfloat16=bfloat16).settings)
        with lm.lock:
            found.append(optimise_targets(lm, FACTS, PREFIXES, 1, settings))
        assert len(records) == bool(most)
    assert not lm.refuses_replay
    for launched, replayed in zip(*found, strict=True):
        assert (replayed.steps, replayed.stopped) == (launched.steps, launched.stopped)
        torch.testing.assert_close(replayed.z, launched.z, rtol=1e-4, atol=1e-4 * float(launched.z.abs().max()))


def test_what_waits_cannot_be_recorded(caplog):
    """And the GPU is as usable afterwards as before."""
    state = torch.zeros(3, device="cuda")

    def waiting() -> tuple[torch.Tensor, ...]:
        state.add_(1)
        return (state * float(state[0]),)

    step = cuda_graph.Replayed(waiting)
    assert [float(step()[0][0]) for _ in range(3)] == [1, 4, 9]
    assert step.refused and "cannot be recorded" in caplog.text
    again = cuda_graph.Replayed(lambda: (state.add_(1),))
    assert [float(again()[0][0]) for _ in range(3)] == [4, 5, 6]
    assert not again.refused


def test_steps_between_stop_tests_wait_for_nothing(pair, new_session, monkeypatch):
    """As many waits with eight steps in one go as with two; steps launched one by one."""
    _, lm = pair
    monkeypatch.setattr(targets, "MOST_REPLAYED_FLOP", 0)
    waits = []
    for steps in (2, 2, 8):  # the first look finds the means of looking themselves waiting
        monkeypatch.setattr(targets, "_steps_between_stop_tests", lambda _, n=steps: n)
        settings = replace(target_settings(new_session(lm, steps=steps).settings), mpes=False)
        with lm.lock, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                optimise_targets(lm, CITIES, PREFIXES, 1, settings)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            waits.append(sum("synchroniz" in str(warning.message) for warning in seen))
    assert waits[1] == waits[2] > 0, waits


def test_keys_and_states(pair):
    found = []
    for lm in pair:
        with lm.lock:
            reader = KeyReader(lm, FACTS, PREFIXES, (0, 1, 2))
            keys = [reader.keys(0), reader.states(0)]
            reader.advance(0, 1)
            keys += [reader.keys(1), reader.states(1)]
        found.append([tensor.cpu() for tensor in keys])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4 * float(here.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_edits(pair, new_session, method):
    """Two batches of every method; then undo, to the bit."""
    sessions = [new_session(lm, method) for lm in pair]
    for session in sessions:
        session.edit(CITIES[:2])
    first = {layer: matrix.clone() for layer, matrix in sessions[1].matrices().items()}
    reports = [session.edit(CITIES[2:]) for session in sessions]
    for here, there in zip(*(report.edited for report in reports), strict=True):
        assert there.probability_after == pytest.approx(here.probability_after, abs=0.03)
    for layer, matrix in sessions[1].matrices().items():
        here = sessions[0].matrices()[layer]
        assert matrix.device.type == "cuda"
        assert float((matrix.cpu() - here).norm() / here.norm()) < 5e-3, layer
    sessions[1].undo()
    assert all(torch.equal(matrix, first[layer]) for layer, matrix in sessions[1].matrices().items())


def test_bfloat16_targets(pair, new_session):
    _, lm = pair
    reports = [new_session(lm, bfloat16=value).edit(CITIES) for value in (False, True)]
    for exact, rounded in zip(*(report.edited for report in reports), strict=True):
        assert rounded.target.z.dtype == torch.float32
        assert rounded.probability_after == pytest.approx(exact.probability_after, abs=0.15)


def test_measures(pair):
    found = []
    for lm in pair:
        scores = evaluate(lm, CITIES).as_dict()
        prompts = [fact.text for fact in FACTS]
        top = [token for row in next_tokens(lm, prompts, 3) for token, _ in row]
        numbers = [perplexity(lm, n_tokens=300), generation_entropy(lm, prompts, 20)]
        parts = measure_contributions(lm, prompts).parts
        found.append((scores, top, continued(lm, prompts), numbers, [part.share for part in parts]))
    (here, *same, numbers, shares), (there, *also, numbers_there, shares_there) = found
    assert same == also
    assert there == pytest.approx(here, abs=1e-3)
    assert numbers_there == pytest.approx(numbers, rel=1e-3) and all(map(math.isfinite, numbers_there))
    assert shares_there == pytest.approx(shares, abs=1e-5)


def test_the_same_twice_has_the_same_bits(pair, new_session, deterministic):
    _, lm = pair
    digests = set()
    for _ in range(2):
        session = new_session(lm)
        for fact in FACTS:
            session.edit([fact], known="edit")
        digests.add(weights_digest(session.matrices()))
    assert len(digests) == 1


def test_going_on_from_a_state_has_the_same_bits(pair, new_session, deterministic):
    _, lm = pair
    whole, before, after = (new_session(lm, keep_history=False) for _ in range(3))
    for session in (whole, before):
        session.edit(CITIES[:2], known="edit")
    after.restore(before.state())
    for session in (whole, after):
        session.edit(CITIES[2:], known="edit")
    assert weights_digest(whole.matrices()) == weights_digest(after.matrices())


def test_a_run(tiny_folder, statistics_text, tmp_path):
    """A worker's run, everything measured, against the same on the CPU."""
    store = RunStore(tmp_path / "runs")
    runs = {}
    for device in ("cpu", "cuda:0"):
        ready = tiny_runs.prepared(tiny_folder, statistics_text, device=device, measure=tiny_runs.EVERYTHING)
        (run_id,) = store.submit([ready])
        Worker(store, device, idle_seconds=0.0).serve()
        run = store.get(run_id)
        assert (run.status, run.error, run.done, run.device) == ("done", None, 10, device)
        runs[device] = load_matrices(store.folder_of(run_id), [])[0]
    for layer, here in runs["cpu"].items():
        assert float((runs["cuda:0"][layer] - here).norm() / here.norm()) < 2e-2


def test_factors_and_matrices_give_the_same_bits(pair, statistics_text, deterministic):
    _, lm = pair
    digests = set()
    for hold in ("matrices", "factors"):
        settings = tiny_models.DEFAULTS | {"lambda_n": 0.001}
        session = EditSession(lm, "ENCORE", settings=settings, statistics_text=statistics_text, hold=hold)
        for fact in CITIES:
            session.edit([fact], known="edit")
        digests.add(weights_digest(session.matrices()))
    assert len(digests) == 1
