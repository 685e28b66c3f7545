"""The coverage-guided loop: libFuzzer by way of atheris picks and mutates inputs, a guard tries each of them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fuzzing.guard import Finding, Guard
from fuzzing.target import Target

SHRINKING_SECONDS = 20.0
"""Of processor time for making a finding's input smaller."""


class Loop:
    """Fuzzes one target.

    Args:
        target: what is fuzzed; is set up, and its modules were imported while `instrument.instrumenting`.
        folder: for the corpus, the findings and what the target writes.
        seconds: of this process's processor time, without the setting up.
        seed: of all that is drawn.
    """

    def __init__(self, target: Target, folder: Path, seconds: float, seed: int):
        self.target, self.seconds, self.seed = target, seconds, seed
        self.folder, self.corpus, self.findings = folder, folder / "corpus", folder / "findings"
        self.outcomes: Counter[str] = Counter()
        self.found: dict[str, tuple[bytes, Finding]] = {}
        self.seen: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self) -> None:
        """Go on until the time is up; ends the process, as libFuzzer does."""
        import atheris

        for place in (self.corpus, self.findings, self.folder / "work"):
            place.mkdir(parents=True, exist_ok=True)
        for data in self.target.seeds():
            (self.corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
        self.guard = Guard(self.target, self.folder)
        self.began = time.process_time()
        options = [
            sys.argv[0], f"-seed={self.seed}", f"-max_len={self.target.longest}", "-timeout=1200", "-rss_limit_mb=0",
            "-len_control=0", "-reload=0", f"-artifact_prefix={self.findings}/", str(self.corpus),
        ]  # fmt: skip
        atheris.Setup(options, self.one, custom_mutator=self._mutated(atheris), internal_libfuzzer=True)
        atheris.Fuzz()

    def _mutated(self, atheris):
        def mutated(data: bytes, most: int, seed: int) -> bytes:
            rng = random.Random(seed)
            if rng.random() < 0.1:
                return atheris.Mutate(data, most)
            try:
                for _ in range(1 + int(rng.expovariate(1.0))):
                    data = self.target.mutated(data, rng)
            except RecursionError:  # of a deep input that cannot be taken apart
                return atheris.Mutate(data, most)
            return data[:most]

        return mutated

    def one(self, data: bytes) -> None:
        """Try one input. libFuzzer never hears of a finding, so it goes on after each."""
        started = time.process_time()
        outcome, finding = self.guard.tried(data)
        took = time.process_time() - started
        if took > self.slowest:
            self.slowest = took
            (self.folder / "slowest.input").write_bytes(data)
        self.outcomes[outcome] += 1
        if finding is not None:
            self._keep(data, finding)
        if time.process_time() - self.began > self.seconds:
            self._end()

    def _keep(self, data: bytes, finding: Finding) -> None:
        self.seen[finding.key] += 1
        known = self.found.get(finding.key)
        if known is None or len(data) < len(known[0]):
            self.found[finding.key] = data, finding
            self._write(finding.key, data, finding.trace)
        if known is None:
            print(f"FOUND {finding.key}", file=sys.stderr, flush=True)

    def _write(self, key: str, data: bytes, trace: str) -> None:
        name = re.sub(r"\W+", "-", key)[:100].strip("-")
        (self.findings / f"{name}.input").write_bytes(data)
        told = f"{key}\n\n{self.target.shown(data)}\n\n{trace}"
        (self.findings / f"{name}.txt").write_text(told, encoding="utf-8", errors="backslashreplace")

    def _end(self) -> None:
        took = time.process_time() - self.began
        for key, (data, finding) in self.found.items():
            small = smallest(self.target, self.guard, key, data)
            self._write(key, small, finding.trace)
            self.found[key] = small, finding
        print(json.dumps(self._summary(took), indent=1), flush=True)
        (self.folder / "summary.json").write_text(json.dumps(self._summary(took), indent=1), encoding="utf-8")
        sys.stderr.flush()
        os._exit(1 if self.found else 0)

    def _summary(self, took: float) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "about": self.target.about,
            "seed": self.seed,
            "inputs": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes),
            "processor_seconds": round(took, 1),
            "slowest_input_seconds": round(self.slowest, 3),
            "corpus": len(list(self.corpus.iterdir())),
            "open_files": len(list(Path("/proc/self/fd").iterdir())),
            "findings": {key: self.seen[key] for key in self.found},
        }


def smallest(target: Target, guard: Guard, key: str, data: bytes, seconds: float = SHRINKING_SECONDS) -> bytes:
    """A small input with the same finding, by leaving out what can be left out."""
    until = time.process_time() + seconds
    smaller = True
    while smaller:
        smaller = False
        for candidate in target.simpler(data):
            if time.process_time() > until:
                return data
            if len(candidate) >= len(data):
                continue
            finding = guard.tried(candidate)[1]
            if finding is not None and finding.key == key:
                data, smaller = candidate, True
                break
    return data
