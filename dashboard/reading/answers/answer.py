"""What an answer is, and figures in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dashboard.charts.labels import minus

FEW_EDITS = 500
"""With fewer edits than this, that nothing has broken says little: damage adds up over hundreds of edits."""


Z = 1.96


def rough_half(n: float) -> float:
    """Half of the widest 95 % interval that a score of n tests can have, in points of 100."""
    return 100 * Z * math.sqrt(0.25 / n)


@dataclass(frozen=True)
class Answer:
    """The answer to a page's question.

    Attributes:
        outcome: what it comes to, in a few words; it distinguishes the kinds of answer.
        text: sentences with figures, beginning with the answer itself; the first of them answers alone.
        aside: in smaller type below: what is worth knowing of the runs, what the paper found, and why that may differ;
            empty where there is nothing to add.
    """

    outcome: str
    text: str
    aside: str = ""

    @property
    def parts(self) -> tuple[str, str, str]:
        """The text in three: its first words, the sentence that they begin (or the next), and the sentences after it.

        A reader takes in one sentence at a look, so a page shows the first two parts larger than the third.
        """
        return _PARTS.fullmatch(self.text).groups()


_END = r"[.](?=\s|$)|$"
_PARTS = re.compile(rf"(.*?(?:[:;](?=\s)|{_END}))(.*?(?:{_END}))\s*(.*)", re.DOTALL)


def listed(parts: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def times(ratio: float) -> str:
    """A ratio: "× 1.17", "× 12.3", "× 128"; "not a number" where it is none."""
    if math.isnan(ratio):
        return "not a number"
    if math.isinf(ratio):
        return "beyond all numbers"
    return f"× {ratio:,.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def percent(share: float) -> str:
    """A share from 0 to 1: "4.7 %", "0.83 %"."""
    told = f"{100 * share:.1f} %" if abs(share) >= 0.02 else f"{100 * share:.2f} %"
    return minus(told)


def by_ratio(found: Sequence[tuple[str, float]]) -> str:
    """Names with their ratios, the smallest first: "× 1.17 with ENCORE and × 1.78 with MEMIT"."""
    ranked = sorted(found, key=lambda pair: math.inf if math.isnan(pair[1]) else pair[1])
    return listed(f"{times(ratio)} with {name}" for name, ratio in ranked)


def sentence(text: str) -> str:
    """A text that begins with a capital letter; names such as "ENCORE" stay as they are."""
    return text[:1].upper() + text[1:]
