"""A disk that is full, a folder that is read-only, a pipe that takes no dashes: one line, and nothing half-written.

Every write of a command is made to fail in its turn, by the very errors that the system and safetensors raise.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_models
import tiny_runs
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from transformers import modeling_utils

from encore_core.cli import main, watching
from encore_core.cli import runs as cli_runs
from encore_core.editing import covariance, edit_file, stored_statistics
from encore_core.errors import InputError
from encore_core.facts import write_facts
from encore_core.runs import RunStore, resume_state
from encore_core.runs import worker as worker_module
from encore_core.statistics import jobs
from encore_core.statistics import worker as statistics_worker
from encore_core.storage import WriteError, append_line, replacing, writing
from encore_core.tuning import search

if sys.platform != "linux":
    pytest.skip("limits of files and /dev/full are Linux's", allow_module_level=True)

SETTINGS = [f"--set={name}={value}" for name, value in tiny_models.DEFAULTS.items()]
FULL = (errno.ENOSPC, "No space left on device")
READ_ONLY = (errno.EROFS, "Read-only file system")


class Disk:
    """Writes are counted, and one of them fails in the middle. Those of the libraries are counted as ours are."""

    WRITERS = ((stored_statistics, "save_file"), (edit_file, "save_file"), (covariance, "save_file"),
               (resume_state, "save_file"), (modeling_utils, "safe_save_file"))  # fmt: skip

    def __init__(self, monkeypatch, error: tuple[int, str] = FULL):
        self.error, self.written, self.fails_at = error, 0, -1
        for name in ("write_text", "write_bytes"):
            monkeypatch.setattr(Path, name, self._failing(getattr(Path, name), lambda args: args[0], os_error=True))
        for module, name in self.WRITERS:
            monkeypatch.setattr(module, name, self._failing(getattr(module, name), lambda args: args[1]))

    def _failing(self, real: Callable, place: Callable, os_error: bool = False) -> Callable:
        def write(*args, **named):
            self.written += 1
            if self.written - 1 != self.fails_at:
                return real(*args, **named)
            with contextlib.suppress(OSError), Path(place(args)).open("wb") as half:
                half.write(b"half of it")
            code, text = self.error
            if os_error:
                raise OSError(code, text)
            raise SafetensorError(f"Error while serializing: I/O error: {text} (os error {code})")

        return write


@pytest.fixture
def facts(tmp_path) -> Path:
    write_facts(tiny_models.FACTS[:1], tmp_path / "facts.jsonl")
    return tmp_path / "facts.jsonl"


def check_refusal(code: int, said: str, home: Path) -> None:
    """Exit code 2, one line with file and reason, and nothing half-written."""
    assert code == 2
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("encore: "), said
    assert "cannot be written" in lines[0] or "is full" in lines[0], said
    assert "Traceback" not in said
    check_whole(home)


def check_whole(home: Path) -> None:
    left = list(home.rglob("*"))
    assert [path.name for path in left if path.suffix in (".part", ".old", ".probe")] == []
    assert [path.name for path in left if path.is_file() and path.read_bytes() == b"half of it"] == []


def each_write_fails(run: Callable[[Path], int], tmp_path: Path, disk: Disk, monkeypatch, capsys) -> int:
    """Run a command in a data folder of its own as often as it writes, one write failing each time.

    Returns:
        how many writes it cannot do without.
    """
    needed, number = 0, 0
    while True:
        home = tmp_path / f"home-{number}"
        home.mkdir()
        monkeypatch.setenv("ENCORE_HOME", str(home))
        disk.written, disk.fails_at = 0, number
        capsys.readouterr()
        code = run(home)
        said = capsys.readouterr().err
        if disk.written <= number:
            assert code == 0, said
            return needed
        if code == 0:  # what is kept for the next time only
            check_whole(home)
        else:
            check_refusal(code, said, home)
            needed += 1
        number += 1


@pytest.mark.parametrize("error", [FULL, pytest.param(READ_ONLY, marks=pytest.mark.slow)], ids=["full", "read-only"])
def test_each_write_of_edit_may_fail(tiny_folder, statistics_text, facts, tmp_path, monkeypatch, capsys, error):
    def run(home: Path) -> int:
        words = ["edit", "--model", tiny_folder, "--facts", facts, "--out", home / "out", "--scored", 0, "--edits-out",
                 home / "edits.safetensors", "--statistics", statistics_text, "--device", "cpu", "--known", "edit",
                 *SETTINGS]  # fmt: skip
        code = main(list(map(str, words)))
        written = [(home / name).exists() for name in ("out", "edits.safetensors")]
        assert all(written) == (code == 0)
        alone.update([tuple(written)])
        if (home / "out").exists():
            assert (home / "out" / "model.safetensors").is_file() and (home / "out" / "README.md").is_file()
        return code

    alone: Counter = Counter()
    disk = Disk(monkeypatch, error)
    # The statistics of two layers, what the model is called, the edits; of the model its weights and its card at least.
    assert each_write_fails(run, tmp_path, disk, monkeypatch, capsys) >= 6
    # Where the model cannot be written the edits are, and the other way round.
    assert alone[True, False] and alone[False, True]


def test_each_write_of_statistics_may_fail(tiny_folder, statistics_text, tmp_path, monkeypatch, capsys):
    def run(home: Path) -> int:
        words = ["statistics", "--model", tiny_folder, "--source", statistics_text, "--layers", "0", "--tokens", 600]
        return main([*map(str, words), "--device", "cpu"])

    assert each_write_fails(run, tmp_path, Disk(monkeypatch), monkeypatch, capsys) >= 3


@pytest.mark.slow
def test_each_write_of_a_run_may_fail(tiny_folder, statistics_text, tmp_path, monkeypatch, capsys):
    """A run whose statistics, state or matrices cannot be written has failed with a word, and goes on afterwards."""
    write_facts(tiny_runs.FACTS, tmp_path / "many.jsonl")
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(
        watching, "start_worker", lambda store, device: tiny_runs.worker(store).serve()
    )  # in this process, before one waits for it
    disk = Disk(monkeypatch)

    def run(home: Path) -> int:
        words = ["run", "--model", tiny_folder, "--facts", tmp_path / "many.jsonl", "--edits", 4, "--batch-size", 2,
                 "--statistics", statistics_text, "--device", "cpu", *SETTINGS, "--measure=subsets=",
                 *(f"--measure={name}=false" for name in ("perplexity", "generation_entropy", "contributions")),
                 "--store", home / "runs"]  # fmt: skip
        code = main(list(map(str, words)))
        store = RunStore(home / "runs")
        for run in store.runs():
            assert run.status == ("failed" if code else "done")
            if code:
                disk.fails_at = -1
                store.resume(run.id)
                tiny_runs.worker(store).serve()
                assert store.get(run.id).status == "done"
        return code

    # Facts, two statistics, the model's name, two states, the matrices.
    assert each_write_fails(run, tmp_path, disk, monkeypatch, capsys) >= 7


def test_trials_of_a_search_are_whole_lines(tmp_path, monkeypatch):
    file = tmp_path / "trials" / "one.jsonl"
    append_line(file, "x" * 50)
    with limited_to(80), pytest.raises(WriteError, match="File too large"):
        append_line(file, "y" * 50)
    assert file.read_text("utf-8") == "x" * 50 + "\n"
    append_line(file, "Zürich")
    assert file.read_text("utf-8").splitlines()[1:] == ["Zürich"]


def test_a_search_that_cannot_keep_its_trials_says_so(tiny_folder, statistics_text, tmp_path, monkeypatch, capsys):
    write_facts(tiny_runs.FACTS, tmp_path / "facts.jsonl")
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))

    def full(path: Path, line: str) -> None:
        with writing(path):
            raise OSError(*FULL)

    monkeypatch.setattr(search, "append_line", full)
    words = ["tune", "--model", tiny_folder, "--facts", tmp_path / "facts.jsonl", "--n-facts", 4, "--device", "cpu",
             "--statistics", statistics_text]  # fmt: skip
    check_refusal(main(list(map(str, words))), capsys.readouterr().err, tmp_path)


@contextlib.contextmanager
def limited_to(n_bytes: int) -> Iterator[None]:
    """No file may become larger; the system refuses it in the middle of a write, as a full disk would."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_system_and_libraries_raise_becomes_one_line(tmp_path):
    """The errors are real ones here."""
    writers = {
        "text": lambda part: part.write_text("x" * 5000, encoding="utf-8"),
        "tensors": lambda part: safetensors_torch.save_file({"a": torch.zeros(5000)}, part),
        "tokenizer": lambda part: tiny_models.byte_level_tokenizer().backend_tokenizer.save(str(part)),
    }
    for name, write in writers.items():
        place = tmp_path / name
        place.write_text("as it was", encoding="utf-8")
        with limited_to(1000), pytest.raises(WriteError) as caught, replacing(place) as part:
            write(part)
        said = str(caught.value)
        assert said.startswith(f"{place} cannot be written: File too large") and "B free" in said and "\n" not in said
        assert caught.value.errno == errno.EFBIG and isinstance(caught.value, InputError)
        assert place.read_text("utf-8") == "as it was" and [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/file", "/dev/null/folder/file", "x" * 250])
def test_places_that_cannot_be_written(tmp_path, place):
    with pytest.raises(WriteError, match="cannot be written"), replacing(tmp_path / place) as part:
        part.write_text("x", encoding="utf-8")


def test_errors_about_something_else_are_left_alone(tmp_path):
    for error in (
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        KeyError("x"),
        FileNotFoundError(2, "no", "/a"),
    ):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "file"):
            raise error
        assert caught.value is error
    with pytest.raises(PermissionError), writing(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "Permission denied", "/another/file")


def test_a_worker_that_can_write_nothing_says_so_in_one_line(tmp_path, monkeypatch, capsys, caplog):
    store = RunStore(tmp_path / "runs")

    def refused(*_, **__):
        raise OSError(*READ_ONLY)

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    assert worker_module.main(["--store", str(store.folder), "--device", "cpu"]) == 2
    assert "Read-only file system" in caplog.text and "Traceback" not in caplog.text + capsys.readouterr().err


def test_a_job_that_cannot_write_how_it_failed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    written = []
    real = jobs.write_state

    def once(job_id, values):
        if written:
            raise WriteError("the job's state cannot be written: No space left on device.")
        written.append(real(job_id, values))

    monkeypatch.setattr(jobs, "_launch", lambda job_id: None)
    job_id = jobs.start(jobs.Request(model=str(tmp_path / "no model"), source="bundled"))
    monkeypatch.setattr(jobs, "write_state", once)
    assert statistics_worker.main([job_id]) == 2
    assert "does not exist" in caplog.text and "cannot be written" in caplog.text and "Traceback" not in caplog.text


# -- standard output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_a_pipe_that_cannot_show_a_character_loses_nothing(tmp_path, monkeypatch, encoding):
    store = RunStore(tmp_path / "runs")
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    outputs = {
        name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, line_buffering=True) for name in ("stdout", "stderr")
    }
    for name, stream in outputs.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(cli_runs, "_list", lambda options: print("λ → 東京 – done"))
    assert main(["runs", "list", "--store", str(store.folder)]) == 0
    assert main(["runs", "show", "東京–λ", "--store", str(store.folder)]) == 2
    said = {name: stream.buffer.getvalue().decode(encoding) for name, stream in outputs.items()}
    assert said["stdout"].endswith("done\n") and "\\u6771\\u4eac" in said["stdout"]
    assert said["stderr"].startswith("encore: There is no run") and said["stderr"].count("\n") == 1


@pytest.mark.slow
def test_the_command_itself_in_an_ascii_world(tmp_path):
    """In a process, with a pipe, as a script meets it."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "ENCORE_HOME": str(tmp_path), "LANG": "C", "LC_ALL": "C"}
    command = [sys.executable, "-m", "encore_core.cli"]
    done = subprocess.run([*command, "runs", "show", "Zürich–東京"], capture_output=True, env=environment)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"encore: ")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*command, "models"], stdout=full, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (2, b"encore: No space left on device.\n")


def test_an_error_of_the_system_that_nobody_expected_is_one_line(monkeypatch, capsys):
    def refused(options):
        raise OSError(errno.EIO, "Input/output error", "some file")

    monkeypatch.setattr(cli_runs, "_list", refused)
    assert main(["runs", "list"]) == 2
    assert capsys.readouterr().err == "encore: some file: Input/output error.\n"
