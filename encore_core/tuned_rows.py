"""Hyper-parameters that `encore tune` has found on this machine: rows in the data folder, with their evidence.

A row is found by the model's shape and the method, like the published ones, so that it serves a local copy, another
number format or an edited folder of the same model, too; its fingerprint says on which weights it was found.
`tuned/<shape>/<method>.json` holds the row, the trials behind it, and whether it is in force. A row is for a few edits
or for thousands, which has a file of its own, `<method>-thousands.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from encore_core.errors import InputError
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

ROW_VERSION = 1

TunedFor = Literal["few", "thousands"]
"""How many edits settings are for: what serves one fact best is not what a model bears a thousand times."""

EDITS = {"few": "a few edits", "thousands": "thousands of edits"}

LENGTHS: tuple[TunedFor, ...] = get_args(TunedFor)


@dataclass(frozen=True)
class Shape:
    """What a model's configuration says about it, by which rows of hyper-parameters are found.

    Attributes:
        model_type: the family, as transformers calls it.
        n_layers, d_model, n_vocab: number of blocks, width of the residual stream, size of the vocabulary.
    """

    model_type: str
    n_layers: int
    d_model: int
    n_vocab: int

    @property
    def name(self) -> str:
        """The name of the folder with its rows."""
        family = "".join(letter if letter.isalnum() else "_" for letter in self.model_type)
        return f"{family}-{self.n_layers}x{self.d_model}-{self.n_vocab}"


@dataclass(frozen=True)
class TunedRow:
    """The result of a search, with its evidence.

    Attributes:
        shape: of the model.
        model, fingerprint: name and weights of the model when it was tuned.
        method: a name from `methods.METHODS`.
        settings: by name, plain JSON values.
        in_force: whether `methods.settings_for` uses it; False if there is a published row, unless the user chose this
            one instead.
        evidence: trials and results on held-out facts, see `tuning`.
        tuned_for: how many edits it is for.
    """

    shape: Shape
    model: str
    fingerprint: str
    method: str
    settings: Mapping[str, Any]
    in_force: bool
    evidence: Mapping[str, Any]
    tuned_for: TunedFor = "few"


def store_row(row: TunedRow) -> Path:
    """Write a row, replacing one of the same shape, method and number of edits. Returns its file.

    Raises:
        InputError: when it cannot be written.
    """
    file = _file(row.shape, row.method, row.tuned_for)
    with replacing(file) as part:
        values = {"version": ROW_VERSION, **asdict(row)}
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    return file


def store_result(row: TunedRow) -> Path | None:
    """Write what a search has found, unless it is not in force and would replace a row that is.

    Returns:
        its file, or None where the row in force was kept.

    Raises:
        InputError: when it cannot be written.
    """
    known = find_row(row.shape, row.method, row.tuned_for)
    return None if known is not None and known.in_force and not row.in_force else store_row(row)


def find_row(shape: Shape, method: str, tuned_for: TunedFor = "few") -> TunedRow | None:
    """The row of a shape and a method, in force or not; None when there is none, or it cannot be read."""
    file = _file(shape, method, tuned_for)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        wanted = (ROW_VERSION, method, tuned_for)
        if (values.pop("version"), values["method"], values.get("tuned_for", "few")) != wanted:
            raise ValueError("it is of another version or method, or for another number of edits")
        row = TunedRow(**(values | {"shape": Shape(**values["shape"])}))
        if row.shape != shape or not isinstance(row.settings, dict) or not isinstance(row.evidence, dict):
            raise ValueError("its fields are not those of a row")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("The tuned row in %s is left out: it cannot be read (%s).", file, error)
        return None
    return row


def forget_row(shape: Shape, method: str, tuned_for: TunedFor = "few") -> bool:
    """Remove a row. Returns whether there was one.

    Raises:
        InputError: when it cannot be removed.
    """
    file = _file(shape, method, tuned_for)
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"The tuned row {file} cannot be removed ({error.strerror}).") from error
    return True


def _file(shape: Shape, method: str, tuned_for: TunedFor) -> Path:
    ending = "" if tuned_for == "few" else f"-{tuned_for}"
    return data_folder() / "tuned" / shape.name / f"{method}{ending}.json"
