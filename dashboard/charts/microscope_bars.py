"""What moved an answer's logit, an answer token by token, and answers at several strengths of an edit."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label, percent
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels

TICK_EVERY = 4  # layers
BAR = 0.86  # of a place
LANE = 30  # pixels a token
REST = {"the final norm's other scale": "final norm", "the soft cap on logits": "soft cap"}
"""What is no sublayer's → its name in the key."""

QUARTERS = {0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1: "100 %"}


def moved(rows: pd.DataFrame, title: str, colours: Palette, height: int = 240) -> Chart:
    """A bar per sublayer, from the input up, for its direct effect; what is no sublayer's stands apart on the right.

    Args:
        rows: place, label, kind ("input", "attention", "MLP", "rest"), edited, effect (in logits).
        title: above the bars.
        colours: the theme's.
        height: in pixels.
    """
    sublayers = rows[rows["kind"] != "rest"]
    rest = rows[rows["kind"] == "rest"]
    layers = range(0, int(sublayers["place"].max()) // 2, TICK_EVERY)
    # A layer's tick is between its attention and its MLP.
    ticks = tuple((2 * layer + 1.5, str(layer)) for layer in layers)
    panels = Panels([(title, title)], colours, height, Along("layer", "", ticks))
    name_of_rest = " and ".join(REST[name] for name in rest["label"])
    kinds = rows["kind"].where(~rows["edited"], "edited MLP")
    hatched = {"shape": "/", "fgcolor": colours.panel, "fillmode": "overlay", "size": 5, "solidity": 0.35}
    looks = {
        "input": {"color": colours.muted},
        "attention": {"color": colours.attention},
        "MLP": {"color": colours.mlp},
        "edited MLP": {"color": colours.edited, "pattern": hatched},
        "rest": {"color": colours.muted, "pattern": hatched | {"shape": "."}},
    }
    for kind, look in looks.items():
        part = rows[kinds == kind]
        if part.empty or (kind == "input" and not part["effect"].any()):
            continue
        panels.bar(
            0,
            x=part["place"],
            y=part["effect"],
            name=name_of_rest if kind == "rest" else kind,
            showlegend=True,
            width=BAR,
            marker=look | {"line": {"width": 0}},
            customdata=part["label"].astype(str),
            hovertemplate=f"%{{customdata}}{', edited' * (kind == 'edited MLP')}  %{{y:+.3f}}<extra></extra>",
        )
    last = float(rows["place"].max() if len(rest) else sublayers["place"].max())
    return panels.finished(
        "logit, after minus before",
        shared_y=True,
        columns=(1, 1),
        more={"hovermode": "closest", "barmode": "overlay"},
        x_axes={"range": [-0.9, last + 0.9], "rangemode": "normal", "showgrid": False},
        y_axes={"zeroline": True, "zerolinecolor": colours.muted, "tickformat": "+.3~g", "nticks": 5},
    )


def tokens(frame: pd.DataFrame, names: Mapping[str, str], colours: Palette) -> Chart:
    """Every token of the answers: its probability before (hollow) and after (full), a panel per answer.

    Args:
        frame: answer ("new", "true"), place, token, before, after (None without edits), hover_before, hover_after.
        names: answer → its text.
        colours: the theme's.
    """
    answers = list(dict.fromkeys(frame["answer"]))
    longest = int(frame.groupby("answer").size().max())
    panels = Panels(
        [(f"<b>{label(names[answer], 40)}</b>", f"<b>{label(names[answer], 24)}</b>") for answer in answers],
        colours,
        max(70, LANE * longest + 16),
        Along("probability", ""),
    )
    edited = bool(frame["after"].notna().any())
    for number, answer in enumerate(answers):
        part = frame[frame["answer"] == answer]
        colour = getattr(colours, answer)
        for moment in ("before", "after") if edited else ("before",):
            hollow = edited and moment == "before"
            panels.scatter(
                number,
                x=part[moment],
                y=part["place"],
                mode="markers",
                cliponaxis=False,
                name=moment if edited else "as loaded",
                legendgroup=moment,
                showlegend=number == 0,
                marker={"symbol": "circle-open" if hollow else "circle", "size": 11 if hollow else 14, "color": colour,
                        "line": {"width": 2, "color": colour}},
                customdata=[label(text, 110) for text in part[f"hover_{moment}"]],
                hovertemplate="%{customdata}<extra></extra>",
            )  # fmt: skip
    chart = panels.finished(
        "",
        shared_y=False,
        columns=(2, 2),
        more={"hovermode": "closest"},
        x_axes={"range": [-0.07, 1.04], "tickvals": list(QUARTERS), "ticktext": list(QUARTERS.values())},
        y_axes={"range": [longest - 0.4, -0.6], "gridcolor": colours.line, "zeroline": False},
    )
    for layout in chart.layouts:
        layout["margin"] = layout["margin"] | {"l": 96}
        for number, answer in enumerate(answers):
            part = frame[frame["answer"] == answer]
            texts = [label(token.strip() or token.replace(" ", "␣"), 13) for token in part["token"]]
            layout[f"yaxis{number + 1 if number else ''}"] |= {
                "tickvals": list(part["place"]), "ticktext": texts, "showticklabels": True,
                "tickfont": {"size": 14, "color": colours.ink},
            }  # fmt: skip
    return chart


PANELS = {"rewrite": "The edited prompt", "paraphrase": "Paraphrases", "neighbour": "Neighbours"}
"""Role of a prompt → title of its panel."""

_STROKES = ("solid", "dash", "dot", "dashdot", "longdash")


def strength(frame: pd.DataFrame, at: float, colours: Palette, height: int = 230) -> Chart:
    """Probabilities of the answers against the strength of the edit: a panel per role, a pair of lines per prompt.

    Args:
        frame: role, prompt, number (of the prompt among those of its role), answer ("new", "true"), text (of the
            answer), beta, probability.
        at: the strength that is marked.
        colours: the theme's.
        height: of a panel in pixels.
    """
    roles = [role for role in PANELS if (frame["role"] == role).any()]
    panels = Panels([(f"<b>{PANELS[role]}</b>",) * 2 for role in roles], colours, height, Along("strength β", "β %{x}"))
    named = {"new": "new answer", "true": "true answer"}
    legend: set[str] = set()
    for number, role in enumerate(roles):
        of_role = frame[frame["role"] == role]
        for (place, answer), part in of_role.groupby(["number", "answer"], sort=False):
            panels.scatter(
                number,
                x=part["beta"],
                y=part["probability"],
                mode="lines",
                name=named[answer],
                legendgroup=answer,
                showlegend=answer not in legend,
                line={"color": getattr(colours, answer), "width": 3 if role == "rewrite" else 2,
                      "dash": _STROKES[place % len(_STROKES)] if role != "rewrite" else "solid"},
                customdata=[f"{label(prompt, 60)} {label(text, 20)}: {percent(value)}" for prompt, text, value
                            in zip(part["prompt"], part["text"], part["probability"], strict=True)],
                hovertemplate="β %{x:g}<br>%{customdata}<extra></extra>",
            )  # fmt: skip
            legend.add(answer)
        panels.scatter(
            number, x=[at, at], y=[0, 1], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": colours.ink, "width": 1.5, "dash": "dot"},
        )  # fmt: skip
    return panels.finished(
        "",
        shared_y=True,
        columns=(3, 3),
        more={"hovermode": "closest"},
        x_axes={"range": [0, 1.52], "tickvals": [0, 0.5, 1, 1.5], "ticktext": ["0", "0.5", "1", "1.5"]},
        y_axes={"range": [-0.07, 1.04], "tickvals": list(QUARTERS), "ticktext": list(QUARTERS.values())},
    )
