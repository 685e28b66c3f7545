"""Edit sessions: apply batches of facts, undo them, start over; the base weights stay pristine.

A batch goes facts → targets (`targets`) → keys (`keys`) → update (`update_rule`) → edited matrices
(`edited_matrices`); see `batch`. The session owns its edited matrices and puts them into the shared model only while it
runs it, under the model's lock. A batch writes to a draft. What a session holds is one `Contents`, which nobody
changes: a batch that went well puts another in its place, so one that failed anywhere, for whatever reason, has changed
nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from encore_core.autograd import gradients
from encore_core.editing.batch import SolvedBatch, checked_facts, find_targets, solve_batch
from encore_core.editing.batch_measures import look_after, look_before, norm, norms_as_run
from encore_core.editing.batch_report import AppliedBatch, BatchReport, EditedFact, OnProgress, notices_of
from encore_core.editing.covariance import described, files_used
from encore_core.editing.edited_matrices import EditedMatrices, Sums
from encore_core.editing.session_contents import Contents, memory_is_short
from encore_core.editing.session_state import SessionState, check_identity, contents_of, identity_of, state_of
from encore_core.editing.shared_by_sessions import forget_initial_P, initial_preservation, shared_prefixes
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import Target, optimise_targets
from encore_core.editing.update_rule import Preservation
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of

log = logging.getLogger(__name__)


class EditSession:
    """One person's edits of one model.

        session = EditSession(load_model("smollm2-135m"), method="ENCORE")
        report = session.edit([Fact("France", "The capital of {} is", "Rome")])
        session.undo()

    Args:
        lm: the model; sessions on the same object share its base weights.
        method: a name from `methods.METHODS`.
        seed: of the sampled prefixes.
        settings: overrides of the method's settings, see `methods.SETTABLE`.
        statistics_text: text file for C0; by default the statistics that were chosen for the model (see `statistics`),
            and the bundled sample for layers without.
        keep_history: remember batches so that they can be undone. A run of thousands of edits does without.
        fast_targets: use the fast target pass where the model takes it (see `targets`).
        hold: "matrices" holds edited matrices between runs; "factors" holds the batches' thin factors alone, and one
            set of matrices serves all such sessions on a model; "auto" decides by the free memory (see
            `contents.ROOM_FOR_SESSIONS`). Without history it is always "matrices".
        statistics_files: per edited layer the file of its C0, there or to be gathered from `statistics_text`, as
            `covariance.files_used` gives them; by default what that gives when the first edit is made.

    Attributes:
        history: the batches so far, in order; empty for a session that keeps none.
        n_edits: how many facts were edited.

    Raises:
        InputError: unknown method or setting.
    """

    def __init__(
        self,
        lm: EditableModel,
        method: str = "ENCORE",
        *,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        statistics_text: Path | None = None,
        keep_history: bool = True,
        fast_targets: bool = True,
        hold: Literal["auto", "matrices", "factors"] = "auto",
        statistics_files: Mapping[int, Path] | None = None,
    ):
        self.lm = lm
        self.settings = settings_of(lm, method, settings)
        self.seed = seed
        self.statistics_text = statistics_text
        self.keep_history = keep_history
        self.fast_targets = fast_targets
        self.holds_factors = keep_history and (
            hold == "factors" or (hold == "auto" and memory_is_short(lm, self.settings.layers))
        )
        self._contents = Contents(EditedMatrices(lm, self.holds_factors))
        self._restored_prefixes: tuple[str, ...] | None = None
        self._given_files = dict(statistics_files) if statistics_files else None
        self._used = self._given_files

    @property
    def history(self) -> list[AppliedBatch]:
        return list(self._contents.history)

    @property
    def n_edits(self) -> int:
        return self._contents.n_edits

    # -- running the model ---------------------------------------------------------------------------------------------

    @contextmanager
    def edited(self) -> Iterator[EditableModel]:
        """The model with this session's edits in it, for as long as the block runs."""
        with self.lm.lock, self.lm.matrices_replaced(self._contents.sums().run):
            yield self.lm

    @contextmanager
    def pristine(self) -> Iterator[EditableModel]:
        """The model as it was loaded; no other session's edits can be in it meanwhile."""
        with self.lm.matrices_replaced({}):
            yield self.lm

    def norms(self) -> dict[int, tuple[float, float]]:
        """Per edited layer, ‖W₀‖ and ‖W‖ (Frobenius)."""
        with self.pristine() as lm:
            edited = self._contents.sums().run
            return {
                layer: (norm(lm.matrix(layer)), norm(edited.get(layer, lm.matrix(layer))))
                for layer in self.settings.layers
            }

    # -- preparation ---------------------------------------------------------------------------------------------------

    def prepare(self, progress: Progress | None = None) -> None:
        """Gather what the first edit needs: prefixes, statistics, the initial P. `edit` does it if nobody did."""
        with self.pristine() as lm:
            if not self._contents.preservation:  # of a restored session it is there
                self._used = self._statistics_files()
                self._initial_preservation(self._used, progress)
            # A step on any fact finds out whether the model takes the fast pass, and loads what a first step loads.
            if self.fast_targets and self.settings.layers[-1] not in lm.checked_paths:
                once = replace(target_settings(self.settings), steps=1)
                fact = Fact("Paris", "The city of {} is in", "France")
                optimise_targets(lm, [fact], self.prefixes, self.settings.layers[-1], once)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The sampled prefixes, the same for every session with this seed on this model."""
        if self._restored_prefixes is not None:
            return self._restored_prefixes
        return shared_prefixes(self.lm, self.seed)

    def stop_sharing(self) -> None:
        """Let the model forget the initial P that it keeps for further sessions with these settings.

        After some batches a session has a P of its own (see `Preservation`). One that goes on for thousands of edits
        would then hold twice what it needs: the other 8 GB of Llama-3-8B are for sessions that nobody will begin.
        """
        with self.pristine() as lm:
            if not self._contents.preservation:
                self._used = self._statistics_files()
                self._contents = replace(self._contents, preservation=self._initial_preservation(self._used))
            forget_initial_P(lm, self.settings, self._statistics_files())

    def _initial_preservation(
        self, statistics: dict[int, Path], progress: Progress | None = None
    ) -> dict[int, Preservation]:
        """Per edited layer P before any edit, from these files of statistics, gathered where they are missing."""
        return initial_preservation(self.lm, self.settings, statistics, self.statistics_text, progress)

    @property
    def statistics(self) -> str:
        """Which key statistics edits use, for people."""
        return described(self.lm, self._statistics_files(), self.statistics_text)

    @property
    def statistics_files(self) -> dict[int, Path]:
        """Per edited layer the file of the statistics that edits use."""
        return dict(self._statistics_files())

    def _statistics_files(self) -> dict[int, Path]:
        """Per edited layer the file of its statistics; the same from the first edit on, whatever is chosen later."""
        s = self.settings
        return self._used or files_used(self.lm, s.layers, s.statistics_tokens, self.statistics_text)

    # -- editing -------------------------------------------------------------------------------------------------------

    @gradients(False)
    def edit(
        self,
        facts: Sequence[Fact],
        *,
        known: Literal["refuse", "skip", "edit"] = "refuse",
        measure: bool = True,
        targets: Sequence[Target] | None = None,
        on_progress: OnProgress | None = None,
    ) -> BatchReport:
        """Apply facts as one batch.

        Args:
            facts: the batch; exact duplicates are dropped with a notice.
            known: what to do with a fact that the model says already and that was not edited before: refuse the batch,
                skip the fact with a notice, or edit it all the same.
            measure: report the probability of every new answer before and after (three short passes).
            targets: of the facts, one each, as `find_targets` has found them on the model as it is now; found by
                default. Facts are then edited whatever the model says (`known` must be "edit").
            on_progress: told of steps and layers.

        Returns:
            what was done. When an exception leaves this method, the session is as it was before, bit for bit; an
            interruption that comes after the batch was taken over leaves it as it is after the batch.

        Raises:
            InputError: no facts, facts that contradict each other, that do not fit the model's context, or that the
                model says already.
        """
        facts, notices = checked_facts(facts, targets, known)
        with self.pristine() as lm:
            started = time.perf_counter()
            before, skipped = look_before(lm, self._contents, facts, known, measure)
            chosen = [fact for fact in facts if fact not in skipped]
            notices += notices_of(lm, chosen, skipped)
            looked = time.perf_counter()
            norms_before = norms_as_run(lm, self._contents.sums(), self.settings.layers) if chosen else {}
            batch, statistics = self._solve(chosen, targets, on_progress)
            measured = time.perf_counter()
            after, bare = look_after(lm, batch.draft, facts, measure)
            seconds = batch.seconds | {"measuring": looked - started + time.perf_counter() - measured}
            norms_after = norms_as_run(lm, batch.draft, batch.updates)
            found = dict(zip(map(id, chosen), batch.targets, strict=True))
            report = BatchReport(
                edited=tuple(
                    EditedFact(fact, found.get(id(fact)), before[i], after[i], bare[i]) for i, fact in enumerate(facts)
                ),
                seconds=seconds,
                norms={layer: (norms_before[layer], norms_after[layer]) for layer in batch.updates},
                notices=tuple(notices),
            )
            if chosen:
                self._commit(batch, statistics, AppliedBatch(report, batch.updates), chosen)
        return report

    def _solve(
        self, facts: Sequence[Fact], targets: Sequence[Target] | None, on_progress: OnProgress | None
    ) -> tuple[SolvedBatch, dict[int, Path]]:
        """A batch, on a draft of the session's matrices, and per layer the file of statistics that the first P is from.

        Without facts, which is when all were skipped, nothing is solved.
        """
        if not facts:
            return SolvedBatch.of_nothing(self._contents.sums()), {}
        statistics = self._statistics_files()
        preservation = self._contents.preservation or self._initial_preservation(statistics)
        with self.pristine() as lm:
            draft = self._contents.matrices.draft(self._contents.updates, self.settings.layers)
            batch = solve_batch(
                lm,
                facts,
                self.prefixes,
                self.settings,
                preservation,
                draft,
                targets=targets,
                fast_targets=self.fast_targets,
                on_progress=on_progress,
            )
        return batch, statistics

    def _commit(
        self, batch: SolvedBatch, statistics: dict[int, Path], applied: AppliedBatch, facts: Sequence[Fact]
    ) -> None:
        """Take a batch over: one assignment, before which nothing of the session has changed."""
        contents = self._contents.with_batch(
            batch, applied, facts, sequential=self.settings.sequential, keep_history=self.keep_history
        )
        self._used, self._contents = statistics, contents
        for layer, P in contents.preservation.items():
            # Layer by layer, so that there is no more than one P too many at a time.
            try:
                compact = P.compact()
            except (MemoryError, RuntimeError) as error:  # torch has an error of its own for each kind of memory
                log.warning("P of layer %d stays as it is: there is no memory to compact it (%s).", layer, error)
                return
            self._contents = replace(self._contents, preservation=self._contents.preservation | {layer: compact})

    @gradients(False)
    def find_targets(
        self, facts: Sequence[Fact], *, mpes: bool | None = None, on_progress: OnProgress | None = None
    ) -> list[Target]:
        """Find the targets that an edit of these facts would begin with, and edit nothing.

        Args:
            facts: any; each is optimised by itself.
            mpes: whether targets stop early; by default as the session's settings say.
            on_progress: told of steps.

        Returns:
            one target a fact, in order.

        Raises:
            InputError: facts that do not fit the model's context.
        """
        wanted = target_settings(self.settings)
        wanted = wanted if mpes is None else replace(wanted, mpes=mpes)
        prefixes = self.prefixes
        with self.edited() as lm:
            return find_targets(lm, facts, prefixes, self.settings.layers[-1], wanted, self.fast_targets, on_progress)

    # -- history -------------------------------------------------------------------------------------------------------

    def undo(self) -> AppliedBatch:
        """Take the last batch back. Every matrix is bit for bit what it was before that batch.

        Returns:
            the batch taken back.

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
        """Take over batches that a session with these settings on this model has applied; what this one had is gone.

        Args:
            batches: in order, from the base weights on.
            prefixes: sampled prefixes of that session.

        Raises:
            InputError: when a sum of them is not finite, or this session keeps no history. It is as it was before.
        """
        if not self.keep_history:
            raise InputError("This session keeps no history, so it cannot take batches over; make one that does.")
        with self.pristine() as lm:
            sums = Sums.added_up(lm, [batch.updates for batch in batches])
            if not all(bool(torch.isfinite(matrix).all()) for matrix in sums.run.values()):
                raise InputError("The batches add up to values that are not finite, so they are not taken over.")
            self._restore(batches)
            self._restored_prefixes = tuple(prefixes)

    # -- going on elsewhere --------------------------------------------------------------------------------------------

    def state(self) -> SessionState:
        """What another session on the same model needs to go on from here, to the bit. History is not in it."""
        with self.pristine():
            return state_of(self._contents, self._contents.sums().exact, self.prefixes, self._identity())

    def restore(self, state: SessionState) -> None:
        """Take over a state; what this session had is gone. It keeps no history from then on: nothing can be undone.

        Raises:
            InputError: when the state is of another model, method, seed or settings, or incomplete. The session is as
                it was before.
        """
        check_identity(state, self._identity())
        with self.pristine() as lm:
            contents, prefixes = contents_of(state, lm), tuple(state.values["prefixes"])
            # An undo replays the history on the base weights, which are not where this session begins.
            self.keep_history, self.holds_factors = False, False
            self._restored_prefixes, self._contents = prefixes, contents

    def _identity(self) -> dict[str, Any]:
        return identity_of(self.lm, self.settings, self.seed)

    def matrices(self) -> dict[int, torch.Tensor]:
        """The edited matrices, per edited layer as the family stores them (see `EditableModel.oriented`).

        They are the session's own and not to be written to.
        """
        with self.lm.lock:
            return dict(self._contents.sums().run)

    def nbytes(self) -> int:
        """Bytes of memory that this session holds for itself alone: its matrices, and what its batches left behind."""
        return self._contents.nbytes()
