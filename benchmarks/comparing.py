"""Measure what one edit through several methods costs, in the engine and in a browser.

    python benchmarks/comparing.py [--repeats 5] [--only engine|alike|browser] [--out FILE.json]

    engine    seconds of all four methods side by side, and of MEMIT alone, in turn, on one fact and on 20 facts in a
              batch, and their ratio. Aim: at most 1.6
    alike     whether each side of a comparison is what its method gives alone: the largest difference of a probability,
              and of an update, relative to it (Frobenius). Aims: 1e-5 and 1e-6
    browser   from the press of "Compare 4 methods" until the first column stands, and until all four do. Aims: 3 s and
              6 s. From the press of "Apply edit" until the figures of the edit stand. Aim: 3 s

Medians, on the embedded model, with the facts that come with the program that it knows. What is made once per server
(each method's P) is made before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from machine import machine

METHODS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")
MOST_RATIO = 1.6
MOST_PROBABILITY, MOST_UPDATE = 1e-5, 1e-6
FIRST_COLUMN, ALL_COLUMNS, ONE_EDIT = 3.0, 6.0, 3.0  # seconds
WAIT, POLL = 240_000, 50  # ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("engine", "alike", "browser"))
    parser.add_argument("--out", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "repeats": options.repeats}
    if options.only in (None, "engine"):
        found["engine"] = engine(options.repeats)
    if options.only in (None, "alike"):
        found["alike"] = [alike(n_facts) for n_facts in (1, 20)]
    if options.only in (None, "browser"):
        found["browser"] = in_browser(options.repeats)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


# -- the engine --------------------------------------------------------------------------------------------------------


def engine(repeats: int) -> list[dict[str, Any]]:
    """Four methods and one, in turn."""
    from dashboard.reading.bundled_facts import bundled_facts
    from encore_core.editing.comparison import compare_edits
    from encore_core.editing.session import EditSession
    from encore_core.models.editable import load_model

    lm = load_model("smollm2-135m")
    for method in METHODS:
        EditSession(lm, method).prepare()
    known = [fact for fact in bundled_facts() if fact.known]
    found = []
    for n_facts in (1, 20):
        four, one = [], []
        for turn in range(repeats):
            # Other facts every time; no two with the same subject and prompt in a batch.
            facts = known[turn * n_facts : (turn + 1) * n_facts]
            four.append(_seconds(lambda f=facts: compare_edits(lm, f, METHODS, known="edit")))
            one.append(_seconds(lambda f=facts: EditSession(lm, "MEMIT").edit(f, known="edit")))
        ratio = statistics.median(a / b for a, b in zip(four, one, strict=True))
        row = {"facts": n_facts, "four": statistics.median(four), "memit": statistics.median(one), "ratio": ratio}
        found.append(row)
        print(
            f"{n_facts:>3} facts: MEMIT {row['memit']:.2f} s, all four {row['four']:.2f} s, ratio {ratio:.2f} "
            f"(aim {MOST_RATIO}){'' if ratio <= MOST_RATIO else '  NOT REACHED'}"
        )
    return found


def alike(n_facts: int) -> dict[str, float]:
    """Each side of a comparison against the same method alone."""
    import torch

    from dashboard.reading.bundled_facts import bundled_facts
    from encore_core.editing.comparison import compare_edits
    from encore_core.editing.session import EditSession
    from encore_core.models.editable import load_model

    lm = load_model("smollm2-135m")
    facts = [fact for fact in bundled_facts() if fact.known][:n_facts]
    probability = update = 0.0
    for side in compare_edits(lm, facts, METHODS, known="edit").sides:
        alone = EditSession(lm, side.label)
        report = alone.edit(facts, known="edit")
        for one, other in zip(side.reports[0].edited, report.edited, strict=True):
            probability = max(probability, abs(one.probability_after - other.probability_after))
        [batch], [same] = side.session.history, alone.history
        for layer, factors in batch.updates.items():
            delta, wanted = factors.delta(), same.updates[layer].delta()
            update = max(update, float(torch.linalg.norm(delta - wanted) / torch.linalg.norm(wanted)))
    is_fine = probability <= MOST_PROBABILITY and update <= MOST_UPDATE
    print(
        f"{n_facts:>3} facts: against each method alone, probabilities differ by {probability:.1e} at most, updates by "
        f"{update:.1e} of their norm{'' if is_fine else '  NOT REACHED'}"
    )
    return {"facts": n_facts, "probability": probability, "update": update}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# -- the browser -------------------------------------------------------------------------------------------------------


def in_browser(repeats: int) -> dict[str, float]:
    """Presses in a browser, each on the page as it opens."""
    import served

    first, every, single = [], [], []
    with served.app() as address, served.browser() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{address}/edit")
        page.wait_for_selector(".es-figure .main-svg", timeout=WAIT)
        _ready(page, "compare")
        for turn in range(repeats + 1):
            seconds = _compare(page)
            if turn:  # the first makes what the server makes once
                first.append(seconds[0])
                every.append(seconds[-1])
            page.get_by_role("button", name="Reset", exact=True).click()
            page.wait_for_selector(".st-key-compared", state="detached", timeout=WAIT)
            _ready(page, "compare")
        for turn in range(repeats + 1):
            seconds = _apply(page)
            if turn:
                single.append(seconds)
            page.get_by_role("button", name="Reset", exact=True).click()
            _ready(page, "compare")
    found = {}
    for name, values, aim in (
        ("first column", first, FIRST_COLUMN),
        ("all four columns", every, ALL_COLUMNS),
        ("one edit", single, ONE_EDIT),
    ):
        found[name] = statistics.median(values)
        missed = "" if found[name] <= aim else "  NOT REACHED"
        print(f"{name}: {found[name]:.2f} s (aim {aim:.0f} s; {_listed(values)}){missed}")
    return found


def _ready(page: Any, key: str) -> None:
    page.wait_for_selector(f".st-key-{key} button:not([disabled])", timeout=WAIT)
    _wait_for_script(page)


def _wait_for_script(page: Any) -> None:
    page.wait_for_function(
        "!document.querySelector('[data-testid=stApp]').matches('[data-test-script-state=running]')",
        timeout=WAIT,
        polling=POLL,
    )
    page.wait_for_timeout(300)


DRAWN = "document.querySelectorAll('.st-key-compared .es-words').length >= {n} && " \
        "document.querySelectorAll('.st-key-compared .es-figure .main-svg').length >= {n}"  # fmt: skip


def _compare(page: Any) -> list[float]:
    """Seconds from the press until each column stands, with its chart."""
    began = time.perf_counter()
    page.get_by_role("button", name="Compare 4 methods").click()
    found = []
    for n in range(1, len(METHODS) + 1):
        # Not at every frame, which would make the browser draw all the time, beside the engine on the same cores.
        page.wait_for_function(DRAWN.format(n=n), timeout=WAIT, polling=POLL)
        found.append(time.perf_counter() - began)
    page.wait_for_selector(".st-key-keep_3 button:not([disabled])", timeout=WAIT)
    _wait_for_script(page)
    return found


def _apply(page: Any) -> float:
    """Seconds from the press until what came of the edit stands."""
    began = time.perf_counter()
    page.get_by_role("button", name="Apply edit").click()
    page.wait_for_function("document.querySelector('[data-testid=n-edits]').textContent == '1'", timeout=WAIT,
                           polling=POLL)  # fmt: skip
    page.wait_for_selector(".es-tone-good .es-remark", timeout=WAIT)
    took = time.perf_counter() - began
    _wait_for_script(page)
    return took


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
