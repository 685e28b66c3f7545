"""Notices and progress bars of the command line, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm

from encore_core.editing.batch_report import EditProgress


def notice(text: str) -> None:
    """Print a note without disturbing a progress bar."""
    tqdm.write(f"note: {text}", file=sys.stderr)


def duration(seconds: float) -> str:
    """A time for people: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def some_layers(layers: Iterable[int]) -> str:
    """Layers in short: "6-10", "6, 8"."""
    listed = list(layers)
    if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]}-{listed[-1]}"
    return ", ".join(map(str, listed))


class Bar:
    """A progress bar on standard error; silent if that is no terminal."""

    def __init__(self, label: str, total: float | None = 1.0, unit: str | None = None):
        counted = unit is not None
        self.bar = tqdm(
            total=total,
            desc=label,
            unit=unit or "",
            file=sys.stderr,
            leave=counted,
            disable=None,
            bar_format=None if counted else "{desc} {percentage:3.0f}%|{bar:20}|",
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def share(self, what: str, share: float) -> None:
        """Show a phase and its share done, from 0 to 1."""
        self.bar.set_description_str(what, refresh=False)
        self.bar.n = share
        self.bar.refresh()

    def move(self, n: int) -> None:
        """Show that n more are done."""
        self.bar.update(n)

    def at(self, n: int, what: str) -> None:
        """Show how many are done in total, and the current activity."""
        self.bar.set_postfix_str(what, refresh=False)
        self.bar.n = n
        self.bar.refresh()


def teller(bar: Bar, batch: int):
    """A callback that shows the progress of a batch on a bar."""

    def tell(progress: EditProgress) -> None:
        if progress.phase == "targets":
            loss = "" if progress.loss is None else f", loss {progress.loss:.2f}"
            bar.bar.set_postfix_str(f"batch {batch}, step {progress.step}{loss}")
        else:
            bar.bar.set_postfix_str(f"batch {batch}, layer {progress.done} of {progress.total}")

    return tell
