"""Run the matrix of families and print it as a Markdown table: `python tests/family_matrix.py`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import transformers

COLUMNS = ("targets", "edit", "undo", "score", "norms", "contributions", "export", "reload")
FILE = Path(__file__).with_name("test_families.py")


class Cells:
    """Collects what became of `test_COLUMN[FAMILY]`."""

    def __init__(self):
        self.outcomes: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report) -> None:
        name, _, family = report.nodeid.rpartition("::")[2].removesuffix("]").partition("[")
        if report.when == "call" or report.failed:
            self.outcomes[family][name.removeprefix("test_")] = report.outcome


def table(outcomes: dict[str, dict[str, str]]) -> str:
    from tiny_families import FAMILIES

    lines = [f"| family | switched on in the tiny model | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 2)]
    for family, tiny in FAMILIES.items():
        marks = [
            "refused" if column in tiny.refuses else {"passed": "yes"}.get(outcomes[family].get(column), "NO")
            for column in COLUMNS
        ]
        lines.append(f"| {family} | {tiny.what} | {' | '.join(marks)} |")
    date = time.strftime("%Y-%m-%d")
    return "\n".join([*lines, "", f"{date}, transformers {transformers.__version__}, {FILE.name}"])


if __name__ == "__main__":
    cells = Cells()
    status = pytest.main(["-q", "--no-header", str(FILE)], plugins=[cells])
    print(table(cells.outcomes))
    sys.exit(status)
