"""What tests of pages stand on: a page as a visitor sees it, recorded runs of the tiny model, a run in progress, what a
page gives its charts."""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import tiny_runs

from encore_core.measures.contributions import sublayer_names
from encore_core.runs import RunStore
from encore_core.runs.recorded import record
from encore_core.runs.rows import CheckpointRecord

if TYPE_CHECKING:  # tests of the engine do without them
    import pandas as pd
    from streamlit.testing.v1 import AppTest

    from dashboard.charts.chart import Chart

APP = str(Path(__file__).resolve().parent.parent / "dashboard" / "app.py")
METHODS = ("MEMIT", "ENCORE")
IDS = tuple(f"recorded-{method.lower()}-10" for method in METHODS)
N_LAYERS = 5
WORKER_STARTERS = tuple(
    f"{module}.start_worker"
    for module in ("encore_core.runs", "dashboard.parts.run.live", "dashboard.parts.run.start_card")
)
"""Where pages find what starts a worker."""


@functools.cache
def _app_test() -> type[AppTest]:
    """AppTest, which would look through all installed packages for components with every app, and compile the scripts
    with every run: of a small page's 0.2 s this leaves 0.02 s."""
    from streamlit.components.v2 import manifest_scanner
    from streamlit.runtime.scriptrunner.script_cache import ScriptCache
    from streamlit.testing.v1 import AppTest, app_test, local_script_runner

    manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)
    scripts = ScriptCache()
    for module in (app_test, local_script_runner):
        module.ScriptCache = lambda: scripts
    return AppTest


def app_at(page: str, /, **query: str | list[str]) -> AppTest:
    """The app at a page, by its address; nothing has been run yet."""
    app = _app_test().from_file(APP, default_timeout=240)
    for name, value in query.items():
        app.query_params[name] = value
    return app.switch_page(f"../pages/{page}.py")


def opened(page: str, /, **query: str | list[str]) -> AppTest:
    """A page as a new visitor sees it, by its address."""
    app = app_at(page, **query).run()
    assert not app.exception, app.exception
    return app


def pressed(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception, app.exception
    return app


def unfolded(app: AppTest, key: str) -> AppTest:
    """The page once the box of this key has been opened, which draws what is in it."""
    app.session_state[key] = True
    return app.run()


def markup(app: AppTest) -> str:
    """All HTML of a page but its stylesheet."""
    return "\n".join(element.proto.body for element in app.get("html") if "<style>" not in element.proto.body)


def words(app: AppTest) -> str:
    """What is read on the page as text."""
    return html.unescape(re.sub(r"<[^>]+>", " ", markup(app))).replace("\u00a0", " ")


def errors(app: AppTest) -> list[str]:
    """What a page says is wrong."""
    found = re.findall(r'es-error" role="alert">.*?<span dir="auto">(.*?)</span></div>', markup(app), re.DOTALL)
    return [html.unescape(text) for text in found]


def figures(app: AppTest) -> list[dict]:
    """What the charts are given."""
    protos = [element.proto for element in app.get("bidi_component")]
    return [
        json.loads(json.loads(proto.mixed.json or proto.json)["spec"])
        for proto in protos
        if proto.component_name.endswith(".figure")
    ]


def address_of(app: AppTest) -> dict[str, list[str]]:
    """What the page has put into its address."""
    return {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}


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
    from dashboard.charts.palette import LIGHT
    from dashboard.elements import chart_card

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
