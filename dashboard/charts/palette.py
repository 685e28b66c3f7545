"""Colours, light and dark: Okabe–Ito hues, darkened or lightened until text in them has a contrast of 4.5 or more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Palette:
    """The colours of one theme.

    Attributes:
        ink, muted: text, and less prominent text.
        line, panel: hairlines, and surfaces that differ from the background.
        new, true: marks of the new answer and of the true one.
        good, bad, warn: text of verdicts; always with a symbol and a word beside it.
        edited: bars of edited layers.
        highlight: behind the subject in its prompt.
        action: the main button, with white text on it.
        page: the background.
        methods: a line's colour for each method; lines differ by their dashes, too, see `DASHES`.
        ramp: the edited layers from the lowest to the highest.
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
    highlight: str
    action: str
    page: str
    methods: Mapping[str, str] = field(repr=False)
    ramp: tuple[str, str, str] = field(repr=False)

    def css(self) -> str:
        """The colours as CSS variables `--es-ink`, `--es-muted`, …"""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return ":root{" + "".join(f"--es-{n}:{value};" for n, value in named.items() if isinstance(value, str)) + "}"

    def method(self, name: str) -> str:
        """The colour of a method's lines."""
        return self.methods.get(name, self.muted)

    def layers(self, n: int) -> list[str]:
        """n colours along the ramp, the lowest layer first; for one layer the strongest."""
        if n == 1:
            return [self.ramp[-1]]
        return [_along(self.ramp, place / (n - 1)) for place in range(n)]


DASHES = {
    "MEMIT": "dash", "EMMET": "dot", "AlphaEdit": "dashdot", "ENCORE": "solid", "MEMIT+MPES": "longdash",
    "EMMET+MPES": "2px,3px,6px,3px", "AlphaEdit+MPES": "longdashdot", "MEMIT+norm": "10px,3px,2px,3px,2px,3px",
    "SPHERE": "14px,3px", "AlphaEdit+NAS": "8px,2px,1px,2px", "ENCORE+NAS": "18px,4px,2px,4px",
    "BetaEdit": "5px,2px", "LyapLock": "3px,2px,3px,2px,12px,2px", "UltraEdit": "20px,2px",
    "StableEdit": "1px,4px", "ENCORE-N": "24px,3px",
}  # fmt: skip
"""Method → how its lines are dashed, as Plotly names it."""


def _along(ramp: tuple[str, ...], share: float) -> str:
    """A colour between those of a ramp, share from 0 to 1."""
    place = share * (len(ramp) - 1)
    left = min(int(place), len(ramp) - 2)
    low, high = ([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in ramp[left : left + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - left)):02X}" for a, b in zip(low, high, strict=True))


LIGHT = Palette(
    ink="#17202B", muted="#566272", line="#D3DAE3", panel="#F3F5F8", new="#C25400", true="#0072B2",
    good="#00704F", bad="#B3261E", warn="#855900", edited="#C0392B", highlight="#FFE08A",
    action="#00629B", page="#FFFFFF",
    methods={"MEMIT": "#D55E00", "EMMET": "#B85C93", "AlphaEdit": "#0072B2", "ENCORE": "#00815F",
             "MEMIT+MPES": "#B07900", "EMMET+MPES": "#7A4E9E", "AlphaEdit+MPES": "#2F8FC4", "MEMIT+norm": "#4A4A4A",
             "SPHERE": "#3F51B5", "AlphaEdit+NAS": "#00708A", "ENCORE+NAS": "#4E7A00",
             "BetaEdit": "#8E2F5C", "LyapLock": "#9A4A14",
             "UltraEdit": "#A3231F", "StableEdit": "#6B5B2E", "ENCORE-N": "#1B5E20"},
    ramp=("#6BAED6", "#2171B5", "#08264F"),
)  # fmt: skip
DARK = Palette(
    ink="#E8EDF2", muted="#A7B3C0", line="#323D4A", panel="#1A222C", new="#F2A33A", true="#6BBEF0",
    good="#4FD1A5", bad="#FF8F7A", warn="#F0C24B", edited="#FF7A66", highlight="#6B5410",
    action="#1B6FA8", page="#10151B",
    methods={"MEMIT": "#F28E3C", "EMMET": "#E29BC4", "AlphaEdit": "#56B4E9", "ENCORE": "#2FC79A",
             "MEMIT+MPES": "#E6B93C", "EMMET+MPES": "#B79CE0", "AlphaEdit+MPES": "#9AD3F5", "MEMIT+norm": "#C9C9C9",
             "SPHERE": "#9FA8FF", "AlphaEdit+NAS": "#3CC9DE", "ENCORE+NAS": "#A6D85B",
             "BetaEdit": "#F08BB4", "LyapLock": "#E0A878",
             "UltraEdit": "#FF8A80", "StableEdit": "#CFC08A", "ENCORE-N": "#8FE3A8"},
    ramp=("#2C6C9E", "#64AEDD", "#E1F1FD"),
)  # fmt: skip
