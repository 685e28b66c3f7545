"""Charts for a projector: what is a length or a size of type grows, and nothing else."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard.charts.enlarged import enlarged


def layout() -> dict:
    figure = go.Figure(go.Scatter(x=[0, 10], y=[1, 100]))
    figure.update_layout(
        template=None,
        height=300,
        margin={"l": 40, "r": 10, "t": 20, "b": 30},
        font={"size": 14, "family": "serif"},
        xaxis={"range": [0, 10], "tickfont": {"size": 10}, "title": {"text": "edits", "standoff": 8}},
        yaxis={"type": "log", "domain": [0, 0.9], "dtick": 1},
        annotations=[{"x": 0.5, "y": 1.0, "text": "MEMIT", "font": {"size": 13}, "yshift": 12, "showarrow": False}],
        legend={"itemwidth": 40, "x": 0, "y": 1.1},
    )
    return figure.layout.to_plotly_json()


def test_lengths_and_type_grow_and_data_do_not():
    before, after = layout(), enlarged(layout(), 1.5)
    assert after["height"] == 450 and after["margin"] == {"l": 60, "r": 15, "t": 30, "b": 45}
    assert after["font"] == {"size": 21, "family": "serif"}
    assert after["xaxis"]["tickfont"]["size"] == 15 and after["xaxis"]["title"]["standoff"] == 12
    assert after["annotations"][0]["font"]["size"] == 19.5 and after["annotations"][0]["yshift"] == 18
    assert after["legend"]["itemwidth"] == 60
    for path in (("xaxis", "range"), ("yaxis", "domain"), ("yaxis", "dtick"), ("legend", "x"), ("legend", "y")):
        assert list_or_value(after, path) == list_or_value(before, path)
    assert [after["annotations"][0][name] for name in ("x", "y", "text", "showarrow")] == [0.5, 1.0, "MEMIT", False]


def list_or_value(layout: dict, path: tuple[str, str]):
    value = layout[path[0]][path[1]]
    return list(value) if isinstance(value, list | tuple) else value


def test_one_changes_nothing_and_the_layout_given_stays():
    given = layout()
    assert enlarged(given, 1) == given
    enlarged(given, 2)
    assert given == layout()


def test_where_a_layout_says_nothing_plotlys_own_size_grows():
    assert enlarged({}, 1.5)["font"]["size"] == 18
