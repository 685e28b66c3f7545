"""Which contexts are looked at, evaluation by evaluation."""

from __future__ import annotations

import torch

from encore_core.editing.context_turns import ContextTurns

CPU = torch.device("cpu")


def test_a_few_in_turn_until_they_say_the_answer_and_then_all():
    turns = ContextTurns(3, 5, 2, CPU)
    seen = []
    for said in ([False, False, False], [False, True, False], [False, False, False]):
        seen.append([row.nonzero()[:, 0].tolist() for row in turns.due()])
        turns.read(torch.tensor(said))
    assert seen == [[[0, 1]] * 3, [[2, 3]] * 3, [[0, 4], [0, 1, 2, 3, 4], [0, 4]]]
    turns.keep(torch.tensor([1, 2]))
    assert [row.nonzero()[:, 0].tolist() for row in turns.due()] == [[0, 1, 2, 3, 4], [1, 2]]
    assert turns.in_full.tolist() == [True, False]
    turns.look_at_all()
    assert turns.due().all()


def test_all_at_once_where_there_are_no_more_contexts():
    for at_once in (0, 3, 4):
        turns = ContextTurns(2, 3, at_once, CPU)
        assert turns.due() is None
        turns.read(torch.tensor([False, True]))
        assert turns.due() is None and turns.in_full.all()
