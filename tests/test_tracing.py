"""Partial passes held to the plain forward pass of transformers, and to leaving nothing behind on the model."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CORPUS, hooks_and_patches

from encore_core.forward.prompts import Padded, batches_by_length, pad
from encore_core.forward.tracing import added_to_output, captured_input, record_prefix, run

LENGTHS = (9, 4, 7, 1)


@pytest.fixture
def rows(lm) -> list[list[int]]:
    """Token sequences of unequal length."""
    ids = lm.tokenizer(" ".join(CORPUS[:4]))["input_ids"]
    return [ids[3 * number : 3 * number + length] for number, length in enumerate(LENGTHS)]


@torch.no_grad()
def plain(lm, row) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and the residual stream entering every block, of one sequence on its own, by the library alone."""
    out = lm.model(input_ids=torch.tensor([row]), output_hidden_states=True, use_cache=False)
    return out.logits[0], [hidden[0] for hidden in out.hidden_states]


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_full_run_equals_one_sequence_at_a_time(lm, rows):
    batch = pad(lm, rows)
    with torch.no_grad():
        logits = run(lm, batch.ids, batch.mask)
    for number, row in enumerate(rows):
        close(logits[number, : len(row)], plain(lm, row)[0])


def test_stop_gives_the_stream_that_enters_the_block(lm, rows):
    batch = pad(lm, rows)
    for stop in range(1, lm.n_layers):
        with torch.no_grad():
            hidden = run(lm, batch.ids, batch.mask, stop=stop)
        for number, row in enumerate(rows):
            close(hidden[number, : len(row)], plain(lm, row)[1][stop])


def test_start_goes_on_from_there(lm, rows):
    batch = pad(lm, rows)
    with torch.no_grad():
        for start in range(1, lm.n_layers):
            hidden = run(lm, batch.ids, batch.mask, stop=start)
            # What the ids are does not matter any more.
            logits = run(lm, torch.zeros_like(batch.ids), batch.mask, start=start, hidden=hidden)
            for number, row in enumerate(rows):
                close(logits[number, : len(row)], plain(lm, row)[0])
        between = run(lm, batch.ids, batch.mask, start=1, stop=3, hidden=run(lm, batch.ids, batch.mask, stop=1))
        close(between[0, : len(rows[0])], plain(lm, rows[0])[1][3])


def test_start_uses_the_stream_it_is_given(lm, rows):
    batch = pad(lm, rows)
    with torch.no_grad():
        hidden = run(lm, batch.ids, batch.mask, stop=2)
        same = run(lm, batch.ids, batch.mask, start=2, hidden=hidden)
        other = run(lm, batch.ids, batch.mask, start=2, hidden=hidden + torch.randn_like(hidden))
    assert not torch.allclose(same, other, atol=1e-2)


def test_logits_only_where_asked(lm, rows):
    batch = pad(lm, rows)
    at = (torch.tensor([0, 2, 0, 3]), torch.tensor([8, 1, 8, 0]))
    with torch.no_grad():
        found = run(lm, batch.ids, batch.mask, logits_at=at)
    assert found.shape == (4, lm.model.config.vocab_size)
    for logits, row, column in zip(found, *at, strict=True):
        close(logits, plain(lm, rows[row])[0][column])


CUTS = {
    "unequal": (5, 1, 6, 0),
    "none empty": (8, 3, 6, 0),
    "all but one empty": (0, 2, 0, 0),
    "all one long": (1, 1, 1, 0),
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("start", [0, 2])
def test_tokens_behind_a_prefix(lm, rows, cuts, start):
    """Prefixes of unequal length, some of them empty, with what follows padded on the right."""
    heads = [row[:cut] for row, cut in zip(rows, cuts, strict=True)]
    tails = pad(lm, [row[cut:] for row, cut in zip(rows, cuts, strict=True)])
    whole = pad(lm, rows)
    ids = torch.zeros(len(rows), max(cuts), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, head in enumerate(heads):
        ids[number, : len(head)], mask[number, : len(head)] = torch.tensor(head, dtype=torch.long), 1
    with torch.no_grad():
        entering = run(lm, whole.ids, whole.mask, stop=start) if start else None
        prefix, nothing = record_prefix(
            lm, ids, mask, start=start, hidden=None if entering is None else entering[:, : max(cuts)]
        )
        assert len(nothing) == 0
        hidden = None
        if start:
            columns = torch.tensor(cuts)[:, None] + torch.arange(tails.ids.shape[1])
            columns = columns.clamp_max(whole.ids.shape[1] - 1)
            hidden = entering.gather(1, columns[..., None].expand(-1, -1, lm.d_model))
        for _ in range(2):  # the same prefix serves again
            logits = run(lm, tails.ids, tails.mask, start=start, hidden=hidden, prefix=prefix)
            for number, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
                close(logits[number, : len(row) - cut], plain(lm, row)[0][cut:])
        chosen = torch.tensor([2, 0, 2])
        logits = run(
            lm, tails.ids[chosen], tails.mask[chosen], start=start, prefix=prefix.rows(chosen),
            hidden=None if hidden is None else hidden[chosen],
        )  # fmt: skip
        for number, row in enumerate(chosen.tolist()):
            close(logits[number, : len(rows[row]) - cuts[row]], plain(lm, rows[row])[0][cuts[row] :])


@pytest.mark.parametrize("first", [(3, 0, 2, 0), (0, 0, 1, 0)], ids=["some empty", "nearly all empty"])
def test_a_prefix_behind_a_prefix(lm, rows, first):
    """What a context's rows share, recorded once, then each row's own tokens on top of it, then the rest."""
    second = (6, 2, 5, 0)
    parts = [
        pad(lm, [row[a:b] or [0] for row, a, b in zip(rows, start, stop, strict=True)])
        for start, stop in (((0,) * 4, first), (first, second), (second, LENGTHS))
    ]
    masks = [
        part.mask * torch.tensor([b > a for a, b in zip(start, stop, strict=True)])[:, None]
        for part, start, stop in zip(parts, ((0,) * 4, first, second), (first, second, LENGTHS), strict=True)
    ]
    with torch.no_grad():
        below, entering = record_prefix(lm, parts[0].ids, masks[0], stop=2)
        above, _ = record_prefix(lm, parts[0].ids, masks[0], start=2, hidden=entering)
        own_below, own = record_prefix(lm, parts[1].ids, masks[1], stop=2, prefix=below)
        own_above, _ = record_prefix(lm, parts[1].ids, masks[1], start=2, hidden=own, prefix=above)
        rest = run(lm, parts[2].ids, masks[2], stop=2, prefix=below.followed_by(own_below))
        logits = run(lm, parts[2].ids, masks[2], start=2, hidden=rest, prefix=above.followed_by(own_above))
    for number, (row, cut) in enumerate(zip(rows, second, strict=True)):
        close(logits[number, : len(row) - cut], plain(lm, row)[0][cut:])


def test_recording_gives_logits_as_well(lm, rows):
    batch = pad(lm, rows)
    ends = (torch.arange(len(rows)), batch.mask.sum(-1) - 1)
    with torch.no_grad():
        _, logits = record_prefix(lm, batch.ids, batch.mask, logits_at=ends)
    for found, row in zip(logits, rows, strict=True):
        close(found, plain(lm, row)[0][-1])


def test_a_prefix_does_not_grow(lm, rows):
    batch = pad(lm, [rows[0][:4]])
    with torch.no_grad():
        prefix, _ = record_prefix(lm, batch.ids, batch.mask)
        tail = torch.tensor([rows[0][4:]])
        for _ in range(3):
            run(lm, tail, torch.ones_like(tail), prefix=prefix)
    assert prefix.get_seq_length() == 4
    assert all(layer.keys.shape[-2] == 4 for layer in prefix.layers)


def test_what_is_added_is_added_there_alone(lm, rows):
    batch = pad(lm, rows)
    block = lm.blocks[1]
    where = (torch.tensor([0, 1, 1]), torch.tensor([2, 0, 0]))
    delta = torch.randn(3, lm.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = run(lm, batch.ids, batch.mask, stop=2)
        with added_to_output(block, *where, delta):
            after = run(lm, batch.ids, batch.mask, stop=2)
    expected = before.clone()
    expected[0, 2] += delta[0]
    expected[1, 0] += delta[1] + delta[2]  # twice at one place: both
    close(after, expected)


def test_gradients_reach_what_was_added(lm, rows):
    batch = pad(lm, rows[:1])
    delta = torch.zeros(1, lm.d_model, requires_grad=True)
    zero = torch.tensor([0])
    with added_to_output(lm.blocks[0], zero, zero, delta):
        run(lm, batch.ids, batch.mask)[0, -1].logsumexp(-1).backward()
    assert float(delta.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in lm.model.parameters())


@pytest.mark.parametrize("family", ["tensor", "tuple"])
def test_outputs_may_be_tensors_or_tuples(family):
    class Block(torch.nn.Module):
        def forward(self, x):
            return (x, "rest") if family == "tuple" else x

    block, x = Block(), torch.zeros(1, 2, 3)
    with added_to_output(block, torch.tensor([0]), torch.tensor([1]), torch.ones(1, 3)):
        out = block(x)
    hidden = out[0] if family == "tuple" else out
    assert hidden[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert family == "tensor" or out[1] == "rest"
    assert float(x.sum()) == 0


def test_captured_input_is_what_enters(lm, rows):
    batch = pad(lm, rows[:1])
    with torch.no_grad(), captured_input(lm.down_projections[1]) as seen:
        run(lm, batch.ids, batch.mask, stop=2)
    assert len(seen) == 1
    assert seen[0].shape[-1] == lm.d_mlp
    with torch.no_grad(), captured_input(lm.blocks[2]) as block_input:
        run(lm, batch.ids, batch.mask)
    close(block_input[0][0], plain(lm, rows[0])[1][2])


def test_nothing_is_left_behind_after_a_failure(lm, rows):
    """An exception in any block, with every context manager in use, leaves the model as it was."""
    batch = pad(lm, rows)
    tidy = hooks_and_patches(lm)
    with torch.no_grad():
        expected = run(lm, batch.ids, batch.mask)
        hidden = run(lm, batch.ids, batch.mask, stop=2)
    zero = torch.tensor([0])

    def fail(*_):
        raise KeyboardInterrupt

    handle = lm.blocks[2].register_forward_pre_hook(fail)
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            captured_input(lm.down_projections[2]),
            added_to_output(lm.blocks[2], zero, zero, torch.zeros(1, lm.d_model)),
        ):
            run(lm, batch.ids, batch.mask, start=2, hidden=hidden, logits_at=(zero, zero))
        with pytest.raises(KeyboardInterrupt):
            run(lm, batch.ids, batch.mask, stop=3)
        with pytest.raises(KeyboardInterrupt):
            record_prefix(lm, batch.ids, batch.mask, start=1, hidden=hidden)
    finally:
        handle.remove()
    with pytest.raises(IndexError):
        run(lm, batch.ids, batch.mask, logits_at=(torch.tensor([99]), zero))
    assert hooks_and_patches(lm) == tidy
    with torch.no_grad():
        assert torch.equal(run(lm, batch.ids, batch.mask), expected)


def test_padding_stands_on_the_right(lm):
    batch = pad(lm, [[5, 6], [7, 8, 9]])
    assert isinstance(batch, Padded)
    assert batch.ids[0, :2].tolist() == [5, 6]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_batches_by_length_cover_everything_once_and_stay_small():
    lengths = [3, 50, 7, 7, 120, 1, 1, 1, 30]
    groups = batches_by_length(lengths, 60)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 60
    assert [4] in groups  # longer than the limit, so on its own
    assert batches_by_length([], 10) == []
