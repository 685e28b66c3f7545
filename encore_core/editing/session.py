"""Edit sessions: apply batches of facts, undo them, start over; the base weights stay unchanged.

A batch goes facts → targets (`targets`) → keys (`keys`) → update (`update_rule`) → edited matrices
(`edited_matrices`); see `batch`. The session owns its edited matrices and puts them into the shared model only while it
runs it, under the model's lock. A batch writes to a draft. What a session holds is one immutable `Contents`, which a
successful batch replaces, so a batch that fails anywhere, for whatever reason, changes nothing. A retraction is an
entry of the history as a batch is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from encore_core.autograd import gradients
from encore_core.editing.answer_gradients import solve_by_gradients
from encore_core.editing.batch import (
    GivenTargets,
    SolvedBatch,
    checked_facts,
    edited_facts,
    find_targets,
    solve_batch,
)
from encore_core.editing.batch_measures import look_after, look_before, norms_as_run
from encore_core.editing.batch_report import AppliedBatch, BatchReport, OnProgress, Place, notices_of
from encore_core.editing.edit_list import Wanted, chosen_edits, overwritten
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.edited_model import EditedModel
from encore_core.editing.fine_tuning import solve_by_fine_tuning
from encore_core.editing.helpers import Helpers
from encore_core.editing.norm_anchor import too_far
from encore_core.editing.retraction import RetractionLook, keys_notices, set_back, take_out
from encore_core.editing.session_state import SessionState, check_identity, contents_of, state_of
from encore_core.editing.shared_by_sessions import forget_initial_P, inverse_of_initial_P
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import Target, optimise_targets
from encore_core.editing.what_is_kept import Memory
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.methods import GRADIENTS
from encore_core.models.editable import Progress


class EditSession(EditedModel):
    """One person's edits of one model.

        session = EditSession(load_model("smollm2-135m"), method="ENCORE")
        report = session.edit([Fact("France", "The capital of {} is", "Rome")])
        session.retract([("France", "The capital of {} is")])
        session.undo()

    Args:
        lm: the model; sessions on the same object share its base weights.
        method: a name from `methods.METHODS`.
        seed: of the sampled prefixes.
        settings: overrides of the method's settings, see `methods.SETTABLE`.
        statistics_text: text file for C0; by default the statistics chosen for the model (see `statistics`), and the
            bundled sample for layers without a choice.
        keep_history: keep batches so that they can be undone. A run of thousands of edits does not.
        fast_targets: use the fast target pass where the model takes it (see `targets`).
        hold: "matrices" holds edited matrices between runs; "factors" holds only the batches' thin factors, and one
            set of matrices serves all such sessions on a model; "auto" decides by the free memory (see
            `session_contents.ROOM_FOR_SESSIONS`). Without history it is always "matrices".
        statistics_files: by edited layer, the file of its C0, which is gathered from `statistics_text` if missing; by
            default what `covariance.files_used` gives at the first edit.

    Raises:
        InputError: unknown method or setting.
    """

    helpers: Helpers | None = None
    """Who shares the work of its batches; set by who has them, see `team`."""

    # -- preparation ---------------------------------------------------------------------------------------------------

    def prepare(self, progress: Progress | None = None) -> None:
        """Gather in advance what the first edit needs: prefixes, statistics, the initial P."""
        with self.pristine() as lm:
            if not self._contents.preservation:  # a restored session has it
                self._used = self._statistics_files()
                self._initial_preservation(self._used, progress)
            self.anchor(progress)
            F = self.metric(progress)
            # One step on any fact finds out whether the model takes the fast pass, and warms up the kernels.
            if (
                self.fast_targets
                and not self.settings.from_gradients
                and self.settings.layers[-1] not in lm.checked_paths
            ):
                once = replace(target_settings(self.settings), steps=1)
                fact = Fact("Paris", "The city of {} is in", "France")
                optimise_targets(lm, [fact], self.prefixes, self.settings.layers[-1], once, F=F)

    def stop_sharing(self) -> None:
        """Let the model forget the initial P that it keeps for other sessions with these settings.

        After some batches a session has its own P (see `Preservation`). In a run of thousands of edits the initial P
        would then be kept for nothing: 8 GB for Llama-3-8B, for sessions that nobody will begin.
        """
        with self.pristine() as lm:
            if not self._contents.preservation:
                self._used = self._statistics_files()
                self._contents = replace(self._contents, preservation=self._initial_preservation(self._used))
            forget_initial_P(lm, self.settings, self._statistics_files())

    # -- editing -------------------------------------------------------------------------------------------------------

    @gradients(False)
    def edit(
        self,
        facts: Sequence[Fact],
        *,
        known: Literal["refuse", "skip", "edit"] = "refuse",
        measure: bool = True,
        targets: GivenTargets = None,
        on_progress: OnProgress | None = None,
    ) -> BatchReport:
        """Apply facts as one batch. With history, a fact that was edited before is taken back first (see `retract`).

        Args:
            facts: the batch; exact duplicates are dropped with a notice.
            known: what to do with a fact that the model says already and that was not edited before: refuse the batch,
                skip the fact with a notice, or edit it anyway.
            measure: report the probability of every new answer before and after (three short passes).
            targets: one per fact, found by `find_targets` on the model in its present state (`known` must then be
                "edit"), or a function that finds them for the facts that are edited; by default they are found here.
            on_progress: called after steps and layers.

        Returns:
            what was done. If this method raises an exception, the session is as it was before, bit for bit; an
            interruption after the batch was committed leaves it as it is after the batch.

        Raises:
            InputError: no facts, facts that contradict each other, that do not fit the model's context, or that the
                model says already.
        """
        facts, notices = checked_facts(facts, targets, known)
        with self.pristine() as lm:
            started = time.perf_counter()
            before, skipped = look_before(lm, self._contents, facts, known, measure)
            chosen = [fact for fact in facts if fact not in skipped]
            ended, _ = overwritten(self._contents.history, chosen, self.takes_back)
            notices += notices_of(lm, chosen, skipped)
            looked = time.perf_counter()
            norms_before = norms_as_run(lm, self._contents.sums(), self.settings.layers) if chosen else {}
            batch, statistics = self._solve(chosen, ended, targets, on_progress)
            measured = time.perf_counter()
            after, bare = look_after(lm, batch.draft, facts, measure)
            seconds = batch.seconds | {"measuring": looked - started + time.perf_counter() - measured}
            norms_after = norms_as_run(lm, batch.draft, batch.updates)
            edited = [fact for fact in chosen if not any(fact is one for one in batch.far)]
            _, replaced = overwritten(self._contents.history, edited, self.takes_back)  # not those that are too far
            report = BatchReport(
                edited=edited_facts(batch, facts, edited, before, after, bare, self.settings.from_gradients),
                seconds=seconds,
                norms={layer: (norms_before[layer], norms_after[layer]) for layer in batch.updates},
                notices=(*notices, *replaced, *batch.notices, *map(too_far, batch.far)),
            )
            if edited:
                self._commit(batch, statistics, report, edited)
        return report

    @gradients(False)
    def retract(
        self, edits: Sequence[Wanted], *, measure: bool = True, on_progress: OnProgress | None = None
    ) -> BatchReport:
        """Take edits back, whichever of the history: matrices and P become what they would be without them.

        Facts that do not give their first answers then, because of other edits, are set back to them. See `removal` and
        `retraction`. A retraction is an entry of the history, so `undo` brings the edits back.

        Args:
            edits: facts, their keys (subject, prompt), or the numbers that `edits()` gives. A key means the last edit
                of a fact.
            measure: report what the retraction leaves behind (six short passes).
            on_progress: called after layers.

        Returns:
            what was done, in `retracted` and `others`. If this method raises an exception, the session is as it was
            before, bit for bit.

        Raises:
            InputError: for no edit, one that is not there, was overwritten or taken back already; when the session
                keeps no history, or its method cannot take one edit back.
        """
        self.check_takes_back()
        s = self.settings
        with self.pristine() as lm:
            contents, started = self._contents, time.perf_counter()
            gone = chosen_edits(contents.history, edits)
            ended, _ = overwritten(contents.history, [edit.fact for edit in gone])
            others = [edit for edit in self.live_edits() if edit.place not in ended]
            norms_before = norms_as_run(lm, contents.sums(), s.layers)
            look = RetractionLook(lm, contents.sums(), gone, others, measure)
            looked = time.perf_counter()
            statistics, draft = self._statistics_files(), contents.matrices.draft(contents.updates, s.layers)
            batch = self._taken_out(ended, contents.preservation, draft, statistics, on_progress)
            batch = set_back(lm, look.not_back(draft), self.prefixes, s, batch)
            solved = time.perf_counter()
            retracted, changed = look.after(draft)
            norms_after = norms_as_run(lm, draft, s.layers)
            measuring = looked - started + time.perf_counter() - solved
            report = BatchReport(
                edited=(),
                seconds=batch.seconds | {"update": solved - looked, "measuring": measuring},
                norms={layer: (norms_before[layer], norms_after[layer]) for layer in s.layers},
                notices=keys_notices(contents.history),
                retracted=retracted,
                others=changed,
            )
            self._commit(batch, statistics, report, ())
        return report

    def _taken_out(
        self,
        ended: tuple[Place, ...],
        preservation: dict[int, Memory],
        draft: Sums,
        statistics: dict[int, Path],
        on_progress: OnProgress | None = None,
    ) -> SolvedBatch:
        """Take edits out of a draft and of P. The caller holds the model's lock."""
        lm, s, text = self.lm, self.settings, self.statistics_text
        start = self._initial_preservation(statistics)
        return take_out(
            lm, self._contents.history, ended, start, preservation,
            lambda layer: inverse_of_initial_P(lm, s, layer, start[layer].start, statistics, text),
            draft, sequential=s.sequential, on_progress=on_progress,
        )  # fmt: skip

    def _solve(
        self, facts: Sequence[Fact], ended: tuple[Place, ...], targets: GivenTargets, on_progress: OnProgress | None
    ) -> tuple[SolvedBatch, dict[int, Path]]:
        """Solve a batch on a draft of the session's matrices. Returns it, and by layer the file behind the initial P.

        Without facts (all were skipped) nothing is solved. Edits that have ended are taken out first.
        """
        if not facts:
            return SolvedBatch.of_nothing(self._contents.sums()), {}
        statistics = self._statistics_files()
        preservation = self._contents.preservation or self._initial_preservation(statistics)
        with self.pristine() as lm:
            draft = self._contents.matrices.draft(self._contents.updates, self.settings.layers)
            removed = {}
            if ended:
                taken = self._taken_out(ended, preservation, draft, statistics)
                removed, preservation = taken.removed, taken.preservation
            if self.settings.from_gradients:
                solve = solve_by_gradients if self.settings.preservation in GRADIENTS else solve_by_fine_tuning
                return solve(lm, facts, self.settings, preservation, draft, on_progress), statistics
            batch = solve_batch(
                lm,
                facts,
                self.prefixes,
                self.settings,
                preservation,
                draft,
                targets=targets,
                fast_targets=self.fast_targets,
                F=self.metric(),
                anchor=self.anchor(),
                helpers=self.helpers,
                on_progress=on_progress,
            )
        kept_out = {fact.key for fact in batch.far}
        if ended and kept_out:
            # An earlier edit of a fact that is not edited after all must stay: solve again without that fact.
            rest = [fact for fact in facts if fact.key not in kept_out]
            ended, _ = overwritten(self._contents.history, rest, self.takes_back)
            again, statistics = self._solve(
                rest, ended, None if isinstance(targets, Sequence) else targets, on_progress
            )
            return replace(again, far=(*batch.far, *again.far)), statistics
        return replace(batch, ended=ended, removed=removed), statistics

    def _commit(
        self, batch: SolvedBatch, statistics: dict[int, Path], report: BatchReport, facts: Sequence[Fact]
    ) -> None:
        """Take a batch over in one assignment, before which nothing of the session has changed."""
        applied = AppliedBatch(report, batch.updates, batch.ended, batch.removed)
        contents = self._contents.with_batch(
            batch, applied, facts, sequential=self.settings.sequential, keep_history=self.keep_history
        )
        self._used, self._contents = statistics, contents
        for compact in contents.compacted():
            self._contents = compact

    @gradients(False)
    def find_targets(
        self, facts: Sequence[Fact], *, mpes: bool | None = None, on_progress: OnProgress | None = None
    ) -> list[Target]:
        """Find the targets of an edit of these facts, without editing. With NAS the edit brings them to one norm first.

        Args:
            facts: any; each is optimised by itself.
            mpes: whether targets stop early; by default the session's setting.
            on_progress: called after steps.

        Returns:
            one target per fact, in order.

        Raises:
            InputError: facts that do not fit the model's context; a method without targets.
        """
        if self.settings.from_gradients:
            raise InputError(f"{self.settings.method} edits without targets; choose a method that has them.")
        wanted = target_settings(self.settings)
        wanted = wanted if mpes is None else replace(wanted, mpes=mpes)
        prefixes, F = self.prefixes, self.metric()
        with self.edited() as lm:
            return find_targets(
                lm, facts, prefixes, self.settings.layers[-1], wanted, F, self.fast_targets, on_progress
            )

    # -- history -------------------------------------------------------------------------------------------------------

    def undo(self) -> AppliedBatch:
        """Undo the last batch or retraction. Every matrix is bit for bit what it was before that.

        Returns:
            what was undone.

        Raises:
            InputError: when there is nothing to undo.
        """
        history = self._contents.history
        if not history:
            why = "this session keeps no history" if not self.keep_history else "no edit has been made"
            raise InputError(f"There is nothing to undo: {why}.")
        with self.pristine():
            self._restore(history[:-1])
        return history[-1]

    def reset(self) -> int:
        """Forget every edit. Returns how many batches were dropped."""
        with self.pristine():
            n_batches = len(self._contents.history)
            self._restore(())
        return n_batches

    def _restore(self, batches: Sequence[AppliedBatch]) -> None:
        """Replay batches on the base weights: the same sums in the same order give the same bits."""
        used = self._statistics_files() if batches else self._given_files
        preservation = self._initial_preservation(used) if batches else {}
        contents = self._contents.replayed(batches, preservation, sequential=self.settings.sequential)
        self._used, self._contents = used, contents

    def load_history(self, batches: Sequence[AppliedBatch], prefixes: Sequence[str]) -> None:
        """Replace this session's batches by those that another one applied with these settings on this model.

        Args:
            batches: in order, from the base weights on.
            prefixes: sampled prefixes of that session.

        Raises:
            InputError: when a sum of them is not finite, or this session keeps no history. The session is as it was
                before.
        """
        if not self.keep_history:
            raise InputError("This session keeps no history, so it cannot take batches over; make one that does.")
        with self.pristine() as lm:
            sums = Sums.added_up(lm, [updates for batch in batches for updates in batch.all_updates])
            if not all(bool(torch.isfinite(matrix).all()) for matrix in sums.run.values()):
                raise InputError("The batches add up to values that are not finite, so they are not taken over.")
            self._restore(batches)
            self._restored_prefixes = tuple(prefixes)

    # -- continuing elsewhere ------------------------------------------------------------------------------------------

    def state(self) -> SessionState:
        """What another session on the same model needs to continue from here with the same bits. It has no history."""
        with self.pristine():
            return state_of(self._contents, self.exact_matrices(), self.prefixes_read, self._identity())

    def restore(self, state: SessionState) -> None:
        """Replace this session's edits by a saved state. It keeps no history from then on, so nothing can be undone.

        Raises:
            InputError: when the state is of another model, method, seed or settings, or incomplete. The session is as
                it was before.
        """
        check_identity(state, self._identity())
        with self.pristine() as lm:
            contents, prefixes = contents_of(state, lm), tuple(state.values["prefixes"])
            # An undo replays the history on the base weights, but this session does not begin from them.
            self.keep_history, self.holds_factors = False, False
            self._restored_prefixes, self._contents = prefixes, contents
