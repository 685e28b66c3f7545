"""What a visitor is told about an action: one line, and what kind of line it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One line for the visitor: `kind` is "error", "warning", "info" or "success"."""

    kind: str
    text: str
