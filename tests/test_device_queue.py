"""The line for a device: who comes first goes first, everybody is told, and nobody who leaves holds others up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from dashboard.server import device_queue
from dashboard.server.device_queue import EDIT, READ, DeviceQueue, Place, ordinal

SOON = 10.0  # seconds after which a test that hangs fails


class Left(BaseException):
    """As Streamlit's exceptions that end a script, it is no `Exception`."""


def started(*functions: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def n_waiting(queue: DeviceQueue) -> int:
    return len(queue.state().waiting)


def in_turn(queue: DeviceQueue, names: str, visit: Callable[[str], None]) -> list[threading.Thread]:
    """One thread a name, each in line before the next one comes."""
    threads = []
    for place, name in enumerate(names, n_waiting(queue) + 1):
        threads += started(lambda name=name: visit(name))
        wait_for(lambda place=place: n_waiting(queue) == place)
    return threads


def test_first_come_first_served():
    queue, order = DeviceQueue(), []

    def visit(name: str) -> None:
        with queue:
            order.append(name)

    with queue:
        threads = in_turn(queue, "abcdefgh", visit)
    joined(threads)
    assert order == list("abcdefgh")
    assert queue.state().running is None and queue.state().finished == 9


def test_one_at_a_time():
    queue, inside, most = DeviceQueue(), [], []

    def visit() -> None:
        for _ in range(20):
            with queue:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    joined(started(*[visit] * 8))
    assert len(most) == 160 and max(most) == 1


def test_ten_batches_hold_up_one_edit_by_one_batch():
    queue, order = DeviceQueue(), []

    def many() -> None:
        for number in range(10):
            with queue:
                order.append(f"batch {number}")
                if number == 2:
                    one_came.set()
                    wait_for(lambda: n_waiting(queue) == 1)

    def one() -> None:
        one_came.wait(SOON)
        with queue:
            order.append("one")

    one_came = threading.Event()
    joined(started(many, one))
    assert order.index("one") == 3  # right after the batch during which it came


def test_a_turn_may_be_nested_and_lasts_until_its_end():
    queue, others = DeviceQueue(), []

    def other() -> None:
        with queue:
            others.append(1)

    with queue:
        threads = in_turn(queue, "x", lambda name: other())
        with queue, queue:
            pass
        time.sleep(0.02)
        assert not others
    joined(threads)
    assert others


def test_an_exception_gives_the_device_back():
    queue = DeviceQueue()
    with pytest.raises(Left), queue, queue:
        raise Left
    assert queue.state().running is None
    with queue:
        pass


def test_only_who_has_the_device_gives_it_back():
    with pytest.raises(RuntimeError):
        DeviceQueue().__exit__(None, None, None)


def test_those_who_wait_are_told_where_they_stand(monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    queue, told = DeviceQueue(), {name: [] for name in "abc"}

    def visit(name: str) -> None:
        device_queue.tell_waiting(told[name].append)
        with queue:
            pass

    with queue:
        threads = in_turn(queue, "abc", visit)
        wait_for(lambda: all(told.values()))
        assert [told[name][-1].number for name in "abc"] == [1, 2, 3]
        assert told["a"][-1].seconds is None  # nothing has been measured yet
        assert str(told["c"][-1]) == "You are 3rd in the queue"
    joined(threads)
    assert all(places[-1] is None for places in told.values())  # the waiting is over
    numbers = [place.number for place in told["c"][:-1]]
    assert numbers == sorted(numbers, reverse=True)


def test_waiting_times_come_from_turns_like_those_before(monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    queue, told = DeviceQueue(), []
    with device_queue.work(EDIT, 4), queue:
        time.sleep(0.2)
    with queue:
        time.sleep(0.01)
    per_fact, reading = queue.state().expected[EDIT], queue.state().expected[READ]
    assert per_fact == pytest.approx(0.05, rel=0.5) and reading == pytest.approx(0.01, rel=2)

    def edits(n: int) -> Callable[[], None]:
        def visit() -> None:
            with device_queue.work(EDIT, n), queue:
                pass

        return visit

    def last() -> None:
        device_queue.tell_waiting(told.append)
        with queue:
            pass

    threads = []
    with queue:
        for number, visit in enumerate((edits(2), edits(10), last), 1):
            threads += started(visit)
            wait_for(lambda number=number: n_waiting(queue) == number)
        wait_for(lambda: bool(told))
        # Both batches in front, and what is left of the reading that runs.
        assert 12 * per_fact <= told[0].seconds <= 12 * per_fact + reading
        assert [turn.kind for turn in queue.state().waiting] == [EDIT, EDIT, READ]
    joined(threads)


def test_who_leaves_loses_the_place_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    queue, order, gone = DeviceQueue(), [], []

    def leaves(place: Place) -> None:
        raise Left

    def leaving() -> None:
        device_queue.tell_waiting(leaves)
        try:
            with queue:
                order.append("left")
        except Left:
            gone.append(1)

    def visit(name: str) -> None:
        with queue:
            order.append(name)

    with queue:
        first = started(leaving)
        joined(first)
        assert gone and n_waiting(queue) == 0
        threads = in_turn(queue, "ab", visit)
    joined(threads)
    assert order == ["a", "b"]


def test_who_leaves_at_the_very_moment_of_the_turn_passes_it_on(monkeypatch):
    monkeypatch.setattr(device_queue, "TOLD_SECONDS", 0.01)
    queue, order = DeviceQueue(), []

    def leaves(place: Place) -> None:
        finish.set()
        wait_for(lambda: n_waiting(queue) == 1 and queue.state().finished == 1)  # the turn is this one's now
        raise Left

    def leaving() -> None:
        device_queue.tell_waiting(leaves)
        with pytest.raises(Left), queue:
            order.append("left")

    def other() -> None:
        with queue:
            order.append("other")

    finish = threading.Event()
    with queue:
        threads = started(leaving)
        wait_for(lambda: n_waiting(queue) == 1)
        threads += started(other)
        wait_for(lambda: n_waiting(queue) == 2)
        finish.wait(SOON)
    joined(threads)
    assert order == ["other"] and queue.state().running is None


def test_what_a_turn_is_for_is_forgotten_after_the_block():
    queue = DeviceQueue()
    with device_queue.work(EDIT), device_queue.work(READ, 0):
        pass
    with queue:
        assert queue.state().running.kind == READ


def test_numbers_as_people_say_them():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th",
    ]  # fmt: skip
    assert str(Place(2, 0.2, 0.0)) == "You are 2nd in the queue · about 1 s"


@pytest.mark.parametrize(("kind", "returns"), [(EDIT, 1), (READ, 0)])
def test_what_edits_used_is_given_back_once_no_more_come_also_when_they_fail(monkeypatch, kind, returns):
    calls: list[str] = []
    monkeypatch.setattr(device_queue, "return_freed_memory", lambda: calls.append("returned"))
    monkeypatch.setattr(device_queue, "IDLE_SECONDS", 0.2)
    for _ in range(3):
        with pytest.raises(Left), device_queue.work(kind):
            raise Left
    assert not calls
    time.sleep(0.6)
    assert len(calls) == returns
