"""The targets by name."""

from __future__ import annotations

from fuzzing import edit_files, lesson_plans, links, npz_files, readers, uploads
from fuzzing.target import Target

_MODULES = (readers, edit_files, npz_files, lesson_plans, links, uploads)

TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}
