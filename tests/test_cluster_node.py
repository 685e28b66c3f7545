"""A run on a node, without Ray: what it sends is enough, whenever it breaks off, and what goes wrong is one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_runs
import torch
from test_runs_worker import assert_same_run, same_series

from encore_core.cluster import node_task
from encore_core.cluster.incoming import Incoming, packed
from encore_core.cluster.node_task import DriverGone, Ticket, work
from encore_core.cluster.nodes import versions_here
from encore_core.editing import stored_statistics
from encore_core.models.editable import load_model
from encore_core.runs import RunStore, key_statistics, resume_state
from encore_core.runs.resume_state import EDITED_FILE


def slow_run(folder, text):
    """A run of some seconds: one of a third of a second is over before anybody is heard."""
    settings = tiny_runs.SETTINGS | {"steps": 150, "lr": 1e-4}
    return tiny_runs.prepared(folder, text, overrides=settings)


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run_id(store, tiny_folder, statistics_text) -> str:
    return store.submit([slow_run(tiny_folder, statistics_text)], queue_name="ray:test")[0]


@pytest.fixture
def ticket(run_id, tmp_path) -> Ticket:
    return Ticket(run_id, "cpu", 1, 0.0, str(tmp_path / "scratch"), versions_here())


@pytest.fixture
def claim(store, run_id):
    """A driver's right to the run, and its lock, without which it would be taken for dead."""
    with store.device_lock("ray:test"):
        yield store.claim("ray:test")


def sent(store: RunStore, ticket: Ticket, ask=lambda: None) -> Iterator[tuple]:
    folder, files = packed(store, ticket.run_id, "cpu")
    yield from work(ticket, [(name, [path.read_bytes()]) for name, path in files], ask)
    assert folder.is_dir()


def take(store: RunStore, claim, messages: Iterator[tuple], until=lambda message: False) -> tuple | None:
    """Take in what is sent, as a driver does, until some message; the last word."""
    incoming = Incoming(store, claim)
    for message in messages:
        if message[0] == "file":
            incoming.write(*message[1:])
        if message[0] == "take":
            incoming.take()
        if message[0] == "end" or until(message):
            return message
    return None


def nth_take(n: int):
    """Break off after so many messages that something is to be taken in."""
    seen = []

    def is_it(message) -> bool:
        seen.extend([message] if message[0] == "take" else [])
        return len(seen) == n

    return is_it


@pytest.mark.slow
def test_what_is_sent_makes_the_run_that_was_done_here(
    store, claim, run_id, ticket, tiny_folder, statistics_text, tmp_path
):
    cursors = []
    for _ in range(3):  # lost three times, just after something was taken in
        messages = sent(store, ticket)
        take(store, claim, messages, nth_take(1))
        messages.close()
        cursors.append(store.get(run_id).cursor)
    # How much is taken in at a time depends on how fast the worker is.
    assert cursors == sorted(cursors) and 0 < cursors[-1] <= 8
    assert take(store, claim, sent(store, ticket)) == ("end", "done", None)
    local = RunStore(tmp_path / "local")
    [other] = local.submit([slow_run(tiny_folder, statistics_text)])
    tiny_runs.worker(local).serve()
    same_series(local, other, store, run_id)
    assert {path.name for path in store.folder_of(run_id).iterdir()} == {"facts.jsonl", EDITED_FILE}
    assert_same_run(store, run_id, run_id)


def test_chosen_statistics_go_with_the_run_to_a_node_with_another_data_folder(
    store, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    lm = load_model(str(tiny_folder), "cpu")
    for key, n in ((lm.texts_key, lm.d_mlp), ("0123456789abcdef", lm.d_mlp + 1)):
        for layer in (0, 1):
            file = stored_statistics.file_of(key, layer, "0" * 12, 50)
            stored_statistics.save(file, 2 * torch.eye(n), "imported x.npz", 50)
            stored_statistics.choose(key, {layer: file})
    ready = tiny_runs.prepared(tiny_folder, tmp_path, statistics_text=None)
    assert len(key_statistics.chosen_files(ready.statistics_wanted)) == 4
    ready = replace(ready, statistics_wanted=key_statistics.of_size(ready.statistics_wanted, lm.d_mlp))
    [run_id] = store.submit([ready], queue_name="ray:test")
    ticket = Ticket(run_id, "cpu", 1, 0.0, str(tmp_path / "scratch"), versions_here())
    with store.device_lock("ray:test"):
        claim = store.claim("ray:test")
        _, files = packed(store, run_id, "cpu")
        assert sum("layer" in name for name, _ in files) == 2
        messages = sent(store, ticket)
        assert next(messages)[0] == "about"
        monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "elsewhere"))
        assert take(store, claim, messages) == ("end", "done", None)
    assert [row["source"] for row in store.get(run_id).statistics_used] == ["imported x.npz"] * 2


@pytest.mark.slow
def test_a_file_in_many_parts_is_whole(store, claim, run_id, ticket, monkeypatch):
    monkeypatch.setattr(node_task, "CHUNK_BYTES", 1000)
    assert take(store, claim, sent(store, ticket)) == ("end", "done", None)
    assert store.get(run_id).status == "done"


def test_a_driver_that_asks_to_stop_is_heard(store, claim, run_id, ticket, monkeypatch):
    monkeypatch.setattr(node_task, "HEED_SECONDS", 0.0)
    assert take(store, claim, sent(store, ticket, lambda: "cancel"))[:2] == ("end", "cancelled")


def test_a_task_whose_driver_is_gone_ends(store, claim, run_id, ticket, monkeypatch):
    monkeypatch.setattr(node_task, "HEED_SECONDS", 0.0)

    def gone() -> None:
        raise DriverGone

    assert take(store, claim, sent(store, ticket, gone))[:2] == ("end", "interrupted")


@pytest.mark.slow
def test_a_full_disk_on_the_node_is_one_line_with_its_name(store, claim, run_id, ticket, monkeypatch):
    real, saved = resume_state.save_file, []

    def full(tensors, path, metadata):
        saved.append(path)
        if len(saved) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(tensors, path, metadata)

    monkeypatch.setattr(resume_state, "save_file", full)
    _, status, error = take(store, claim, sent(store, ticket))
    assert status == "failed" and "is full" in error and "(node " in error and "\n" not in error
    assert store.get(run_id).cursor == 4
    monkeypatch.undo()
    assert take(store, claim, sent(store, ticket)) == ("end", "done", None)


@pytest.mark.slow
def test_a_full_disk_of_the_driver_loses_nothing(store, claim, run_id, ticket, monkeypatch):
    take(store, claim, sent(store, ticket), nth_take(2))
    before = store.get(run_id).cursor
    incoming = Incoming(store, claim)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            incoming.write(f"{run_id}/state-0000008.safetensors", 0, b"x")
    assert store.get(run_id).cursor == before
    assert take(store, claim, sent(store, ticket)) == ("end", "done", None)


def full_disk(path, *args, **named):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_node_with_another_version_ends_with_a_word(store, claim, run_id, ticket):
    other = Ticket(**vars(ticket) | {"versions": versions_here() | {"torch": "1.0"}})
    _, status, error = take(store, claim, sent(store, other))
    assert status == "other" and "This node has torch" in error and "the driver of the plan 1.0" in error


@pytest.mark.slow
def test_the_folder_of_a_task_that_was_killed_is_removed_and_that_of_a_living_one_is_not(store, claim, run_id, ticket):
    living, messages = sent(store, ticket), []
    for message in living:
        messages.append(message)
        if message[0] == "take":
            break
    [folder] = [path.parent for path in node_task.Path(ticket.scratch).glob("*/*/in-use.lock")]
    dead = folder.with_name("encore-dead-x")
    dead.mkdir()
    (dead / "in-use.lock").touch()
    take(store, claim, sent(store, ticket))
    assert folder.is_dir() and not dead.exists()
    living.close()
    assert not folder.exists()
