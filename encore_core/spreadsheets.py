"""Tables for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def neutral_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in which no cell can start a formula in a spreadsheet.

    Args:
        columns: headings.
        rows: cells; None and NaN become empty cells.

    Returns:
        UTF-8 with a byte order mark, by which spreadsheets recognise it.
    """

    def neutral(cell: object) -> object:
        if (isinstance(cell, str) and cell.lstrip()[:1] in tuple("=+-@")) or str(cell)[:1] in ("\t", "\r"):
            return "'" + str(cell)
        # NaN is the only value that differs from itself.
        return "" if cell is None or cell != cell else cell

    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns)
    writer.writerows([neutral(cell) for cell in row] for row in rows)
    return stream.getvalue().encode("utf-8-sig")
