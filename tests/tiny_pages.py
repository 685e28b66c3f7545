"""What tests of pages stand on: recorded runs of the tiny model, a run in progress, what a page gives its charts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tiny_runs

from encore_core.contributions import sublayer_names
from encore_core.runs import RunStore
from encore_core.runs.recorded import record
from encore_core.runs.rows import CheckpointRecord

if TYPE_CHECKING:  # tests of the engine do without them
    import pandas as pd

    from dashboard.charts.panels import Chart

METHODS = ("MEMIT", "ENCORE")
IDS = tuple(f"recorded-{method.lower()}-10" for method in METHODS)
N_LAYERS = 5


def recorded_folder(folder: Path, text: Path, home: Path) -> Path:
    """A recorded store with two runs of ten edits, really made: checkpoints at 0, 4, 8, 10; layers 0 and 1 edited.

    Args:
        folder: of the tiny model.
        text: for its statistics.
        home: an empty folder.
    """
    store = RunStore(home / "runs")
    ids = [store.submit([tiny_runs.prepared(folder, text, method=method)])[0] for method in METHODS]
    tiny_runs.worker(store).serve()
    record(store, dict(zip(ids, IDS, strict=True)), home / "recorded")
    return home / "recorded"


def run_in_progress(folder: Path, text: Path, *, contributions: bool = True, checkpoints: int = 1) -> str:
    """A run of this process in the store of `ENCORE_HOME`, at one of its first checkpoints; its id."""
    store = RunStore()
    [run_id] = store.submit([tiny_runs.prepared(folder, text, method="MEMIT", name="under way")])
    claim = store.claim("cpu")
    for edits in range(0, 4 * checkpoints, 4):
        norms = [(layer, 10.0 + edits * (layer < 2), 1 + edits * (layer < 2) / 10) for layer in range(N_LAYERS)]
        names = enumerate(sublayer_names(N_LAYERS))
        parts = [(place, label, kind, layer, 1 / 11, 1 / 11) for place, (label, layer, kind) in names]
        store.record_checkpoint(
            claim, CheckpointRecord(edits, norms, [], parts if contributions else [], [], [], {"norms": 0.1}, {})
        )
    return run_id


def cards(monkeypatch) -> dict[str, tuple[Chart, pd.DataFrame]]:
    """What pages show from now on: the key of a chart → the chart, and the frame of its CSV file."""
    from dashboard import chart_card
    from dashboard.palette import LIGHT

    found: dict[str, tuple[Chart, pd.DataFrame]] = {}
    original = chart_card.show

    def show(make, *, key, frame, **values):
        found[key] = make(LIGHT), frame
        original(make, key=key, frame=frame, **values)

    monkeypatch.setattr(chart_card, "show", show)
    return found


def points(chart: Chart) -> list[tuple[float, float]]:
    """(x, y) of all bars, and of all lines but those drawn for the eye alone, in order."""
    found: list[tuple[float, float]] = []
    for trace in chart.figure.data:
        if trace.type == "bar" or (trace.mode != "markers" and (trace.name != "as loaded" or trace.hovertemplate)):
            found += zip(trace.x, trace.y, strict=True)
    return sorted(found)


def rows(frame: pd.DataFrame, x: str, y: str) -> list[tuple[float, float]]:
    """The same of a frame."""
    return sorted(zip(frame[x], frame[y], strict=True))
