"""What the collector passes over, until somebody asks it to look; what comes later is collected as ever."""

from __future__ import annotations

import gc
import weakref

import pytest

from dashboard.server.garbage import look_through_what_was_set_aside, set_aside_what_lives


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
