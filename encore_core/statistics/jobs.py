"""Gathering as a job: a separate process that outlives the page and the browser that started it.

    statistics/jobs/ID.request.json     what to gather
                    ID.json             its progress, written by the process
                    ID.stop             asks it to stop
                    ID.log              its output

A job that was stopped, or whose process is gone, is started again with `resume` and continues from its saved sums.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from encore_core import processes
from encore_core.errors import InputError, quoted
from encore_core.models.catalogue import CATALOGUE
from encore_core.processes import boot_id, is_alive
from encore_core.statistics.request import Request
from encore_core.statistics.texts import SOURCES
from encore_core.storage import absolute_folder, data_folder, is_file, named_path, replacing, writing

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""A process that has reported nothing for this long since its start is taken to be gone."""


@dataclass(frozen=True)
class Job:
    """The state of a job.

    Attributes:
        id: its name.
        request: what to gather.
        created: when, in seconds since 1970.
        status: "starting", "running", "done", "stopped", "failed" or "interrupted".
        what: what is being done.
        done, total: how much of it is done, of how much.
        seconds_left: an estimate; None if there is none yet.
        error: why it failed.
        result: what was gathered: "tokens", "layers", "source", "looks", "enough".
    """

    id: str
    request: Request
    created: float
    status: str
    what: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    error: str | None = None
    result: Mapping[str, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether it is starting or running."""
        return self.status in ("starting", "running")

    @property
    def share(self) -> float:
        """The share done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0


def folder() -> Path:
    """The folder of jobs; made when it is missing."""
    path = data_folder() / "statistics" / "jobs"
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def start(request: Request) -> str:
    """Start a job. Returns its id.

    Raises:
        InputError: when no process can be started.
    """
    # The process has another working folder, so paths must be absolute.
    source = request.source
    request = replace(
        request,
        model=request.model if request.model in CATALOGUE else absolute_folder(request.model),
        source=str(named_path(source).absolute()) if source not in SOURCES and is_file(source) else source,
    )
    job_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    with replacing(folder() / f"{job_id}.request.json") as part:
        part.write_text(json.dumps(request.to_json() | {"created": time.time()}), encoding="utf-8")
    _launch(job_id)
    return job_id


def resume(job_id: str) -> None:
    """Start a job again that is not running.

    Raises:
        InputError: for a job that does not exist, is already running, or cannot be started.
    """
    if get(job_id).active:
        raise InputError(f"Job {quoted(job_id)} is running already.")
    _launch(job_id)


def stop(job_id: str) -> None:
    """Ask a job to save its sums and stop, which it does after its present batch."""
    file = folder() / f"{get(job_id).id}.stop"
    with writing(file):
        file.touch()


def forget(job_id: str) -> None:
    """Remove a job that is not running from the list. What it gathered stays, including saved sums.

    Raises:
        InputError: for a job that does not exist, or is running.
    """
    if get(job_id).active:
        raise InputError(f"Job {quoted(job_id)} is running; stop it first.")
    for ending in (".json", ".stop", ".log", ".request.json"):
        (folder() / f"{job_id}{ending}").unlink(missing_ok=True)


def get(job_id: str) -> Job:
    """The state of a job.

    Raises:
        InputError: when there is none of this name.
    """
    job = next((job for job in jobs() if job.id == job_id), None)
    if job is None:
        raise InputError(f"There is no job {quoted(job_id)}.")
    return job


def jobs() -> list[Job]:
    """All jobs, the newest first."""
    found = []
    for file in folder().glob("*.request.json"):
        job_id = file.name.removesuffix(".request.json")
        request = _read(file)
        if request:
            found.append(_job(job_id, request, _read(folder() / f"{job_id}.json")))
    return sorted(found, key=lambda job: job.created, reverse=True)


def _job(job_id: str, request: Mapping[str, Any], state: Mapping[str, Any]) -> Job:
    created = float(request.get("created", 0.0))
    status = str(state.get("status", "starting"))
    if status in ("starting", "running"):
        pid = state.get("pid")
        alive = state.get("boot") == boot_id() and isinstance(pid, int) and is_alive(pid)
        if not alive and (pid is not None or time.time() - float(state.get("at", created)) > START_SECONDS):
            status = "interrupted"
    return Job(
        id=job_id,
        request=Request.from_json(request),
        created=created,
        status=status,
        what=str(state.get("what", "")),
        done=int(state.get("done", 0)),
        total=int(state.get("total", 0)),
        seconds_left=state.get("seconds_left"),
        error=state.get("error"),
        result=state.get("result"),
    )


def request_of(job_id: str) -> Request:
    """What a job should gather.

    Raises:
        InputError: when there is none of this name.
    """
    return get(job_id).request


def write_state(job_id: str, values: Mapping[str, Any]) -> None:
    """Write the state of a job; called by its own process."""
    with replacing(folder() / f"{job_id}.json") as part:
        part.write_text(json.dumps(dict(values)), encoding="utf-8")


def stop_asked(job_id: str) -> bool:
    """Whether a job was asked to stop."""
    return (folder() / f"{job_id}.stop").exists()


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _launch(job_id: str) -> None:
    (folder() / f"{job_id}.stop").unlink(missing_ok=True)
    write_state(job_id, {"status": "starting", "at": time.time()})
    command = [sys.executable, "-m", "encore_core.statistics.worker", job_id]
    try:
        processes.start(command, folder() / f"{job_id}.log", ENCORE_HOME=str(data_folder().absolute()))
    except OSError as error:
        raise InputError(f"No process can be started ({error.strerror or error}); the job waits.") from error
