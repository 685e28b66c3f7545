"""Many visitors on one model: each has its own edits, nobody waits for long, and who leaves takes everything along."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import tiny_models
import tiny_runs
from tiny_pages import opened
from visits import driven

from dashboard.reading.model_readings import Readings
from dashboard.server import device_queue
from dashboard.server.device_queue import Place
from dashboard.visitors.model_loading import Loading
from dashboard.visitors.models import models as server_models
from dashboard.visitors.visitor import Visitor
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.settings import settings_of


class Left(BaseException):
    """What Streamlit raises in the script of a visitor who has gone."""


@pytest.fixture
def models(monkeypatch, tiny_folder, tmp_path, surroundings):
    """A server of its own, with the tiny model loaded."""
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", tmp_path / "recorded")
    # Nothing may have the device but what a test gives it to.
    monkeypatch.setattr("dashboard.visitors.model_loading.QUICK_SECONDS", 0.0)
    server_models.clear()
    found = server_models()
    found.get(str(tiny_folder)).wait(lambda what, share: None)
    yield found
    server_models.clear()


@pytest.fixture
def loading(models, tiny_folder) -> Loading:
    return models.get(str(tiny_folder))


def takes_edits(loading: Loading):
    """Settings under which the tiny model takes edits."""
    return settings_of(loading.lm, "ENCORE", tiny_runs.SETTINGS)


def ready(models, loading) -> Visitor:
    """A visitor with such settings."""
    newcomer = models.enter(loading)
    newcomer.start_over(takes_edits(loading), 0)
    return newcomer


def quiet(words: str, share: float) -> None:
    pass


# -- the load test, small ----------------------------------------------------------------------------------------------


def test_eight_visitors_at_once_get_what_each_would_get_alone(models, loading):
    before = tiny_models.Snapshot.of(loading.lm)
    found = driven(models, loading, n_visitors=8, facts=tiny_runs.FACTS, rounds=2,
                   settings=takes_edits(loading))  # fmt: skip
    assert not found.errors
    assert found.n_edits == 16 and len(found.answers) == 8 and found.largest_difference <= 1e-5
    assert found.largest_change > 0.01  # the edits did something that could have gone wrong
    assert before.holds(loading.lm)
    assert found.waits["edit"] and found.bytes_per_visitor > 0


def test_the_load_test_would_notice_edits_of_others(models, loading, monkeypatch):
    """All visitors are shown the model of one of them."""
    sessions: list[EditSession] = []

    def mixed_up(visitor: Visitor) -> None:
        sessions.append(visitor.session)
        visitor._after = Readings(sessions[min(len(sessions), 4) - 1].edited)

    monkeypatch.setattr(Visitor, "_edits_changed", mixed_up)
    found = driven(models, loading, n_visitors=3, facts=tiny_runs.FACTS, rounds=1,
                   settings=takes_edits(loading))  # fmt: skip
    assert found.errors or found.largest_difference > 1e-3


# -- the line ----------------------------------------------------------------------------------------------------------


def test_the_lock_of_every_model_is_the_line_of_its_device(models, loading):
    assert loading.lm.lock is models.queue("cpu")
    assert set(models.queues()) == {"cpu"}


def test_a_batch_is_a_turn(models, loading):
    visitor = ready(models, loading)
    other = ready(models, loading)
    visitor.begin(tiny_runs.FACTS[:6], 1, "skip")
    order: list[str] = []
    came = threading.Event()

    def watch(words: str, share: float) -> None:
        if "Updating" in words:
            order.append(words.partition(" · ")[0])
            if words.startswith("Batch 2") and not came.is_set():
                came.set()
                thread.start()
                while not models.queue("cpu").state().waiting:
                    pass

    def one() -> None:
        other.before.answer_probabilities([("The capital of France is", "so")])
        order.append("other")

    thread = threading.Thread(target=one)
    visitor.work(watch)
    thread.join(10)
    assert visitor.session.n_edits == 6, visitor.message
    assert list(dict.fromkeys(order))[:4] == ["Batch 1 of 6", "Batch 2 of 6", "other", "Batch 3 of 6"]
    assert {device_queue.EDIT, device_queue.READ} <= set(models.queue("cpu").state().expected)


def test_who_does_not_want_to_wait_is_told_and_may_come_back(models, loading, monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    visitor, came, refused = ready(models, loading), threading.Event(), []

    def told(place: Place | None) -> None:
        came.set()
        if place is not None:
            visitor.check_waiting(place)

    def read() -> None:
        device_queue.tell_waiting(told)
        try:
            visitor.before.answer_probabilities([("The largest city of Peru is", "so")])
        except InputError as error:
            refused.append(str(error))

    with loading.lm.lock:
        thread = threading.Thread(target=read)
        thread.start()
        assert came.wait(10)
        visitor.leave_line()
        thread.join(10)
    assert len(refused) == 1 and "Ask again" in refused[0]
    read()  # the device is free, so there is no line to stand in
    visitor.ask_again()
    assert len(refused) == 1 and not visitor.left_line


def test_leaving_the_line_drops_the_edits_that_wait(models, loading):
    visitor = ready(models, loading)
    visitor.begin(tiny_runs.FACTS[:2], 1, "skip")
    visitor.leave_line()
    assert visitor.job is None and visitor.message.text.startswith("Stopped")
    visitor.begin(tiny_runs.FACTS[:2], 1, "skip")
    assert not visitor.left_line  # who applies edits wants to wait again


def test_a_page_shows_the_place_in_line_and_clears_it(models, loading, monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.02)
    app = opened("edit")
    shown: list[str] = []
    from dashboard.elements import waiting

    original = waiting._Box.tell

    def tell(box, place):
        original(box, place)
        shown.append("cleared" if place is None else str(place))
        release.set()

    monkeypatch.setattr(waiting._Box, "tell", tell)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with loading.lm.lock:
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    app.button(key="reset").click().run()  # waits until the other one is ready
    thread.join(10)
    assert not app.exception
    assert shown[0].startswith("You are 1st in the queue") and "cleared" in shown
    assert not [element for element in app.get("html") if 'class="es-place"' in element.proto.body]


# -- who goes away -----------------------------------------------------------------------------------------------------


def test_a_session_that_ends_frees_what_it_held(models, loading):
    """By page, with an edit on it: no visitor, no session, no matrix is left, and no one is counted."""
    app = opened("edit")
    visitor = app.session_state["visitor"]
    visitor.begin([Fact("Peru", "The capital of {} is", "Rome")], 1, "skip")
    visitor.work(quiet)
    app.run()
    assert not app.exception and visitor.session.n_edits == 1 and len(models.visitors) == 1
    gone = [weakref.ref(thing) for thing in (visitor, visitor.session, *visitor.session.matrices().values())]
    del app, visitor
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert len(models.visitors) == 0


def test_who_goes_in_the_middle_of_a_batch_leaves_no_trace(models, loading):
    before = tiny_models.Snapshot.of(loading.lm)
    visitor = ready(models, loading)
    visitor.begin(tiny_runs.FACTS[:4], 2, "skip")

    def leave(words: str, share: float) -> None:
        if words.startswith("Batch 2") and "target" in words:
            raise Left

    with pytest.raises(Left):
        visitor.work(leave)
    assert models.queue("cpu").state().running is None and before.holds(loading.lm)
    assert visitor.job.at == 1 and visitor.session.n_edits == 2
    visitor.work(quiet)  # the browser is back
    assert visitor.session.n_edits == 4 and visitor.job is None
    ref = weakref.ref(visitor)
    del visitor
    gc.collect()
    assert ref() is None


def test_a_script_that_begins_before_the_last_one_has_ended_applies_nothing_twice(models, loading, monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    visitor = ready(models, loading)
    visitor.begin(tiny_runs.FACTS[:3], 1, "skip")
    told: list[str] = []
    second = threading.Thread(target=lambda: visitor.work(lambda words, share: told.append(words)))

    def first(words: str, share: float) -> None:
        if words.startswith("Batch 1") and not second.is_alive() and not told:
            second.start()
            while not told:
                pass

    visitor.work(first)
    second.join(10)
    assert visitor.session.n_edits == 3 and len(visitor.session.history) == 3
    assert set(told) == {"Finishing what was begun before"}


def test_memory_that_a_visitor_holds_is_counted(models, loading):
    visitor = ready(models, loading)
    assert visitor.session.nbytes() == 0
    visitor.begin(tiny_runs.FACTS[:1], 1, "skip")
    visitor.work(quiet)
    [batch] = visitor.session.history
    own = {id(t): t for t in visitor.session.matrices().values()}
    own |= {id(t): t for update in batch.updates.values() for t in update.tensors.values()}
    own |= {id(item.target.z): item.target.z for item in batch.report.edited}
    assert visitor.session.nbytes() == sum(t.nbytes for t in own.values())
    visitor.undo()
    assert visitor.session.nbytes() == 0


def test_the_bar_of_a_model_that_loads_never_goes_back(monkeypatch):
    """Unpacking says 60 %, then loading 50, then gathering 9: what is shown only grows, and ends short of all."""
    monkeypatch.setattr(Loading, "_load", lambda *arguments: None)
    loading = Loading("m", "auto", "auto", lambda device: None)
    told = []
    for what, shares in (("unpack", (0, 0.6, 1)), ("load", (0.5, 1)), ("gather", (0, 0.09, 0.9, 1)), ("check", (0, 1))):
        for share in shares:
            loading._tell(what, share)
            told.append(loading.share)
    assert told == sorted(told) and len(set(told)) > 6 and 0.5 < told[-1] < 1
