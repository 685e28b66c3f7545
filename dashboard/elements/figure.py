"""A Plotly figure that is changed in place: new data, a moved marker or a resized page keep the reader's zoom.

`st.plotly_chart` makes a new element whenever the data change. This component hands the changes to `Plotly.react`
instead, with the plotly.js that comes with the program, so nothing is fetched from anywhere else. The library is a
component of its own, so that it does not travel with every change. It fetches plotly.js from `asgi`, or holds it where
`app.py` is served without `asgi`.
"""

from __future__ import annotations

from functools import cache
from weakref import WeakKeyDictionary

import streamlit as st

from dashboard.charts.chart import Chart
from dashboard.charts.enlarged import enlarged
from dashboard.elements import presentation_mode
from encore_core.resources import ASSETS

LIBRARY = ASSETS / "vendor" / "plotly-basic-4.1.1.min.js"

ADDRESS = f"studio/{LIBRARY.name}"
"""Where `asgi` serves plotly.js, relative to the app's own address."""

NARROW = 760
"""Charts narrower than this many pixels use the layout for narrow pages."""

SLIM = 420
"""Charts narrower than this many pixels use the layout for phones."""

_DRAW = """
const ready = async () => { while (!window.Plotly) await new Promise((next) => setTimeout(next, 40)); };

const buttons = (node) => {
  const save = (format) => (gd) => Plotly.downloadImage(gd, { format, filename: node.esData.name,
    scale: format === 'png' ? 2 : 1, width: gd.clientWidth, height: gd.clientHeight });
  return [
    { name: 'Download as PNG', icon: Plotly.Icons.camera, click: save('png') },
    { name: 'Download as SVG', icon: Plotly.Icons.disk, click: save('svg') },
  ];
};

const draw = async (node) => {
  const { spec } = node.esData;
  const width = Math.floor(node.clientWidth);
  if (!node.isConnected) return;
  if (!width) { node.esWidth = 0; return; }  // drawn when it is shown
  const { data, layouts, revision, narrow, slim, bar } = JSON.parse(spec);
  const little = width < slim && layouts.slim || layouts.narrow;
  const layout = structuredClone(width < narrow ? little : layouts.wide);
  // Made once: for a configuration with other functions Plotly makes a new plot.
  node.esConfig ??= {
    displaylogo: false, displayModeBar: bar, showSendToCloud: false, showEditInChartStudio: false,
    modeBarButtonsToRemove: ['toImage', 'select2d', 'lasso2d', 'autoScale2d', 'sendChartToCloud', 'sendDataToCloud'],
    modeBarButtonsToAdd: buttons(node),
  };
  node.esWidth = width;
  node.style.height = `${layout.height}px`;
  node.esDrawing = Plotly.react(node, data, { ...layout, width, uirevision: revision }, node.esConfig);
  try { await node.esDrawing; node.esDrawn = spec; } finally { node.esDrawing = undefined; }
};

// Charts are drawn one by one, those in sight first, and what was drawn is painted before the next one is begun.
const queue = (window.esCharts ??= { waiting: new Set(), isBusy: false });

const fromSight = (node) => {
  const { top, bottom } = node.getBoundingClientRect();
  return Math.max(0, top - window.innerHeight, -bottom);
};

const pause = () => new Promise((next) => {
  requestAnimationFrame(() => setTimeout(next));
  setTimeout(next, 200);  // a hidden tab is not painted, and no frame comes
});

const drawAll = async () => {
  queue.isBusy = true;
  try {
    await ready();
    while (queue.waiting.size) {
      const [node] = [...queue.waiting].sort((one, other) => fromSight(one) - fromSight(other));
      queue.waiting.delete(node);
      try { await draw(node); } catch (error) {
        if (node.isConnected) reportError(error);  // the others are still drawn
      }
      if (queue.waiting.size) await pause();
    }
  } finally { queue.isBusy = false; }
};

const ask = (node) => {
  if (node.esDrawn === node.esData.spec && Math.abs(Math.floor(node.clientWidth) - node.esWidth) <= 1) return;
  queue.waiting.add(node);
  if (!queue.isBusy) drawAll();
};

export default function ({ parentElement, data }) {
  const node = parentElement.querySelector('.es-figure');
  if (!node) return;
  node.esData = data;
  const turn = node.esTurn = (node.esTurn ?? 0) + 1;
  node.setAttribute('role', 'figure');
  node.setAttribute('aria-label', data.alt);
  if (!node.style.height) node.style.height = `${data.height}px`;
  ask(node);
  if (!node.esObserver) {
    node.esObserver = new ResizeObserver(() => {
      if (Math.abs(Math.floor(node.clientWidth) - (node.esWidth ?? 0)) > 1) ask(node);
    });
    node.esObserver.observe(node);
  }
  return () => {
    if (turn !== node.esTurn && node.isConnected) return;  // the next call has the node by now
    node.esObserver?.disconnect();
    node.esObserver = undefined;
    queue.waiting.delete(node);
    const purge = () => {
      if (!window.Plotly || (turn !== node.esTurn && node.isConnected)) return;
      Plotly.purge(node);
      node.esDrawn = undefined;
    };
    // A drawing that is under way ends first: its last steps need what purging takes away.
    if (node.esDrawing) node.esDrawing.then(purge, purge); else purge();
  };
}
"""


def plotly_source() -> str:
    """The part of plotly.js that draws scatter and bar traces, see the README beside it."""
    return LIBRARY.read_text(encoding="utf-8")


_FETCH = """
if (!window.Plotly) {
  const script = document.createElement('script');
  script.src = new URL('ADDRESS', location.origin + location.pathname).href;
  document.head.append(script);
}
export default () => {};
""".replace("ADDRESS", ADDRESS)

_served = False


def serve_library() -> None:
    """Say that this process serves plotly.js at `ADDRESS`."""
    global _served
    _served = True


@cache
def _components():
    """The library and the figure, registered once per process."""
    held = f"if (!window.Plotly) {{\n{plotly_source()}\n}}\nexport default () => {{}};"
    library = st.components.v2.component("encore_studio.plotly", html="<span></span>", js=_FETCH if _served else held)
    figure = st.components.v2.component(
        "encore_studio.figure", html='<div class="es-figure"></div>', js=_DRAW, isolate_styles=False
    )
    return library, figure


def load_library() -> None:
    """Bring plotly.js to the browser once per page, ahead of it, so that it loads while the page is being made."""
    _components()[0](key="plotly library")


def draw(chart: Chart, *, key: str, alt: str, revision: str = "", has_bar: bool = True) -> None:
    """Draw a chart, or change the one that is there.

    Args:
        chart: from `dashboard.charts`.
        key: of the element.
        alt: what it shows, for screen readers.
        revision: the reader's zoom is kept as long as this stays the same.
        has_bar: whether there are buttons for zoom and files at its top right; without them it is not zoomed.
    """
    scale = presentation_mode.scale()
    drawn, height = _spec(chart, scale)
    rest = as_json({"revision": revision, "narrow": NARROW * scale, "slim": SLIM * scale, "bar": has_bar})
    _components()[1](
        key=key,
        data={
            "spec": f"{drawn[:-1]},{rest[1:]}",  # two objects as one
            "alt": alt,
            "name": f"encore-{key.replace(' ', '-')}",
            "height": height,
        },
    )


LAYOUTS = ("wide", "narrow", "slim")
_specs: WeakKeyDictionary[Chart, dict[float, tuple[str, float]]] = WeakKeyDictionary()


def _spec(chart: Chart, scale: float) -> tuple[str, float]:
    """A chart's traces and layouts as JSON, and its height; written once for a chart that is kept."""
    known = _specs.setdefault(chart, {})
    if scale not in known:
        layouts = {name: enlarged(layout, scale) for name, layout in zip(LAYOUTS, chart.layouts, strict=False)}
        known[scale] = as_json({"data": chart.traces, "layouts": layouts}), layouts["wide"]["height"]
    return known[scale]


def as_json(value: object) -> str:
    """JSON as plotly writes it: NaN and infinity become null, arrays are packed."""
    from plotly.io.json import to_json_plotly

    return to_json_plotly(value)
