"""Score a model folder with nothing but transformers: one prompt at a time, full logits, none of this project's code.

    python benchmarks/plain_evaluator.py FOLDER FACTS.jsonl [LIMIT]

A second opinion on `encore eval`. FACTS is flat EasyEdit JSONL (prompt, target_new, ground_truth, rephrase_prompt,
locality_prompt, locality_ground_truth).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def start_token(folder: str | Path) -> str:
    """What the folder's report says is to stand before a prompt; "" for nothing."""
    report = Path(folder, "edit_report.json")
    return (json.loads(report.read_text(encoding="utf-8")).get("start_token") or "") if report.is_file() else ""


def mean_log_probability(model, tokenizer, prompt: str, answer: str) -> tuple[float, bool]:
    """Mean log-probability of the answer's tokens after the prompt, and whether each is the most probable one."""
    n_prompt = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(f"{prompt} {answer}", return_tensors="pt")["input_ids"].to(model.device)
    logits = model(ids).logits[0, n_prompt - 1 : -1].float().log_softmax(-1)
    wanted = ids[0, n_prompt:]
    values = logits.gather(1, wanted[:, None])[:, 0]
    return float(values.mean()), bool((logits.argmax(-1) == wanted).all())


@torch.no_grad()
def scores(folder: str, records: list[dict]) -> dict[str, float]:
    """Edit, paraphrase and neighbourhood score and accuracy, × 100."""
    tokenizer, start = AutoTokenizer.from_pretrained(folder), start_token(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = dict.fromkeys(("edit", "paraphrase", "neighborhood", "accuracy"), 0)
    for r in records:
        new, said = mean_log_probability(model, tokenizer, start + r["prompt"], r["target_new"])
        sums["edit"] += new > mean_log_probability(model, tokenizer, start + r["prompt"], r["ground_truth"])[0]
        sums["accuracy"] += said
        new, true = (
            mean_log_probability(model, tokenizer, start + r["rephrase_prompt"], r[name])[0]
            for name in ("target_new", "ground_truth")
        )
        sums["paraphrase"] += new > true
        new, true = (
            mean_log_probability(model, tokenizer, start + r["locality_prompt"], r[name])[0]
            for name in ("target_new", "locality_ground_truth")
        )
        sums["neighborhood"] += true > new
    return {name: 100 * value / len(records) for name, value in sums.items()}


def main() -> None:
    folder, facts = sys.argv[1:3]
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
    lines = Path(facts).read_text(encoding="utf-8").splitlines()[:limit]
    print(json.dumps(scores(folder, [json.loads(line) for line in lines])))


if __name__ == "__main__":
    main()
