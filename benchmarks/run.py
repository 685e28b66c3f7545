"""Measure how fast editing is on this machine, and that the fast ways give the plain ways' results.

    python benchmarks/run.py [--only targets methods rows update scoring startup] [--out FILE.json]

    targets     the target optimisation against the plain one-at-a-time loop, at equal steps and with MPES
    methods     seconds an edit by phase, for every method
    rows        whole edits by some methods, batch about, and the plain loop's targets of some of the same facts
    update      the recursive update against a dense solve per batch, by d_mlp
    scoring     batched scoring against prompt by prompt with full logits
    startup     a fresh process until the model is ready, and memory
    precision   scores and time of edits whose targets are found in bfloat16, beside float32 (on request)
    shape       seconds an edit of a model of Llama 3 8B's shape with random weights (on request; needs a large GPU)

Wall-clock on shared machines is noisy: what is compared is measured in turn in one process, and reported as a ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import encore_core.runtime  # noqa: F401  before torch is loaded

# isort: split
import torch
from edit_speed import gflop_per_step, methods, rows, targets
from machine import machine, timed
from plain_evaluator import mean_log_probability
from transformers import LlamaConfig, LlamaForCausalLM

from encore_core import EditSession, evaluate, load_model, read_facts
from encore_core.editing.batch import batched
from encore_core.editing.update_rule import LowRankUpdate, Preservation, inverse_preservation, solve
from encore_core.export.folder import versions
from encore_core.methods import METHODS
from encore_core.models.catalogue import find_source
from encore_core.models.checkpoint import read_tokenizer
from encore_core.models.editable import EditableModel, choose_device, fingerprint
from encore_core.models.families import find_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=USUAL, choices=list(SECTIONS))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--facts", default="bundled", help="facts file; 'bundled' by default")
    parser.add_argument("--batch", type=int, default=100, help="facts per batch")
    parser.add_argument("--plain", type=int, default=8, help="facts that the plain loop is given")
    parser.add_argument(
        "--plain-mpes", type=int, default=50, help="the same for ENCORE, whose stopping steps are compared"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="targets: the fast pass in bfloat16, the plain loop in float32 as ever"
    )
    parser.add_argument("--precision-facts", type=int, default=500, help="facts edited for section precision")
    parser.add_argument("--shape-batches", type=int, default=3, help="batches timed for section shape")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rows", nargs="+", default=["ENCORE", "ENCORE-N"], choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=4, help="batches of section rows, after one that warms up")
    parser.add_argument("--plain-rows", type=int, default=3, help="facts of each that the plain loop is given")
    parser.add_argument("--d-mlp", type=int, nargs="+", default=[1536, 4096, 14336])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "date": time.strftime("%Y-%m-%d")}
    lm = None
    for name in options.only:
        if name in ("targets", "methods", "rows", "scoring", "precision") and lm is None:
            # As the authors' code reads texts, and the plain loop beside it: nothing in front.
            lm = load_model(options.model, options.device, options.dtype, start_token="none")
        print(f"\n{name}", flush=True)
        result[name] = SECTIONS[name](lm, options)
        if options.out:  # after every section: a later one may fail
            options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def update(lm: EditableModel | None, options: argparse.Namespace) -> dict[str, Any]:
    """The recursive update of one layer against a dense solve of the published expression, on synthetic matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for d_mlp in options.d_mlp:
        d_model, n, generator = d_mlp // 3, options.batch, torch.Generator(device).manual_seed(0)
        normal = {"generator": generator, "device": device, "dtype": torch.float64}
        X = torch.randn(d_mlp, d_mlp // 8, **normal)
        A = X @ X.T / X.shape[1]
        A.diagonal().add_(1.0)
        P, first = timed(inverse_preservation, A, 1.0)
        preservation = Preservation(P, owns_start=True)
        seconds, n_batches = [], 100
        W = torch.randn(d_model, d_mlp, generator=generator, device=device)
        warm = [torch.randn(width, n, **normal) for width in (d_model, d_mlp)]
        recursive_batch(Preservation(P), *warm, W.clone())  # loads what a first batch loads
        dense_batch(A[:n, :n], warm[0], warm[1][:n], torch.zeros(d_model, n, device=device))
        for _ in range(n_batches):
            K, R = torch.randn(d_mlp, n, **normal), torch.randn(d_model, n, **normal)
            (update, preservation), took = timed(recursive_batch, preservation, R, K, W)
            seconds.append(took)
            A.addmm_(K, K.T)
        delta = update.delta()
        dense, dense_seconds = timed(dense_batch, A, R, K, W)
        found[d_mlp] = row = {
            "factorisation_s": first,
            "batch_s": statistics.mean(seconds),
            "dense_batch_s": dense_seconds,
            "speedup": dense_seconds / statistics.mean(seconds),
            "relative_difference": float((delta - dense).norm() / dense.norm()),
            "batches": n_batches,
            "state_gb": preservation.start.nbytes / 1e9,
        }
        print(d_mlp, {key: float(f"{value:.4g}") for key, value in row.items()}, flush=True)
    return found


def recursive_batch(
    preservation: Preservation, R: torch.Tensor, K: torch.Tensor, W: torch.Tensor
) -> tuple[LowRankUpdate, Preservation]:
    """Δ of one batch is added to W, and the batch joins what is preserved."""
    low_rank = solve(R, K, preservation.times(K), 1.0)
    low_rank.add_to(W)
    return low_rank, preservation.absorbed(low_rank.Y).compact()


def dense_batch(A: torch.Tensor, R: torch.Tensor, K: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """The same from everything preserved so far, A (d_mlp, d_mlp), which holds this batch's K Kᵀ already."""
    delta = R @ torch.linalg.solve(A, K).T
    W += delta.to(W.dtype)
    return delta


def scoring(lm: EditableModel, options: argparse.Namespace) -> dict[str, Any]:
    """Edit, paraphrase and neighbourhood scores of a batch against prompt by prompt with full logits."""
    facts = read_facts(options.facts)[: options.batch]
    scores, seconds = timed(evaluate, lm, facts, False)
    few = facts[: max(4, options.batch // 10)]

    @torch.no_grad()
    def prompt_by_prompt() -> None:
        for fact in few:
            pairs = [(prompt, answer) for prompt in (fact.text, *fact.paraphrases) for answer in both(fact)]
            pairs += [(item.prompt, answer) for item in fact.neighbours for answer in (item.target, fact.target_new)]
            for prompt, answer in pairs:
                mean_log_probability(lm.model, lm.tokenizer, prompt, answer)

    _, plain_seconds = timed(prompt_by_prompt)
    row = {
        "fast_s_per_fact": seconds / len(facts),
        "plain_s_per_fact": plain_seconds / len(few),
        "speedup": (plain_seconds / len(few)) / (seconds / len(facts)),
        "edit_score": scores.edit_score,
    }
    print({key: round(value, 4) for key, value in row.items()})
    return row


def both(fact) -> tuple[str, ...]:
    return (fact.target_new, *((fact.target_true,) if fact.target_true else ()))


def startup(lm: EditableModel | None, options: argparse.Namespace) -> dict[str, Any]:
    """Fresh processes until the model can be used, and their peak memory."""
    code = (
        "import resource, time; t = time.perf_counter(); from encore_core import EditSession, load_model; "
        f"lm = load_model({options.model!r}); s = time.perf_counter() - t; EditSession(lm).prepare(); "
        "print(s, time.perf_counter() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"
    )
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()[-3:]])
    row = {
        "loaded_s": statistics.median(run[0] for run in runs),
        "ready_to_edit_s": statistics.median(run[1] for run in runs),
        "peak_memory_gb": statistics.median(run[2] for run in runs),
    }
    print({key: round(value, 2) for key, value in row.items()})
    return row


def precision(lm: EditableModel, options: argparse.Namespace) -> dict[str, Any]:
    """The same edits with targets in float32 and in bfloat16: what they take, and how they score afterwards."""
    facts = read_facts(options.facts)[: options.precision_facts]
    found = {}
    for bfloat16 in (False, True):
        session = EditSession(lm, "ENCORE", settings={"bfloat16": bfloat16}, keep_history=False)
        session.prepare()
        reports = [session.edit(some, known="edit", measure=False) for some in batched(facts, options.batch)]
        with session.edited():
            scores, scoring_seconds = timed(evaluate, lm, facts, False)
        name = "bfloat16" if bfloat16 else "float32"
        found[name] = row = {
            "targets_s_per_fact": sum(report.seconds["targets"] for report in reports) / len(facts),
            "total_s_per_fact": sum(sum(report.seconds.values()) for report in reports) / len(facts),
            "mean_steps": statistics.mean(item.steps for report in reports for item in report.edited),
            "edit": scores.edit_score,
            "paraphrase": scores.paraphrase_score,
            "neighborhood": scores.neighborhood_score,
            "overall": scores.overall_score,
            "scoring_s_per_fact": scoring_seconds / len(facts),
            "facts": len(facts),
        }
        print(name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    return found


def shape(lm: EditableModel | None, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds an edit of a model of Llama 3 8B's shape in bfloat16, with random weights and the embedded tokenizer.

    What such a model says is noise, so how many steps a target takes means nothing: what a step costs is the result.
    """
    large = random_llama_8b(choose_device(options.device))
    facts = read_facts(options.facts)[: options.batch * (options.shape_batches + 1)]
    found: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in large.model.parameters())}
    for name in ("MEMIT", "ENCORE"):
        session = EditSession(large, name, settings={"statistics_tokens": 20_000}, keep_history=False)
        _, prepared = timed(session.prepare)
        print(f"{name} is ready after {prepared:.1f} s", flush=True)
        batches = list(batched(facts, options.batch))
        session.edit(batches[0], known="edit", measure=False)  # finds and loads kernels
        reports, seconds = [], 0.0
        for some in batches[1:]:
            report, took = timed(partial(session.edit, some, known="edit", measure=False))
            reports.append(report)
            seconds += took
        n_facts = sum(len(report.edited) for report in reports)
        steps = [item.steps + 1 for report in reports for item in report.edited]
        phases = {phase: sum(report.seconds[phase] for report in reports) / n_facts for phase in reports[0].seconds}
        layer = session.settings.layers[-1]
        gflop = gflop_per_step(large, facts, session.prefixes, layer)
        found[name] = row = phases | {
            "prepare_s": prepared,
            "total_s_per_edit": seconds / n_facts,
            "evaluations": statistics.mean(steps),
            "targets_s_per_fact_and_step": sum(report.seconds["targets"] for report in reports) / sum(steps),
            "gflop_per_fact_and_step": gflop,
            "targets_tflops": gflop * sum(steps) / sum(report.seconds["targets"] for report in reports) / 1e3,
            "minutes_for_10000_edits": 10_000 * seconds / n_facts / 60,
            "path": large.checked_paths.get(layer),
            "facts": n_facts,
        }
        if torch.cuda.is_available():
            row["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        print(name, row, flush=True)
    return found


def random_llama_8b(device: torch.device) -> EditableModel:
    """Random weights in Llama 3 8B's shape, (4096, 14336), 32 blocks, 128,256 tokens, with the embedded tokenizer."""
    tokenizer = read_tokenizer("smollm2-135m", find_source("smollm2-135m", lambda what, share: None))
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500_000.0, tie_word_embeddings=False,
        dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.eval().requires_grad_(False)
    return EditableModel("llama-3-8b's shape", model, tokenizer, find_parts(model, "shape"), fingerprint(model))


SECTIONS = {
    "targets": targets, "methods": methods, "rows": rows, "update": update, "scoring": scoring, "startup": startup,
    "precision": precision, "shape": shape,
}  # fmt: skip
USUAL = ["targets", "methods", "rows", "update", "scoring", "startup"]


if __name__ == "__main__":
    main()
