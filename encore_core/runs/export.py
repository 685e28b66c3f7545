"""Files made from the store: series as CSV, the settings as JSON, the edits as a file, the edited model as a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from encore_core.editing.batch_report import NOT_EDITED
from encore_core.editing.edit_file import head_of, matrices_file, write_edit_file
from encore_core.errors import InputError, quoted
from encore_core.export.card import CardScores
from encore_core.export.folder import check_output_folder, versions, write_edited_model
from encore_core.facts import Fact
from encore_core.measures.intervals import Interval
from encore_core.measures.norms import matrix_norms, norm_ratios
from encore_core.measures.scores import PROTOCOL
from encore_core.measures.task_sets import HUB, hub_folder
from encore_core.methods import SETTABLE
from encore_core.models.editable import EditableModel, Progress, load_model
from encore_core.runs import series
from encore_core.runs.plan import WITH_OPTIONS, MeasurePlan, RunPlan
from encore_core.runs.resume_state import load_matrices
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore
from encore_core.storage import WriteError, replacing

SETTINGS_FILE = "run.json"
MODEL_FOLDER = "model"
EDITS_FILE = "edits.safetensors"

Edited = tuple[EditableModel, dict[int, torch.Tensor], list[Fact]]
"""A run's base model, its edited matrices in the model's number format, and the facts in them."""


def export_run(
    store: RunStore,
    run_id: str,
    folder: Path,
    with_model: bool = False,
    progress: Progress | None = None,
    with_edits: bool = False,
) -> list[Path]:
    """Write a run into a new folder: a CSV file for each series, `run.json`; `model/`, `EDITS_FILE` when asked for.

    Args:
        store: where the run is.
        run_id: which run.
        folder: must not exist or be empty.
        with_model: whether to write the edited model, too: as it is at the end, or as it was last saved.
        progress: gets the phases of writing the model.
        with_edits: whether to write its edits as an edit file, too (see `export_edits`).

    Returns:
        what was written.

    Raises:
        InputError: unknown run, a folder that cannot be written, a model that has changed or was never saved.
    """
    run = store.get(run_id)
    check_output_folder(folder)
    # Before anything is written: what refuses the model would leave a folder that a second try refuses.
    edited = _edited(store, run, progress) if with_model or with_edits else None
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in series.ALL:
            written.append(folder / f"{name}.csv")
            with replacing(written[-1]) as part:
                part.write_bytes(series_csv(store, name, [run.id]))
        written.append(folder / SETTINGS_FILE)
        with replacing(written[-1]) as part:
            part.write_text(json.dumps(settings_of_run(run), indent=1, ensure_ascii=False), encoding="utf-8")
    except WriteError:
        raise
    except OSError as error:
        raise InputError(f"The run cannot be exported to {folder}: {error.strerror or error}.") from error
    if with_edits:
        written.append(folder / EDITS_FILE)
        _write_edits(run, edited, written[-1])
    if with_model:
        written.append(folder / MODEL_FOLDER)
        _write_model(store, run, edited, written[-1], progress)
    return written


def series_csv(store: RunStore, name: str, ids: Sequence[str]) -> bytes:
    """Every row of a series of some runs as CSV, safe in a spreadsheet.

    Args:
        store: where the runs are.
        name: from `series.ALL`.
        ids: of the runs.

    Raises:
        InputError: for an unknown series.
    """
    if name not in series.ALL:
        raise InputError(f"Unknown series {quoted(name)}; choose one of {', '.join(series.ALL)}.")
    return series.as_csv(series.every_row(store, name, ids))


def settings_of_run(run: RunInfo) -> dict[str, Any]:
    """Everything that decided what the run did, as plain JSON values, and the command that repeats it."""
    return run.as_dict() | {"command": command_line(run.plan)}


def command_line(plan: RunPlan) -> str:
    """The `encore run` command that repeats a plan, quoted for a shell."""
    words = ["encore", "run", "--model", plan.model, "--method", plan.method, "--facts", plan.facts]
    words += ["--find-subjects"] * plan.find_subjects + ["--skip-bad"] * plan.skip_bad
    words += ["--edits", str(plan.n_edits)] if plan.n_edits else []
    words += ["--batch-size", str(plan.batch_size)]
    words += ["--checkpoint-every", str(plan.checkpoint_every)] if plan.checkpoint_every else []
    default, measure = RunPlan(), plan.measure
    for option, value, usual in (
        ("--name", plan.name, default.name),
        ("--order", plan.order, default.order),
        ("--seed", plan.seed, default.seed),
        ("--known", plan.known, default.known),
        ("--device", plan.device, default.device),
        ("--dtype", plan.dtype, default.dtype),
        ("--start-token", plan.start_token, default.start_token),
        ("--workers", plan.workers, default.workers),
        ("--statistics-text", plan.statistics_text, default.statistics_text),
        ("--downstream", HUB if measure.downstream == str(hub_folder().absolute()) else measure.downstream, None),
        ("--protocol", ",".join(measure.protocols), ",".join(default.measure.protocols)),
        *_of_answers(measure),
    ):
        words += [option, str(value)] if value != usual else []
    for name, value in plan.overrides.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += ["--set", f"{name}={text}"]
    for name, value in vars(measure).items():
        if name not in WITH_OPTIONS and value != getattr(MeasurePlan(), name):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += ["--measure", f"{name}={'none' if value is None else text}"]
    return shlex.join(words)


def _of_answers(measure: MeasurePlan) -> list[tuple[str, Any, Any]]:
    """Options on generated answers that go with a plan, their values and the usual ones."""
    usual, options = MeasurePlan(), []
    if "generated" in measure.protocols:
        options += [("--chat", measure.chat, usual.chat), ("--max-tokens", measure.max_tokens, None)]
    if measure.judge is not None:
        options += [
            ("--judge", measure.judge, None),
            ("--judge-model", measure.judge_model, None),
            ("--judge-seconds", f"{measure.judge_seconds:g}", f"{usual.judge_seconds:g}"),
        ]
    return options


def export_model(store: RunStore, run_id: str, folder: Path, progress: Progress | None = None) -> int:
    """Write a run's edited model as an ordinary transformers folder, loaded again and checked.

    Args:
        store, run_id: which run.
        folder: where to; must not exist or be empty.
        progress: gets the phases.

    Returns:
        how many facts have been edited in it.

    Raises:
        InputError: when nothing was saved yet, the model is no longer the one that was edited, or it cannot be written.
    """
    run = store.get(run_id)
    check_output_folder(folder)
    return _write_model(store, run, _edited(store, run, progress), folder, progress)


def _write_model(store: RunStore, run: RunInfo, edited: Edited, folder: Path, progress: Progress | None) -> int:
    lm, matrices, facts = edited
    before = matrix_norms({layer: lm.matrix(layer) for layer in matrices})
    after = matrix_norms(matrices)
    ratios = norm_ratios(after, before)
    report = settings_of_run(run) | {
        "origin": lm.origin,
        "n_edits": len(facts),
        "norms": {
            str(layer): {"original": before[layer], "edited": after[layer], "ratio": ratios[layer]} for layer in after
        },
    }
    write_edited_model(folder, lm, matrices, report | {"method": run.method}, progress, facts, _run_scores(store, run))
    return len(facts)


def export_edits(store: RunStore, run_id: str, path: Path, progress: Progress | None = None) -> int:
    """Write a run's edits as an edit file, which can be applied to the base model (see `edit_file`).

    Long runs keep no history, so it holds the edited matrices.

    Args:
        store, run_id: which run.
        path: the file; an existing one is replaced.
        progress: gets the phases.

    Returns:
        how many facts have been edited.

    Raises:
        InputError: as `export_model`.
    """
    run = store.get(run_id)
    return _write_edits(run, _edited(store, run, progress), path)


def _write_edits(run: RunInfo, edited: Edited, path: Path) -> int:
    lm, matrices, facts = edited
    values = head_of(lm, matrices) | {
        "method": run.method,
        "settings": {name: value for name, value in run.settings.items() if name in SETTABLE},
        "seed": run.plan.seed,
        "prefixes": [],  # edits cannot be continued from matrices alone
        "n_edits": len(facts),
    }
    write_edit_file(path, matrices_file(values, matrices, facts), versions())
    return len(facts)


def _edited(store: RunStore, run: RunInfo, progress: Progress | None) -> Edited:
    """What was edited, as last saved.

    Raises:
        InputError: when nothing was saved yet, no fact was edited, or the model is no longer the one that was edited.
    """
    matrices, edits = load_matrices(store.folder_of(run.id), store.states(run.id))
    facts = _edited_facts(store, run, run.n_edits if edits is None else edits)
    plan = run.plan
    lm = load_model(plan.model, plan.device, plan.dtype, progress, plan.start_token)
    if lm.fingerprint != run.fingerprint:
        raise InputError(
            f"The model {quoted(plan.model)} has changed since run {run.id} was started (fingerprint {lm.fingerprint}, "
            f"then {run.fingerprint}); put the model back to export the run."
        )
    # A saved state holds sums that are more precise than a 16-bit model's weights.
    matrices = {layer: matrix.to(lm.parameter(layer).device, lm.dtype) for layer, matrix in matrices.items()}
    return lm, matrices, facts


def _edited_facts(store: RunStore, run: RunInfo, reached: int) -> list[Fact]:
    """The run's facts up to a place, without those that were not edited.

    Raises:
        InputError: when none was edited.
    """
    ends = series.every_row(store, "targets", [run.id])
    left_alone = set(ends.loc[ends["stopped"].isin(NOT_EDITED), "fact"])
    facts = [fact for place, fact in enumerate(store.facts(run.id)[:reached]) if place not in left_alone]
    if not facts:
        raise InputError(f"Run {run.id} has edited none of its first {reached:,} facts, so there is nothing to export.")
    return facts


def _run_scores(store: RunStore, run: RunInfo) -> CardScores | None:
    """The run's own scores of a sample of its facts, first and last."""
    found = sample_scores(store, run)
    if not found:
        return None
    first, last = found[min(found)], found[max(found)]
    protocols = run.protocols.values() or (PROTOCOL,)
    return CardScores(min(run.plan.measure.sample_facts, max(found)), first, last, protocols=tuple(protocols))


def sample_scores(store: RunStore, run: RunInfo) -> dict[int, dict[str, Interval | None]]:
    """Scores of a sample of a run's facts at each checkpoint that has them: edits → metric → score with its interval.

    The interval is missing, and n is 0, in runs that were recorded without values per fact.
    """
    frame = series.every_row(store, "scores", [run.id])
    frame = frame[(frame["subset"] == "sample") & (frame["metric"] != "facts")]
    found: dict[int, dict[str, Interval | None]] = {}
    for row in frame.itertuples():
        low, high = (None if end != end else float(end) for end in (row.low, row.high))
        n = 0 if row.n != row.n else int(row.n)
        score = None if row.value != row.value else Interval(float(row.value), low, high, n)
        found.setdefault(int(row.edits), {})[row.metric] = score
    return found
