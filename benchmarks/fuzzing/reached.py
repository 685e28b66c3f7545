"""Which lines of the program the inputs of a corpus reach."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fuzzing.target import Target


def lines_reached(target: Target, inputs: Sequence[bytes]) -> dict[str, tuple[int, int]]:
    """Try inputs of a target that is set up, and count the lines inside functions that they run.

    Returns:
        module → lines reached, and lines that there are.
    """
    files = {str(Path(importlib.import_module(name).__file__ or "")): name for name in _modules(target)}
    reached: dict[str, set[int]] = defaultdict(set)

    def trace(frame: FrameType, event: str, _: Any):
        file = frame.f_code.co_filename
        if file not in files:
            return None
        reached[file].add(frame.f_lineno)
        return trace

    import threading

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        for data in inputs:
            try:
                target.check(data)
            except Exception:  # findings are kept elsewhere
                continue
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    there = {file: _lines_of_functions(file) for file in files}
    return {name: (len(reached[file] & there[file]), len(there[file])) for file, name in files.items()}


def _modules(target: Target) -> list[str]:
    """The target's modules, and those of packages among them."""
    named = tuple(target.modules)
    prefixes = tuple(f"{name}." for name in named)
    return sorted(
        name
        for name, module in list(sys.modules.items())
        if (name in named or name.startswith(prefixes)) and getattr(module, "__file__", None)
    )


def _lines_of_functions(file: str) -> set[int]:
    found: set[int] = set()
    waiting = [compile(Path(file).read_text(encoding="utf-8"), file, "exec")]
    while waiting:
        code = waiting.pop()
        inner = [const for const in code.co_consts if isinstance(const, CodeType)]
        waiting += inner
        if code.co_name != "<module>" and code.co_flags & 0x2:  # CO_NEWLOCALS: a function, not the body of a class
            found |= {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    return found
