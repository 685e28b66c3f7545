"""The targets by name."""

from __future__ import annotations

from fuzzing import edit_files, npz_files, readers
from fuzzing.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for module in (readers, edit_files, npz_files) for target in module.TARGETS
}
