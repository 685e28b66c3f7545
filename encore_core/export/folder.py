"""An edited model as an ordinary transformers folder, with a model card and a report of its edits."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from encore_core.editing.batch_report import BatchReport
from encore_core.editing.edit_file import EditFile
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.export.card import (
    CARD_FILE,
    FACTS_FILE,
    SCORED_FACTS,
    SHOWN_FACTS,
    CardScores,
    card_scores,
    facts_csv,
    model_card,
)
from encore_core.facts import Fact
from encore_core.facts.joining import joined
from encore_core.models.building import BUILDING
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.start_token import REPORT_FILE
from encore_core.storage import WriteError, replacing, writing

_LIBRARIES = ("encore-studio", "torch", "transformers", "safetensors", "tokenizers", "numpy")


def check_output_folder(folder: Path) -> None:
    """Check that a folder can be written, before any work is done for it.

    Raises:
        InputError: when it exists and is not empty, or the place cannot be written to.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"The output folder {folder} exists and is not empty; give a new one.")
    check_writable(folder)


def check_writable(path: Path) -> None:
    """Check that a file can be written at a path; the folder above it is made if missing.

    Raises:
        InputError: when nothing can be written there.
    """
    probe = path.parent / f".{path.name[:100]}.{os.getpid()}.probe"
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not an empty file, which even a full disk accepts.
            probe.write_bytes(b"x")
        finally:
            with suppress(OSError):
                probe.unlink()


def write_model_folder(
    folder: Path,
    session: EditSession,
    reports: Sequence[BatchReport],
    facts_source: str,
    batch_size: int,
    progress: Progress | None = None,
    scored: int = SCORED_FACTS,
) -> None:
    """Write a session's edited model, load it again, check it, and only then move it into place.

    Args:
        folder: where to write it; replaced when it exists.
        session: whose edits to export.
        reports: of its batches, in order.
        facts_source: where the facts came from, for the report.
        batch_size: facts per batch, for the report.
        progress: called at each phase.
        scored: at most how many facts to score for the model card, before and after the edits; 0 for none.

    Raises:
        InputError: as `write_edited_model`.
    """
    report = edit_report(session, reports, facts_source, batch_size)
    made = [item.fact for batch in reports for item in batch.edited if item.is_edited]
    facts = [edit.fact for edit in session.live_edits()] if session.history else made
    if progress is not None:
        progress("Scoring for the model card", 0.0)
    matrices = session.matrices()
    scores = card_scores(session.lm, matrices, facts, scored)
    write_edited_model(folder, session.lm, matrices, report, progress, facts, scores)


def write_edited_model(
    folder: Path,
    lm: EditableModel,
    matrices: dict[int, torch.Tensor],
    report: dict[str, Any],
    progress: Progress | None = None,
    facts: Sequence[Fact] = (),
    scores: CardScores | None = None,
) -> None:
    """Write a model with edited matrices in it, load it again, check it, and only then move it into place.

    Args:
        folder: where to write it; replaced when it exists.
        lm: the model.
        matrices: by edited layer, as the family stores them.
        report: plain JSON values, written beside the weights as `REPORT_FILE`.
        progress: called at each phase.
        facts: the edited facts, in order, for the model card.
        scores: for the model card.

    Raises:
        InputError: when the reloaded model gives values that are not finite or is not the one written, or when it
            cannot be written. Nothing is left behind then.
    """
    tell = progress or (lambda what, share: None)
    try:
        with replacing(folder) as part:
            tell("Writing the edited model", 0.1)
            with lm.matrices_replaced(matrices):
                lm.save(part)
            (part / CARD_FILE).write_text(model_card(report, facts, scores), encoding="utf-8")
            if len(facts) > SHOWN_FACTS:
                (part / FACTS_FILE).write_bytes(facts_csv(facts))
            (part / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
            tell("Loading it again to check it", 0.6)
            _check(part, lm, matrices)
    except WriteError:
        raise
    except OSError as error:  # from loading it again
        raise InputError(f"The edited model cannot be written to {folder}: {error}") from error
    tell("Written", 1.0)


def write_edits(
    folder: Path,
    lm: EditableModel,
    edits: EditFile,
    source: Path,
    progress: Progress | None = None,
    scored: int = SCORED_FACTS,
) -> None:
    """Write a model with saved edits applied, as `write_edited_model` does.

    Args:
        folder, progress, scored: as for `write_model_folder`.
        lm: the base model.
        edits: from `edit_file.read_edit_file`.
        source: where they came from, for the report.

    Raises:
        InputError: when the edits belong to another model, and as `write_edited_model`.
    """
    matrices = edits.matrices_on(lm)
    kept = ("model", "base_fingerprint", "method", "settings", "seed", "prefixes", "n_edits", "dtype", "norms")
    report = {name: edits.values.get(name) for name in kept} | {
        "origin": lm.origin,
        "start_token": lm.start_text,
        "edits_source": str(source),
        "device": str(lm.device),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "edits_versions": edits.values.get("versions"),
        "facts": [fact.to_dict() for fact in edits.facts],
    }
    scores = card_scores(lm, matrices, edits.facts, scored)
    write_edited_model(folder, lm, matrices, report, progress, edits.facts, scores)


def _check(folder: Path, lm: EditableModel, matrices: dict[int, torch.Tensor]) -> None:
    with BUILDING:
        reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=lm.dtype, trust_remote_code=False)
    names = {id(parameter): name for name, parameter in lm.model.named_parameters()}
    weights = dict(reloaded.named_parameters())
    for layer, matrix in matrices.items():
        if not torch.equal(weights[names[id(lm.parameter(layer))]].detach(), matrix.cpu()):
            raise InputError(f"The export's matrix of layer {layer} is not the edited one; nothing was written.")
    with torch.no_grad():
        logits = reloaded(torch.tensor([lm.tokenizer("The capital of France is")["input_ids"]])).logits
    if not bool(torch.isfinite(logits).all()):
        raise InputError("The exported model gives values that are not finite; nothing was written. Use fewer edits.")


def edit_report(
    session: EditSession, reports: Sequence[BatchReport], facts_source: str, batch_size: int
) -> dict[str, Any]:
    """The report of a session's edits, as plain JSON values.

    Args:
        session: whose edits they are.
        reports: of its batches, in order.
        facts_source: where the facts came from.
        batch_size: facts per batch.
    """
    lm = session.lm
    return {
        "model": lm.name,
        "origin": lm.origin,
        "base_fingerprint": lm.fingerprint,
        "start_token": lm.start_text,
        "method": session.settings.method,
        "settings": asdict(session.settings),
        "seed": session.seed,
        "prefixes": list(session.prefixes_read),
        "facts_source": str(facts_source),
        "batch_size": batch_size,
        "n_edits": session.n_edits,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "norms": {
            str(layer): {"original": before, "edited": after} for layer, (before, after) in session.norms().items()
        },
        "batches": [_batch_entry(report) for report in reports],
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _batch_entry(report: BatchReport) -> dict[str, Any]:
    return {
        "seconds": {phase: round(seconds, 4) for phase, seconds in report.seconds.items()},
        "norms": {str(layer): {"before": before, "after": after} for layer, (before, after) in report.norms.items()},
        "notices": list(report.notices),
        "facts": [
            {
                "id": item.fact.id,
                "subject": item.fact.subject,
                "prompt": item.fact.prompt,
                "target_new": item.fact.target_new,
                "text": joined(item.fact.text, item.fact.target_new, item.fact.join),
                "steps": item.steps,
                "stopped": item.stopped,
                "probability_before": _finite(item.probability_before),
                "probability_after": _finite(item.probability_after),
                "probability_without_start_token": _finite(item.probability_bare),
            }
            for item in report.edited
        ],
        "taken_back": [
            {"subject": one.fact.subject, "prompt": one.fact.prompt, "target_new": one.fact.target_new}
            for one in report.retracted
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
