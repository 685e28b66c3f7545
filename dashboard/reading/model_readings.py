"""What a model says, asked once: cached readings, and the rows that charts and tables show.

"Before" is always the model as loaded; all visitors share its readings. "After" is the model with one visitor's edits;
its readings are kept until those change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from encore_core.facts import Fact
from encore_core.measures import answers, scores
from encore_core.measures.before_edits import BeforeEdits, ask_before
from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import GeneratedScores, evaluate_generated
from encore_core.measures.writing import Writing, Written, written
from encore_core.models.editable import EditableModel

VERDICTS = {
    "changed": ("✓", "changed", "good", "changed as wanted"),
    "ahead": ("✓", "ahead as before", "", "was ahead before the edit, too"),
    "unchanged": ("✗", "not changed", "bad", "did not change, should have"),
    "kept": ("✓", "stayed", "good", "stayed as it should"),
    "weakened": ("▲", "weakened", "warn", "still ahead, at under half its probability"),
    "lost": ("✗", "lost", "bad", "changed, should not have"),
    "unknown": ("○", "not known", "", "not known to begin with"),
    "waiting": ("○", "not edited", "", "not edited yet"),
    "": ("", "", "", ""),
}
"""Verdict → symbol, word, tone, and what it means in full."""


class Readings:
    """Answers of one model state, each asked for once.

    Args:
        running: yields the model in that state, under its lock.
        limit: readings kept; the least recently used are dropped first.
    """

    def __init__(self, running: Callable[[], AbstractContextManager[EditableModel]], limit: int = 20_000):
        self._running = running
        self._limit = limit
        self._known: OrderedDict[tuple, Any] = OrderedDict()
        self._lock = threading.Lock()

    def answer_probabilities(
        self, pairs: Sequence[tuple[str, str] | answers.Question], bare: bool = False
    ) -> list[answers.Answer]:
        """`answer_probabilities` of prompts and answers, in one pass for those not asked before."""
        return self._all(
            [("bare" if bare else "answer_probabilities", *pair) for pair in pairs],
            lambda lm, keys: answers.answer_probabilities(lm, [k[1:] for k in keys], bare),
        )

    def continuation(self, prompt: str) -> str:
        """The greedy continuation, without the prompt."""
        return self.written(prompt, Writing()).text

    def written(self, prompt: str, how: Writing, like: Written | None = None) -> Written:
        """What the model writes after a prompt; sooner if that begins like a text that is given."""
        guess = like.ids if like is not None else ()
        return self._all([("text", prompt, how)], lambda lm, keys: [written(lm, *key[1:], guess) for key in keys])[0]

    def greedy_text(self, prompt: str) -> Written | None:
        """A greedy text that has been written after this prompt, of whatever length; None where none has."""
        with self._lock:
            for (what, *about), found in reversed(self._known.items()):
                if what == "text" and about[0] == prompt and not about[1].temperature:
                    return found
        return None

    def scores(self, facts: Sequence[Fact]) -> scores.Scores:
        """`scores.evaluate` of some facts, generation included."""
        return self._all([("scores", *facts)], lambda lm, keys: [scores.evaluate(lm, k[1:]) for k in keys])[0]

    def generated(self, facts: Sequence[Fact], settings: GenerationSettings) -> GeneratedScores:
        """`evaluate_generated` of some facts, without a judge."""
        return self._all(
            [("generated", tuple(facts), settings)],
            lambda lm, keys: [evaluate_generated(lm, *key[1:]) for key in keys],
        )[0]

    def before_edits(self, facts: Sequence[Fact]) -> BeforeEdits:
        """`ask_before` of some facts, for the model as loaded."""
        return self._all([("before edits", *facts)], lambda lm, keys: [ask_before(lm, key[1:]) for key in keys])[0]

    def _all(self, keys: Sequence[tuple], ask: Callable[[EditableModel, list[tuple]], Iterable]) -> list:
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            with self._running() as lm:
                found |= zip(missing, ask(lm, missing), strict=True)
        with self._lock:
            for key in found:
                self._known[key] = found[key]
                self._known.move_to_end(key)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return [found[key] for key in keys]


def prompts_of(fact: Fact, free: str = "") -> list[tuple[str, str, str | None]]:
    """(kind, prompt, true answer) of everything that is asked about a fact; kinds as in `charts.answers.SECTIONS`."""
    asked: list[tuple[str, str, str | None]] = [("rewrite", fact.text, fact.target_true)]
    asked += [("paraphrase", prompt, fact.target_true) for prompt in fact.paraphrases]
    asked += [("neighbour", neighbour.prompt, neighbour.target) for neighbour in fact.neighbours]
    if free.strip():
        asked.append(("free", free, fact.target_true))
    return asked


def observe(fact: Fact, before: Readings, after: Readings, *, is_edited: bool, free: str = "") -> pd.DataFrame:
    """Every prompt about a fact with the probabilities of both answers before and after, and a verdict.

    Args:
        fact: what to ask about.
        before: the model as loaded.
        after: the model with the visitor's edits; the same object when there are none.
        is_edited: whether this very fact is among them, so that a change is expected.
        free: a prompt of the visitor's own; may be empty.

    Returns:
        columns `kind`, `prompt`, `new`, `true`, `new_before`, `new_after`, `true_before`, `true_after`, `verdict`,
        `symbol`, `word`, `tone`, `meaning`.

    Raises:
        InputError: for a prompt that the model cannot take.
    """
    asked = prompts_of(fact, free)
    pairs = [(prompt, answer) for _, prompt, true in asked for answer in (fact.target_new, true) if answer is not None]
    questions = [answers.Question(*pair, fact.join) for pair in pairs]
    was = dict(zip(pairs, before.answer_probabilities(questions), strict=True))
    now = dict(zip(pairs, after.answer_probabilities(questions), strict=True)) if after is not before else was
    rows = []
    for kind, prompt, true in asked:
        new_was, new_now = was[prompt, fact.target_new], now[prompt, fact.target_new]
        true_was, true_now = (was[prompt, true], now[prompt, true]) if true is not None else (None, None)
        verdict = _verdict(kind, new_was, new_now, true_was, true_now, is_edited, after is not before)
        symbol, word, tone, meaning = VERDICTS[verdict]
        rows.append(
            {
                "kind": kind,
                "prompt": prompt,
                "new": fact.target_new,
                "true": true,
                "new_before": new_was.probability,
                "new_after": new_now.probability,
                "true_before": true_was.probability if true_was else None,
                "true_after": true_now.probability if true_now else None,
                "verdict": verdict,
                "symbol": symbol,
                "word": word,
                "tone": tone,
                "meaning": meaning,
            }
        )
    table = pd.DataFrame(rows)
    # pandas would turn a missing answer into NaN, which readers of the table do not expect.
    return table.astype(object).where(table.notna(), None)


def _verdict(kind, new_was, new_now, true_was, true_now, is_edited: bool, any_edits: bool) -> str:
    if kind == "free" or not any_edits:
        return ""
    if kind in ("rewrite", "paraphrase"):
        if not is_edited:
            return "waiting"
        if not _is_ahead(new_now, true_now):
            return "unchanged"
        return "ahead" if _is_ahead(new_was, true_was) else "changed"
    if true_was.log_probability <= new_was.log_probability:
        return "unknown"
    if true_now.log_probability <= new_now.log_probability:
        return "lost"
    return "weakened" if true_now.probability < true_was.probability / 2 else "kept"


def _is_ahead(new: answers.Answer, true: answers.Answer | None) -> bool:
    """Whether the new answer is ahead of the true one or, without one, the most probable of all."""
    return new.said if true is None else new.log_probability > true.log_probability


def tokens_table(texts: Mapping[str, Written], fact: Fact) -> pd.DataFrame:
    """The most probable next tokens as `charts.answers.next_tokens` takes them.

    Args:
        texts: "before", or "before" and "after" → what was written.
        fact: whose answers are marked.
    """
    rows = []
    for moment, text in texts.items():
        for rank, (shown, probability, role) in enumerate(first_words(text, fact), start=1):
            rows.append({"moment": moment, "rank": rank, "token": shown, "probability": probability, "role": role})
    return pd.DataFrame(rows)


def first_words(text: Written, fact: Fact) -> list[tuple[str, float, str]]:
    """The most probable next tokens: as they are shown, their probability, and the answer of the fact that begins so.

    Blanks are left out, unless two tokens differ in nothing else. The answer is "new", "true" or "".
    """
    words = [token.strip() for token, _ in text.first]
    found = []
    for word, (token, probability) in zip(words, text.first, strict=True):
        role = ""
        for name, answer in (("new", fact.target_new), ("true", fact.target_true)):
            if word and answer and answer.startswith(word):
                role = name
        marked = token.replace("\n", "⏎").replace(" ", "␣") or "(nothing)"
        found.append((word if word and words.count(word) == 1 else marked, probability, role))
    return found
