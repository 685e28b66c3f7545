"""A chart is made once for the same values and colours, and anew for others; what is drawn is what was made."""

from __future__ import annotations

import json
from functools import partial

import pandas as pd
import pytest

from dashboard.charts import runs as run_charts
from dashboard.charts.chart import Chart
from dashboard.charts.palette import DARK, LIGHT
from dashboard.charts.runs import Line
from dashboard.elements import chart_cache, figure


@pytest.fixture(autouse=True)
def empty_shelf():
    chart_cache._made.clear()
    yield
    chart_cache._made.clear()


def norms(last: float = 1.5) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": "a", "edits": [0, 10, 0, 10], "layer": [1, 1, 2, 2], "norm": [2.0, 3.0, 2.0, 2 * last],
         "ratio": [1.0, 1.5, 1.0, last]}
    )  # fmt: skip


def lines(name: str = "MEMIT") -> list[Line]:
    return [Line("a", "MEMIT", name, (1, 2))]


def test_the_same_values_are_drawn_once_and_others_anew():
    first = chart_cache.chart(partial(run_charts.norms, norms(), lines(), scale="log"), LIGHT)
    assert chart_cache.chart(partial(run_charts.norms, norms(), lines(), scale="log"), LIGHT) is first
    assert first.figure == run_charts.norms(norms(), lines(), LIGHT, scale="log").figure
    others = [
        (partial(run_charts.norms, norms(), lines(), scale="log"), DARK),
        (partial(run_charts.norms, norms(), lines(), scale="linear"), LIGHT),
        (partial(run_charts.norms, norms(1.6), lines(), scale="log"), LIGHT),
        (partial(run_charts.norms, norms(), lines("another"), scale="log"), LIGHT),
    ]
    for make, colours in others:
        made = chart_cache.chart(make, colours)
        assert made is not first and made.figure == make(colours=colours).figure != first.figure


def other_chart(frame: pd.DataFrame, colours) -> Chart:
    return Chart([], {"title": {"text": "other"}}, {})


def test_two_functions_of_the_same_values_are_told_apart(monkeypatch):
    def chart(frame: pd.DataFrame, colours) -> Chart:
        return Chart([], {"title": {"text": "one"}}, {})

    one = chart_cache.chart(partial(chart, norms()), LIGHT)
    other = chart_cache.chart(partial(other_chart, norms()), LIGHT)
    assert (one.figure.layout.title.text, other.figure.layout.title.text) == ("one", "other")


def test_frames_too_long_to_be_told_apart_are_drawn_each_time(monkeypatch):
    monkeypatch.setattr(chart_cache, "MOST_ROWS", 3)
    make = partial(other_chart, norms())
    assert chart_cache.chart(make, LIGHT) is not chart_cache.chart(make, LIGHT)
    assert chart_cache.chart(partial(other_chart, frame=norms()), LIGHT) is not chart_cache.chart(
        partial(other_chart, frame=norms()), LIGHT
    )


def test_what_the_browser_is_sent_is_the_chart(monkeypatch):
    sent = []
    monkeypatch.setattr(figure, "_components", lambda: (None, lambda key, data: sent.append(data)))
    chart = run_charts.norms(norms(), lines(), LIGHT)
    for _ in range(2):
        figure.draw(chart, key="some chart", alt="what it shows", revision='a "zoom"')
    assert sent[0] == sent[1]
    spec = json.loads(sent[0]["spec"])
    assert set(spec) == {"data", "layouts", "revision", "narrow", "slim", "bar"}
    assert spec["revision"] == 'a "zoom"' and spec["bar"] is True
    assert [trace["name"] for trace in spec["data"]] == [trace.name for trace in chart.figure.data]
    assert spec["layouts"]["wide"]["height"] == chart.figure.layout.height == sent[0]["height"]
    assert spec["layouts"]["narrow"] == json.loads(figure.as_json(chart.narrow_layout))
    assert spec["layouts"]["slim"] == json.loads(figure.as_json(chart.slim_layout))
    figure.draw(Chart([], {"height": 90}, {"height": 80}), key="two layouts", alt="", revision="")
    assert set(json.loads(sent[-1]["spec"])["layouts"]) == {"wide", "narrow"}
