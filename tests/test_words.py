"""Numbers in sentences."""

from __future__ import annotations

import math

import pytest

from encore_core.words import counted, decimal


@pytest.mark.parametrize(("n", "told"), [(0, "0 facts"), (1, "1 fact"), (2000, "2,000 facts")])
def test_things_are_counted(n, told):
    assert counted(n, "fact") == told


@pytest.mark.parametrize(
    ("value", "digits", "told"),
    [
        (2.41e-5, 2, "0.000024"), (9.1e-6, 2, "0.0000091"), (-0.5, 2, "-0.5"), (0.0, 2, "0"), (0.04, 2, "0.04"),
        (0.9999, 2, "1"), (1.234, 3, "1.23"), (1346.0, 2, "1,300"), (1e-12, 2, "1e-12"), (3.21e15, 2, "3.2e+15"),
        (math.inf, 2, "inf"), (math.nan, 2, "nan"),
    ],
)  # fmt: skip
def test_a_small_number_has_no_exponent(value, digits, told):
    assert decimal(value, digits) == told
