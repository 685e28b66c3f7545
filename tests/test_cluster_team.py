"""Several processes that share a batch: the result does not depend on how many, and their matrices stay equal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny_runs
import torch

from encore_core.editing.edited_matrices import weights_digest
from encore_core.editing.helpers import SHARD_FACTS, shards
from encore_core.editing.session import EditSession
from encore_core.editing.team import Team, Traffic, planned_traffic
from encore_core.editing.team_member import LoadAs, Member
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.editable import load_model
from encore_core.runs import RunStore
from encore_core.runs.resume_state import load_matrices


class HereRay:
    """Ray as far as a team uses it, with every member in this process, called in order."""

    class ObjectRef:
        def __init__(self, value):
            self.value = value

    exceptions = SimpleNamespace(
        RayTaskError=type("RayTaskError", (Exception,), {}),
        RayError=type("RayError", (Exception,), {}),
        GetTimeoutError=type("GetTimeoutError", (Exception,), {}),
    )

    def put(self, value):
        return self.ObjectRef(value)

    def get(self, references, timeout=None):
        if isinstance(references, list):
            return [one.value for one in references]
        return references.value

    def wait(self, references, num_returns, timeout):
        return references[:1], references[1:]

    def actor(self, member: Member):
        def method(name):
            def call(*values):
                values = [one.value if isinstance(one, self.ObjectRef) else one for one in values]
                return self.ObjectRef(getattr(member, name)(*values))

            return SimpleNamespace(remote=call)

        return SimpleNamespace(**{name: method(name) for name in vars(Member) if not name.startswith("_")})


def how(folder) -> LoadAs:
    return LoadAs(str(folder), "cpu", "float32", "auto", 1)


def session_of(folder, text, **more) -> EditSession:
    settings = tiny_runs.SETTINGS | more
    return EditSession(load_model(str(folder), "cpu"), settings=settings, statistics_text=text, keep_history=False)


def team(session: EditSession, folder, n: int) -> Team:
    ray = HereRay()
    made = Team(ray, session.lm, [ray.actor(Member(how(folder))) for _ in range(n - 1)])
    session.helpers = made
    return made


def edited(folder, text, n: int, sizes=(7, 5), **settings) -> dict[int, torch.Tensor]:
    """Two batches with so many members; 0 for none at all."""
    session, start = session_of(folder, text, **settings), 0
    helpers = team(session, folder, n) if n else None
    for size in sizes:
        session.edit(tiny_runs.FACTS[start : start + size], known="edit", measure=False)
        start += size
        if helpers:
            helpers.keep()
            helpers.check(session.matrices())
    return session.matrices()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setitem(SHARD_FACTS, "cpu", 2)


def test_shards_cover_a_batch_in_order():
    for n, size in ((1, 16), (16, 16), (17, 16), (100, 16), (5, 2)):
        cut = shards(n, size)
        assert [place for shard in cut for place in shard] == list(range(n))
        assert max(map(len, cut)) <= size and max(map(len, cut)) - min(map(len, cut)) <= 1


def test_the_result_is_the_same_to_the_bit_for_any_number_and_that_of_one_process_to_rounding(
    tiny_folder, statistics_text
):
    alone, two, three = (edited(tiny_folder, statistics_text, n) for n in (0, 2, 3))
    base = load_model(str(tiny_folder), "cpu")
    assert weights_digest(two) == weights_digest(three)
    for layer, W in alone.items():
        W0 = base.parameter(layer).data
        assert float((two[layer] - W).norm() / (W - W0).norm()) < 5e-6


def test_pushes_reach_all_members(tiny_folder, statistics_text):
    stiff = {"lambda_p": 10.0}
    alone, two, three = (edited(tiny_folder, statistics_text, n, **stiff, pushes=2) for n in (0, 2, 3))
    assert weights_digest(two) == weights_digest(three)
    without, base = edited(tiny_folder, statistics_text, 0, **stiff), load_model(str(tiny_folder), "cpu")
    for layer, W in alone.items():
        moved = (W - base.parameter(layer).data).norm()
        assert float((two[layer] - W).norm() / moved) < 5e-6 < 1e-3 < float((without[layer] - W).norm() / moved)


@pytest.mark.parametrize(("n_facts", "elsewhere"), [(2, 1), (4, 1), (8, 2), (12, 2)])
def test_who_shares_is_not_kept_waiting(tiny_folder, statistics_text, monkeypatch, n_facts, elsewhere):
    """A member that answers late has one shard, and another ahead only while there is one for everybody."""
    session = session_of(tiny_folder, statistics_text)
    helpers, asked = team(session, tiny_folder, 2), []
    late = lambda references, num_returns, timeout: (references[:1] if timeout else [], references)  # noqa: E731
    monkeypatch.setattr(helpers.ray, "wait", late)
    ask = helpers.members[0].targets.remote
    helpers.members[0].targets.remote = lambda *values: asked.append(len(values[0])) or ask(*values)
    told = []
    session.edit(tiny_runs.FACTS[:n_facts], known="edit", measure=False, on_progress=told.append)
    assert len(asked) == elsewhere
    losses = [one.loss for one in told if one.phase == "targets"]
    assert losses[-1] is None, "while others work, nothing is known of their loss"
    assert all(loss > 0 for loss in losses if loss is not None)


def test_matrices_that_differ_are_found(tiny_folder, statistics_text):
    session = session_of(tiny_folder, statistics_text)
    helpers = team(session, tiny_folder, 2)
    session.edit(tiny_runs.FACTS[:4], known="edit", measure=False)
    helpers.keep()
    helpers.check(session.matrices())
    changed = {layer: W.clone() for layer, W in session.matrices().items()}
    changed[0].view(torch.int32)[0, 0] ^= 1
    with pytest.raises(InputError, match="matrices of worker 2 no longer match those of the run"):
        helpers.check(changed)


def test_a_batch_that_fails_leaves_all_as_they_were(tiny_folder, statistics_text):
    session = session_of(tiny_folder, statistics_text)
    helpers = team(session, tiny_folder, 2)
    session.edit(tiny_runs.FACTS[:4], known="edit", measure=False)
    helpers.keep()

    def stop(progress) -> None:
        if progress.phase == "update":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.edit(tiny_runs.FACTS[4:8], known="edit", measure=False, on_progress=stop)
    helpers.check(session.matrices())
    session.edit(tiny_runs.FACTS[4:7], known="edit", measure=False)
    helpers.keep()
    helpers.check(session.matrices())
    assert weights_digest(session.matrices()) == weights_digest(edited(tiny_folder, statistics_text, 3, (4, 3)))


def test_matrices_are_taken_over_when_a_session_goes_on(tiny_folder, statistics_text):
    session = session_of(tiny_folder, statistics_text)
    session.edit(tiny_runs.FACTS[:4], known="edit", measure=False)
    helpers = team(session, tiny_folder, 2)
    with pytest.raises(InputError, match="no longer match those of the run"):
        helpers.check(session.matrices())
    helpers.begin_from(session.exact_matrices())
    helpers.check(session.matrices())


def test_another_model_is_refused(tiny_folder, statistics_text, roomy_folder):
    session, ray = session_of(tiny_folder, statistics_text), HereRay()
    with pytest.raises(InputError, match="is not the one here"):
        Team(ray, session.lm, [ray.actor(Member(how(roomy_folder)))])


def test_the_planned_traffic_is_what_is_sent():
    """By hand: 2 members, a batch of 4 facts in shards of 2, sizes 3 and 5, one layer."""
    planned = planned_traffic(4, 2, 3, 5, 1, shard=2)
    assert planned == Traffic(sent=4 * 8 * 8, received=2 * 8 * 8 + 2 * 2 * 3 * 4)


def test_workers_need_targets(tiny_folder, statistics_text):
    with pytest.raises(InputError, match="UltraEdit has none; give workers = 1"):
        tiny_runs.prepared(tiny_folder, statistics_text, method="UltraEdit", overrides={"layers": [0, 1]}, workers=2)


@pytest.mark.slow
def test_a_run_with_two_workers(tiny_folder, statistics_text, tmp_path):
    """Through Ray: a run of two processes ends as one with the same shards in this process, and is resumed."""
    pytest.importorskip("ray")
    store = RunStore(tmp_path / "runs")
    ready = tiny_runs.prepared(tiny_folder, statistics_text, workers=2, n_edits=8, batch_size=4)
    [run_id] = store.submit([ready])
    tiny_runs.worker(store).serve()
    run = store.get(run_id)
    assert (run.status, run.error) == ("done", None) and "2 workers, 1 threads each" in store.read_log(run_id)
    matrices, _ = load_matrices(store.folder_of(run_id), [])
    facts: list[Fact] = list(ready.facts)
    session = session_of(tiny_folder, statistics_text)
    helpers = team(session, tiny_folder, 3)
    for start in (0, 4):
        session.edit(facts[start : start + 4], known="edit", measure=False)
        helpers.keep()
    assert weights_digest(matrices) == weights_digest(session.matrices())
