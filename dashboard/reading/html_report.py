"""A comparison, or one chart, as an HTML file that needs nothing else: charts, table, settings, differences, commands.

It holds plotly.js once. All that people typed is escaped by `html.escape`, or by plotly's own JSON, which writes `<` as
an escape within scripts.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plotly.io import to_html

from dashboard.charts.chart import Chart
from dashboard.charts.palette import LIGHT
from dashboard.reading.run_words import command_of, duration, moment, short_model
from encore_core.runs import RunInfo
from encore_core.runs.compare import Difference
from encore_core.version import __version__

_STYLE = f"""
body {{ font: 16px/1.5 system-ui, sans-serif; color: {LIGHT.ink}; max-width: 1150px; margin: 2rem auto; padding: 0 1rem; }}
h1, h2 {{ font-family: Georgia, serif; }} h2 {{ margin-top: 2.2rem; font-size: 1.25rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .93rem; }}
th, td {{ text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid {LIGHT.line}; vertical-align: top;
  overflow-wrap: anywhere; }}
th {{ color: {LIGHT.muted}; font-weight: 600; }}
pre {{ background: {LIGHT.panel}; padding: .7rem 1rem; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }}
.warn {{ border-left: 5px solid {LIGHT.warn}; background: {LIGHT.panel}; padding: .6rem 1rem; }}
.muted {{ color: {LIGHT.muted}; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }}
"""  # noqa: E501


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: headings.
        rows: cells.
        caption: what it holds.
        notes: what is to be known about its figures, a paragraph each.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    notes: Sequence[str] = ()


def comparison(
    runs: Sequence[RunInfo],
    charts: Mapping[str, Chart],
    table: Table,
    differences: Sequence[Difference],
    link: str,
) -> bytes:
    """The file of a comparison.

    Args:
        runs: those compared.
        charts: heading → chart, in light colours.
        table: the scores.
        differences: what differs between the runs besides the method.
        link: address of the view it was made from.
    """
    parts = [
        "<h1>Which method survives?</h1>",
        f'<p class="muted">ENCORE Studio {__version__} · {time.strftime("%Y-%m-%d %H:%M")} · {_text(link)}</p>',
    ]
    if differences:
        listed = "".join(f"<li>{_text(str(entry))}</li>" for entry in differences)
        parts.append(f'<div class="warn">These runs differ in more than their method:<ul>{listed}</ul></div>')
    for number, (heading, chart) in enumerate(charts.items()):
        parts += [f"<h2>{_text(heading)}</h2>", _drawn(chart, number)]
    parts += [f"<h2>{_text(table.caption)}</h2>", _table(table)]
    parts += ["<h2>Runs</h2>", _table(_facts_of(runs)), "<h2>Settings</h2>", _table(_settings_of(runs))]
    parts.append("<h2>Commands that repeat these runs</h2>")
    parts.append(f"<pre>{_text(chr(10).join(map(command_of, runs)))}</pre>")
    return _page(", ".join(run.method for run in runs), parts)


def single(heading: str, aside: str, chart: Chart, commands: Sequence[str]) -> bytes:
    """One chart as a file.

    Args:
        heading, aside: above it.
        chart: in light colours.
        commands: that reproduce its data.
    """
    parts = [
        f"<h1>{_text(heading)}</h1>",
        f'<p class="muted">{_text(aside)} · ENCORE Studio {__version__} · {time.strftime("%Y-%m-%d %H:%M")}</p>',
        _drawn(chart, 0),
    ]
    if commands:
        parts += ["<h2>The command that reproduces these data</h2>", f"<pre>{_text(chr(10).join(commands))}</pre>"]
    return _page(heading, parts)


def side_by_side(
    heading: str,
    aside: str,
    said: str,
    facts: Table,
    charts: Mapping[str, Chart],
    settings: Table,
    scores: Sequence[Table] = (),
) -> bytes:
    """Several methods on one fact as a file.

    Args:
        heading, aside: above all.
        said: what differs, in a sentence.
        facts: a row per method.
        charts: method → chart, in light colours.
        settings: a column per method.
        scores: of all facts, a column per method; the captions say the protocol.
    """
    parts = [
        f"<h1>{_text(heading)}</h1>",
        f'<p class="muted">{_text(aside)} · ENCORE Studio {__version__} · {time.strftime("%Y-%m-%d %H:%M")}</p>',
        f"<p>{_text(said)}</p>",
        f"<p>{_text(facts.caption)}</p>",
        _table(facts),
        '<div class="columns">',
    ]
    for number, (name, chart) in enumerate(charts.items()):
        parts.append(f"<section><h2>{_text(name)}</h2>{_drawn(chart, number)}</section>")
    parts.append("</div>")
    if scores:
        parts.append("<h2>Scores of all facts, with 95 % intervals over facts</h2>")
    for table in scores:
        parts += [f"<p>{_text(table.caption)}</p>", _table(table)]
    parts += ["<h2>Settings</h2>", _table(settings)]
    return _page(heading, parts)


def _drawn(chart: Chart, number: int) -> str:
    """A chart as markup; plotly.js comes with the first one."""
    return to_html(
        chart.figure,
        full_html=False,
        include_plotlyjs=number == 0,
        config={"displaylogo": False},
        div_id=f"chart-{number + 1}",
        default_width="100%",
    )


def _page(title: str, parts: Sequence[str]) -> bytes:
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    ).encode()


def _facts_of(runs: Sequence[RunInfo]) -> Table:
    rows = [
        (
            run.id,
            run.name,
            run.method,
            short_model(run.model),
            f"{run.done} of {run.n_edits}",
            run.status,
            moment(run.started or run.created),
            duration(run.editing_seconds),
            duration(run.measuring_seconds),
            run.facts_digest,
            run.weights_digest[:16] if run.weights_digest else "–",
            run.commit or "–",
        )
        for run in runs
    ]
    columns = (
        "Run",
        "Name",
        "Method",
        "Model",
        "Edits",
        "Status",
        "Started",
        "Editing",
        "Measuring",
        "Facts",
        "Matrices",
        "Commit",
    )
    return Table(columns, rows, "")


def _settings_of(runs: Sequence[RunInfo]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = [(name, *(_shown(run.settings.get(name)) for run in runs)) for name in names]
    planned = ("batch_size", "checkpoint_every", "order", "seed", "known", "dtype", "device")
    rows += [(name, *(_shown(run.plan_json.get(name)) for run in runs)) for name in planned]
    return Table(("Setting", *(run.id for run in runs)), rows, "")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(text)}</th>" for text in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f'<p class="muted">{_text(note)}</p>' for note in table.notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _text(text: str) -> str:
    return html.escape(text)
