"""Colours, light and dark: Okabe–Ito hues, darkened or lightened until text in them has a contrast of 4.5 or more."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Palette:
    """The colours of one theme.

    Attributes:
        ink, muted: text, and text that stands back.
        line, panel: hairlines, and surfaces that stand off the background.
        new, true: marks of the answer wanted and of the answer before.
        good, bad, warn: text of verdicts; always with a symbol and a word beside it.
        edited: bars of edited layers.
        highlight: behind the subject in its prompt.
        action: the main button, with white text on it.
        page: the background.
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

    def css(self) -> str:
        """The colours as CSS variables `--es-ink`, `--es-muted`, …"""
        return ":root{" + "".join(f"--es-{name}:{value};" for name, value in asdict(self).items()) + "}"


LIGHT = Palette(
    ink="#17202B", muted="#566272", line="#D3DAE3", panel="#F3F5F8", new="#C25400", true="#0072B2",
    good="#00704F", bad="#B3261E", warn="#855900", edited="#C0392B", highlight="#FFE08A",
    action="#00629B", page="#FFFFFF",
)  # fmt: skip
DARK = Palette(
    ink="#E8EDF2", muted="#A7B3C0", line="#323D4A", panel="#1A222C", new="#F2A33A", true="#6BBEF0",
    good="#4FD1A5", bad="#FF8F7A", warn="#F0C24B", edited="#FF7A66", highlight="#6B5410",
    action="#1B6FA8", page="#10151B",
)  # fmt: skip
