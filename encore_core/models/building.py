"""A lock for building models: transformers cannot build two at a time in one process.

While it reads a model it replaces some of its own functions (`PreTrainedModel.tie_weights`, those that initialise
weights) by empty ones, for all threads. Two readings that overlap leave the empty ones there for good, and from then on
every model with tied weights lacks its output matrix.
"""

from __future__ import annotations

import threading

BUILDING = threading.RLock()
"""Held around `from_pretrained` and `from_config` of models."""
