"""The engine decides whether gradients are recorded, whatever mode its caller is in.

A program that edits inside `torch.no_grad()`, `torch.set_grad_enabled(False)` or `torch.inference_mode()` gets the same
results as outside: the search for targets turns gradients on, everything else turns them off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def gradients(wanted: bool) -> Iterator[None]:
    """Record gradients, or do not, while the `with` block or the decorated function runs.

    Inference mode is left in both cases: a tensor made in it can never take part in a gradient, and targets, matrices
    and models outlive the call that made them.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(wanted):
        yield
