"""Score a model folder with nothing but transformers: one prompt at a time, full logits, none of this project's code.

    python benchmarks/plain_evaluator.py FOLDER FACTS.jsonl [LIMIT] [--chat]

A second opinion on `encore eval --protocol teacher-forced,generated`. FACTS is flat EasyEdit JSONL (prompt, target_new,
ground_truth, rephrase_prompt, locality_prompt, locality_ground_truth).
"""

from __future__ import annotations

import json
import string
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


ABBREVIATIONS = {
    *("st", "mt", "ft", "mr", "mrs", "ms", "dr", "jr", "sr", "prof", "gen", "col", "capt", "no", "vs", "etc", "inc"),
    *("ltd", "co", "corp", "al", "fig", "approx"),
}


def answer_in(text: str) -> str:
    """A continuation up to the end of its first sentence or line that holds a letter or digit."""
    for place, sign in enumerate(text):
        before = text[:place]
        if not any(one.isalnum() for one in before):
            continue
        if sign == "\n":
            return before.strip()
        if sign in "。！？":
            return text[: place + 1].strip()
        if sign in ".!?":
            word = ""
            while before and before[-1].isalpha():
                word, before = before[-1] + word, before[:-1]
            end = place + 1
            while end < len(text) and text[end] in "\"'”’)":
                end += 1
            if len(word) != 1 and word.lower() not in ABBREVIATIONS and end < len(text) and text[end].isspace():
                return text[:end].strip()
    return text.strip()


def greedy(model, tokenizer, prompt: str, n_tokens: int, in_chat: bool = False) -> str:
    """The most probable tokens after a prompt, each from a pass over the whole text, up to an end-of-text token.

    Args:
        model, tokenizer: of transformers.
        prompt: the text, or what a user says in a chat.
        n_tokens: at most.
        in_chat: whether the prompt is put into the chat template.
    """
    if in_chat:
        message = [{"role": "user", "content": prompt}]
        found = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        found = tokenizer(prompt, return_tensors="pt")
    ids = found["input_ids"].to(model.device)
    n_prompt = ids.shape[1]
    for _ in range(n_tokens):
        token = model(ids, use_cache=False).logits[0, -1].argmax()
        if int(token) == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return tokenizer.decode(ids[0, n_prompt:], skip_special_tokens=True)


def words(text: str) -> list[str]:
    """Words in small letters, without ASCII punctuation and articles."""
    plain = "".join(" " if one in string.punctuation else one for one in text.lower())
    return [word for word in plain.split() if word not in ("a", "an", "the")]


def is_in(answer: list[str], said: list[str]) -> bool:
    """Whether the words of an answer stand in a text one after the other."""
    n = len(answer)
    return n > 0 and any(said[start : start + n] == answer for start in range(len(said) - n + 1))


@torch.no_grad()
def generated(folder: str, records: list[dict], n_tokens: int | None = None, in_chat: bool = False) -> dict[str, float]:
    """Shares of generated texts that are, and that contain, the right answer, × 100; see `greedy`."""
    tokenizer, start = AutoTokenizer.from_pretrained(folder), "" if in_chat else start_token(folder)
    n_tokens = n_tokens or (24 if in_chat else 12)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = {
        f"{part} {metric}": 0 for part in ("edit", "paraphrase", "neighborhood") for metric in ("exact", "contained")
    }
    for r in records:
        for part, prompt, answer in (
            ("edit", "prompt", "target_new"),
            ("paraphrase", "rephrase_prompt", "target_new"),
            ("neighborhood", "locality_prompt", "locality_ground_truth"),
        ):
            said = words(answer_in(greedy(model, tokenizer, start + r[prompt], n_tokens, in_chat)))
            sums[f"{part} exact"] += said == words(r[answer])
            sums[f"{part} contained"] += is_in(words(r[answer]), said)
    return {name: 100 * value / len(records) for name, value in sums.items()}


def main() -> None:
    folder, facts, *more = [word for word in sys.argv[1:] if word != "--chat"]
    limit = int(more[0]) if more else None
    lines = Path(facts).read_text(encoding="utf-8").splitlines()[:limit]
    records = [json.loads(line) for line in lines]
    texts = generated(folder, records, in_chat="--chat" in sys.argv)
    print(json.dumps({"teacher-forced": scores(folder, records), "generated": texts}))


if __name__ == "__main__":
    main()
