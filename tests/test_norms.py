"""Norms held to sums by hand, to numpy, and to what an edit does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import CITIES

from encore_core.measures.norms import frobenius, matrix_norms, norm_ratios


def test_a_norm_by_hand():
    assert frobenius(torch.tensor([[1.0, 2.0], [2.0, 4.0]])) == 5.0
    assert frobenius(torch.zeros(3, 2)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_are_taken_in_float64(dtype):
    """A large entry and many small ones: summed in float32 the small ones would be lost, in bfloat16 all would."""
    matrix = torch.full((300, 400), 0.0625, dtype=dtype)
    matrix[0, 0] = 512.0
    exact = math.sqrt(512.0**2 + (300 * 400 - 1) * 0.0625**2)
    assert frobenius(matrix) == pytest.approx(exact, rel=1e-14)


def test_the_layout_does_not_matter():
    """GPT-2's matrices are seen transposed."""
    matrix = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    expected = np.sqrt((matrix.double().numpy() ** 2).sum())
    assert frobenius(matrix) == pytest.approx(expected, rel=1e-14)
    assert frobenius(matrix.T) == pytest.approx(expected, rel=1e-14)
    assert frobenius(torch.nn.Parameter(matrix)) == frobenius(matrix)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_no_number_stays_visible(value):
    norm = frobenius(torch.tensor([[1.0, value]]))
    assert math.isnan(norm) if math.isnan(value) else norm == math.inf


def test_ratios():
    assert norm_ratios({2: 3.0, 1: 8.0}, {0: 9.0, 1: 4.0, 2: 2.0}) == {2: 1.5, 1: 2.0}
    assert math.isnan(norm_ratios({0: 1.0}, {0: 0.0})[0])


def test_an_edit_moves_the_norms_of_edited_layers_alone(lm, new_session):
    def norms():
        return matrix_norms({layer: lm.matrix(layer) for layer in range(lm.n_layers)})

    before = norms()
    assert list(before) == list(range(lm.n_layers))
    session = new_session(lm)
    report = session.edit(CITIES)
    with session.edited():
        after = norms()
    edited = set(session.settings.layers)
    assert {layer for layer in before if after[layer] != before[layer]} == edited
    ratios = norm_ratios(after, before)
    for layer in edited:
        assert after[layer] == pytest.approx(report.norms[layer][1], rel=1e-5)
        assert ratios[layer] == pytest.approx(report.norms[layer][1] / report.norms[layer][0], rel=1e-5)
    assert norms() == before
