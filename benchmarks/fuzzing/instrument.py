"""What has to be done before anything of the program is imported: its branches are made to be counted."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import AbstractContextManager

INSTRUMENTED = ("encore_core", "dashboard", "tomllib")
"""Modules whose branches guide the search; what is in C, numpy's and torch's reading included, guides nothing."""


def instrumenting() -> AbstractContextManager[None]:
    """In here, imports of `INSTRUMENTED` are made to count their branches."""
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed; in an environment of its own: pip install atheris==3.0.0")
    import atheris

    early = [name for name in INSTRUMENTED if name in sys.modules]
    if early:
        raise RuntimeError(f"imported too early for their branches to be counted: {', '.join(early)}")
    return atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False)
