"""Records what the page Learn shows before anything is pressed: python assets/learn/make.py

France → Rome on the embedded model with ENCORE (tokens and keys, the search for the target, the edit taken apart), and
trials of the sandbox. Takes some minutes; writes france.json beside this file.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dashboard.parts.learn import recorded_france, sandbox
from dashboard.parts.learn.anatomy import take_apart
from dashboard.parts.learn.prompt_keys import keys_of
from dashboard.parts.learn.target_search_card import searched
from dashboard.reading.bundled_facts import bundled_facts
from encore_core.editing.session import EditSession
from encore_core.models.editable import load_model
from encore_core.models.settings import settings_of

MODEL, METHOD = "smollm2-135m", "ENCORE"
CHOICES = ((0.0, None), (0.0, 1), (1.0, None), (1.0, 1), (16.0, 1), (64.0, 1))
"""λn over the model's own value, and extra steps after MPES; None is without MPES."""


def main() -> None:
    lm, fact = load_model(MODEL), recorded_france.usual_fact()
    own = settings_of(lm, METHOD).lambda_n
    session = EditSession(lm, METHOD, seed=0)
    session.prepare()
    search = searched(session, fact, lambda told: None)
    keys = asdict(keys_of(session, fact))
    session.edit([fact], known="edit")
    anatomy = asdict(take_apart(session))
    del anatomy["facts"]
    facts = sandbox.facts_for(bundled_facts())
    trials = [
        asdict(sandbox.attempt(lm, facts, sandbox.Choice(own * factor, extra), 0, lambda what, share: None))
        for factor, extra in CHOICES
    ]
    kept = {
        "model": MODEL, "method": METHOD, "date": time.strftime("%Y-%m-%d"), "lambda_n": own,
        "made_with": recorded_france.made_with(lm, 0), "keys": keys,
        "search": vars(search) | {"trajectory": search.trajectory.to_dict("list")}, "anatomy": anatomy,
        "trials": trials,
    }  # fmt: skip
    file = Path(__file__).with_name("france.json")
    file.write_text(json.dumps(_rounded(kept), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
