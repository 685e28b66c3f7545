"""Text in charts. All that people or models wrote goes through `label` before Plotly draws it, because Plotly reads
some HTML tags, and LaTeX between dollar signs, in every text.
"""

from __future__ import annotations

import html

FONT = "'Source Sans', 'Source Sans 3', 'Source Sans Pro', system-ui, sans-serif"


def label(text: str, width: int = 60) -> str:
    """Text as Plotly draws it literally: one line, shortened in the middle.

    Tags, entities, LaTeX and fields of a template are broken, so that nothing in it is read as such.

    Args:
        text: anything.
        width: longest result in characters, before escaping.
    """
    line = " ".join(text.replace("\n", " ⏎ ").split())
    if len(line) > width:
        head = (width - 1) * 3 // 5
        line = line[:head].rstrip() + "…" + line[len(line) - (width - 1 - head) :].lstrip()
    escaped = html.escape(line, quote=False).replace("$", "&#36;").replace("%{", "%\u2060{")
    return f"\u2068{escaped}\u2069"  # isolated, so that right-to-left text does not reorder what is beside it


def minus(figures: str) -> str:
    """Figures with a minus sign instead of a hyphen."""
    return figures.replace("-", "−")


def percent(value: float) -> str:
    """A probability as text: two significant digits, never a false 0 or 100."""
    if value < 0.0005:
        return "<0.1\u202f%"
    if 0.9995 <= value < 1:
        return ">99.9\u202f%"
    return f"{100 * value:.1f}\u202f%" if value < 0.1 or value >= 0.995 else f"{100 * value:.0f}\u202f%"
