"""A run's name and its tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encore_core.errors import InputError, quoted
from encore_core.runs.database import Database, as_json
from encore_core.runs.lookup import get
from encore_core.runs.rows import RunInfo

MOST_TAGS = 20


def rename(database: Database, run_id: str, name: str) -> RunInfo:
    """Rename a run.

    Raises:
        InputError: for a name that is empty, too long or not one line.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > 100 or not text.isprintable():
        raise InputError(f"The name {quoted(name)} is not one line of 1 to 100 characters; give one.")
    return _write_field(database, run_id, "name", text)


def tag(database: Database, run_id: str, tags: Sequence[str]) -> RunInfo:
    """Replace a run's tags.

    Raises:
        InputError: for tags that are empty, too long or too many.
    """
    return _write_field(database, run_id, "tags", as_json(checked_tags(tags)))


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags without blanks around them, each once.

    Raises:
        InputError: for tags that are empty, too long or too many.
    """
    if isinstance(tags, str) or not isinstance(tags, list | tuple):
        raise InputError(f"The tags {quoted(tags)} are no list; give a list of words.")
    cleaned: list[str] = []
    for entry in tags:
        text = entry.strip() if isinstance(entry, str) else ""
        if not text or len(text) > 40 or not text.isprintable() or "," in text:
            raise InputError(f"The tag {quoted(entry)} is not 1 to 40 characters without a comma; give one.")
        cleaned += [text] if text not in cleaned else []
    if len(cleaned) > MOST_TAGS:
        raise InputError(f"{len(cleaned)} tags are too many; give up to {MOST_TAGS}.")
    return cleaned


def _write_field(database: Database, run_id: str, column: str, value: Any) -> RunInfo:
    run = get(database, run_id)
    with database.writing() as db:
        db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run.id))
    return get(database, run.id)
