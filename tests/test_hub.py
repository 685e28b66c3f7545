"""Models and data sets from the hub, the whole way, against a server of our own on loopback (see `hub_server`)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
import tiny_models
import tiny_runs
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from pyarrow.parquet import write_table
from refusals import refusal
from tiny_models import CITIES, Snapshot

from encore_core import hub
from encore_core.doctor import examine
from encore_core.editing.session import EditSession
from encore_core.export.card import model_card
from encore_core.export.folder import edit_report
from encore_core.measures import task_sets
from encore_core.measures.tasks import TASKS
from encore_core.model_check import check_model
from encore_core.models import download, editable
from encore_core.models.catalogue import CATALOGUE, CatalogueEntry, find_source, is_ready, split_revision
from encore_core.models.editable import describe_model, load_model
from encore_core.runs import RunStore
from encore_core.statistics import texts

REPO = "org/tiny"
SHARDS = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
NOT_NEEDED = {
    "README.md": b"# A model", "pytorch_model.bin": b"pickled" * 1000, "consolidated.safetensors": b"again" * 1000,
    "modeling_tiny.py": b"raise SystemExit('run')", "onnx/model.onnx": b"onnx", "model.fp16.safetensors": b"half",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(gpt2, tmp_path_factory) -> dict[str, bytes]:
    """The tiny GPT-2 in five files with weights, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("sharded")
    gpt2.model.save_pretrained(folder, max_shard_size="60KB")
    gpt2.tokenizer.save_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(SHARDS) < files.keys()
    return files


def changed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Another version of the model: the same, with other weights in its last file."""
    last = bytearray(files[SHARDS[-1]])
    last[-4:] = b"\0\0\0\0"
    return files | {SHARDS[-1]: bytes(last)}


@pytest.fixture
def server(hub_of_tests) -> HubServer:
    return hub_of_tests


@contextlib.contextmanager
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "PAUSES", (0.0, 0.0, 0.0))
        yield


def unplug(server: HubServer) -> None:
    """Nobody listens where the hub was."""
    server.unplug()
    close_session()


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_a_model_in_five_files(server, files, gpt2):
    commit = server.add(REPO, files | NOT_NEEDED)
    told = []
    lm = load_model(REPO, "cpu", progress=lambda what, share: told.append((what, share)))
    assert Snapshot.of(gpt2).holds(lm) and lm.fingerprint == gpt2.fingerprint
    assert (lm.name, lm.origin) == (REPO, f"{REPO}@{commit}")
    assert server.fetched() == files.keys(), "what is needed and nothing else"
    # Configuration and tokenizer come first, and no file comes twice.
    order = [request.file for request in server.log if request.method == "GET" and request.sent]
    first_weights = min(order.index(shard) for shard in SHARDS)
    assert set(order[first_weights:]) == set(SHARDS)
    assert all(server.sent(file) == len(content) for file, content in files.items())
    fetching = [(what, share) for what, share in told if what.startswith("Fetching")]
    assert fetching[0][0].startswith("Fetching the weights: ") and fetching[0][0].endswith(f"({SHARDS[0]})")
    assert fetching[-1][1] == 1.0 and "0.25 MB of 0.25 MB" in fetching[-1][0]
    assert [share for _, share in fetching] == sorted(share for _, share in fetching)
    assert told[-1] == ("Loading the model", 1.0)


def test_what_is_here_is_not_fetched_again(server, files):
    server.add(REPO, files)
    first = load_model(REPO, "cpu")
    before = {file: file.lstat().st_mtime_ns for file in Path(constants.HF_HUB_CACHE).rglob("*")}
    server.log.clear()
    assert load_model(REPO, "cpu").fingerprint == first.fingerprint
    assert not server.fetched()
    # Nor is anything written: caches may be read-only.
    assert {file: file.lstat().st_mtime_ns for file in Path(constants.HF_HUB_CACHE).rglob("*")} == before
    for state in (503, 404):  # and when the hub is down, or has lost it
        server.status = state
        assert load_model(REPO, "cpu").origin == first.origin
    unplug(server)
    again = load_model(REPO, "cpu")
    assert (again.fingerprint, again.origin) == (first.fingerprint, first.origin)


def test_one_file_of_weights_and_an_index_of_others(server, files, gpt2, tmp_path):
    gpt2.model.save_pretrained(tmp_path / "whole")
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    server.add(REPO, files | {"model.safetensors": whole})
    assert load_model(REPO, "cpu").fingerprint == gpt2.fingerprint
    assert not server.fetched() & {*SHARDS, download.INDEX}


def test_a_model_that_has_moved(server, files, gpt2):
    commit = server.add(REPO, files)
    server.moved["tiny"] = REPO
    lm = load_model("tiny", "cpu")
    assert Snapshot.of(gpt2).holds(lm) and lm.origin == f"tiny@{commit}"


def test_two_at_once_fetch_it_once(server, files):
    server.add(REPO, files)
    with ThreadPoolExecutor(2) as pool:
        found = [made.result(60) for made in [pool.submit(load_model, REPO, "cpu") for _ in range(2)]]
    # transformers alone would have lost tied weights here, in this and in every later load (see `building`).
    assert found[0].fingerprint == found[1].fingerprint == load_model(REPO, "cpu").fingerprint
    assert all(server.sent(file) == len(content) for file, content in files.items())


def test_a_hub_that_says_less(server, files, gpt2):
    """Mirrors of the hub tell no sizes, and do not know ranges."""
    server.add(REPO, files)
    server.blobs = server.ranges = False
    server.breaks[SHARDS[1]] = [1000]
    with no_pauses():
        lm = load_model(REPO, "cpu")
    assert Snapshot.of(gpt2).holds(lm)
    assert server.sent(SHARDS[1]) == 1000 + len(files[SHARDS[1]])


# -- revisions ---------------------------------------------------------------------------------------------------------


def test_revisions(server, files):
    old = server.add(REPO, files)
    new = server.add(REPO, changed(files))
    server.repositories[REPO].refs |= {"v1.0": old, "refs/pr/1": old}
    fingerprints = {}
    for name, commit in {
        REPO: new, f"{REPO}@main": new, f"{REPO}@v1.0": old, f"{REPO}@refs/pr/1": old, f"{REPO}@{old}": old,
    }.items():  # fmt: skip
        lm = load_model(name, "cpu")
        assert (lm.name, lm.origin) == (name, f"{REPO}@{commit}")
        fingerprints.setdefault(commit, set()).add(lm.fingerprint)
    assert [len(found) for found in fingerprints.values()] == [1, 1] and fingerprints[old] != fingerprints[new]
    # Both versions have four files in common, and these came once.
    assert all(server.sent(shard) == len(files[shard]) for shard in SHARDS[:4])
    assert server.sent(SHARDS[4]) == 2 * len(files[SHARDS[4]])
    # A commit never changes, so nobody is asked.
    server.log.clear()
    load_model(f"{REPO}@{old}", "cpu")
    assert not server.log
    newest = server.add(REPO, files | {"generation_config.json": b"{}"})
    assert load_model(REPO, "cpu").origin == f"{REPO}@{newest}"


def test_a_revision_that_is_none(server, files):
    server.add(REPO, files)
    assert "the hub's org/tiny has no revision 'v9'; give one of its branches" in refusal(load_model, f"{REPO}@v9")
    for odd in ("", "../../x", "a//b", "/etc", "a b", "-x", "x/", "ü"):
        assert "is not a revision" in refusal(load_model, f"{REPO}@{odd}")
    assert "comes with the program and has no revisions" in refusal(load_model, "smollm2-135m@main")
    assert split_revision("a/b@refs/pr/1") == ("a/b", "refs/pr/1") and split_revision("a/b") == ("a/b", None)


def test_a_catalogue_name_with_a_revision(server, files):
    commit = server.add(CATALOGUE["gpt2-xl"].source, files, branch="old")
    assert load_model("gpt2-xl@old", "cpu").origin == f"openai-community/gpt2-xl@{commit}"


def test_a_folder_goes_before_a_revision(tiny_folder, tmp_path):
    folder = tmp_path / "tiny@main"
    folder.symlink_to(tiny_folder)
    source = find_source(str(folder), lambda what, share: None)
    assert source.hub is None and source.origin is None


def test_the_newest_whole_version_serves_without_a_network(server, files):
    old = server.add(REPO, files)
    load_model(REPO, "cpu")
    server.add(REPO, changed(files))
    assert describe_model(REPO).d_model == 32  # fetches the small files of the new one
    unplug(server)
    assert load_model(REPO, "cpu").origin == f"{REPO}@{old}"


# -- who may have it ---------------------------------------------------------------------------------------------------


def test_a_gated_model(server, files, monkeypatch):
    server.add(REPO, files, gated=True)
    page = f"{server.url}/{REPO}"
    assert f"is gated: ask for access on {page}, then run: hf auth login" in refusal(load_model, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_user")
    assert f"has no access yet; ask for it on {page}" in refusal(load_model, REPO)
    assert not any(server.sent(file) for file in files)
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    server.log.clear()
    assert load_model(REPO, "cpu").name == REPO
    # The token went to the hub and not to whoever keeps its files.
    kept = {request.token for request in server.log if request.path.startswith("/cdn/")}
    assert kept == {False} and any(request.token for request in server.log)


def test_a_private_model_and_a_bad_token(server, files, monkeypatch):
    server.add(REPO, files, private=True)
    unknown = "the hub has no org/tiny, or it is private; look at the name, or run: hf auth login."
    assert unknown in refusal(load_model, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_user")
    assert unknown in refusal(load_model, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "Invalid credentials" in refusal(load_model, REPO) and "hf auth login" in refusal(load_model, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    assert load_model(REPO, "cpu").name == REPO


# -- an unknown name, and a hub that does not answer -------------------------------------------------------------------


def test_a_name_that_the_hub_has_not(server):
    said = refusal(load_model, "smollm2-135")
    assert "the hub has no smollm2-135" in said and said.endswith("Did you mean 'smollm2-135m'?")
    assert "the hub has no org/none" in refusal(load_model, "org/none")
    assert "the hub has no openai-community/gpt2-xl" in refusal(load_model, "gpt2-xl")


@pytest.mark.parametrize("name", ["gpt2-xl", "gpt2-xl@main", "org/none", "smollm2-135"])
def test_a_hub_out_of_reach_is_no_unknown_name(server, monkeypatch, name):
    def said() -> str:
        message = refusal(load_model, name)
        assert "is not a folder here and not in the hub's cache, and " in message and "Unknown model" not in message
        assert ("Did you mean 'smollm2-135m'?" in message) == (name == "smollm2-135")
        assert ("It is openai-community/gpt2-xl on the hub." in message) == name.startswith("gpt2-xl")
        return message

    server.status = 503
    assert f"{hub.hub_host()}) answers 503 Service Unavailable; try again later, or give a folder" in said()
    server.status = 200
    server.delay = threading.Event()
    monkeypatch.setattr(hub.hub_trouble, "__defaults__", (0.2,))
    start = time.monotonic()
    assert "does not answer" in said() and time.monotonic() - start < 2
    server.delay.set()
    monkeypatch.setattr(hub.hub_trouble, "__defaults__", (10.0,))  # a busy machine may take its time to refuse
    unplug(server)
    message = said()
    assert "cannot be reached" in message and "look at the network (and at HF_ENDPOINT, if it is set)" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "and HF_HUB_OFFLINE is set, so the hub is not asked; unset HF_HUB_OFFLINE, or give a folder" in said()


def test_a_hub_that_fails_behind_its_door(server, files):
    """Its front page answers and its API does not."""
    server.add(REPO, files)
    server.api_status = 500
    message = refusal(load_model, REPO)
    assert "the list of its files cannot be fetched" in message and "answers 500" in message
    server.api_status = None
    lm = load_model(REPO, "cpu")
    server.api_status = 200  # with nothing, as a page that wants a login has nothing that we could read
    assert load_model(REPO, "cpu").origin == lm.origin
    assert "answers with something else, so it is not the hub" in refusal(load_model, "org/none")


# -- downloads that break off ------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_stopped(server, files, gpt2):
    server.add(REPO, files)
    server.breaks[SHARDS[1]] = [10_000, 5_000, 0, 1]
    with no_pauses():
        assert Snapshot.of(gpt2).holds(load_model(REPO, "cpu"))
    asked = [request.range for request in server.log if request.path == f"/cdn/resolve/{SHARDS[1]}"]
    assert asked == [None, "bytes=10000-", "bytes=15000-", "bytes=15000-", "bytes=15001-"]
    assert server.sent(SHARDS[1]) == len(files[SHARDS[1]]), "no byte came twice"


def test_the_next_try_goes_on_too(server, files, gpt2, tmp_path):
    server.add(REPO, files)
    server.breaks[SHARDS[2]] = [20_000] + [0] * (len(hub.PAUSES) + 1)
    with no_pauses():
        said = refusal(load_model, REPO, device="cpu")
    assert f"fetching {SHARDS[2]} from the hub stopped after 0.1 MB of 0.1 MB" in said
    assert "broke off; what came is kept, and the same command continues from there." in said
    [part] = (tmp_path / "cache").rglob(f"*{hub.PART}")
    assert part.read_bytes() == files[SHARDS[2]][:20_000]
    assert not server.breaks[SHARDS[2]]
    server.log.clear()
    assert Snapshot.of(gpt2).holds(load_model(REPO, "cpu"))
    assert server.fetched() == set(SHARDS[2:])
    assert server.sent(SHARDS[2]) == len(files[SHARDS[2]]) - 20_000
    assert not part.exists()


def test_a_part_that_is_not_of_this_file(server, files, gpt2, tmp_path):
    """What was damaged on the disk is found by its SHA-256 and fetched anew."""
    server.add(REPO, files)
    server.breaks[SHARDS[2]] = [20_000] + [0] * (len(hub.PAUSES) + 1)
    with no_pauses():
        refusal(load_model, REPO, device="cpu")
    [part] = (tmp_path / "cache").rglob(f"*{hub.PART}")
    part.write_bytes(b"x" * 30_000)
    said = refusal(load_model, REPO, device="cpu")
    assert f"{SHARDS[2]} came damaged (its SHA-256 is " in said and said.endswith("; try again.")
    part.write_bytes(b"x" * 10**6)  # longer than the file
    assert Snapshot.of(gpt2).holds(load_model(REPO, "cpu"))


def test_a_full_disk(server, files, gpt2, tmp_path, monkeypatch):
    server.add(REPO, files)
    real = Path.open

    def full(self, mode="r", *args, **kwargs):
        opened = real(self, mode, *args, **kwargs)
        if not self.name.endswith(hub.PART) or "b" not in mode or "r" in mode:
            return opened
        opened.close()
        raise OSError(28, "No space left on device")

    describe_model(REPO)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        said = refusal(load_model, REPO, device="cpu")
    assert f"fetching {SHARDS[0]} from the hub stopped: the disk is full" in said
    assert Snapshot.of(gpt2).holds(load_model(REPO, "cpu"))


def test_a_cache_that_cannot_be_written(server, files, tmp_path):
    server.add(REPO, files)
    (tmp_path / "cache").write_text("no folder")
    said = refusal(load_model, REPO)
    assert (
        "config.json cannot be fetched into" in said and "set HF_HUB_CACHE to a folder that can be written to" in said
    )


# -- told before anything large is fetched -----------------------------------------------------------------------------


def large(server: HubServer) -> set[str]:
    return {file for file in server.fetched() if file.endswith((".safetensors", ".bin"))}


def test_memory_and_disk_come_first(server, files, monkeypatch):
    server.add(REPO, files)
    with monkeypatch.context() as patch:
        patch.setattr(editable, "free_memory", lambda device: 1000)
        said = refusal(load_model, REPO, device="cpu")
    assert "needs" in said and "on cpu, which has 0.1 MB free" in said
    disk = SimpleNamespace(free=200_000)
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda folder: disk)
        said = refusal(load_model, REPO, device="cpu")
        assert "its weights take 0.25 MB more of disk in" in said and "which has 0.2 MB free; make room" in said
        assert not large(server)
        # What has come already needs no room.
        with no_pauses():
            server.breaks[SHARDS[0]] = [56_000] + [0] * (len(hub.PAUSES) + 1)
            disk.free = 300_000
            refusal(load_model, REPO, device="cpu")
            disk.free = 200_000
        load_model(REPO, "cpu")


@pytest.mark.parametrize(
    ("without", "with_", "message"),
    [
        ([*SHARDS, download.INDEX], {"pytorch_model.bin": b"pickled"},
         "has no model.safetensors (but pytorch_model.bin); other formats are not read, because loading them can run"),
        (["config.json"], {"adapter_config.json": b"{}"}, "holds an adapter and no model; merge it"),
        (["config.json"], {}, "has no config.json, so it is not a model"),
        (["tokenizer.json"], {}, "has no tokenizer (one of tokenizer.json,"),
        (SHARDS[2:3], {}, f"{download.INDEX} names {SHARDS[2]}, which org/tiny does not hold"),
        ([], {download.INDEX: b'{"weight_map": {"a": "../../../evil.safetensors"}}'}, "names '../../../evil.safet"),
        ([], {download.INDEX: b'{"weight_map": {"a": "pytorch_model.bin"}}'}, "names 'pytorch_model.bin' as its"),
        ([], {download.INDEX: b"[]"}, f"{download.INDEX} cannot be read"),
        ([], {"config.json": b'{"model_type": "tiny", "auto_map": {"AutoConfig": "modeling_tiny.C"}}',
              "modeling_tiny.py": b"raise SystemExit('run')"}, "needs Python code of its own"),
        ([], {"config.json": b'{"model_type": "bert"}'}, "not a decoder-only language model"),
        ([], {"config.json": b"{"}, "cannot be read"),
        ([], {"tokenizer.json": b"{}"}, "tokenizer"),
    ],
    ids=["bin", "adapter", "nothing", "tokenizer", "shard", "path", "pickled shard", "index", "code", "bert", "config",
         "damaged tokenizer"],
)  # fmt: skip
def test_what_cannot_be_used_is_not_fetched(server, files, without, with_, message):
    server.add(REPO, {name: content for name, content in files.items() if name not in without} | with_)
    said = refusal(load_model, REPO, device="cpu")
    assert message in said
    assert not large(server) and "modeling_tiny.py" not in server.fetched()


def test_a_tokenizer_of_two_hundred_megabytes(server, files, monkeypatch):
    monkeypatch.setattr(download, "MOST_SMALL_BYTES", 10_000)
    server.add(REPO, files)
    assert "tokenizer.json of org/tiny has 0.1 MB; no such file is that large" in refusal(load_model, REPO)


# -- half of a model in the cache --------------------------------------------------------------------------------------


def test_half_a_model_without_a_network(server, files):
    server.add(REPO, files)
    server.breaks[SHARDS[3]] = [0] * (len(hub.PAUSES) + 1)
    with no_pauses():
        refusal(load_model, REPO, device="cpu")
    unplug(server)
    said = refusal(load_model, REPO, device="cpu")
    assert f"{SHARDS[3]} and 1 more files of its weights are not in the hub's cache, and the hub (127.0.0.1:" in said
    assert describe_model(REPO).n_layers == 5
    [problem] = check_model(REPO, "cpu").problems
    assert problem == said


def test_ready_is_what_is_here_whole(server, files, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "tiny", CatalogueEntry("tiny", REPO, 101, "MIT"))
    server.add(REPO, files)
    assert not is_ready("tiny")
    describe_model("tiny")
    assert not is_ready("tiny")
    load_model("tiny", "cpu")
    assert is_ready("tiny")


# -- doctor, reports, runs ---------------------------------------------------------------------------------------------


def test_doctor(server, files, monkeypatch):
    server.add(REPO, files)
    assert examine().hub
    check = check_model(REPO, "cpu")
    assert not check.problems
    assert "Its weights will be fetched from the hub when it is first used: 0.25 MB." in check.notes
    assert not large(server)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "more of disk" in check_model(REPO, "cpu").problems[0]


def test_what_a_doctor_says_without_the_hub(server):
    unplug(server)
    report = examine()
    assert not report.hub
    assert any("cannot be reached" in note and "only the embedded model, folders" in note for note in report.notes)


def test_a_run_and_a_report_say_which_commit_it_was(server, files, statistics_text, tmp_path):
    commit = server.add(REPO, files, branch="v1")
    name = f"{REPO}@v1"
    plan = replace(tiny_runs.plan(tmp_path, statistics_text, n_edits=2), model=name)
    store = RunStore(tmp_path / "runs")
    [run_id] = store.submit([tiny_runs.prepare(plan, tiny_runs.FACTS)])
    tiny_runs.worker(store).serve()
    run = store.get(run_id)
    assert (run.status, run.model, run.versions["model"]) == ("done", name, f"{REPO}@{commit}")
    lm = load_model(name, "cpu")
    session = EditSession(lm, "MEMIT", settings=tiny_models.DEFAULTS, statistics_text=statistics_text)
    report = edit_report(session, [], "facts", 1)
    assert (report["model"], report["origin"]) == (name, f"{REPO}@{commit}")
    card = model_card(report, [], None)
    assert f'base_model: "{REPO}"' in card and commit in card


# -- data sets ---------------------------------------------------------------------------------------------------------


def parquet(rows: list[dict], group: int = 1000) -> bytes:
    buffer = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=group)
    return buffer.getvalue()


@pytest.fixture
def tasks(server) -> HubServer:
    """The data sets of the downstream tasks, forty rows each."""
    texts = [(f"text {number}", number % 2) for number in range(40)]
    single = parquet([{"sentence": text, "label": label} for text, label in texts])
    pairs = parquet([{"sentence1": text, "sentence2": "other", "label": label} for text, label in texts])
    asked = [
        {"question": t, "subject": "s", "choices": list("wxyz"), "answer": i % 4} for i, (t, _) in enumerate(texts)
    ]
    glue = {f"{name}/validation-00000-of-00001.parquet": single for name in ("sst2", "cola")}
    glue |= {f"{name}/validation-00000-of-00001.parquet": pairs for name in ("mrpc", "rte")}
    server.add("datasets/nyu-mll/glue", glue | {"rte/train-00000-of-00001.parquet": pairs, "qqp/train.parquet": pairs})
    server.add("datasets/cais/mmlu", {"all/validation-00000-of-00001.parquet": parquet(asked), "README.md": b"mmlu"})
    return server


def test_downstream_tasks(tasks):
    name = "sst2/validation-00000-of-00001.parquet"
    tasks.breaks[name] = [300, 0, 200]
    with no_pauses():
        folder = task_sets.fetch_tasks()
    assert sorted(file.stem for file in folder.iterdir()) == sorted(TASKS)
    assert "qqp" not in str(tasks.log) and "README.md" not in str(tasks.log)
    assert [request.range for request in tasks.log if request.path == f"/cdn/resolve/{name}"][:4] == [
        None, "bytes=300-", "bytes=300-", "bytes=500-",
    ]  # fmt: skip
    tasks.log.clear()
    assert task_sets.fetch_tasks() == folder and not tasks.log


def test_downstream_tasks_that_cannot_be_had(tasks):
    del tasks.repositories["datasets/cais/mmlu"]
    with no_pauses():
        said = refusal(task_sets.fetch_tasks)
        assert "Downstream task 'mmlu' cannot be fetched from cais/mmlu (the hub (127.0.0.1:" in said
        assert "answers 401 Repository not found); try again, or give a folder with mmlu.jsonl" in said
        assert not task_sets.is_fetched()
        tasks.status = 503
        assert "have not been fetched yet, and the hub (127.0.0.1:" in refusal(task_sets.fetch_tasks)
        assert "answers 503 Service Unavailable; try again later, or give a folder" in refusal(task_sets.fetch_tasks)
    unplug(tasks)
    assert "cannot be reached" in refusal(task_sets.fetch_tasks)


@pytest.mark.parametrize("source", texts.HUB_TEXTS)
def test_text_for_statistics(server, gpt2, monkeypatch, source):
    monkeypatch.setattr(texts, "CHARACTERS_PER_TOKEN", 1)
    rows = [{"text": f" Passage {number} of the text, of some length .", "id": "x" * 4000} for number in range(60)]
    where = texts.HUB_TEXTS[source]
    assert "answers 401 Repository not found" in refusal(texts.text_of, gpt2, source, 500)
    server.add(f"datasets/{where.repo}", {f"{where.folder}/{part}": parquet(rows, 10) for part in where.parts})
    content = texts.text_of(gpt2, source, 500).content
    assert "Passage 59 of the text" in content
    # Parts of the files, not the files.
    asked = [request for request in server.log if request.path.startswith("/cdn/")]
    assert asked and all(request.range for request in asked)
    server.log.clear()
    server.status = 503
    assert texts.text_of(gpt2, source, 500).content == content and not server.log


def test_text_for_statistics_without_the_hub(server, gpt2):
    server.status = 502
    said = refusal(texts.text_of, gpt2, "wikitext", 500)
    assert "The text of wikitext has not been fetched yet, and the hub (127.0.0.1:" in said
    assert "answers 502 Bad Gateway; try again later, or use another source: sampled, bundled or a text" in said


# -- as people type it -------------------------------------------------------------------------------------------------


def environment(server: HubServer, tmp_path: Path) -> dict[str, str]:
    """That of somebody with a new cache, whose HF_ENDPOINT is our server."""
    left = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return left | {
        "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "ENCORE_HOME": str(tmp_path / "encore"),
        "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip


def scoring(facts: Path, model: str) -> list[str]:
    words = ("eval", "--model", model, "--facts", str(facts), "--device", "cpu", "--json")
    return [sys.executable, "-m", "encore_core.cli", *words]


@pytest.fixture
def facts(tmp_path) -> Path:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([CITIES[0].to_dict()]), encoding="utf-8")
    return file


def test_the_command_line(server, files, facts, tmp_path):
    server.add(REPO, files | NOT_NEEDED, branch="v1", gated=True)
    surroundings = environment(server, tmp_path) | {"HF_TOKEN": "hf_member"}
    ended = subprocess.run(scoring(facts, f"{REPO}@v1"), env=surroundings, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["facts"] == 1
    assert server.fetched() == files.keys()
    assert (tmp_path / "hf" / "hub" / "models--org--tiny" / "refs" / "v1").is_file()


@pytest.mark.slow
def test_killed_in_the_middle_and_broken_off_and_finished(server, files, facts, tmp_path):
    """Three calls of the same command bring each byte once."""
    server.add(REPO, files)
    command, surroundings = scoring(facts, REPO), environment(server, tmp_path)
    server.stalls[SHARDS[1]] = 20_000
    process = subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert server.stalled.wait(90)
        [part] = _parts_of(tmp_path, 20_000)
    finally:
        process.kill()
        process.wait()
    server.breaks[SHARDS[1]] = [5_000] + [0] * (len(hub.PAUSES) + 1)
    server.log.clear()
    ended = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and ended.stderr.startswith(f"encore: Model '{REPO}': fetching {SHARDS[1]}")
    assert "the same command continues from there." in ended.stderr
    assert part.stat().st_size == 25_000
    ended = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["facts"] == 1
    asked = [request.range for request in server.log if request.path == f"/cdn/resolve/{SHARDS[1]}"]
    assert asked == ["bytes=20000-", *["bytes=25000-"] * (len(hub.PAUSES) + 2)]
    assert server.sent(SHARDS[0]) == 0


def _parts_of(folder: Path, size: int) -> list[Path]:
    """Files that are partly there, once they are of this size."""
    for _ in range(200):
        parts = [part for part in folder.rglob(f"*{hub.PART}") if part.stat().st_size == size]
        if parts:
            return parts
        time.sleep(0.05)
    return []
