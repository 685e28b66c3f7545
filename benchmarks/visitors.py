"""Many visitors on one model: do all get what each would get alone, how long do they wait, what does each one cost?

    python benchmarks/visitors.py [--visitors 26] [--browsers 4] [--minutes 10] [--think 10] [--out FILE.json]

One process serves the app and holds the model. Visitors without a browser are `dashboard.visitors.visitor.Visitor`
objects, the ones that pages use, each in a thread: edit a fact, ask for the probabilities of its prompts, think, and so
on, each with facts of its own; every third time the last edit is taken back first (see `visits`). Visitors with a
browser do the same through the Edit page in headless Chromium (see `browser_visits`). Afterwards every visitor's edits
are made again alone, in the same order, and every probability that was seen is compared; a checksum of all base weights
is taken before and after.

    answer      from the click, or call, until the edit is on the model or the probabilities are there, waiting included
    memory      bytes of a visitor's matrices and factors; and growth of the process divided by the visitors
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from browser_visits import browsers, served
from visits import Found, against_alone, driven

from dashboard.reading.bundled_facts import bundled_facts
from dashboard.visitors.model_loading import DEFAULT_METHOD
from dashboard.visitors.models import DEFAULT_MODEL, models
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

ALLOWED = 1e-5


def checksum(lm: EditableModel) -> str:
    """Of every base weight, bit for bit."""
    import torch

    digest = hashlib.sha256()
    with lm.matrices_replaced({}):
        for name, weight in lm.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole test. Returns what is printed and written."""
    if arguments.model:
        os.environ["ENCORE_MODEL"] = arguments.model
    shared = models()
    loading = shared.get(os.environ.get("ENCORE_MODEL") or DEFAULT_MODEL)
    loading.wait(lambda what, share: None)
    if loading.error:
        raise SystemExit(loading.error)
    lm, before = loading.lm, checksum(loading.lm)
    known = [fact for fact in bundled_facts() if fact.known and fact.target_true]
    typed = [Fact(f.subject, f.prompt, f.target_new, f.target_true) for f in known[: arguments.browsers]]
    with_browser, seconds = Found(), 60 * arguments.minutes
    thread = None
    if arguments.browsers:
        address, until = served(), time.monotonic() + seconds
        thread = threading.Thread(
            target=lambda: asyncio.run(browsers(address, typed, until, arguments.think, with_browser))
        )
        thread.start()
    found = driven(
        shared, loading, n_visitors=arguments.visitors, facts=known[arguments.browsers :] * 20, seconds=seconds,
        think=arguments.think,
    )  # fmt: skip
    if thread is not None:
        thread.join()
        settings = settings_of(lm, DEFAULT_METHOD)
        for steps in with_browser.answers:
            difference, change = against_alone(lm, settings, steps)
            found.largest_difference = max(found.largest_difference, difference)
            found.largest_change = max(found.largest_change, change)
        found.answers += with_browser.answers
        found.errors += with_browser.errors
    waits = {"without a browser": found.waits, "with a browser": with_browser.waits}
    return {
        "visitors": arguments.visitors,
        "browsers": arguments.browsers,
        "minutes": arguments.minutes,
        "think_seconds": arguments.think,
        "model": lm.name,
        "edits": found.n_edits,
        "probabilities_compared": sum(len(step.pairs) for steps in found.answers for step in steps),
        "fewest_edits_of_a_visitor": min(sum(s.what == "edit" for s in steps) for steps in found.answers),
        "largest_difference_from_alone": found.largest_difference,
        "largest_change_by_an_edit": found.largest_change,
        "base_weights_unchanged": checksum(lm) == before,
        "errors": found.errors,
        "answers": {who: {p: summary(s) for p, s in phases.items() if s} for who, phases in waits.items()},
        "bytes_per_visitor": found.bytes_per_visitor,
        "resident_bytes_per_visitor": found.resident_per_visitor,
        "resident_bytes": psutil.Process().memory_info().rss,
        "turns": shared.queue(str(lm.device)).state().finished,
    }


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of some times."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"n": len(ordered), "median": statistics.median(ordered), "p95": high, "most": ordered[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=26, help="without a browser")
    parser.add_argument("--browsers", type=int, default=4, help="with one")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--think", type=float, default=10.0, help="seconds between two edits of a visitor")
    parser.add_argument("--model", help="the embedded one by default")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    results = measure(arguments)
    n_visitors = results["visitors"] + results["browsers"]
    fewest = results["fewest_edits_of_a_visitor"]
    print(f"{n_visitors} visitors, {results['browsers']} of them browsers, {results['minutes']:g} min on "
          f"{results['model']}: {results['edits']} edits, at least {fewest} each")  # fmt: skip
    print(f"{'answer, seconds':34} {'n':>6} {'median':>8} {'p95':>8} {'most':>8}")
    for who, phases in results["answers"].items():
        for phase, told in phases.items():
            row = f"{told['n']:6} {told['median']:8.2f} {told['p95']:8.2f} {told['most']:8.2f}"
            print(f"{f'{phase}, {who}':34} {row}")
    print(f"largest difference from the same edits alone: {results['largest_difference_from_alone']:.2g} of "
          f"{results['probabilities_compared']} probabilities (allowed {ALLOWED:g}; edits changed them by up to "
          f"{results['largest_change_by_an_edit']:.2g})")  # fmt: skip
    print(f"base weights unchanged: {'yes' if results['base_weights_unchanged'] else 'NO'}")
    print(f"memory of a visitor: {results['bytes_per_visitor'] / 1e6:.1f} MB of matrices and factors; the process grew "
          f"by {results['resident_bytes_per_visitor'] / 1e6:.1f} MB for each")  # fmt: skip
    print(f"errors: {len(results['errors'])}", *results["errors"][:10], sep="\n  ")
    if arguments.out:
        results |= {
            "date": time.strftime("%Y-%m-%d"),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    good = results["base_weights_unchanged"] and results["largest_difference_from_alone"] <= ALLOWED
    sys.stdout.flush()
    # The server's thread has no end of its own.
    os._exit(0 if good and not results["errors"] else 1)


if __name__ == "__main__":
    main()
