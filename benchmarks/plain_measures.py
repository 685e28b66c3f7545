"""Measure an exported run's model with nothing but transformers, and compare with what the run recorded.

    encore runs export RUN --out FOLDER --model
    python benchmarks/plain_measures.py FOLDER FACTS.jsonl

A second opinion on what the pages show at a run's last checkpoint: the norm of every layer's MLP output matrix, the
shares and signed shares of every sublayer, and the scores of each subset of facts. One text at a time, full logits,
none of this project's code. FACTS is the run's file, flat EasyEdit JSONL. Prints the largest difference of each kind;
the exit code is 1 when one is above 1e-4.
"""

from __future__ import annotations

import csv
import json
import math
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean, mean

import torch
from plain_evaluator import mean_log_probability, start_token
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4
FIXED_TEXT = Path(__file__).parents[1] / "assets" / "text" / "fluency.txt"
PASSAGES, PASSAGE_CHARACTERS = 8, 400


@dataclass
class Asked:
    """What is asked about a fact: its prompt and paraphrases with both answers, its neighbours with their own."""

    prompt: str
    new: str
    true: str
    paraphrases: list[str]
    neighbours: list[tuple[str, str]]


def norms(model) -> dict[int, float]:
    """‖W‖_F of every block's MLP output matrix, by its name in the state."""
    found = {}
    for name, weight in model.state_dict().items():
        if place := re.search(r"\.(\d+)\.mlp\.(?:down_proj|c_proj)\.weight$", name):
            found[int(place[1])] = math.sqrt(float(weight.double().square().sum()))
    return found


@torch.no_grad()
def contributions(model, tokenizer, texts: list[str]) -> dict[str, tuple[float, float]]:
    """Mean over all tokens of (share, signed share), by label, for blocks that add attention and MLP as they are."""
    sums: dict[str, torch.Tensor] = {}
    n_tokens = 0
    for text in texts:
        outputs = added(model, tokenizer(text, return_tensors="pt"))
        stream = outputs.pop("stream")
        total = sum(output.norm(dim=-1) for output in outputs.values())
        for label, output in outputs.items():
            share = output.norm(dim=-1) / total
            signed = (output * stream).sum(-1) / stream.square().sum(-1)
            sums[label] = sums.get(label, 0) + torch.stack([share.sum(), signed.sum()])
        n_tokens += len(stream)
    return {label: tuple((value / n_tokens).tolist()) for label, value in sums.items()}


def added(model, inputs) -> dict[str, torch.Tensor]:
    """What each sublayer returns for one text, (n_tokens, d_model), and the "stream" behind the last block."""
    inner = model.base_model
    blocks = inner.layers if hasattr(inner, "layers") else inner.h
    outputs: dict[str, torch.Tensor] = {}

    def keep(label: str):
        def hook(module, args, result):
            outputs[label] = (result[0] if isinstance(result, tuple) else result)[0].double()

        return hook

    def entering(module, args, kwargs):
        outputs["input"] = (args[0] if args else kwargs["hidden_states"])[0].double()

    handles = [
        blocks[0].register_forward_pre_hook(entering, with_kwargs=True),
        blocks[-1].register_forward_hook(keep("stream")),
    ]
    for number, block in enumerate(blocks):
        attention = block.self_attn if hasattr(block, "self_attn") else block.attn
        handles += [
            attention.register_forward_hook(keep(f"attention {number}")),
            block.mlp.register_forward_hook(keep(f"MLP {number}")),
        ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    return outputs


def passages(longest: int = PASSAGE_CHARACTERS) -> list[str]:
    """The beginnings of the fixed text's paragraphs; none ends in a blank, which would be a token of its own."""
    paragraphs = [" ".join(part.split()) for part in FIXED_TEXT.read_text(encoding="utf-8").split("\n\n")]
    return [part[:longest].rstrip() for part in paragraphs if part][:PASSAGES]


@torch.no_grad()
def scores(model, tokenizer, facts: list[Asked]) -> dict[str, float]:
    """Means within a fact, then over facts, × 100; the magnitude as it is."""
    found: dict[str, list[float]] = {}

    def rate(prompt: str, answer: str) -> float:
        return mean_log_probability(model, tokenizer, prompt, answer)[0]

    for fact in facts:
        new, said = mean_log_probability(model, tokenizer, fact.prompt, fact.new)
        true = rate(fact.prompt, fact.true)
        of_fact = {
            "edit_score": new > true,
            "accuracy": said,
            "magnitude": (math.exp(new) - math.exp(true)) / 100,
        }
        if fact.paraphrases:
            of_fact["paraphrase_score"] = mean(rate(p, fact.new) > rate(p, fact.true) for p in fact.paraphrases)
        if fact.neighbours:
            of_fact["neighborhood_score"] = mean(rate(p, own) > rate(p, fact.new) for p, own in fact.neighbours)
        for name, value in of_fact.items():
            found.setdefault(name, []).append(float(value))
    values = {name: 100 * mean(of_all) for name, of_all in found.items()}
    three = ("edit_score", "paraphrase_score", "neighborhood_score")
    if all(name in values for name in three):
        values["overall_score"] = harmonic_mean([values[name] for name in three])
    return values


def subsets(n_facts: int, seed: int, batch_size: int, sample: int, of_batch: int) -> dict[str, list[int]]:
    """Places of the facts that a run of one batch after another scores at its end: those of lowest rank."""
    ranks = list(range(n_facts))
    random.Random(seed).shuffle(ranks)

    def lowest(places: range, n: int) -> list[int]:
        return sorted(sorted(places, key=ranks.__getitem__)[:n])

    last = (n_facts - 1) // batch_size * batch_size
    return {
        "sample": lowest(range(n_facts), sample),
        "newest": lowest(range(last, n_facts), of_batch),
        "first": lowest(range(min(batch_size, n_facts)), of_batch),
    }


def recorded(folder: Path, name: str, edits: int) -> list[dict[str, str]]:
    """Rows of an exported series at the last checkpoint."""
    with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["edits"]) == edits]


def differences(folder: Path, facts: list[Asked]) -> dict[str, float]:
    """The largest absolute difference of each kind between the exported series and this file's measurements.

    Args:
        folder: as `encore runs export --model` wrote it.
        facts: of the run, in the order in which it edited them.
    """
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    plan, edits = run["plan"], len(facts)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    worst: dict[str, float] = {}

    def compare(kind: str, shown: str, plain: float) -> None:
        worst[kind] = max(worst.get(kind, 0.0), abs(float(shown) - plain))

    of_model = norms(model)
    rows = recorded(folder, "norms", edits)
    if {int(row["layer"]) for row in rows} != of_model.keys():
        raise ValueError("the run has norms of other layers")
    for row in rows:
        compare("norm, relative", float(row["norm"]) / of_model[int(row["layer"])], 1.0)
    room = getattr(model.config, "max_position_embeddings", PASSAGE_CHARACTERS + 8) - 8
    start = start_token(folder / "model")
    texts = [start + text for text in passages(min(PASSAGE_CHARACTERS, room))]
    of_model = contributions(model, tokenizer, texts)
    rows = recorded(folder, "contributions", edits)
    if {row["label"] for row in rows} != of_model.keys():
        raise ValueError("the run has other sublayers")
    for row in rows:
        compare("share", row["share"], of_model[row["label"]][0])
        compare("signed share", row["signed_share"], of_model[row["label"]][1])
    measure = plan["measure"]
    chosen = subsets(edits, plan["seed"], plan["batch_size"], measure["sample_facts"], measure["batch_facts"])
    rows = recorded(folder, "scores", edits)
    if {row["subset"] for row in rows} != set(measure["subsets"]):
        raise ValueError("the run has scores of other subsets")
    for subset in measure["subsets"]:
        of_subset = scores(model, tokenizer, [begun(facts[place], start) for place in chosen[subset]])
        there = {row["metric"]: row["value"] for row in rows if row["subset"] == subset}
        for metric, value in of_subset.items():
            compare("magnitude" if metric == "magnitude" else "score", there[metric], value)
    return worst


def begun(fact: Asked, start: str) -> Asked:
    """A fact asked with a token in front of every prompt."""
    return Asked(
        start + fact.prompt,
        fact.new,
        fact.true,
        [start + prompt for prompt in fact.paraphrases],
        [(start + prompt, own) for prompt, own in fact.neighbours],
    )


def read(file: Path, limit: int) -> list[Asked]:
    """The first facts of a flat EasyEdit file."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:limit]]
    return [
        Asked(
            r["prompt"],
            r["target_new"],
            r["ground_truth"],
            [r["rephrase_prompt"]],
            [(r["locality_prompt"], r["locality_ground_truth"])],
        )
        for r in records
    ]


def main() -> int:
    folder, file = Path(sys.argv[1]), Path(sys.argv[2])
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    worst = differences(folder, read(file, run["n_edits"]))
    for kind, value in worst.items():
        print(f"{kind:16} {value:.1e}")
    return int(max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
