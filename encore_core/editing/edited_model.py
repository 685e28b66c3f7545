"""A model with one person's edits on it: what these are, the model run with them, and what they start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from encore_core.editing import foretold_damage
from encore_core.editing.batch_report import AppliedBatch
from encore_core.editing.covariance import described, files_used, second_moments
from encore_core.editing.edit_list import MadeEdit, live_edits, made_edits
from encore_core.editing.edited_matrices import EditedMatrices
from encore_core.editing.norm_anchor import anchor_of
from encore_core.editing.session_contents import Contents, memory_is_short
from encore_core.editing.session_state import identity_of
from encore_core.editing.shared_by_sessions import gradients_kept, initial_preservation, shared_prefixes, solve_device
from encore_core.editing.what_is_kept import Memory, free_directions
from encore_core.errors import InputError
from encore_core.measures.norms import frobenius
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of


class EditedModel:
    """The part of a session that changes nothing; arguments as for `EditSession`."""

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
        """The batches and retractions so far, in order; empty for a session that keeps none."""
        return list(self._contents.history)

    @property
    def n_edits(self) -> int:
        """How many edits are on the model; without history how many were made, be they of the same fact."""
        return self._contents.n_edits

    def edits(self) -> list[MadeEdit]:
        """Every edit that was made, in order, also those overwritten or taken back since; needs the history."""
        return made_edits(self._contents.history)

    def live_edits(self) -> list[MadeEdit]:
        """The edits that are on the model, in the order in which they were made; needs the history."""
        return live_edits(self._contents.history)

    @contextmanager
    def edited(self) -> Iterator[EditableModel]:
        """The model with this session's edits in it while the `with` block runs."""
        with self.lm.lock, self.lm.matrices_replaced(self._contents.sums().run):
            yield self.lm

    @contextmanager
    def pristine(self) -> Iterator[EditableModel]:
        """The model as it was loaded; no session's edits can be in it while the `with` block runs."""
        with self.lm.matrices_replaced({}):
            yield self.lm

    def norms(self) -> dict[int, tuple[float, float]]:
        """‖W₀‖ and ‖W‖ (Frobenius) by edited layer."""
        with self.pristine() as lm:
            edited = self._contents.sums().run
            return {
                layer: (frobenius(lm.matrix(layer)), frobenius(edited.get(layer, lm.matrix(layer))))
                for layer in self.settings.layers
            }

    # -- what edits start from -----------------------------------------------------------------------------------------

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The sampled prefixes, the same for every session with this seed on this model."""
        if self._restored_prefixes is not None:
            return self._restored_prefixes
        return shared_prefixes(self.lm, self.seed)

    @property
    def prefixes_read(self) -> tuple[str, ...]:
        """The prefixes after which facts are read while they are edited; none where their gradients are followed."""
        return () if self.settings.from_gradients else self.prefixes

    def _initial_preservation(self, statistics: dict[int, Path], progress: Progress | None = None) -> dict[int, Memory]:
        """P before any edit, by edited layer, from these files of statistics, which are gathered if missing."""
        return initial_preservation(self.lm, self.settings, statistics, self.statistics_text, progress)

    def anchor(self, progress: Progress | None = None) -> float | None:
        """The norm that targets are brought to, see `norm_anchor`; None without NAS. Fixed from the first edit on."""
        s = self.settings
        if not s.nas:
            return None
        return self._contents.anchor or anchor_of(self.lm, s.layers[-1], s.nas_facts, progress)

    def metric(self, progress: Progress | None = None) -> torch.Tensor | None:
        """F at the last edited layer, (d_model, d_model), by which the natural gradient searches; None for other
        searches. Fixed from the first edit on."""
        s = self.settings
        if s.search != "natural_gradient" or s.from_gradients:
            return None
        if self._contents.F is not None:
            return self._contents.F
        last = s.layers[-1]
        return gradients_kept(self.lm, {last: self._statistics_files()[last]}, self.statistics_text, progress)[last]

    def foretold_damage(self, progress: Progress | None = None) -> dict[int, float]:
        """What the edits on the model cost general text, by edited layer, in nats per token (see `foretold_damage`).

        Statistics that are missing are gathered first, which takes as long as the passes over some thousand tokens.

        Args:
            progress: called meanwhile.

        Raises:
            InputError: when the text for statistics cannot be read.
        """
        s, text = self.settings, self.statistics_text
        found = dict.fromkeys(s.layers, 0.0)
        with self.pristine() as lm:
            edited, precise = self._contents.sums().exact, {"device": solve_device(lm), "dtype": torch.float64}
            if not edited:
                return found
            files, Fs = self.prepare_foretelling(progress)
            for layer in s.layers:
                # One at a time: C0 of a large model's layers would fill the memory.
                C0 = second_moments(lm, [layer], s.statistics_tokens, text, progress, files)[layer]
                change = edited[layer].to(**precise) - lm.parameter(layer).data.to(**precise)
                found[layer] = foretold_damage.of_change(Fs[layer], lm.oriented(layer, change), C0)
        return found

    def prepare_foretelling(self, progress: Progress | None = None) -> tuple[dict[int, Path], dict[int, torch.Tensor]]:
        """Gather what `foretold_damage` needs, where it is missing.

        Returns:
            by edited layer, the file of its C0, and F.

        Raises:
            InputError: as `foretold_damage`.
        """
        s, text = self.settings, self.statistics_text
        files = self._statistics_files() or files_used(self.lm, s.layers, s.statistics_tokens, text)
        with self.pristine() as lm:
            Fs = gradients_kept(lm, files, text, progress)
            if missing := [layer for layer in s.layers if not files[layer].is_file()]:
                second_moments(lm, missing, s.statistics_tokens, text, progress, files)  # one pass for all
        return files, Fs

    def directions_left(self) -> str | None:
        """How many null-space directions are left to edits, as a text for people; None before the first edit, and for
        methods that work in no null space."""
        found = free_directions(self.settings, self._contents.preservation)
        if found is None:
            return None
        low, high = found
        range_ = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return f"{range_} of {self.lm.d_mlp:,} directions of a layer left in the null space"

    @property
    def takes_back(self) -> bool:
        """Whether one edit can be taken out of those made so far."""
        return self.settings.takes_back and not any(P.is_renewed for P in self._contents.preservation.values())

    def check_takes_back(self) -> None:
        """Refuse to take one edit back.

        Raises:
            InputError: when the session keeps no history, or its method cannot.
        """
        if not self.keep_history:
            raise InputError("This session keeps no history, so no edit can be taken back; make one that does.")
        if not self.takes_back:
            any_more = " any more" if self.settings.takes_back else ""
            raise InputError(
                f"{self.settings.method} cannot take one edit back{any_more}: its updates depend on those before. Undo "
                "the last batch, or start over without the edit."
            )

    @property
    def statistics(self) -> str:
        """Which key statistics edits use, as a text for people."""
        if not self.settings.needs_statistics:
            return f"none: {self.settings.method} needs no statistics"
        return described(self.lm, self._statistics_files(), self.statistics_text)

    @property
    def statistics_files(self) -> dict[int, Path]:
        """The file of the statistics that edits use, by edited layer."""
        return dict(self._statistics_files())

    def _statistics_files(self) -> dict[int, Path]:
        """By edited layer, the file of its statistics; fixed from the first edit on, whatever is chosen later."""
        s = self.settings
        if not s.needs_statistics:
            return {}
        return self._used or files_used(self.lm, s.layers, s.statistics_tokens, self.statistics_text)

    def _identity(self) -> dict[str, Any]:
        return identity_of(self.lm, self.settings, self.seed)

    def matrices(self) -> dict[int, torch.Tensor]:
        """The edited matrices, by edited layer, as the family stores them (see `EditableModel.oriented`).

        They must not be written to; what the session does later leaves them as they are.
        """
        with self.lm.lock:
            return self._contents.handed_out(self._contents.sums().run)

    def exact_matrices(self) -> dict[int, torch.Tensor]:
        """The same in the dtype in which they are summed, see `Sums.exact`; empty before the first edit."""
        with self.lm.lock:
            return self._contents.handed_out(self._contents.sums().exact)

    def nbytes(self) -> int:
        """Bytes of memory that this session alone holds: its matrices, P, and what the history keeps of its batches."""
        return self._contents.nbytes()
