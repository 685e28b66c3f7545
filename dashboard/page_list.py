"""The pages: their titles, and the question that each answers. Knows no streamlit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from encore_core.resources import PAGES


@dataclass(frozen=True)
class Entry:
    """A page.

    Attributes:
        name: of its file in `pages/`, and its address.
        title: in the list of pages.
        icon: beside it.
        question: above the page.
    """

    name: str
    title: str
    icon: str
    question: str


GROUPS: dict[str, tuple[Entry, ...]] = {
    "": (
        Entry("start", "Start", ":material/home:", "What happens to a model that is edited again and again?"),
        Entry("learn", "Learn", ":material/school:", "How does editing work, and how is its damage limited?"),
        Entry("lessons", "Lessons", ":material/co_present:", "Which lesson shall I teach?"),
        Entry("edit", "Edit", ":material/edit_note:", "Did my edit work, and what else changed?"),
        Entry("run", "Run", ":material/play_circle:", "Start and watch long runs"),
        Entry("runs", "Runs", ":material/list_alt:", "Which runs are there?"),
        Entry("models", "Models", ":material/memory:", "Can my model be edited?"),
        Entry("system", "System", ":material/dns:", "Who uses this server, and what does it hold?"),
    ),
    "See why models break": (
        Entry("compare", "Compare", ":material/compare_arrows:", "Which method survives?"),
        Entry("norms", "Norm growth", ":material/show_chart:", "Where does the norm grow?"),
        Entry(
            "contributions",
            "Contributions",
            ":material/stacked_bar_chart:",
            "Do the edited layers dominate the residual stream?",
        ),
        Entry("overfitting", "Overfitting", ":material/target:", "Why stop early?"),
        Entry("downstream", "Downstream", ":material/checklist:", "What did the model lose?"),
        Entry("paper", "Paper", ":material/article:", "Does it match what was published?"),
    ),
}
"""Heading in the list of pages → the pages below it; the very first one opens by default."""

ENTRIES = {entry.name: entry for entries in GROUPS.values() for entry in entries}


def question(name: str) -> str:
    """The question that a page answers."""
    return ENTRIES[name].question


def script(name: str) -> str:
    """A page's file as Streamlit takes it: relative to the folder of `app.py`."""
    return Path(os.path.relpath(PAGES / f"{name}.py", Path(__file__).parent)).as_posix()
