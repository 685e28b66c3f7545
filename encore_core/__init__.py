"""The engine of ENCORE Studio: edit facts in language models, and measure what that does to them."""

from encore_core import runtime  # isort: skip  (before anything loads torch)
from encore_core.editing.comparison import compare_edits
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact, read_facts
from encore_core.measures.scores import evaluate
from encore_core.models.editable import load_model
from encore_core.version import __version__

__all__ = [
    "EditSession",
    "Fact",
    "InputError",
    "__version__",
    "compare_edits",
    "evaluate",
    "load_model",
    "read_facts",
    "runtime",
]
