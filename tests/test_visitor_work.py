"""A visitor's script that has been left behind: what it ends is its own work, never what was begun after it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import tiny_models

from dashboard.parts.edit import files
from dashboard.visitors.visitor import Visitor
from encore_core.editing.edit_file import write_edit_file

FIRST, SECOND, THIRD = tiny_models.CITIES


@pytest.fixture
def visitor(gpt2, new_session) -> Visitor:
    visitor = Visitor(SimpleNamespace(lm=gpt2, before=None))
    visitor.session = new_session(gpt2)
    return visitor


def quiet(what: str, share: float) -> None:
    """A script that shows nothing, and so is not interrupted by Streamlit either."""


def after_the_batch(visitor: Visitor, monkeypatch, action) -> None:
    """Have something done when the batch at hand has been applied, before the script takes the next line."""
    edit = visitor.session.edit

    def editing(batch, **named):
        report = edit(batch, **named)
        monkeypatch.setattr(visitor.session, "edit", edit)
        action()
        return report

    monkeypatch.setattr(visitor.session, "edit", editing)


@pytest.mark.parametrize("fails", [False, True])
def test_an_old_script_does_not_drop_what_was_begun_after_stop(visitor, monkeypatch, fails):
    visitor.begin([FIRST], 1, "skip")

    def stop_and_apply_others() -> None:
        visitor.cancel()
        visitor.begin([SECOND], 1, "skip")
        if fails:
            raise RuntimeError("the old script breaks")

    after_the_batch(visitor, monkeypatch, stop_and_apply_others)
    visitor.work(quiet)
    assert visitor.job is not None and visitor.job.batches == [[SECOND]] and visitor.message is None
    visitor.work(quiet)
    assert visitor.job is None and SECOND in visitor.edited_facts and "Applied" in visitor.message.text


def test_batches_that_were_stopped_are_not_gone_on_with(visitor, monkeypatch):
    visitor.begin([FIRST, SECOND, THIRD], 1, "skip")
    after_the_batch(visitor, monkeypatch, visitor.cancel)
    visitor.work(quiet)
    assert visitor.edited_facts == [FIRST] and visitor.job is None
    # Stop spoke before the batch had been counted.
    assert visitor.message.text == "Stopped. Batches applied before that: 1."


def test_stopping_in_the_middle_of_a_batch_takes_it_back(visitor):
    visitor.begin([FIRST], 1, "skip")

    def show(what: str, share: float) -> None:
        if "step 2" in what:
            visitor.cancel()

    visitor.work(show)
    assert visitor.edited_facts == [] and visitor.session.n_edits == 0
    assert visitor.message.text == "Stopped. Batches applied before that: 0."


def test_the_device_is_free_while_an_edit_file_is_written(visitor, monkeypatch):
    visitor.begin([FIRST], 1, "skip")
    visitor.work(quiet)
    free = []

    def others() -> None:
        taken = visitor.lm.lock.acquire(timeout=1)
        free.append(taken)
        if taken:
            visitor.lm.lock.release()

    def writing(*args) -> None:
        thread = threading.Thread(target=others)
        thread.start()
        thread.join()
        write_edit_file(*args)

    monkeypatch.setattr(files, "write_edit_file", writing)
    content = files.as_bytes(visitor.session)
    assert free == [True] and files.session_of(content, visitor.lm).n_edits == 1
