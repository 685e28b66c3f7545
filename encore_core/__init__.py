"""The engine of ENCORE Studio: edit facts in language models, and measure what that does to them."""

from encore_core import runtime  # isort: skip  (before anything loads torch)
from encore_core.editor import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact, read_facts
from encore_core.metrics import evaluate
from encore_core.models import load_model
from encore_core.version import __version__

__all__ = [
    "EditSession",
    "Fact",
    "InputError",
    "__version__",
    "evaluate",
    "load_model",
    "read_facts",
    "runtime",
]
