"""Edit sessions: apply batches of facts, undo them, start over; the base weights stay pristine.

A batch goes facts → targets (`targets`) → keys (`keys`) → update (`update_rule`) → edited matrices
(`edited_matrices`). The session owns its edited matrices and puts them into the shared model only while it runs it,
under the model's lock. A batch writes to a draft. What a session holds is one `_Contents`, which nobody changes: a
batch that went well puts another in its place, so one that failed anywhere, for whatever reason, has changed nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from encore_core.autograd import gradients
from encore_core.editing.covariance import described, files_used, second_moments
from encore_core.editing.edited_matrices import EditedMatrices, Sums, exact_dtype
from encore_core.editing.keys import KeyReader
from encore_core.editing.targets import Target, TargetSettings, optimise_targets
from encore_core.editing.update_rule import (
    LowRankUpdate,
    Preservation,
    inverse_preservation,
    null_space_preservation,
    solve,
)
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact, check_batch
from encore_core.facts.joining import joined
from encore_core.forward.prompts import on_sink, prefixes
from encore_core.measures.scores import questions, rate
from encore_core.methods import MARKS, Settings, settings_for
from encore_core.models.device_map import free_memory
from encore_core.models.editable import EditableModel, Progress

log = logging.getLogger(__name__)

SHARED_BYTES = 2_000_000_000
"""How much memory sessions on one model may share in starting matrices; the least recently used go first."""

ROOM_FOR_SESSIONS = 50
"""Sessions hold matrices of their own when so many of them find room in the memory that is free, else factors."""


@dataclass(frozen=True)
class EditProgress:
    """How far a batch is.

    Attributes:
        phase: "targets" or "update".
        done, total: facts finished, or layers edited.
        step: steps of the current group of facts (targets only).
        loss: its mean loss (targets only).
    """

    phase: Literal["targets", "update"]
    done: int
    total: int
    step: int = 0
    loss: float | None = None


OnProgress = Callable[[EditProgress], None]


@dataclass(frozen=True)
class EditedFact:
    """What a batch did to one fact.

    Attributes:
        fact: the fact.
        target: how its target was found; None when the fact was skipped because the model says it already.
        probability_before: of the new answer (geometric mean per token) on the base model.
        probability_after: the same right after its batch.
        probability_bare: as after, without the model's start token: what a program gets that puts none in front of the
            prompt. None for a model without a start token.
    """

    fact: Fact
    target: Target | None
    probability_before: float | None
    probability_after: float | None
    probability_bare: float | None = None

    @property
    def steps(self) -> int:
        return self.target.steps if self.target else 0

    @property
    def stopped(self) -> str:
        return self.target.stopped if self.target else "already said"


@dataclass(frozen=True)
class BatchReport:
    """What one batch did.

    Attributes:
        edited: one entry a fact of the batch, in order.
        seconds: by phase: "targets", "keys", "update", "measuring".
        norms: per edited layer the Frobenius norm of the matrix before and after the batch.
        notices: things the user should know, one line each.
    """

    edited: tuple[EditedFact, ...]
    seconds: dict[str, float]
    norms: dict[int, tuple[float, float]]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class AppliedBatch:
    """An entry of a session's history: the report, and the update of every layer as thin factors."""

    report: BatchReport
    updates: dict[int, LowRankUpdate] = field(repr=False)


@dataclass(frozen=True)
class SessionState:
    """What a session needs to go on elsewhere as if nothing had happened, to the bit; see `EditSession.state`.

    Attributes:
        tensors: contiguous tensors on the session's devices, by name: edited matrices as the family stores them, and
            per layer P as its start and the thin factors not folded into it, because equal sums in another order have
            other bits. Nobody writes to them.
        values: everything else, as plain JSON values.
    """

    tensors: dict[str, torch.Tensor] = field(repr=False)
    values: dict[str, Any]


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
            `ROOM_FOR_SESSIONS`). Without history it is always "matrices".
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
        self.holds_factors = keep_history and (hold == "factors" or (hold == "auto" and self._memory_is_short()))
        self._contents = _Contents(EditedMatrices(lm, self.holds_factors))
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
        with self.lm.lock, self.lm.matrices_replaced(self._edited_sums().run):
            yield self.lm

    @contextmanager
    def pristine(self) -> Iterator[EditableModel]:
        """The model as it was loaded; no other session's edits can be in it meanwhile."""
        with self.lm.matrices_replaced({}):
            yield self.lm

    def norms(self) -> dict[int, tuple[float, float]]:
        """Per edited layer, ‖W₀‖ and ‖W‖ (Frobenius)."""
        with self.pristine() as lm:
            edited = self._edited_sums().run
            return {
                layer: (_norm(lm.matrix(layer)), _norm(edited.get(layer, lm.matrix(layer))))
                for layer in self.settings.layers
            }

    def _edited_sums(self) -> Sums:
        """The session's matrices, not to be written to. The caller holds the model's lock."""
        with self.pristine():
            return self._contents.matrices.current(self._contents.updates)

    def _memory_is_short(self) -> bool:
        lm = self.lm
        itemsize = lm.dtype.itemsize + (4 if lm.dtype.itemsize < 4 else 0)
        needed = len(self.settings.layers) * lm.d_model * lm.d_mlp * itemsize
        return ROOM_FOR_SESSIONS * needed > free_memory(lm.device)

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
        return _shared(self.lm, ("prefixes", self.seed), lambda: self._on_base(prefixes, self.seed))

    def _on_base(self, function: Callable, *args):
        with self.pristine() as lm:
            return function(lm, *args)

    def stop_sharing(self) -> None:
        """Let the model forget the initial P that it keeps for further sessions with these settings.

        After some batches a session has a P of its own (see `Preservation`). One that goes on for thousands of edits
        would then hold twice what it needs: the other 8 GB of Llama-3-8B are for sessions that nobody will begin.
        """
        with self.pristine() as lm:
            if not self._contents.preservation:
                self._used = self._statistics_files()
                self._contents = replace(self._contents, preservation=self._initial_preservation(self._used))
            for key in _keys_of_initial_P(self.settings, self._statistics_files()).values():
                lm.shared.pop(key, None)

    def _initial_preservation(
        self, statistics: dict[int, Path], progress: Progress | None = None
    ) -> dict[int, Preservation]:
        """Per edited layer P before any edit, from these files of statistics, gathered where they are missing."""
        s = self.settings
        keys = _keys_of_initial_P(s, statistics)
        starts = {layer: self.lm.shared[key] for layer, key in keys.items() if key in self.lm.shared}
        missing = [layer for layer in s.layers if layer not in starts]
        if missing:
            with self.pristine():
                moments = second_moments(
                    self.lm, missing, s.statistics_tokens, self.statistics_text, progress, statistics
                )
            for layer in missing:
                C0 = moments[layer].to(_solve_device(self.lm))
                starts[layer] = _initial_P(C0, s)
                _remember(self.lm, keys[layer], starts[layer])
        for layer in s.layers:
            if keys[layer] in self.lm.shared:
                self.lm.shared.move_to_end(keys[layer])
        return {layer: Preservation(starts[layer]) for layer in s.layers}

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
        given = len(facts)
        facts, notices = check_batch(facts)
        if not facts:
            raise InputError("There is no fact to edit; give at least one.")
        if targets is not None and (known != "edit" or not len(targets) == len(facts) == given):
            raise InputError(
                f"{len(targets)} targets are given for {given} facts, {len(facts)} of them different; give one for "
                'each, facts without repetition, and known="edit".'
            )
        with self.pristine():
            started = time.perf_counter()
            before, skipped = self._look_before(facts, known, measure)
            notices += [f"Skipped: the model already says {quoted(_sentence(fact))}." for fact in skipped]
            chosen = [fact for fact in facts if fact not in skipped]
            for fact in on_sink(self.lm, chosen):
                notices.append(_of_sink(fact))
                log.warning("%s", notices[-1])  # before the edit, for whoever waits for it
            looked = time.perf_counter()
            norms_before = self._norms_as_run() if chosen else {}
            batch = self._solve_batch(chosen, on_progress, targets) if chosen else _SolvedBatch.of_nothing(self)
            measured = time.perf_counter()
            after, bare = [None] * len(facts), [None] * len(facts)
            if measure:
                with self.lm.matrices_replaced(batch.draft.run):
                    after = [answer.probability for answer in rate(self.lm, questions(facts))]
                    if self.lm.start_token is not None:
                        bare = [answer.probability for answer in rate(self.lm, questions(facts), bare=True)]
            seconds = batch.seconds | {"measuring": looked - started + time.perf_counter() - measured}
            found = dict(zip(map(id, chosen), batch.targets, strict=True))
            report = BatchReport(
                edited=tuple(
                    EditedFact(fact, found.get(id(fact)), before[i], after[i], bare[i]) for i, fact in enumerate(facts)
                ),
                seconds=seconds,
                norms={layer: (norms_before[layer], _norm(batch.draft.run[layer])) for layer in batch.updates},
                notices=tuple(notices),
            )
            if chosen:
                self._commit(batch, AppliedBatch(report, batch.updates), chosen)
        return report

    def _commit(self, batch: _SolvedBatch, applied: AppliedBatch, facts: Sequence[Fact]) -> None:
        """Take a batch over: one assignment, before which nothing of the session has changed."""
        now, preservation = self._contents, batch.preservation
        if self.settings.sequential:
            preservation = {layer: P.absorbed(batch.updates[layer].Y) for layer, P in preservation.items()}
        self._used, self._contents = (
            batch.statistics,
            _Contents(
                now.matrices.committed(batch.draft),
                preservation,
                (*now.history, applied) if self.keep_history else (),
                now.n_edits + len(facts),
                now.edited_keys | {fact.key for fact in facts},
            ),
        )
        for layer, P in preservation.items():
            # Layer by layer, so that there is no more than one P too many at a time.
            try:
                compact = P.compact()
            except (MemoryError, RuntimeError) as error:  # torch has an error of its own for each kind of memory
                log.warning("P of layer %d stays as it is: there is no memory to compact it (%s).", layer, error)
                return
            self._contents = replace(self._contents, preservation=self._contents.preservation | {layer: compact})

    def _norms_as_run(self) -> dict[int, float]:
        edited = self._edited_sums().run
        return {layer: _norm(edited.get(layer, self.lm.parameter(layer).data)) for layer in self.settings.layers}

    def _look_before(self, facts: Sequence[Fact], known: str, measure: bool) -> tuple[list[float | None], list[Fact]]:
        """Probabilities of the new answers on the base model, and the facts that are not to be edited."""
        before: list[float | None] = [None] * len(facts)
        current = None
        if measure or (known != "edit" and not self.n_edits):
            with self.pristine():
                current = rate(self.lm, questions(facts))
            before = [answer.probability for answer in current]
        if known == "edit":
            return before, []
        if self.n_edits:
            with self.edited():
                current = rate(self.lm, questions(facts))
        said = [
            fact
            for fact, answer in zip(facts, current, strict=True)
            # A fact edited before may be edited again: that is a new edit, whatever the model says by now.
            if answer.said and fact.key not in self._contents.edited_keys
        ]
        if said and known == "refuse":
            raise InputError(
                f"target_new {quoted(said[0].target_new)} is what the model says already after "
                f"{quoted(said[0].text)}; give an answer that it does not give."
            )
        return before, said

    def _solve_batch(
        self, facts: Sequence[Fact], on_progress: OnProgress | None, targets: Sequence[Target] | None = None
    ) -> _SolvedBatch:
        """Targets, keys and updates of a batch, on a draft of the session's matrices."""
        s, lm = self.settings, self.lm
        tell = on_progress or (lambda progress: None)
        statistics = self._statistics_files()
        preservation = self._contents.preservation or self._initial_preservation(statistics)
        solve_device = _solve_device(lm)
        with self.pristine():
            working = self._contents.matrices.draft(self._contents.updates, s.layers)
        seconds = {"targets": 0.0, "keys": 0.0, "update": 0.0}
        updates: dict[int, LowRankUpdate] = {}
        prefixes = self.prefixes
        with lm.matrices_replaced(working.run):
            clock = _Clock(seconds)
            targets = targets or optimise_targets(
                lm,
                facts,
                prefixes,
                s.layers[-1],
                target_settings(s),
                fast=self.fast_targets,
                on_step=lambda done, step, loss: tell(EditProgress("targets", done, len(facts), step, loss)),
            )
            clock.add("targets")
            z = torch.stack([target.z for target in targets], dim=1).to(solve_device, torch.float64)
            reader = KeyReader(lm, facts, prefixes, s.layers)
            for j, layer in enumerate(s.layers):
                K = reader.keys(layer).to(solve_device, torch.float64)
                h = reader.states(layer).to(solve_device, torch.float64)
                clock.add("keys")
                R = (z - h) / (len(s.layers) - j)
                update = solve(R, K, preservation[layer].times(K), s.slack(len(facts)))
                working.add(lm, layer, update)
                updates[layer] = update
                clock.add("update")
                if j + 1 < len(s.layers):
                    reader.advance(layer, s.layers[j + 1])
                clock.add("keys")
                tell(EditProgress("update", j + 1, len(s.layers)))
            for layer in s.layers:
                if not bool(torch.isfinite(working.run[layer]).all()):
                    raise InputError(
                        f"The update of layer {layer} is not finite; raise lambda_p or lower lr, or reset the session."
                    )
            clock.add("update")
        return _SolvedBatch(working, updates, preservation, statistics, tuple(targets), seconds)

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
        tell = on_progress or (lambda progress: None)
        prefixes = self.prefixes
        with self.edited() as lm:
            return optimise_targets(
                lm,
                facts,
                prefixes,
                self.settings.layers[-1],
                wanted,
                fast=self.fast_targets,
                on_step=lambda done, step, loss: tell(EditProgress("targets", done, len(facts), step, loss)),
            )

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
        if self.settings.sequential:
            for batch in batches:
                for layer, update in batch.updates.items():
                    preservation[layer] = preservation[layer].absorbed(update.Y).compact()
        edited = [item.fact for batch in batches for item in batch.report.edited if item.target]
        self._used, self._contents = (
            used,
            _Contents(
                self._contents.matrices.replayed([batch.updates for batch in batches]),
                preservation,
                tuple(batches),
                len(edited),
                frozenset(fact.key for fact in edited),
            ),
        )

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
        tensors: dict[str, torch.Tensor] = {}
        strides: dict[str, list[int]] = {}

        def put(name: str, tensor: torch.Tensor) -> None:
            # BLAS sums in another order for another layout, so how a tensor lies is part of the state.
            tensors[name], strides[name] = tensor.contiguous(), list(tensor.stride())

        with self.pristine():
            sums = self._edited_sums().exact
            for layer, matrix in sums.items():
                put(f"matrix.{layer}", matrix)
            for layer, preservation in self._contents.preservation.items():
                put(f"P.{layer}.start", preservation.start)
                for number, Y in enumerate(preservation.recent):
                    put(f"P.{layer}.recent.{number}", Y)
            values = self._identity() | {
                "prefixes": list(self.prefixes),
                "n_edits": self.n_edits,
                "edited_keys": sorted(map(list, self._contents.edited_keys)),
                "matrices": sorted(sums),
                "recent": {str(layer): len(P.recent) for layer, P in self._contents.preservation.items()},
                "strides": strides,
            }
        return SessionState(tensors, values)

    def restore(self, state: SessionState) -> None:
        """Take over a state; what this session had is gone. It keeps no history from then on: nothing can be undone.

        Raises:
            InputError: when the state is of another model, method, seed or settings, or incomplete. The session is as
                it was before.
        """
        for name, mine in self._identity().items():
            if state.values.get(name) != mine:
                raise InputError(
                    f"The saved state has {name} {quoted(state.values.get(name))} and this session {quoted(mine)}; "
                    "restore it with the model and settings that it was made with."
                )
        lm = self.lm

        def take(name: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
            if name not in state.tensors:
                raise InputError(f"The saved state is incomplete: {name} is missing.")
            # In memory of torch's own, aligned as all of it is: alignment, too, decides in which order BLAS sums.
            shape, strides = state.tensors[name].shape, state.values["strides"][name]
            return torch.empty_strided(shape, strides, dtype=dtype, device=device).copy_(state.tensors[name])

        with self.pristine():
            solve_device = _solve_device(lm)
            matrices = {
                layer: take(f"matrix.{layer}", lm.parameter(layer).device, exact_dtype(lm))
                for layer in state.values["matrices"]
            }
            preservation = {
                int(layer): Preservation(
                    take(f"P.{layer}.start", solve_device, torch.float64),
                    tuple(take(f"P.{layer}.recent.{number}", solve_device, torch.float64) for number in range(count)),
                    owns_start=True,
                )
                for layer, count in state.values["recent"].items()
            }
            # An undo replays the history on the base weights, which are not where this session begins.
            self.keep_history, self.holds_factors = False, False
            self._restored_prefixes = tuple(state.values["prefixes"])
            self._contents = _Contents(
                EditedMatrices(lm, False, Sums.of(lm, matrices)),
                preservation,
                (),
                state.values["n_edits"],
                frozenset((subject, prompt) for subject, prompt in state.values["edited_keys"]),
            )

    def _identity(self) -> dict[str, Any]:
        """What a state must have been made with to be restored here."""
        settings = asdict(self.settings) | {"layers": list(self.settings.layers)}
        settings = {name: value for name, value in settings.items() if name not in MARKS}
        return {
            "fingerprint": self.lm.fingerprint,
            "start_token": self.lm.start_text,
            "dtype": str(self.lm.dtype),
            "seed": self.seed,
            **settings,
        }

    def matrices(self) -> dict[int, torch.Tensor]:
        """The edited matrices, per edited layer as the family stores them (see `EditableModel.oriented`).

        They are the session's own and not to be written to.
        """
        with self.lm.lock:
            return dict(self._edited_sums().run)

    def nbytes(self) -> int:
        """Bytes of memory that this session holds for itself alone: its matrices, and what its batches left behind."""
        contents = self._contents  # another thread may put others in its place
        tensors = [*contents.matrices.held.exact.values(), *contents.matrices.held.run.values()]
        for preservation in contents.preservation.values():
            tensors += [*preservation.recent, *([preservation.start] if preservation.owns_start else [])]
        for batch in contents.history:
            tensors += [factor for update in batch.updates.values() for factor in (update.A, update.Y)]
            tensors += [item.target.z for item in batch.report.edited if item.target is not None]
        # P and the history share their factors.
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(storages.values())


def settings_of(lm: EditableModel, method: str, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of a method on a loaded model, see `methods.settings_for`.

    Raises:
        InputError: as `methods.settings_for`, and for products in bfloat16 on a processor that has no units for them.
    """
    settings = settings_for(
        method,
        model_type=lm.model.config.model_type,
        n_layers=lm.n_layers,
        d_model=lm.d_model,
        n_vocab=lm.n_vocab,
        fingerprint=lm.fingerprint,
        overrides=overrides,
    )
    if settings.bfloat16 and lm.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError(
            "Setting bfloat16 = true is not for this processor: it has no bfloat16 units, and products would take "
            "hundreds of times as long as in float32; leave it out."
        )
    return settings


def target_settings(settings: Settings) -> TargetSettings:
    """The part of the settings that the optimisation of targets needs."""
    return TargetSettings(
        steps=settings.steps,
        lr=settings.lr,
        clamp=settings.clamp,
        weight_decay=settings.weight_decay,
        kl_factor=settings.kl_factor,
        mpes=settings.mpes,
        mpes_extra_steps=settings.mpes_extra_steps,
        bfloat16=settings.bfloat16,
    )


def batched(facts: Sequence[Fact], batch_size: int) -> Iterator[list[Fact]]:
    """Facts in order, `batch_size` at a time.

    Raises:
        InputError: when the size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"Batch size {batch_size} is too small; give a whole number from 1.")
    for start in range(0, len(facts), batch_size):
        yield list(facts[start : start + batch_size])


class _Clock:
    """Adds the time since the last call to a phase."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.last = seconds, time.perf_counter()

    def add(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now


@dataclass(frozen=True)
class _Contents:
    """What a session holds of its edits. Another takes its place, whole; nothing in it is changed.

    Attributes:
        matrices: the edited matrices.
        preservation: per edited layer P; empty before the first edit.
        history: the batches, where the session keeps them.
        n_edits: facts edited.
        edited_keys: `Fact.key` of each.
    """

    matrices: EditedMatrices
    preservation: dict[int, Preservation] = field(default_factory=dict)
    history: tuple[AppliedBatch, ...] = ()
    n_edits: int = 0
    edited_keys: frozenset[tuple[str, str]] = frozenset()

    @property
    def updates(self) -> list[dict[int, LowRankUpdate]]:
        """Per batch of the history its updates."""
        return [batch.updates for batch in self.history]


@dataclass(frozen=True)
class _SolvedBatch:
    """A batch that is ready to be taken over.

    Attributes:
        draft: the edited matrices with the batch in them.
        updates: by layer.
        preservation: P that they were solved with, before the batch joins what is preserved.
        statistics: per layer the file of statistics that the first P is from.
        targets: a fact each.
        seconds: by phase.
    """

    draft: Sums
    updates: dict[int, LowRankUpdate]
    preservation: dict[int, Preservation]
    statistics: dict[int, Path]
    targets: tuple[Target, ...]
    seconds: dict[str, float]

    @classmethod
    def of_nothing(cls, session: EditSession) -> _SolvedBatch:
        """Of a batch whose facts were all skipped."""
        return cls(session._edited_sums(), {}, {}, {}, (), dict.fromkeys(("targets", "keys", "update"), 0.0))


def _initial_P(C0: torch.Tensor, settings: Settings) -> torch.Tensor:
    if settings.preservation == "null_space":
        return null_space_preservation(C0, settings.null_threshold, settings.l2)
    return inverse_preservation(C0, settings.lambda_p, settings.lambda_n)


def _keys_of_initial_P(settings: Settings, statistics: dict[int, Path]) -> dict[int, tuple]:
    """Per edited layer, by what the model keeps its initial P for all sessions; from the files of its statistics."""
    s = settings
    identity = ("P", s.preservation, s.lambda_p, s.lambda_n, s.null_threshold, s.l2, s.statistics_tokens)
    # The file's name without its layer: what the statistics were made of.
    return {layer: (*identity, statistics[layer].name.partition("-")[2], layer) for layer in s.layers}


def _solve_device(lm: EditableModel) -> torch.device:
    """Where float64 is: Apple's GPUs have none."""
    return torch.device("cpu") if lm.device.type == "mps" else lm.device


def _shared(lm: EditableModel, key: tuple, make: Callable[[], Any]) -> Any:
    if key not in lm.shared:
        lm.shared[key] = make()
    lm.shared.move_to_end(key)
    return lm.shared[key]


def _remember(lm: EditableModel, key: tuple, matrix: torch.Tensor) -> None:
    """Keep a starting matrix for the next session, and let the oldest go when there are too many."""
    lm.shared[key] = matrix
    matrices = [k for k, value in lm.shared.items() if isinstance(value, torch.Tensor)]
    total = sum(lm.shared[k].nbytes for k in matrices)
    for old in matrices:
        if total <= SHARED_BYTES or old[:-1] == key[:-1]:
            break
        total -= lm.shared.pop(old).nbytes


def _norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.float()))


def _of_sink(fact: Fact) -> str:
    return (
        f"{quoted(fact.subject)} is the first token of {quoted(fact.text)}. This model reads next to nothing of the "
        "first token of a text, so it will hardly say the new answer when asked so, only where something stands in "
        "front of it; load it with a start token (--start-token), or put other words before the subject."
    )


def _sentence(fact: Fact) -> str:
    return joined(fact.text, fact.target_new, fact.join)
