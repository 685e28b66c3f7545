"""The model card of an edited model: README.md beside the weights, in the form that model hubs read.

Users' text (names, facts) is escaped, so that nothing in it is read as markdown, markup or YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from encore_core.facts import Fact
from encore_core.measures.intervals import Interval
from encore_core.measures.scores import PROTOCOL, Scores, evaluate
from encore_core.models.catalogue import CATALOGUE, split_revision
from encore_core.models.editable import EditableModel
from encore_core.spreadsheets import neutral_csv

CARD_FILE, FACTS_FILE = "README.md", "edited_facts.csv"
SHOWN_FACTS = 100
"""Facts in the card itself; if there are more, all of them are also in `FACTS_FILE`."""

SCORED_FACTS = 50
"""Facts scored for the card, before and after the edits; scoring a fact twice takes a quarter of a second."""

_SCORES = {
    "edit_score": "edit", "paraphrase_score": "paraphrase", "neighborhood_score": "neighbourhood",
    "overall_score": "overall", "portability_score": "portability", "accuracy": "accuracy",
    "generated_edit_contained": "generated: edited", "generated_paraphrase_contained": "generated: paraphrases",
    "generated_neighborhood_contained": "generated: neighbours",
    "generated_portability_contained": "generated: portability",
}  # fmt: skip


@dataclass(frozen=True)
class CardScores:
    """Scores for the card.

    Attributes:
        facts: how many were scored.
        before, after: name → score with its interval, names as in `runs.fact_values`; None where it could not be
            measured.
        bare: as after, but without the start token; None for a model that has none.
        protocols: how they came about, in words.
    """

    facts: int
    before: Mapping[str, Interval | None]
    after: Mapping[str, Interval | None]
    bare: Mapping[str, Interval | None] | None = None
    protocols: Sequence[str] = (PROTOCOL,)


def card_scores(
    lm: EditableModel, matrices: dict[int, torch.Tensor], facts: Sequence[Fact], most: int = SCORED_FACTS
) -> CardScores | None:
    """Score facts on a model before and after its edits.

    Args:
        lm: the model.
        matrices: the edited matrices by layer, as the family stores them.
        facts: the edited facts; if there are more than `most`, an evenly spread sample is scored.
        most: at most how many facts to score; 0 measures nothing.

    Returns:
        the scores; None if nothing is measured.
    """
    if not facts or not most:
        return None
    chosen = [facts[i * len(facts) // min(most, len(facts))] for i in range(min(most, len(facts)))]
    with lm.matrices_replaced({}):
        before = evaluate(lm, chosen, generate=False)
    with lm.matrices_replaced(matrices):
        after = evaluate(lm, chosen, generate=False)
        bare = evaluate(lm, chosen, generate=False, bare=True) if lm.start_token is not None else None
    return CardScores(len(chosen), _values(before), _values(after), bare and _values(bare))


def _values(scores: Scores) -> dict[str, Interval | None]:
    return {name: scores.interval(name) for name in _SCORES if not name.startswith("generated_")}


def facts_csv(facts: Sequence[Fact]) -> bytes:
    """The content of `FACTS_FILE`."""
    rows = [(fact.subject, fact.prompt, fact.target_new, fact.target_true) for fact in facts]
    return neutral_csv(("subject", "prompt", "target_new", "target_true"), rows)


def model_card(report: Mapping[str, Any], facts: Sequence[Fact], scores: CardScores | None) -> str:
    """The model card as markdown.

    Args:
        report: of the edits, see `folder.edit_report`: model, origin, base_fingerprint or fingerprint, method,
            settings, n_edits, norms.
        facts: the edited facts, in order.
        scores: None if nothing was measured.
    """
    name = str(report["model"])
    entry = CATALOGUE.get(split_revision(name)[0])
    licence = entry.licence if entry else None
    parts = [_front_matter(name, licence), f"# {_text(name)}, edited", _intro(report)]
    parts += ["## How texts begin", _start(report.get("start_token"), scores)]
    parts += ["## Scores", _scores(scores), "## Norms of the edited matrices", _norms(report["norms"])]
    parts += [f"## Facts edited ({len(facts)})", _facts(facts), "## How to load it", _LOADING]
    parts += ["## Settings", _settings(report["settings"]), "## Licence", _licence(name, licence)]
    return "\n\n".join(parts) + "\n"


_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```

Or run `encore eval --model this/folder --facts facts.jsonl`. `edit_report.json` beside this file lists every setting,
version, step and norm."""


def _front_matter(name: str, licence: str | None) -> str:
    base, _ = split_revision(name)
    entry = CATALOGUE.get(base)
    hub_id = entry.source if entry and not entry.embedded else base
    rows = ["library_name: transformers", "tags:", "- knowledge-editing", "- encore-studio"]
    # A folder on one machine means nothing elsewhere. JSON strings are valid YAML strings.
    if not name.startswith((".", "/", "~")) and re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        rows.append(f"base_model: {json.dumps(hub_id)}")
    if licence and re.fullmatch(r"(?i)mit|apache-2\.0", licence):
        rows.append(f"license: {licence.lower()}")
    return "\n".join(["---", *rows, "---"])


def _intro(report: Mapping[str, Any]) -> str:
    fingerprint = report.get("base_fingerprint") or report.get("fingerprint")
    origin = f"{_text(report['origin'])}, " if report.get("origin") else ""
    return (
        f"{report['n_edits']} facts were edited into {_text(report['model'])} ({origin}fingerprint "
        f"{_text(fingerprint)}) with {_text(report['method'])} by ENCORE Studio. They were edited in as given: some "
        "may be false on purpose. Other answers of the model may have changed, too."
    )


def _scores(scores: CardScores | None) -> str:
    if scores is None:
        return "Not measured."
    columns = {"before": scores.before, "after": scores.after}
    if scores.bare is not None:
        columns["after, with nothing in front"] = scores.bare
    lines = [
        f"Scores of {scores.facts} of the edited facts, in per cent; in brackets the 95 % interval over facts, where "
        "it is known.",
        "",
    ]
    lines += [f"| | {' | '.join(columns)} | n |", f"|---{'|---' * len(columns)}|---|"]
    for name, label in _SCORES.items():
        found = [values.get(name) for values in columns.values()]
        if any(one is not None for one in found):
            n = " / ".join(dict.fromkeys(f"{one.n}" for one in found if one is not None and one.n))
            lines.append(f"| {label} | {' | '.join(map(_percent, found))} | {n or '–'} |")
    lines += ["", *(f"- {_text(protocol)}" for protocol in scores.protocols)]
    return "\n".join(lines)


def _start(token: str | None, scores: CardScores | None) -> str:
    if token is None:
        return "As the tokenizer begins them: nothing else was put in front of a text, in editing or measuring."
    seen = " (the last column of the scores)" if scores is not None and scores.bare is not None else ""
    return (
        f"Put {_text(token)} before a prompt. Every text began with this token, in editing and measuring, because a "
        "model reads next to nothing of the first token of a text. The tokenizer in this folder does not put it there. "
        f"A program that puts nothing in front gets lower scores{seen}, above all for facts whose subject is the first "
        "word of the prompt."
    )


def _norms(norms: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| layer | before | after | ratio |", "|---|---|---|---|"]
    for layer, pair in norms.items():
        before, after = pair["original"], pair["edited"]
        ratio = f"{after / before:.5f}" if before else "–"
        lines.append(f"| {int(layer)} | {before:.4f} | {after:.4f} | {ratio} |")
    return "\n".join(lines)


def _facts(facts: Sequence[Fact]) -> str:
    lines = ["| prompt | new answer | true answer |", "|---|---|---|"]
    lines += [
        f"| {_text(f.text)} | {_text(f.target_new)} | {_text(f.target_true or '')} |" for f in facts[:SHOWN_FACTS]
    ]
    if len(facts) > SHOWN_FACTS:
        lines += ["", f"and {len(facts) - SHOWN_FACTS} more; all are in `{FACTS_FILE}`."]
    return "\n".join(lines)


def _settings(settings: Mapping[str, Any]) -> str:
    lines = ["| setting | value |", "|---|---|"]
    lines += [f"| {_text(name)} | {_text(_listed(value))} |" for name, value in settings.items()]
    return "\n".join(lines)


def _licence(name: str, licence: str | None) -> str:
    if licence:
        return f"That of the base model: {_text(licence)}."
    return f"That of the base model, {_text(name)}; look it up there."


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _percent(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{found.value:.1f}" + (f" ({found.low:.1f} to {found.high:.1f})" if found.low is not None else "")


def _text(value: object, most: int = 200) -> str:
    """Text escaped for a markdown table: one line, without any meaning in markdown or markup."""
    line = " ".join(str(value).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    # Characters with a meaning in markdown are written by their numbers, which no reader of markdown interprets.
    return re.sub(r"[^\w\s.,;'\"%+…–−→λ≠‖-]", lambda found: f"&#{ord(found[0])};", line).replace("_", "&#95;")
