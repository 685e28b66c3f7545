"""The model of a worker, kept from one run to the next."""

from __future__ import annotations

from encore_core.models.editable import EditableModel, Progress, load_model
from encore_core.runs.plan import RunPlan
from encore_core.storage import is_folder, named_path


class ModelKeeper:
    """Keeps the last model loaded for the next run on it.

    What sessions share on a model was computed by so many threads, and another number of them may sum in another
    order: a model is kept for runs of the same number only. A folder that has changed is loaded anew.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._lm: EditableModel | None = None

    def get(self, plan: RunPlan, threads: int, progress: Progress) -> EditableModel:
        """The model of a plan.

        Raises:
            InputError: as `models.load_model`.
        """
        key = (plan.model, plan.device, plan.dtype, plan.start_token, threads, _stamp(plan.model))
        if key != self._key:
            self._key, self._lm = None, None  # the old one goes before the new one comes
            self._lm = load_model(plan.model, plan.device, plan.dtype, progress, plan.start_token)
            self._key = key
        return self._lm


def _stamp(name: str) -> tuple | None:
    """What tells whether a model folder's files are still the ones that were loaded; None for models by name."""
    if not is_folder(name):
        return None
    folder = named_path(name)
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat()))
