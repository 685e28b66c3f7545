"""Norms of the edited matrices over edits, and of every layer's matrix at some checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import norm_layers
from dashboard.charts import runs as run_charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading.answers.answer import listed
from dashboard.visitors.messages import Message


def rows_of(view: View, norms: pd.DataFrame) -> pd.DataFrame:
    """Rows for the files: whether the layer is edited, and the norm that is drawn, without the other one."""
    layers = {run.id: run.layers for run in view.runs}
    edited = [layer in layers[run] for run, layer in zip(norms["run"], norms["layer"], strict=True)]
    return norms[["run", "edits", "layer"]].assign(edited=edited, **{view.norm: norms[view.norm]})


def over_edits(
    view: View,
    norms: pd.DataFrame,
    rows: pd.DataFrame,
    commands: Sequence[str],
    revision: str,
    above: DeltaGenerator,
) -> None:
    """The norms of the layers that are chosen.

    Args:
        view: what is shown.
        norms: the series.
        rows: the same for files, from `rows_of`.
        commands: that reproduce these data.
        revision, above: of the chart, as `chart_card.show` has them.
    """
    chosen = rows[rows["edited"]] if view.layers is None else rows[rows["layer"].isin(view.layers)]
    if chosen.empty:
        with above:
            widgets.heading("Over edits")
        widgets.notice(Message("info", "None of these runs has the chosen layers; choose others."))
        return
    chart_card.show(
        partial(run_charts.norms, norms, view.lines, scale=view.scale, layers=view.layers),
        key="norms over edits",
        heading="Over edits",
        aside="Frobenius norm of the MLP output matrices, a line per layer",
        alt=f"Norms of the matrices against edits: {', '.join(view.names)}. The values are in the CSV file below.",
        frame=chosen,
        commands=commands,
        revision=revision,
        above=above,
    )


def layer_by_layer(
    view: View,
    norms: pd.DataFrame,
    rows: pd.DataFrame,
    commands: Sequence[str],
    revision: str,
    above: DeltaGenerator,
) -> None:
    """The norms of all layers at the checkpoints that are chosen; arguments as for `over_edits`."""
    chart_card.show(
        partial(norm_layers.norms, norms, view.lines, view.checkpoints, scale=view.scale),
        key="norms by layer",
        heading="Layer by layer",
        aside="every layer's matrix; edited ones are violet diamonds",
        alt=f"Norms of all layers' matrices at {len(view.checkpoints)} checkpoints: {', '.join(view.names)}. "
        "The values are in the CSV file below.",
        frame=rows[rows["edits"].isin(view.checkpoints)],
        commands=commands,
        revision=revision,
        above=above,
    )
    late = []
    for line in view.lines:
        there = set(norms["edits"][norms["run"] == line.run])
        missing = [f"{at:,}" for at in view.checkpoints if at not in there]
        late += [f"{line.name}: no checkpoint after {listed(missing)} edits, so no line for it."] if missing else []
    if late:
        widgets.notice(Message("info", " ".join(late)))
