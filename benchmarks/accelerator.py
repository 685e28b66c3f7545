"""What there is to measure once a GPU is lent, in one go of twelve minutes; what did not fit goes on at the next go.

    python benchmarks/accelerator.py FOLDER FACTS.jsonl [--tasks DIR] [--minutes 12] [--edits 10000] [--small]

    tests                       tests/test_gpu.py
    targets DTYPE SEARCH        seconds per fact of the search for targets, embedded model
    8B shape                    a batch on a random model as large as Llama-3-8B: targets, keys, update
    life METHOD                 thousands of edits of the embedded model, and tasks at the end (benchmarks/search.py)

Parts come in this order, the lives side by side. Each is written to FOLDER/results.json as soon as it is done, and
skipped once it is there; a part that failed is written with what it said, and is tried again. Lives keep their states
in FOLDER, from which they go on. With --small the models are tiny and random, for trying the script itself on a CPU:
its seconds and scores say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from machine import machine
from transformers import LlamaConfig, LlamaForCausalLM

from encore_core import Fact, load_model, read_facts
from encore_core.editing.session import EditSession
from encore_core.models.catalogue import find_source
from encore_core.models.checkpoint import read_tokenizer
from encore_core.models.editable import EditableModel, wrap
from encore_core.storage import replacing

ROOT = Path(__file__).parents[1]
EMBEDDED = "smollm2-135m"
METHODS = ("ENCORE", "ENCORE-N", "CrispEdit", "AlphaEdit+NAS", "AlphaEdit")
DTYPES, SEARCHES = ("float32", "bfloat16"), ("adam", "natural_gradient")
SCORES = ("edit", "paraphrase", "neighborhood", "accuracy")
SAVING = 15.0
"""Seconds that are left for coming to an end."""


class OutOfTime(Exception):
    """There is no time left to begin a part, or to end it."""


@dataclass
class Go:
    """One go of the script.

    Attributes:
        folder: of results.
        ends: when it must be over, as `time.monotonic` counts.
        small: whether models are tiny.
        facts_file, tasks, edits: of the lives.
    """

    folder: Path
    ends: float
    small: bool
    facts_file: Path
    tasks: Path | None
    edits: int

    def left(self) -> float:
        """Seconds that parts may still take."""
        return self.ends - time.monotonic() - SAVING

    def model(self) -> str:
        """The model of targets and lives: a name, or the folder of a tiny one."""
        if not self.small:
            return EMBEDDED
        tiny = self.folder / "tiny-model"
        if not (tiny / "config.json").is_file():
            random_llama("tiny", n_layers=8, d_model=64, d_mlp=128, n_heads=4).save(tiny)
        return str(tiny)


def random_llama(name: str, *, n_layers: int, d_model: int, d_mlp: int, n_heads: int) -> EditableModel:
    """A random model with the embedded one's tokenizer, on the GPU in bfloat16, or on the CPU in float32."""
    on_gpu = torch.cuda.is_available()
    tokenizer = read_tokenizer(EMBEDDED, find_source(EMBEDDED, lambda what, share: None))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, num_key_value_heads=max(1, n_heads // 4), max_position_embeddings=2048,
        dtype="bfloat16" if on_gpu else "float32",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        model = LlamaForCausalLM(config)
    return wrap(model.to(torch.bfloat16) if on_gpu else model, tokenizer, name)


# -- parts -------------------------------------------------------------------------------------------------------------


def tests(go: Go) -> dict[str, Any]:
    """The tests that need a GPU; without one all are skipped, and pytest says so."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, go.left()))
    except subprocess.TimeoutExpired as late:
        raise OutOfTime from late
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join([*lines[-30:], done.stderr[-1000:]]))
    return {"said": lines[-1]}


def targets(go: Go, dtype: str, search: str) -> dict[str, Any]:
    """The search for targets of many facts at once, with matrix products in a dtype."""
    lm = load_model(go.model())
    facts = some_facts(go, 4 if go.small else 200)
    settings = {"search": search, "bfloat16": dtype == "bfloat16"} | ({"steps": 2} if go.small else {})
    session = EditSession(lm, "ENCORE", settings=settings)
    session.prepare()
    session.find_targets(facts)  # shapes are met, and kernels chosen, before time is taken
    wait()
    began = time.perf_counter()
    found = session.find_targets(facts)
    wait()
    spent = time.perf_counter() - began
    stopped = [target.stopped for target in found]
    return {
        "facts": len(facts),
        "seconds_per_fact": spent / len(facts),
        "steps": sum(target.steps for target in found) / len(found),
        "stopped": {why: stopped.count(why) for why in sorted(set(stopped))},
    }


def shape_8b(go: Go) -> dict[str, Any]:
    """One batch on a model that is as large as Llama-3-8B but for its vocabulary; what it says is of no matter."""
    if go.small:
        sizes = {"n_layers": 8, "d_model": 64, "d_mlp": 128, "n_heads": 4}
    elif not torch.cuda.is_available():
        raise RuntimeError("a model of 8B parameters needs a GPU; give --small on a CPU")
    else:
        sizes = {"n_layers": 32, "d_model": 4096, "d_mlp": 14336, "n_heads": 32}
    lm = random_llama("random-llama", **sizes)
    facts = some_facts(go, 2 if go.small else 100)
    # As many tokens as C0 has rows, and half as many again.
    settings = {"layers": "2-4" if go.small else "4-8", "statistics_tokens": max(500, sizes["d_mlp"] * 3 // 2)}
    session = EditSession(lm, "ENCORE", settings=settings | {"steps": 2 if go.small else 25}, keep_history=False)
    began = time.perf_counter()
    session.prepare()
    wait()
    prepared = time.perf_counter() - began
    report = session.edit(facts, known="edit", measure=False)
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {"facts": len(facts), "sizes": sizes, "prepared": prepared, "seconds": report.seconds, "gpu_gb": peak}


def lives(go: Go, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Edits of several methods side by side, each in a process that goes on where its last one was ended.

    Returns:
        by method, its last checkpoint and tasks if it came to its end, or what went wrong; nothing of those that were
        ended because time ran out.
    """
    folder = go.folder / "lives"
    processes = {}
    for method in methods:
        command = [
            sys.executable, str(ROOT / "benchmarks/search.py"), "run", str(folder), str(go.facts_file), "--method",
            method, "--model", go.model(), "--first", "0", "--edits", str(go.edits), "--every",
            str(max(1, go.edits // 10)), *(["--tasks", str(go.tasks)] if go.tasks else []),
            *(["--set", "statistics_tokens=2000"] if go.small else []),
        ]  # fmt: skip
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(methods)))}
        with (go.folder / f"life-{method}.log").open("a", encoding="utf-8") as log:
            processes[method] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | threads)
    try:
        for process in processes.values():
            process.wait(timeout=max(0.1, go.left()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
        for process in processes.values():
            process.wait()
    found = {method: end for method in methods if (end := _end_of(go, folder / f"{method}.jsonl")) is not None}
    failed = [method for method, process in processes.items() if process.returncode > 0]
    return found | {method: {"error": f"see life-{method}.log in FOLDER"} for method in failed}


def _end_of(go: Go, file: Path) -> dict[str, Any] | None:
    """The last checkpoint of a life and its tasks; None if it has not come to its end."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    last = next((row for row in reversed(rows) if "scores" in row), None)
    tasks = next((row["tasks"] for row in rows if "tasks" in row), None)
    if last is None or last["edits"] < go.edits or (go.tasks and tasks is None):
        return None
    scores = {
        name: {field: mean([one[field] for one in of if one[field] is not None] or [math.nan]) for field in SCORES}
        for name, of in last["scores"].items()
    }
    kept = {name: last[name] for name in ("edits", "perplexity", "kl", "seconds")}
    return kept | {"perplexity_before": rows[0]["perplexity"], "scores": scores, "tasks": tasks}


# -- the go ------------------------------------------------------------------------------------------------------------


def some_facts(go: Go, n: int) -> list[Fact]:
    """The first facts of the file."""
    return read_facts(go.facts_file)[:n]


def wait() -> None:
    """Until the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Results:
    """FOLDER/results.json: by part, what it found, or what went wrong."""

    def __init__(self, folder: Path):
        self.file = folder / "results.json"
        self.found = json.loads(self.file.read_text("utf-8")) if self.file.is_file() else {}

    def has(self, part: str) -> bool:
        return part in self.found and "error" not in self.found[part]

    def add(self, part: str, value: dict[str, Any]) -> None:
        self.found[part] = value
        with replacing(self.file) as whole:
            whole.write_text(json.dumps(self.found, indent=1, ensure_ascii=False), encoding="utf-8")
        print(f"{part}: {value}", flush=True)

    def attempt(self, go: Go, part: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do a part that is not there yet, if there is time. What goes wrong is written down; the next part comes."""
        if self.has(part):
            return
        if go.left() <= 0:
            print(f"{part}: no time left", flush=True)
            return
        began = time.monotonic()
        try:
            value = work()
        except OutOfTime:
            print(f"{part}: ended before it was done", flush=True)
        except Exception as error:  # one part must not take the others' time with it
            self.add(part, {"error": f"{type(error).__name__}: {error}"})
        else:
            self.add(part, value | {"took": round(time.monotonic() - began, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("facts", type=Path)
    parser.add_argument("--tasks", type=Path, help="folder of downstream tasks, asked at the end of lives")
    parser.add_argument("--minutes", type=float, default=12.0, help="after which the script is over (default: 12)")
    parser.add_argument("--edits", type=int, default=10_000, help="of every life (default: 10,000)")
    parser.add_argument("--methods", default=",".join(METHODS), help="of the lives, separated by commas")
    parser.add_argument("--small", action="store_true", help="tiny random models, to try the script on a CPU")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    go = Go(
        options.folder.absolute(), time.monotonic() + 60 * options.minutes, options.small, options.facts.absolute(),
        options.tasks and options.tasks.absolute(), options.edits,
    )  # fmt: skip
    results = Results(go.folder)
    results.attempt(go, "machine", machine)
    results.attempt(go, "tests", lambda: tests(go))
    for dtype in DTYPES:
        for search in SEARCHES:
            results.attempt(go, f"targets {dtype} {search}", lambda d=dtype, s=search: targets(go, d, s))
    results.attempt(go, "8B shape", lambda: shape_8b(go))
    missing = [method for method in options.methods.split(",") if not results.has(f"life {method}")]
    if missing and go.left() > 0:
        ends = lives(go, missing)
        for method in missing:
            if method in ends:
                results.add(f"life {method}", ends[method])
            else:
                print(f"life {method}: ended before it was done; the next go continues it", flush=True)


if __name__ == "__main__":
    main()
