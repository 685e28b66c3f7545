"""A fact in a few words, for lists and menus."""

from __future__ import annotations

from encore_core.facts import Fact

BY_RULE = "subject found by a rule"
"""What stands beside a fact whose subject no file names: the rule may have taken another part of the prompt."""


def short(fact: Fact) -> str:
    """Subject and new answer: "France → Rome"."""
    return f"{fact.subject} → {fact.target_new}{marked(fact)}"


def asked(fact: Fact) -> str:
    """Prompt and new answer: "The capital of France is → Rome"."""
    return f"{fact.text} → {fact.target_new}{marked(fact)}"


def marked(fact: Fact) -> str:
    """ " (subject found by a rule: France)" for such a fact, else nothing."""
    return f" ({BY_RULE}: {fact.subject})" if fact.subject_found else ""
