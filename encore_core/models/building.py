"""A lock for building models: transformers can do no two at a time in one process.

While it reads a model it puts empty functions in place of some of its own (`PreTrainedModel.tie_weights`, the functions
that initialise weights), for all threads. Two readings that overlap leave them there for good, and from then on every
model with tied weights lacks its output matrix.
"""

from __future__ import annotations

import threading

BUILDING = threading.RLock()
"""Held around `from_pretrained` and `from_config` of models."""
