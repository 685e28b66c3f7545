"""Fuzz what takes input from outside: coverage-guided, with mutations that know the form of each input.

    pip install atheris==3.0.0          (needed by this script alone; in an environment of its own)

    python benchmarks/fuzz.py TARGET --seconds 600 [--seed N] [--folder DIR]    fuzz
    python benchmarks/fuzz.py TARGET --replay FILE                              try one input again
    python benchmarks/fuzz.py TARGET --lines [--folder DIR]                     lines of the program that were reached
    python benchmarks/fuzz.py table DIR …                                       a line of RESULTS.md for each folder

Only two things may become of an input: it is taken, and what comes of it holds (it can be written and read again, all
numbers are finite, nothing else has changed), or it is refused with an `InputError` of one line. Everything else is a
finding: another exception, more than 5 s of processor time or 1 GB of memory for one input, a program run, a connection
made or a file written somewhere else. Findings are told apart by what was raised where; for each, the smallest input
lies in DIR/findings, beside its traceback. It goes on after a finding.

Seconds are of this process's processor time. The same seed in an empty folder draws the same inputs; a folder that has
a corpus is gone on with.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzzing.instrument import instrumenting

if TYPE_CHECKING:
    from fuzzing.target import Target


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz what takes input from outside.")
    parser.add_argument(
        "target", help="counterfact, easyedit, zsre, encore, csv, edits, npz, lesson, links, …; or table"
    )
    parser.add_argument("folders", nargs="*", type=Path, help="those of a table")
    parser.add_argument("--seconds", type=float, default=600.0, help="of processor time (default 600)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for corpus and findings (default: a temporary one)")
    parser.add_argument("--replay", type=Path, help="an input to try once")
    parser.add_argument("--lines", action="store_true", help="tell which lines the folder's corpus reaches")
    options = parser.parse_args()
    if options.target == "table":
        table(options.folders)
        return
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))).resolve()
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    # Whatever the program stores or writes for a moment goes there.
    os.environ["ENCORE_HOME"], os.environ["TMPDIR"] = str(work), str(work)
    tempfile.tempdir = None
    fuzzes = not (options.replay or options.lines)
    with instrumenting() if fuzzes else nullcontext():
        from fuzzing.targets import TARGETS

        if options.target not in TARGETS:
            parser.error(f"no target {options.target!r}; there are {', '.join(TARGETS)}")
        target = TARGETS[options.target]
        target.setup(work)
    if options.replay:
        replay(target, options.replay.read_bytes())
    elif options.lines:
        tell_lines(target, folder)
    else:
        from fuzzing.loop import Loop

        print(f"{folder}", file=sys.stderr)
        Loop(target, folder, options.seconds, options.seed).run()


def table(folders: Sequence[Path]) -> None:
    """Show a line for each folder, as they stand in RESULTS.md."""
    for folder in folders:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        file = folder / "lines.json"
        lines = json.loads(file.read_text(encoding="utf-8")).values() if file.is_file() else ()
        share = f"{sum(a for a, _ in lines) / sum(b for _, b in lines):.0%}" if lines else "–"
        outcomes, findings = found["outcomes"], found["findings"]
        cells = (
            found["target"], f"{found['inputs']:,}", f"{outcomes.get('taken', 0):,}", found["processor_seconds"],
            found["slowest_input_seconds"], share, "; ".join(findings) or "none",
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")


def replay(target: Target, data: bytes) -> None:
    """Try one input, and show what becomes of it."""
    print(target.shown(data))
    try:
        print(target.check(data))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def tell_lines(target: Target, folder: Path) -> None:
    """Show how many lines of the program a corpus reaches."""
    from fuzzing.reached import lines_reached

    inputs = [file.read_bytes() for file in sorted((folder / "corpus").iterdir())]
    told = json.dumps(lines_reached(target, inputs), indent=1)
    (folder / "lines.json").write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
