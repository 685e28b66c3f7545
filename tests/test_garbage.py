"""What the collector passes over, until somebody asks it to look; what comes later is collected as ever."""

from __future__ import annotations

import gc
import time
import tomllib
import weakref

import pytest

from dashboard.server.garbage import Collections, look_through_what_was_set_aside, set_aside_what_lives
from encore_core.resources import SERVER_SETTINGS


class Knot:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self):
        self.self = self


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_what_lives_is_passed_over_until_somebody_asks():
    knot, other = Knot(), Knot()
    gone, lives = weakref.ref(knot), weakref.ref(other)
    set_aside_what_lives()
    assert gc.get_freeze_count() > 10_000
    del knot
    gc.collect()
    assert gone() is not None  # passed over: this is what makes a collection quick
    look_through_what_was_set_aside()
    assert gone() is None and lives() is other and gc.get_freeze_count() > 10_000


def test_nothing_is_set_aside_unasked():
    look_through_what_was_set_aside()
    assert not gc.get_freeze_count()


def test_what_comes_later_is_collected_as_ever():
    set_aside_what_lives()
    later = weakref.ref(Knot())
    gc.collect()
    assert later() is None


@pytest.fixture
def by_hand():
    """Python's own collections are off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def is_gone(knot: weakref.ref, seconds: float) -> bool:
    """Whether a knot is collected in that time."""
    end = time.monotonic() + seconds
    while knot() is not None and time.monotonic() < end:
        time.sleep(0.01)
    return knot() is None


def test_the_server_collects_when_no_page_runs(by_hand):
    collections = Collections(idle=0.05, longest=60)
    with collections.page_runs():
        knot = weakref.ref(Knot())
        with collections.page_runs():  # another visitor's, which ends first
            pass
        assert not is_gone(knot, 0.4)
    assert is_gone(knot, 20)


def test_a_page_that_follows_at_once_is_not_held_up(by_hand):
    collections = Collections(idle=0.5, longest=60)
    with collections.page_runs():
        knot = weakref.ref(Knot())
    with collections.page_runs():
        assert not is_gone(knot, 1)


def test_pages_that_never_pause_cannot_put_it_off_for_ever(by_hand):
    collections = Collections(idle=60, longest=0.3)
    with collections.page_runs():
        first = weakref.ref(Knot())
        assert is_gone(first, 20)
        second = weakref.ref(Knot())
        assert is_gone(second, 20)
    third = weakref.ref(Knot())
    assert is_gone(third, 20)  # what was due while the page ran is not forgotten at its end


def test_a_page_that_fails_has_ended(by_hand):
    collections = Collections(idle=0.05, longest=60)
    with pytest.raises(RuntimeError), collections.page_runs():
        knot = weakref.ref(Knot())
        raise RuntimeError("a page's script was stopped")
    assert is_gone(knot, 20)


def test_streamlits_own_collection_is_off():
    assert tomllib.loads(SERVER_SETTINGS.read_text(encoding="utf-8"))["runner"]["postScriptGC"] is False
