"""Colours, light and dark, in one table: each has one meaning, and `MEANINGS` says which.

The four main methods keep their Okabe–Ito hues; the others were chosen so that no two meanings look alike (a distance
of 8 or more in OKLab, × 100), that old and new answer and with and without MPES differ for colour-blind eyes, too, and
that text has a contrast of 4.5 and lines one of 3. Nothing is told by colour alone: dashes, marks, hatches repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Palette:
    """The colours of one theme.

    Attributes:
        ink, muted: text, and less prominent text; lines and bars that stand for nothing in particular.
        line, panel: hairlines, and surfaces that differ from the background.
        new, true: the new answer and the true one.
        good, bad, warn: text of verdicts; always with a symbol and a word beside it.
        edited: edited layers where they are not told apart.
        attention, mlp: sublayers that are not edited.
        mpes, no_mpes: targets with early stopping, and without.
        fall: what became less, on maps of differences.
        highlight: behind the subject in its prompt.
        action: the main button, with white text on it, bars of progress.
        focus: around what the keyboard is at.
        page: the background.
        methods: a line's colour for each method; lines differ by their dashes, too, see `DASHES`.
        ramp: the edited layers from the lowest to the highest.
        scale: from less to more, and from the first checkpoint to the last.
    """

    ink: str
    muted: str
    line: str
    panel: str
    new: str
    true: str
    good: str
    bad: str
    warn: str
    edited: str
    attention: str
    mlp: str
    mpes: str
    no_mpes: str
    fall: str
    highlight: str
    action: str
    focus: str
    page: str
    methods: Mapping[str, str] = field(repr=False)
    ramp: tuple[str, str, str] = field(repr=False)
    scale: tuple[str, str, str] = field(repr=False)

    def css(self) -> str:
        """The colours as CSS variables `--es-ink`, `--es-muted`, …"""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return ":root{" + "".join(f"--es-{n}:{value};" for n, value in named.items() if isinstance(value, str)) + "}"

    def method(self, name: str) -> str:
        """The colour of a method's lines."""
        return self.methods.get(name, self.muted)

    def layers(self, n: int) -> list[str]:
        """n colours of edited layers, the lowest layer first; for one layer the strongest."""
        return _steps(self.ramp, n)

    def steps(self, n: int) -> list[str]:
        """n colours from less to more, or from the first checkpoint to the last; for one the strongest."""
        return _steps(self.scale, n)


DASHES = {
    "MEMIT": "dash", "EMMET": "dot", "AlphaEdit": "dashdot", "ENCORE": "solid", "MEMIT+MPES": "longdash",
    "EMMET+MPES": "2px,3px,6px,3px", "AlphaEdit+MPES": "longdashdot", "MEMIT+norm": "10px,3px,2px,3px,2px,3px",
    "SPHERE": "14px,3px", "AlphaEdit+NAS": "8px,2px,1px,2px", "ENCORE+NAS": "18px,4px,2px,4px",
    "BetaEdit": "5px,2px", "LyapLock": "3px,2px,3px,2px,12px,2px", "UltraEdit": "20px,2px",
    "StableEdit": "1px,4px", "ENCORE-N": "24px,3px",
    "CrispEdit": "6px,2px,6px,2px,1px,2px",
}  # fmt: skip
"""Method → how its lines are dashed, as Plotly names it."""

LAYER_MARKS = ("circle", "square", "diamond", "triangle-up", "x", "star")
"""Marks of edited layers from the lowest, again and again: neighbours in the ramp are too alike to tell apart."""

MEANINGS = {
    "new": ("the new answer", "circles"),
    "true": ("the true answer", "diamonds"),
    "edited": ("edited layers, from the lowest (light) to the highest", "hatched bars, diamonds, marks on lines"),
    "attention": ("attention", "bars"),
    "mlp": ("MLPs that are not edited", "bars"),
    "mpes": ("targets with MPES", "solid lines, full bars, circles"),
    "no_mpes": ("targets without MPES", "dashed lines, hatched bars, squares"),
    "fall": ("what became less, on maps of differences", "a scale beside the map"),
}
"""Colour → what it means on every page, and by which marks the same is told without it; methods have `DASHES`."""


def _steps(ramp: tuple[str, ...], n: int) -> list[str]:
    if n == 1:
        return [ramp[-1]]
    return [_along(ramp, place / (n - 1)) for place in range(n)]


def _along(ramp: tuple[str, ...], share: float) -> str:
    """A colour between those of a ramp, share from 0 to 1."""
    place = share * (len(ramp) - 1)
    left = min(int(place), len(ramp) - 2)
    low, high = ([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in ramp[left : left + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - left)):02X}" for a, b in zip(low, high, strict=True))


LIGHT = Palette(
    ink="#17202B", muted="#566272", line="#D3DAE3", panel="#F3F5F8", new="#AD13A3", true="#4A5D1F",
    good="#004A18", bad="#A81926", warn="#8A661B", edited="#7A4BD1", attention="#858A90", mlp="#53616C",
    mpes="#0046E2", no_mpes="#928B2A", fall="#F0325A", highlight="#FFE08A",
    action="#00629B", focus="#00629B", page="#FFFFFF",
    methods={"MEMIT": "#D55E00", "EMMET": "#B85C93", "AlphaEdit": "#0072B2", "ENCORE": "#00815F",
             "MEMIT+MPES": "#58381A", "EMMET+MPES": "#572134", "AlphaEdit+MPES": "#2493B2", "MEMIT+norm": "#6C1B0B",
             "SPHERE": "#803D74", "AlphaEdit+NAS": "#5188FF", "ENCORE+NAS": "#378B1A",
             "BetaEdit": "#18465E", "LyapLock": "#245089",
             "UltraEdit": "#784419", "StableEdit": "#630774", "ENCORE-N": "#12A184",
             "CrispEdit": "#E800F8"},
    ramp=("#9F81DE", "#7A4BD1", "#2E1263"), scale=("#8793A1", "#66758A", "#17202B"),
)  # fmt: skip
DARK = Palette(
    ink="#E8EDF2", muted="#A7B3C0", line="#323D4A", panel="#1A222C", new="#E245F6", true="#829659",
    good="#80D763", bad="#FB6C6A", warn="#F2C331", edited="#A583F2", attention="#606970", mlp="#9BA8B2",
    mpes="#5E79FC", no_mpes="#C6E4AA", fall="#C23A1A", highlight="#6B5410",
    action="#1B6FA8", focus="#6BBEF0", page="#10151B",
    methods={"MEMIT": "#F28E3C", "EMMET": "#E29BC4", "AlphaEdit": "#56B4E9", "ENCORE": "#2FC79A",
             "MEMIT+MPES": "#CBB67F", "EMMET+MPES": "#C77D8A", "AlphaEdit+MPES": "#86D1FD", "MEMIT+norm": "#B77952",
             "SPHERE": "#BF4080", "AlphaEdit+NAS": "#668BA9", "ENCORE+NAS": "#60E5BE",
             "BetaEdit": "#FEC2A2", "LyapLock": "#E288FA",
             "UltraEdit": "#E7B4C0", "StableEdit": "#39A7BA", "ENCORE-N": "#06791D",
             "CrispEdit": "#F81898"},
    ramp=("#7350BE", "#A583F2", "#E6DAFF"), scale=("#5F6D80", "#93A1B2", "#E8EDF2"),
)  # fmt: skip
