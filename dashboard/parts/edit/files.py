"""A visitor's edits as a file: handed out, and taken back.

Uploads are checked here, on the server: they must be intact, made on the visitor's model, and within the limits. An
upload never names a file: it is written under our own name into a temporary folder.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from dashboard.server import limits
from encore_core.editing.edit_file import EditFile, edit_file_of, read_edit_file, write_edit_file
from encore_core.editing.session import EditSession
from encore_core.errors import InputError, quoted
from encore_core.export.folder import versions
from encore_core.forward.prompts import PREFIX_STARTS
from encore_core.models.editable import EditableModel
from encore_core.storage import writing

NAME = "encore-edits.safetensors"
"""The file's name in the browser."""

SEEDS = range(2**31)


def as_bytes(session: EditSession) -> bytes:
    """The edits of a session as the content of an edit file.

    Raises:
        InputError: when there are none, or the file cannot be made.
    """
    with session.lm.lock:
        edits = edit_file_of(session)
        if edits.form == "matrices":
            # The next batch may be added to the session's matrices in place; factors are never written to.
            tensors = {name: tensor.clone() for name, tensor in edits.tensors.items()}
            edits = EditFile(edits.values, tensors)
    # Hashing and writing take a while; the device is free meanwhile.
    with TemporaryDirectory() as folder:
        file = Path(folder) / NAME
        write_edit_file(file, edits, versions())
        return file.read_bytes()


def session_of(uploaded: bytes, lm: EditableModel) -> EditSession:
    """The session that an uploaded edit file holds, with its history.

    Args:
        uploaded: the content of the file.
        lm: the visitor's model.

    Raises:
        InputError: for a file that is too large, damaged, no edit file or without history, for edits that were made on
            another model, and for more of anything than a visitor of this server may have.
    """
    # What was read stays mapped into memory for a moment, and some systems refuse to remove such a file.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "uploaded file"
        with writing(file):
            file.write_bytes(uploaded)
        edits = read_edit_file(file, limits.limits().visitors.upload_mb * 1_000_000)
        edits.check_model(lm)
        _check_limits(edits)
        return edits.session_on(lm)


def _check_limits(edits: EditFile) -> None:
    values = edits.values
    largest = max((len(batch["edited"]) for batch in values.get("batches", ())), default=1)
    limits.check_edits(edits.facts, largest, n_edits=0)
    if type(values["seed"]) is not int or values["seed"] not in SEEDS:
        raise InputError(
            f"The edit file has the seed {quoted(values['seed'])}; it must be a whole number from 0 to {SEEDS[-1]}."
        )
    # Every later edit would be made after each of them.
    if len(values["prefixes"]) > len(PREFIX_STARTS):
        raise InputError(
            f"The edit file has {len(values['prefixes'])} sampled prefixes, and edits are made with "
            f"{len(PREFIX_STARTS)}; it is damaged."
        )
    for prefix in values["prefixes"]:
        limits.check_text("A sampled prefix in the edit file", str(prefix))
