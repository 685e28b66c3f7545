"""The arithmetic of contributions, held to cases by hand and to numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encore_core.measures.contributions import averaged, sublayer_names, token_shares


def test_a_case_by_hand():
    """Input (3, 4), attention (0, -4), MLP (3, 0): the stream ends at (6, 0)."""
    outputs = torch.tensor([[[3.0, 4.0]], [[0.0, -4.0]], [[3.0, 0.0]]])
    found = averaged([token_shares(outputs, torch.tensor([[6.0, 0.0]]))])
    assert [(part.label, part.layer, part.kind) for part in found.parts] == [
        ("input", None, "input"),
        ("attention 0", 0, "attention"),
        ("MLP 0", 0, "MLP"),
    ]
    assert [part.share for part in found.parts] == pytest.approx([5 / 12, 4 / 12, 3 / 12])
    assert [part.signed_share for part in found.parts] == pytest.approx([0.5, 0.0, 0.5])
    assert (found.n_tokens, found.missing) == (1, 0.0)


def test_shares_are_averaged_over_tokens_not_norms():
    """A token with a giant norm (the first one, in many models) counts as much as any other."""
    outputs = torch.tensor([[[1.0, 0.0], [1000.0, 0.0]], [[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = averaged([token_shares(outputs, outputs.sum(0))])
    assert [part.share for part in found.parts] == pytest.approx([(1 / 4 + 1) / 2, (3 / 4 + 0) / 2, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_numpy(dtype):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 11, 5, generator=generator).to(dtype)
    h_L = outputs.sum(0) + 0.01 * torch.randn(11, 5, generator=generator).to(dtype)
    found = averaged([token_shares(outputs, h_L)])
    o, h = outputs.double().numpy(), h_L.double().numpy()
    norms = np.sqrt((o**2).sum(-1))
    shares = (norms / norms.sum(0)).mean(1)
    signed = (np.einsum("snd,nd->sn", o, h) / (h**2).sum(-1)).mean(1)
    missing = (np.sqrt(((h - o.sum(0)) ** 2).sum(-1)) / np.sqrt((h**2).sum(-1))).mean()
    assert [part.share for part in found.parts] == pytest.approx(shares.tolist(), rel=1e-12)
    assert [part.signed_share for part in found.parts] == pytest.approx(signed.tolist(), rel=1e-12)
    assert found.missing == pytest.approx(missing, rel=1e-9)
    assert sum(part.share for part in found.parts) == pytest.approx(1, abs=1e-12)


def test_tokens_may_come_in_batches_of_any_size():
    outputs = torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(1))
    h_L = outputs.sum(0)
    whole = averaged([token_shares(outputs, h_L)])
    pieces = [(0, 1), (1, 6), (6, 9)]
    parted = averaged([token_shares([o[a:b] for o in outputs], h_L[a:b]) for a, b in pieces])
    assert parted.n_tokens == 9
    for one, other in zip(whole.parts, parted.parts, strict=True):
        assert one.share == pytest.approx(other.share, rel=1e-12)
        assert one.signed_share == pytest.approx(other.signed_share, rel=1e-9, abs=1e-12)


def test_the_stream_is_not_written_to():
    outputs = torch.ones(3, 2, 4, dtype=torch.float64)
    h_L = outputs.sum(0)
    token_shares(outputs, h_L)
    assert torch.equal(h_L, torch.full((2, 4), 3.0, dtype=torch.float64))
    assert torch.equal(outputs, torch.ones(3, 2, 4, dtype=torch.float64))


def test_names_run_from_bottom_to_top():
    assert [label for label, _, _ in sublayer_names(2)] == ["input", "attention 0", "MLP 0", "attention 1", "MLP 1"]
