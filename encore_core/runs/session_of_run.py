"""What comes before a run's first batch: a session on its model, restored to the saved state, and facts that fit.

What a run was started with is compared here with what there is now. A resumed run goes on with the same model, settings
and key statistics, or it is refused with a message on what has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from encore_core import processes
from encore_core.editing.covariance import SAMPLED_TEXT, text_named
from encore_core.editing.session import EditSession
from encore_core.editing.stored_statistics import folder_of as statistics_folder
from encore_core.errors import InputError, quoted
from encore_core.export.folder import versions
from encore_core.facts import Fact
from encore_core.forward.prompts import encode_contexts, encode_subject_prompts
from encore_core.methods import MARKS, SETTABLE, recorded_settings
from encore_core.models.editable import EditableModel
from encore_core.runs import key_statistics
from encore_core.runs.heartbeat import Pulse
from encore_core.runs.model_keeper import ModelKeeper
from encore_core.runs.resume_state import load_state, remove_others
from encore_core.runs.rows import Claim, RunInfo
from encore_core.runs.store import RunStore

log = logging.getLogger(__name__)

CHECKED_AT_ONCE = 500
"""Facts that are tokenised together before the first edit."""


def open_session(
    store: RunStore, claim: Claim, info: RunInfo, pulse: Pulse, models: ModelKeeper, threads: int
) -> EditSession:
    """A session with the run's settings on its model.

    Args:
        store: where the run is.
        claim: the caller's right to it.
        info: its row when it was claimed.
        pulse: of the run.
        models: gives its model.
        threads: of torch.

    Raises:
        InputError: when the model, or what the settings mean, is no longer what the run was started with.
    """
    plan = info.plan
    lm = models.get(plan, threads, pulse.show)
    pulse.check()
    if info.fingerprint not in (None, lm.fingerprint):
        then = info.versions.get("model")
        raise InputError(
            f"The model {quoted(plan.model)} has changed since the run was started (fingerprint {lm.fingerprint}, "
            f"then {info.fingerprint}{f', {then}' if then else ''}); put the model back, or start a new run."
        )
    text, files = _statistics(store, info, lm)
    session = EditSession(
        lm,
        plan.method,
        seed=plan.seed,
        # Not the plan's overrides: what has been tuned or forgotten here since the run was started does not count.
        settings={name: value for name, value in recorded_settings(info.settings).items() if name in SETTABLE},
        statistics_text=text,
        keep_history=False,
        statistics_files=files,
    )
    now = asdict(session.settings) | {"layers": list(session.settings.layers)}
    for name, value in info.settings.items():
        if name not in MARKS and now.get(name) != value:
            raise InputError(
                f"Setting {name} is {quoted(now.get(name))} in this version of the program and was {quoted(value)} "
                "when the run was started; use that version, or start a new run."
            )
    store.note(
        claim,
        fingerprint=lm.fingerprint,
        start_token=[lm.start_text] if lm.start_text is not None else [],
        threads=threads,
        # The commit behind a hub name, because a branch moves on.
        versions=versions() | ({"model": lm.origin} if lm.origin else {}),
        code_commit=processes.commit(),
    )
    log.info("%s on %s, %d threads, %s.", plan.method, plan.model, threads, lm.device)
    return session


def _statistics(store: RunStore, info: RunInfo, lm: EditableModel) -> tuple[Path | None, dict[int, Path] | None]:
    """The text and the files of the run's statistics: those it was submitted with, whatever was chosen since.

    Raises:
        InputError: when they are no longer what they were then.
    """
    text = text_named(info.plan.statistics_text)
    if info.statistics_used and store.states(info.id):
        # The saved state holds what was computed from them, so they need not exist any more.
        folder = statistics_folder(lm.texts_key)
        return text or SAMPLED_TEXT, {row["layer"]: folder / row["file"] for row in info.statistics_used}
    if not info.statistics_wanted:  # submitted by an earlier version of the program
        return text, None
    n_tokens = info.settings["statistics_tokens"]
    sent = store.folder_of(info.id) / key_statistics.SENT
    return text or SAMPLED_TEXT, key_statistics.files_of(lm, info.statistics_wanted, n_tokens, text, sent)


def restore(store: RunStore, claim: Claim, pulse: Pulse, session: EditSession) -> int:
    """Restore the session to the run's saved state. Returns the number of facts handled."""
    folder = store.folder_of(claim.id)
    saved = store.states(claim.id)
    edits = load_state(folder, saved, session) if saved else 0
    store.rewind(claim, edits)
    remove_others(folder, [state.file for state in saved if state.edits <= edits])
    if edits:
        log.info("Resumed after %d edits.", edits)
    pulse.tell(done=edits)
    return edits


def check_facts(session: EditSession, facts: Sequence[Fact], done: int, pulse: Pulse) -> None:
    """Refuse facts after the first `done` that cannot be edited: now, not hours later when their turn comes.

    Raises:
        InputError: naming the first of them.
    """
    lm = session.lm
    pulse.tell(phase="getting ready", what="facts")
    longest = sorted(session.prefixes_read, key=len)[-1:]
    for start in range(done, len(facts), CHECKED_AT_ONCE):
        some = facts[start : start + CHECKED_AT_ONCE]
        try:
            _check_editable(lm, some, longest)
        except InputError:
            # Find out which of them it is.
            for place, fact in enumerate(some, start):
                try:
                    _check_editable(lm, [fact], longest)
                except InputError as error:
                    raise InputError(f"Fact {place + 1} of the run cannot be edited: {error}") from error
            raise
        pulse.check()


def _check_editable(lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> None:
    """Check that all texts with which facts are edited can be tokenised and fit the model."""
    encode_contexts(lm, facts, prefixes)
    encode_subject_prompts(lm, facts)


def note_statistics(store: RunStore, claim: Claim, session: EditSession, done: int) -> None:
    """Record the statistics that the session has read; for a resumed run this was done when it began."""
    if not done:
        store.note(claim, statistics_used=key_statistics.used(session.statistics_files))
    if used := store.get(claim.id).statistics_used:
        log.info("Key statistics: %s.", key_statistics.described(used))
