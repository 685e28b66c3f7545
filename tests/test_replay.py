"""Recorded work, with a recorder for CPUs: it keeps the work and does it again. See `test_gpu` for the real one."""

from __future__ import annotations

import logging

import pytest
import torch

from encore_core.forward import cuda_graph
from encore_core.forward.cuda_graph import Replayed


@pytest.fixture
def recordings(monkeypatch) -> list:
    """Work that was recorded. As on a GPU, results stand in the same tensors every time."""
    seen = []

    def recorded(work):
        seen.append(work)
        results = tuple(torch.zeros_like(result) for result in work.like())

        def play() -> None:
            for result, new in zip(results, work(), strict=True):
                result.copy_(new)

        return play, results

    monkeypatch.setattr(cuda_graph, "recorded", recorded)
    return seen


class Counting:
    """Counts up in place."""

    def __init__(self):
        self.state = torch.zeros(2)

    def __call__(self) -> tuple[torch.Tensor, ...]:
        self.state += 1
        return self.state * 10, self.state

    def like(self) -> tuple[torch.Tensor, ...]:
        return torch.zeros(2), torch.zeros(2)


def test_recorded_at_the_second_call_and_once(recordings):
    work = Counting()
    step = Replayed(work)
    found = []
    for number in range(1, 5):
        found.append(step())
        assert len(recordings) == (number > 1)
    assert [float(times_ten[0]) for times_ten, _ in found] == [10, 20, 30, 40]  # copies: later calls leave them alone
    assert not step.refused


def test_what_cannot_be_recorded_is_done_as_it_is(monkeypatch, caplog):
    def refusing(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graph, "recorded", refusing)
    step = Replayed(Counting())
    with caplog.at_level(logging.WARNING):
        assert [float(step()[0][0]) for _ in range(3)] == [10, 20, 30]
    assert step.refused
    assert [record.message for record in caplog.records] == [
        "A step cannot be recorded (operation not permitted when stream is capturing); steps are launched one by one."
    ]


def test_other_errors_are_nobody_s_to_swallow(monkeypatch):
    monkeypatch.setattr(cuda_graph, "recorded", lambda work: work())
    step = Replayed(iter([(torch.zeros(1),)]).__next__)
    step()
    with pytest.raises(StopIteration):
        step()
