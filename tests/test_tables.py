"""Tables for spreadsheets: nothing in them is a formula."""

from __future__ import annotations

import csv
import io
import math

from encore_core.spreadsheets import neutral_csv


def test_csv_cells_start_no_formula():
    told = neutral_csv(["a", "b"], [["=1+1", "+x"], ["-2", "@y"], ["\t=1", -0.5], [None, "plain"]]).decode("utf-8-sig")
    cells = [cell for line in told.splitlines()[1:] for cell in line.split(",")]
    assert all(cell.lstrip('"')[:1] not in ("=", "+", "@", "\t") for cell in cells)
    assert "'-2" in cells and "-0.5" in cells and "plain" in cells


def test_cells_survive_a_reader():
    rows = [["plain", 3], ['with "quotes", and\nlines', 0.1], ["", -7]]
    read = list(csv.reader(io.StringIO(neutral_csv(["text", "number"], rows).decode("utf-8-sig"))))
    assert read == [["text", "number"], *[[text, str(number)] for text, number in rows]]


def test_missing_values_are_empty_cells():
    assert neutral_csv(["a", "b", "c"], [[None, math.nan, 0.0]]).decode("utf-8-sig").splitlines()[1] == ",,0.0"
