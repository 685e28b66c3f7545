"""Edits as one small file that can be applied to the base model again.

An edit file is a safetensors file. Its tensors are, batch by batch and layer by layer, the factors A and Y of every
update Δ = A Yᵀ (see `update_rule`), in float64: replayed in order on the base weights they give the session's matrices
bit for bit, on the same kind of machine. With them are the keys K, and where edits were taken back or overwritten, the
factors of what took them out (see `removal`). If all this would be larger than the edited matrices, or there is no
history (in long runs), the file holds the edited matrices themselves, which is exact, too. (A low-rank form of W − W₀
would not be: W has been rounded after every batch, and the rounding has full rank.) Everything else is JSON in the
file's metadata; a digest of all of it reveals a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from encore_core.editing.edit_file_batches import batch_of, live_facts, row_of, tensors_of
from encore_core.editing.edit_file_values import VERSION, check_values, fact_of
from encore_core.editing.session import EditSession
from encore_core.errors import InputError, first_line, quoted
from encore_core.facts import Fact
from encore_core.measures.norms import frobenius
from encore_core.methods import SETTABLE, recorded_settings
from encore_core.models.editable import EditableModel
from encore_core.storage import replacing

FORMAT = "encore-edits"
NUMBERS = ("F64", "F32", "F16", "BF16")
"""Number formats of tensors, as safetensors calls them: factors are F64, targets F32, matrices the model's own."""

MOST_HEADER_BYTES = 90_000_000
"""The format allows 100 MB of metadata, which includes the facts with their paraphrases and neighbours."""

NORM_TOLERANCE = 0.02
"""Largest relative difference between a matrix's norm and the one in the file. Earlier versions summed in float32,
which for a matrix of Llama-3-8B is half a per cent off."""


@dataclass(frozen=True)
class EditFile:
    """The content of an edit file, checked.

    Attributes:
        values: the metadata, plain JSON values: model, base_fingerprint, start_token, shape, dtype, method, settings,
            seed, prefixes, n_edits, norms, versions, form, batches or facts.
        tensors: by name, on the CPU.
    """

    values: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)

    @property
    def form(self) -> str:
        return self.values["form"]

    @property
    def layers(self) -> list[int]:
        """The edited blocks, ascending; the file sorts them as strings, "10" before "9"."""
        return sorted(map(int, self.values["norms"]))

    @property
    def facts(self) -> list[Fact]:
        """The facts edited, in order; those that were skipped, overwritten or taken back are left out."""
        if self.form == "matrices":
            return [fact_of(row) for row in self.values["facts"]]
        return live_facts(self.values["batches"])

    def check_model(self, lm: EditableModel) -> None:
        """Check that the edits were made on a model.

        Raises:
            InputError: when its weights, shape or number format differ.
        """
        v = self.values
        mine = {"d_model": lm.d_model, "d_mlp": lm.d_mlp, "n_layers": lm.n_layers}
        if v["shape"] != mine:
            raise InputError(
                f"The edits were made on {quoted(v['model'])} with {_shape(v['shape'])}, and {quoted(lm.name)} has "
                f"{_shape(mine)}; give the model that they were made on."
            )
        dtype = str(lm.dtype).removeprefix("torch.")
        if v["dtype"] != dtype:
            raise InputError(
                f"The edits were made in {v['dtype']} and the model is loaded in {dtype}; "
                f"load it with dtype {v['dtype']}."
            )
        if v["base_fingerprint"] != lm.fingerprint:
            raise InputError(
                f"The edits were made on {quoted(v['model'])} with the fingerprint {v['base_fingerprint']}, and "
                f"{quoted(lm.name)} has {lm.fingerprint}, so its weights differ; give the unedited model that they "
                "were made on."
            )

    def other_start(self, lm: EditableModel) -> str | None:
        """A line for people if the model's start token differs from the one the edits were made with, else None."""
        made, reads = self.values.get("start_token"), lm.start_text
        if made == reads:
            return None
        return (
            f"The edits were made with {_front(made)} in front of every text, and {lm.name} is loaded with "
            f"{_front(reads)}: the probabilities kept in the file are not what it gives now."
        )

    def matrices_on(self, lm: EditableModel) -> dict[int, torch.Tensor]:
        """The edited matrices on a model, by layer, as the family stores them.

        Raises:
            InputError: as `check_model`, and when the matrices are not finite or their norms differ from those saved.
        """
        self.check_model(lm)
        if self.form == "factors":
            return self.session_on(lm).matrices()
        matrices = {layer: self.tensors[f"matrix.{layer}"].to(lm.parameter(layer).device) for layer in self.layers}
        for layer, matrix in matrices.items():
            if matrix.shape != lm.parameter(layer).shape or matrix.dtype != lm.dtype:
                raise InputError(f"The edited matrix of layer {layer} in the file does not fit the model.")
        self._check_norms(matrices)
        return matrices

    def _check_norms(self, matrices: Mapping[int, torch.Tensor]) -> None:
        for layer, matrix in matrices.items():
            norm, saved = frobenius(matrix), self.values["norms"][str(layer)]["edited"]
            if not math.isclose(norm, saved, rel_tol=NORM_TOLERANCE):
                raise InputError(
                    f"The matrix of layer {layer} has the norm {norm:.6g} with the edits and had {saved:.6g} when they "
                    "were saved; the file or the model is not what it claims to be."
                )

    def session_on(self, lm: EditableModel, **options) -> EditSession:
        """A session with these edits and their history, which can undo them and continue.

        Args:
            lm: the base model.
            options: for `EditSession`.

        Raises:
            InputError: as `check_model`, for settings that cannot be used, for a file without factors, and when the
                matrices are not finite or their norms differ from those saved.
        """
        self.check_model(lm)
        v = self.values
        if self.form != "factors":
            raise InputError(
                "The file holds edited matrices and no batches, so its edits can be neither undone nor continued; "
                "use encore apply to write the edited model."
            )
        session = EditSession(lm, v["method"], seed=v["seed"], settings=recorded_settings(v["settings"]), **options)
        if list(session.settings.layers) != self.layers:
            raise InputError("The layers in the file's settings are not those of its matrices; it is damaged.")
        batches = [batch_of(number, row, self.tensors, self.layers, lm) for number, row in enumerate(v["batches"])]
        session.load_history(batches, v["prefixes"])
        self._check_norms(session.matrices())
        return session


def keeps_history(session: EditSession) -> bool:
    """Whether the edit file of a session holds its batches, so that `EditFile.session_on` can restore the session."""
    updates = [update for batch in session.history for layers in batch.all_updates for update in layers.values()]
    factors = sum(tensor.nbytes for update in updates for tensor in update.tensors.values())
    return 0 < factors <= sum(session.lm.parameter(layer).nbytes for layer in session.settings.layers)


def edit_file_of(session: EditSession, facts: Sequence[Fact] = ()) -> EditFile:
    """A session's edits as an edit file.

    Args:
        session: with or without history.
        facts: those edited, in order; needed for a session without history.

    Raises:
        InputError: when nothing has been edited, when all edits have been taken back and the history is too large, and
            without history and `facts`.
    """
    if not session.n_edits and not keeps_history(session):
        what = "All edits have been taken back" if session.history else "Nothing has been edited"
        raise InputError(f"{what}, so there are no edits to save.")
    matrices = session.matrices()
    values = _head(session.lm, session.norms()) | {
        "method": session.settings.method,
        "settings": {name: _plain(getattr(session.settings, name)) for name in SETTABLE},
        "seed": session.seed,
        "prefixes": list(session.prefixes_read),
        "n_edits": session.n_edits,
    }
    if keeps_history(session):
        tensors = {
            name: tensor for number, batch in enumerate(session.history) for name, tensor in tensors_of(number, batch)
        }
        # Only what has edits taken out cannot be read by programs that know version 1.
        version = VERSION if any(batch.ended for batch in session.history) else 1
        rows = [row_of(batch) for batch in session.history]
        return EditFile(values | {"version": version, "form": "factors", "batches": rows}, tensors)
    edited = [edit.fact for edit in session.live_edits()] or facts
    if not edited:
        raise InputError(
            "This session keeps no history, so give the facts that it has edited; the edit file names them."
        )
    return matrices_file(values, matrices, edited)


def matrices_file(values: Mapping[str, Any], matrices: Mapping[int, torch.Tensor], facts: Sequence[Fact]) -> EditFile:
    """Edited matrices as an edit file.

    Args:
        values: the metadata without form and facts, see `EditFile`.
        matrices: by layer, as the family stores them.
        facts: those edited, in order.
    """
    tensors = {f"matrix.{layer}": matrix.detach().cpu().contiguous() for layer, matrix in matrices.items()}
    return EditFile({**values, "form": "matrices", "facts": [fact.to_dict() for fact in facts]}, tensors)


def write_edit_file(path: Path, edits: EditFile, versions: Mapping[str, str]) -> None:
    """Write an edit file, completely or not at all.

    Args:
        path: the file; an existing one is replaced.
        edits: what to write.
        versions: of the libraries, for the record.

    Raises:
        InputError: when it cannot be written, or it has more facts than the format allows.
    """
    text = json.dumps(edits.values | {"versions": dict(versions)}, ensure_ascii=False, sort_keys=True)
    if len(text.encode("utf-8")) > MOST_HEADER_BYTES:
        raise InputError(
            f"The {len(edits.facts)} facts are too many for one edit file; write the model folder instead."
        )
    digest = _digest(text, edits.tensors)
    with replacing(path) as part:
        save_file(edits.tensors, part, {"format": FORMAT, "edits": text, "digest": digest})


def read_edit_file(path: Path, most_bytes: int | None = None) -> EditFile:
    """Read and check an edit file. Nothing in it is run, and nothing in it names a file.

    Args:
        path: the file.
        most_bytes: refuse larger files.

    Raises:
        InputError: when it is missing, too large, not an edit file, of another version, or damaged.
    """
    try:
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise InputError(
                f"The edit file has {size / 1e6:.1f} MB, more than the {most_bytes / 1e6:.0f} MB allowed here; "
                "use encore apply."
            )
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT or "edits" not in head:
                raise InputError(f"{path.name} is not an edit file; give one that encore edit --edits-out wrote.")
            tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118
        if _digest(head["edits"], tensors) != head.get("digest"):
            raise InputError(f"The edit file {path.name} is damaged: its content is not what was written.")
        values = json.loads(head["edits"])
    except OSError as error:
        raise InputError(f"The edit file {path} cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The edit file {path.name} is damaged or not an edit file ({first_line(error)}).") from error
    check_values(values)
    return _checked(EditFile(values, tensors))


def _tensor(file: safe_open, name: str) -> torch.Tensor:
    """A tensor of the file, if edit files may hold its number format."""
    kind = file.get_slice(name).get_dtype()
    if kind not in NUMBERS:
        raise InputError(f"The edit file is damaged: its tensor {quoted(name)} has the number format {quoted(kind)}.")
    return file.get_tensor(name)


def _checked(edits: EditFile) -> EditFile:
    """The same edit file, after a check that its facts and tensors can be used."""
    if not edits.facts and edits.form == "matrices":
        raise InputError("The edit file holds no edits; it is damaged.")
    if edits.form == "matrices" and any(f"matrix.{layer}" not in edits.tensors for layer in edits.values["norms"]):
        raise InputError("A matrix of the edit file is missing; it is damaged.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in edits.tensors.values()):
        raise InputError("The edit file holds values that are not finite.")
    return edits


def head_of(lm: EditableModel, matrices: Mapping[int, torch.Tensor]) -> dict[str, Any]:
    """The metadata about the model, for edited matrices that no session holds."""
    with lm.matrices_replaced({}):
        norms = {layer: (frobenius(lm.matrix(layer)), frobenius(matrix)) for layer, matrix in matrices.items()}
        return _head(lm, norms)


def _head(lm: EditableModel, norms: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    return {
        "version": 1,
        "model": lm.name,
        "base_fingerprint": lm.fingerprint,
        "start_token": lm.start_text,
        "shape": {"d_model": lm.d_model, "d_mlp": lm.d_mlp, "n_layers": lm.n_layers},
        "dtype": str(lm.dtype).removeprefix("torch."),
        "norms": {str(layer): {"original": before, "edited": after} for layer, (before, after) in norms.items()},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _front(token: str | None) -> str:
    return "nothing" if token is None else f"the start token {quoted(token)}"


def _shape(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items())


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the metadata and of every tensor's name, shape and bytes."""
    digest = hashlib.sha256(text.encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
