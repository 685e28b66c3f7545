"""Plan files, and grids before they run: what is wrong is told in one line, and nothing is submitted twice."""

from __future__ import annotations

import dataclasses
import json
import socket
import sqlite3
import sys
import threading

import pytest
import tiny_cluster
import tiny_runs
from filelock import FileLock

from encore_core import ray_core
from encore_core.cli import main
from encore_core.cluster import grid, nodes
from encore_core.cluster.needs import Needs, memory_of, needs_of, sizes_of
from encore_core.cluster.nodes import NodeSays
from encore_core.cluster.plan_file import Place, read_plan
from encore_core.errors import InputError
from encore_core.runs import RunStore

GOOD = """
name = "four"
methods = ["ENCORE", "MEMIT"]
facts = "facts.jsonl"
edits = 6
batch_size = 2
seeds = [1, 2]
[settings]
steps = 4
[settings.ENCORE]
lambda_n = 20
[measure]
protocols = ["teacher-forced"]
share_cap = "none"
[cluster]
cpus = 2
memory_gb = 1.5
"""


@pytest.fixture
def plan_file(tmp_path):
    """`plan_file(text)`: its path."""

    def write(text: str, name: str = "a plan.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


def test_a_plan_becomes_a_run_for_each_of_its_choices(plan_file, tmp_path):
    (tmp_path / "facts.jsonl").write_text("")
    plan = read_plan(plan_file(GOOD))
    assert (plan.name, plan.place) == ("four", Place("auto", 2, 0, 1_500_000_000))
    assert [(run.method, run.seed, run.name) for run in plan.runs] == [
        ("ENCORE", 1, "ENCORE, seed 1"), ("MEMIT", 1, "MEMIT, seed 1"),
        ("ENCORE", 2, "ENCORE, seed 2"), ("MEMIT", 2, "MEMIT, seed 2"),
    ]  # fmt: skip
    assert {run.facts for run in plan.runs} == {str(tmp_path / "facts.jsonl")}
    assert [dict(run.overrides) for run in plan.runs[:2]] == [{"steps": 4, "lambda_n": 20}, {"steps": 4}]
    assert all((run.n_edits, run.batch_size, run.device) == (6, 2, "cpu") for run in plan.runs)
    assert plan.runs[0].measure.share_cap is None and plan.runs[0].measure.protocols == ("teacher-forced",)


def test_the_least_plan_takes_its_name_from_the_file(plan_file):
    plan = read_plan(plan_file('methods = "MEMIT"', "My Sweep (2).toml"))
    assert (plan.name, len(plan.runs), plan.runs[0].facts) == ("my-sweep-2", 1, "bundled")
    assert read_plan(plan_file('methods = "MEMIT"\n[cluster]\ngpus = 1')).runs[0].device == "cuda"
    assert read_plan(plan_file('methods = "MEMIT"\n[cluster]\ngpus = 2')).runs[0].device == "balanced"


def test_a_home_folder_is_understood_and_data_of_tasks_may_lie_beside_the_plan(plan_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "tasks").mkdir()
    text = 'methods = "MEMIT"\nfacts = "~/facts.jsonl"\nstatistics_text = "~/text"\n[measure]\ndownstream = "{}"'
    [run] = read_plan(plan_file(text.format("tasks"))).runs
    assert (run.facts, run.statistics_text) == (str(tmp_path / "me" / "facts.jsonl"), str(tmp_path / "me" / "text"))
    assert run.measure.downstream == str(tmp_path / "tasks")
    assert read_plan(plan_file(text.format("hub"))).runs[0].measure.downstream == "hub"


BAD = {
    "methods = [": "is not valid TOML",
    "": "methods is missing; give for example",
    "methods = []": "methods is an empty list",
    'methods = ["ENCORE", "ENCORE"]': "methods has 'ENCORE' twice",
    'methods = ["ENCOR"]': "did you mean 'ENCORE'?",
    "methods = [3]": "3",
    'methods = ["ENCORE"]\nseed = [1]': "Unknown field 'seed'; did you mean 'seeds'?",
    'methods = ["ENCORE"]\nseeds = [-1]': "seed = -1 must be a whole number",
    'methods = ["ENCORE"]\nseeds = [true]': "seed = True must be a whole number",
    'methods = ["ENCORE"]\nedits = 0': "edits = 0 must be a whole number",
    'methods = ["ENCORE"]\nbatch_size = "5"': "batch_size = '5' must be",
    'methods = ["ENCORE"]\nname = "Not A Name"': "name 'Not A Name' is not 1 to 30 small letters",
    'methods = ["ENCORE"]\nname = 7': "name 7 is not 1 to 30",
    'methods = ["ENCORE"]\nfacts = [1]': "facts 1 is not text",
    'methods = ["ENCORE"]\nsettings = 3': "settings 3 is not a table",
    'methods = ["ENCORE"]\n[settings]\nlambdap = 3': "did you mean 'lambda_p'?",
    'methods = ["ENCORE"]\n[settings.MEMIT]\nlambda_p = 3': "[settings.MEMIT] is for a method that is not run",
    'methods = ["ENCORE"]\n[measure]\nsamples = 3': "Unknown field 'samples' in [measure]",
    'methods = ["ENCORE"]\nmeasure = 3': "measure 3 is not a table",
    'methods = ["ENCORE"]\n[cluster]\naddress = "ray://host:10001"': "is not one of a Ray cluster; give HOST:PORT",
    'methods = ["ENCORE"]\n[cluster]\naddress = "host"': "is not one of a Ray cluster",
    'methods = ["ENCORE"]\n[cluster]\ncpus = 0': "cpus = 0 must be a whole number from 1",
    'methods = ["ENCORE"]\n[cluster]\nmemory_gb = -1': "memory_gb = -1 must be a number above 0",
    'methods = ["ENCORE"]\n[cluster]\nscratch = "here"': "scratch 'here' is no absolute folder",
    f'methods = ["ENCORE"]\nseeds = {list(range(1001))}': "1,001 runs are too many",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_plan_is_told_in_one_line(plan_file, capsys, text):
    assert main(["cluster", "run", str(plan_file(text))]) == 2
    err = capsys.readouterr().err
    assert err.startswith("encore: ") and "plan" in err.lower() and BAD[text] in err and err.count("\n") == 1


def test_a_plan_that_is_not_there_is_told(tmp_path, capsys):
    for path in (tmp_path / "none.toml", tmp_path):
        assert main(["cluster", "run", str(path)]) == 2
        assert "cannot be read" in capsys.readouterr().err


# -- runs in the store -------------------------------------------------------------------------------------------------


def test_a_plan_is_submitted_once_and_grows(store, tiny_folder, statistics_text):
    def plan(*seeds: int):
        return tiny_cluster.grid_plan("p", "local", tiny_folder, statistics_text, [{"seed": seed} for seed in seeds])

    first = tiny_cluster.begin(store, plan(1, 2))
    assert first.new == first.ids and len(store.runs()) == 2
    again = tiny_cluster.begin(store, plan(1, 2))
    assert (again.ids, again.new, again.resumed) == (first.ids, (), ())
    store.cancel(first.ids[0])
    grown = tiny_cluster.begin(store, plan(2, 1, 3))
    assert grown.ids[:2] == (first.ids[1], first.ids[0]) and grown.resumed == (first.ids[0],)
    assert len(store.runs()) == 3 and {run.status for run in store.runs()} == {"queued"}
    assert {run.device for run in store.runs()} == {"ray:p"} and {run.plan.device for run in store.runs()} == {"cpu"}
    assert set(grid.read_grid(store, "p").needs) == set(grown.ids)
    # A worker of this machine's device does not take them.
    tiny_runs.worker(store).serve()
    assert {run.status for run in store.runs()} == {"queued"}


def test_a_plan_whose_file_is_damaged_is_started_again(store, tiny_folder, statistics_text):
    """As the message about that file says."""
    plan = tiny_cluster.grid_plan("p", "local", tiny_folder, statistics_text, [{}])
    [run_id] = tiny_cluster.begin(store, plan).ids
    (store.folder / "ray-p.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="start the plan again with encore cluster run"):
        grid.read_grid(store, "p")
    assert tiny_cluster.begin(store, plan).ids == (run_id,)
    assert set(grid.read_grid(store, "p").needs) == {run_id} and len(store.runs()) == 1


def test_a_second_driver_and_a_second_submission_are_refused(store, tiny_folder, statistics_text):
    plan = tiny_cluster.grid_plan("p", "local", tiny_folder, statistics_text, [{}])
    tiny_cluster.begin(store, plan)
    store.claim("ray:p")
    with store.device_lock("ray:p"), pytest.raises(InputError, match="Plan p is being worked on by process"):
        other_thread(lambda: tiny_cluster.begin(store, plan))
    with FileLock(store.folder / "ray-p.lock"), pytest.raises(InputError, match="submitted by another process"):
        other_thread(lambda: tiny_cluster.begin(store, plan))
    # A driver that is gone has left its run; it is found, and goes on.
    assert tiny_cluster.begin(store, plan).resumed == tuple(run.id for run in store.runs())


def other_thread(act) -> None:
    """Do it in another thread, in which this one's locks are another's; raise what it raises."""
    found: list[BaseException] = []

    def doing() -> None:
        try:
            act()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=doing)
    thread.start()
    thread.join()
    if found:
        raise found[0]


def test_status_and_cancel(store, tiny_folder, statistics_text, capsys):
    words = ["--store", str(store.folder)]
    assert main(["cluster", "status", *words]) == 0
    assert "no plan has been started" in capsys.readouterr().err
    assert main(["cluster", "status", "other", *words]) == 2
    assert "There is no plan 'other' in the store" in capsys.readouterr().err
    ids = tiny_cluster.begin(
        store, tiny_cluster.grid_plan("p", "local", tiny_folder, statistics_text, [{"seed": 1}, {"seed": 2}])
    ).ids
    capsys.readouterr()
    assert main(["cluster", "status", "p", *words]) == 0
    out = capsys.readouterr().out
    assert "2 queued" in out and "0 of 20 edits" in out and all(run_id in out for run_id in ids)
    assert main(["cluster", "status", "--json", *words]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)["plans"]["p"]] == list(ids)
    assert main(["cluster", "cancel", "p", *words]) == 0
    assert "2 runs of plan p are cancelled" in capsys.readouterr().err
    assert {run.status for run in store.runs()} == {"cancelled"}


def test_needs_follow_from_the_estimate(tiny_folder, statistics_text):
    run = tiny_runs.prepared(tiny_folder, statistics_text)
    sizes = sizes_of(str(tiny_folder))
    cpu, gpu = needs_of(run, sizes, 2, 0), needs_of(run, sizes, 2, 1)
    part = memory_of(run, sizes, "cuda")
    assert cpu.memory - memory_of(run, sizes, "cpu").total == gpu.memory - part.matrices - part.statistics > 4e8
    assert needs_of(run, sizes, 1, 0, 7).memory == 7
    assert Needs(2, 1, 10).fit({"CPU": 8, "GPU": 3, "memory": 25}) == 2
    assert Needs(2, 1, 10).fit({"CPU": 8, "memory": 25}) == 0 and Needs(2, 0, 10).fit({"CPU": 8, "memory": 100}) == 4


# -- nodes -------------------------------------------------------------------------------------------------------------

HERE = {"Python": "3.13.1", "encore-studio": "1.0", "ray": "2.60.0", "torch": "2.13.0"}


def says(host: str, **changed) -> NodeSays:
    usual = NodeSays(host, host, HERE, {"/m": "aa"}, "a processor", {"CPU": 2, "memory": 8e9})
    return dataclasses.replace(usual, **changed)


@pytest.mark.parametrize(
    "other, said",
    [
        ({"versions": HERE | {"torch": "2.12.0"}}, "Node b has torch 2.12.0, but this machine has 2.13.0"),
        ({"versions": HERE | {"ray": "2.61.0"}}, "Node b has ray 2.61.0, but this machine has 2.60.0"),
        ({"versions": HERE | {"encore-studio": "0.9"}}, "Node b has encore-studio 0.9"),
        ({"files": {"/m": None}}, "Node b does not have /m, which runs of this plan need"),
        ({"files": {"/m": "bb"}}, "/m is not the same on all nodes (fingerprints a: aa, b: bb)"),
    ],
)
def test_nodes_that_differ_are_refused(other, said):
    nodes.check_agree([says("a"), says("b")], HERE)
    with pytest.raises(InputError) as refused:
        nodes.check_agree([says("a"), says("b", **other)], HERE)
    assert said in str(refused.value)


def test_a_run_without_room_is_refused():
    nodes.check_room([says("a")], {"run": Needs(2, 0, 10**9)})
    with pytest.raises(
        InputError, match=r"No node of the cluster has room for run x, which needs 1 GPU, 1 core, 1\.0 GB"
    ):
        nodes.check_room([says("a")], {"x": Needs(1, 1, 10**9)})


def test_a_models_files_are_known_by_their_content(tiny_folder, tmp_path):
    import shutil

    here = nodes.content_digest(str(tiny_folder))
    shutil.copytree(tiny_folder, copy := tmp_path / "copy")
    assert nodes.content_digest(str(copy)) == here
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert nodes.content_digest(str(copy)) != here and nodes.content_digest(str(tmp_path / "none")) is None


# -- Ray itself --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["cluster", "run"])
def test_without_ray_one_line_says_what_to_install(plan_file, tiny_folder, monkeypatch, capsys, command):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["cluster", "run", str(plan_file('methods = ["ENCORE"]'))]
    if command == "run":
        words = ["run", "--facts=bundled", f"--model={tiny_folder}", "--set=layers=0-1", "--workers=2", "--dry-run"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "Ray is not installed" in err and "pip install 'encore-studio[ray]'" in err and err.count("\n") == 1


def test_an_old_ray_is_refused(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_core.metadata, "version", lambda name: "2.9.1")
    with pytest.raises(InputError, match=r"Ray 2\.9\.1 is too old; install 2\.60 or newer"):
        ray_core.ray_module()


def test_an_address_that_does_not_answer_is_told_at_once(plan_file, store, capsys):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    plan = plan_file('methods = ["ENCORE"]')
    assert main(["cluster", "run", str(plan), "--address", address, "--store", str(store.folder)]) == 2
    err = capsys.readouterr().err
    assert f"The Ray cluster at {address} does not answer" in err and err.count("\n") == 1
    assert not store.runs()


@pytest.mark.parametrize(
    "error, said",
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.61.0"),
            "other versions",
        ),
        (ConnectionError("Could not find any running Ray instance"), "This machine is a part of no Ray cluster"),
    ],
)
def test_what_ray_refuses_is_told_in_one_line(monkeypatch, error, said):
    ray = pytest.importorskip("ray")

    def refuse(**options):
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError) as refused, ray_core.connected("auto"):
        pass
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_plan_that_an_earlier_program_wrote_is_gone_on_with(tiny_folder, statistics_text, tmp_path):
    """Fields that the plan has got since then do not make other runs of its runs; runs of another plan are told of."""
    store = RunStore(tmp_path / "runs")

    def plan(**values):
        return tiny_cluster.grid_plan("old", "local", tiny_folder, statistics_text, [values])

    first = tiny_cluster.begin(store, plan())
    with sqlite3.connect(store.file) as db:
        [(text,)] = db.execute("SELECT plan FROM runs").fetchall()
        values = json.loads(text)
        del values["skip_bad"], values["find_subjects"], values["workers"]
        db.execute("UPDATE runs SET plan = ?", (json.dumps(values),))
    again = tiny_cluster.begin(store, plan())
    assert again.ids == first.ids and not again.new
    assert not any("earlier run" in line for line in again.notices)
    other = tiny_cluster.begin(store, plan(seed=5))
    assert other.new == other.ids != first.ids
    assert any("1 earlier run under the name old (0 edits) is not in the plan as it is now" in line
               for line in other.notices)  # fmt: skip
