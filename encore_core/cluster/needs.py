"""What a run asks of a node: cores, GPUs and memory, in Ray's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from encore_core.models.catalogue import find_source
from encore_core.models.checkpoint import read_config
from encore_core.models.editable import DTYPES
from encore_core.models.memory import MemoryEstimate, Sizes, estimate_of
from encore_core.runs.estimate import PROCESS_BYTES
from encore_core.runs.preparing import PreparedRun
from encore_core.storage import gigabytes
from encore_core.words import counted


@dataclass(frozen=True)
class Needs:
    """What a node must have free for a run.

    Attributes:
        cpus: cores, which is also the number of torch's threads.
        gpus: whole GPUs; 0 for none.
        memory: bytes of the machine's own memory.
    """

    cpus: int
    gpus: int
    memory: int

    def fit(self, resources: Mapping[str, float]) -> int:
        """How many such runs a node with these resources of Ray's can have at a time."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return min(int(resources.get(name, 0) // one) for name, one in asked.items() if one)

    def options(self) -> dict[str, Any]:
        """As options of a Ray task."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    def as_dict(self) -> dict[str, int]:
        """As plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        gpus = f"{counted(self.gpus, 'GPU')}, " if self.gpus else ""
        return f"{gpus}{counted(self.cpus, 'core')}, {gigabytes(self.memory)} of memory"


def sizes_of(model: str) -> Sizes:
    """The sizes of a model from its configuration alone.

    Raises:
        InputError: when it cannot be found, or is of a family that cannot be edited.
    """
    return Sizes.of_config(read_config(model, find_source(model, lambda what, share: None)), model)


def needs_of(run: PreparedRun, sizes: Sizes, cpus: int, gpus: int, memory: int | None = None) -> Needs:
    """What a run needs.

    Args:
        run: prepared.
        sizes: of its model.
        cpus, gpus: as the plan says.
        memory: bytes as the plan says; by default from our own estimate.
    """
    estimate = memory_of(run, sizes, "cuda" if gpus else "cpu")
    # With a GPU the machine's memory holds the process, and what is copied there to be saved.
    own = estimate.matrices + estimate.statistics if gpus else estimate.total
    return Needs(cpus, gpus, memory or PROCESS_BYTES + own)


def memory_of(run: PreparedRun, sizes: Sizes, device_type: str) -> MemoryEstimate:
    """The memory that loading the run's model and editing it takes, by part."""
    return estimate_of(sizes, DTYPES[run.plan.dtype or "float32"], run.settings, run.plan.batch_size, device_type)
