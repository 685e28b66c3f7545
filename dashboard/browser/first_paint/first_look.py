"""What a browser shows while the app's scripts are being read: the list of pages, the title and, on Start, the curves.

Streamlit's page is empty until some hundred scripts have been read and a first answer has come, one and a half to three
seconds on a plain computer. This markup comes with the page itself, in the place of the app; its script removes it
when the page is there. It shows nothing that the page does not, and needs no visitor's choices. It is inert: presses go
to the app behind it, and screen readers read only the app.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from functools import cache
from urllib.parse import parse_qs

from dashboard import links, page_list
from dashboard.charts.palette import DARK, LIGHT
from dashboard.page_list import Entry
from encore_core.resources import ASSETS

log = logging.getLogger(__name__)

FOLDER = ASSETS / "first_look"
SCRIPT = (FOLDER / "script.js").read_text(encoding="utf-8")
THEME = (FOLDER / "theme.js").read_text(encoding="utf-8")
"""Decides between light and dark, see `elements.theme_switch`."""

ADDRESS = (FOLDER / "address.js").read_text(encoding="utf-8")
"""Tells Streamlit where the app is."""

_SURROUNDINGS = {
    LIGHT.page: "--es-side:#F3F5F8;--es-side-line:#E8ECF1;--es-here:rgb(146 164 200 / 25%);",
    DARK.page: "--es-side:#161D25;--es-side-line:#232C36;--es-here:rgb(159 177 198 / 25%);",
}
"""Colours of the sidebar, which Streamlit derives from .streamlit/config.toml."""


def markup(path: str, query: str = "") -> str:
    """The first look of a page.

    Args:
        path: of the address.
        query: of the address, as it was sent.

    Returns:
        markup for the body; "" where the path is not a page of ours, and where the app looks different: while
        presenting, on a tour, in a lesson, and inside another page.
    """
    name = path.rstrip("/").rpartition("/")[2] or "start"
    asked = parse_qs(query, keep_blank_values=True)
    if name not in page_list.ENTRIES or any(key in links.EVERYWHERE or key.startswith("embed") for key in asked):
        return ""
    return _drawn.get(name) or _titled(name)


_drawn: dict[str, str] = {}


def make_ready() -> None:
    """Draw the curves ahead of time, because reading libraries and runs takes long.

    Until then, and where they cannot be drawn, Start has its title like any other page.
    """
    try:
        _drawn["start"] = _page(page_list.ENTRIES["start"], *_start())
    except Exception:
        log.exception("the first look has no curves")  # Start itself says what is wrong with the runs


@cache
def _titled(name: str) -> str:
    entry = page_list.ENTRIES[name]
    return _page(entry, f'<h1>{html.escape(entry.question)}</h1><p class="es-waiting">One moment …</p>')


def _page(entry: Entry, body: str, colours: Sequence[str] = ("", "")) -> str:
    """The markup of a page: the list of pages, and the page's body; `colours` are variables, light and dark."""
    variables = [f"{palette.css().removeprefix(':root{').removesuffix('}')}{_SURROUNDINGS[palette.page]}{more}"
                 for palette, more in zip((LIGHT, DARK), colours, strict=True)]  # fmt: skip
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    return (
        f"<style>#es-first{{{variables[0]}}}#es-first.es-dark{{{variables[1]}}}"
        f"@media (prefers-color-scheme:dark){{#es-first:not(.es-light){{{variables[1]}}}}}{style}</style>"
        f'<div id="es-first" inert>{_page_titles(entry)}<div class="es-first-page">{body}</div></div>'
        # Without scripts nothing would remove it, and Streamlit's page says what is missing.
        f"<noscript><style>#es-first{{display:none}}</style></noscript><script>{SCRIPT}</script>"
    )


def _page_titles(current: Entry) -> str:
    parts = []
    for heading, entries in page_list.GROUPS.items():
        parts.append(f"<p>{html.escape(heading)}</p>" if heading else "")
        for entry in entries:
            here = ' class="es-here"' if entry is current else ""
            parts.append(f"<b{here}>{html.escape(entry.title)}</b>")
    brand = "<i>ENCORE <span>Studio</span></i>"
    return f'<div class="es-first-side">{brand}{"".join(parts)}</div>'


def _start() -> tuple[str, Sequence[str]]:
    """The body of Start, with the recorded curves, and the variables that hold their colours, light and dark."""
    from dashboard.browser.first_paint import static_chart
    from dashboard.charts import runs as run_charts
    from dashboard.elements import figure, widgets
    from dashboard.reading import run_frames, start_content

    ways = "".join(f"<div><b>{html.escape(way.title)}</b>{html.escape(way.about)}</div>" for way in start_content.WAYS)
    body = (
        f'<div class="es-first-head"><h1>{html.escape(page_list.question("start"))}</h1><span></span></div>'
        f'<div class="es-first-ways">{ways}</div>'
    )
    runs = start_content.recorded()
    if not runs:
        return body, ("", "")
    health, lines = run_frames.health(runs), run_frames.lines(runs)
    panels = start_content.panels(health)
    light, dark = (
        run_charts.scores(health, lines, panels, palette, height=300, fitted=True) for palette in (LIGHT, DARK)
    )
    names, variables = _named_colours([[trace.line.color for trace in chart.figure.data] for chart in (light, dark)])
    drawn = static_chart.markup(light, [html.escape(title) for title in panels.values()], names, figure.NARROW,
                                figure.SLIM)  # fmt: skip
    answer = start_content.answer(run_frames.read("norms", runs), health, runs, [line.name for line in lines])
    body += (
        f'{"" if answer is None else widgets.answer_markup(answer)}<div class="es-first-card">'
        f"<h2>{html.escape(start_content.HEADING)}<small>{html.escape(start_content.RECORDED)}</small></h2>{drawn}</div>"
    )
    return body, variables


def _named_colours(themes: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """A CSS variable for each trace, and what the variables hold in each theme."""
    pairs = list(zip(*themes, strict=True))
    known = list(dict.fromkeys(pairs))
    names = [f"var(--es-line{known.index(pair)})" for pair in pairs]
    return names, [_variables("line", [pair[number] for pair in known]) for number in range(len(themes))]


def _variables(kind: str, colours: Sequence[str]) -> str:
    return "".join(f"--es-{kind}{number}:{colour};" for number, colour in enumerate(colours))
