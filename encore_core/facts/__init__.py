"""Facts: what an edit should teach, how facts are read from files, and the bundled sets.

A fact is a subject, a prompt with one slot `{}` for it, and the answer wanted after the prompt. With it come the
answer that the model gives now, paraphrases (which should change too), neighbours (which should not) and questions
whose answers follow from it. Everything here is text: no tokenizer, no tensor. The file formats are described in
`reading`, `forms`, `ripple`, `csv_rows` and `names`, and the rule that finds subjects in `found`. `checking` says what
is wrong with a file, and `hub_sets` fetches data sets.
"""

from encore_core.facts.batches import check_batch, check_batches, duplicate_subjects, place_of, write_facts
from encore_core.facts.fact import JOINS, Fact, Neighbour, Portability
from encore_core.facts.reading import FORMATS, FOUND, parse_facts, read_facts
from encore_core.facts.slots import SLOT, spelling_note, spelt_as_in
from encore_core.facts.source import BUNDLED, MAX_BYTES
from encore_core.facts.texts import FactError

__all__ = [
    "BUNDLED",
    "FORMATS",
    "FOUND",
    "JOINS",
    "MAX_BYTES",
    "SLOT",
    "Fact",
    "FactError",
    "Neighbour",
    "Portability",
    "check_batch",
    "check_batches",
    "duplicate_subjects",
    "parse_facts",
    "place_of",
    "read_facts",
    "spelling_note",
    "spelt_as_in",
    "write_facts",
]
