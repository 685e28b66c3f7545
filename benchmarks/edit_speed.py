"""Sections of `run.py`: what an edit takes, and the search for targets against the plain loop."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from machine import timed
from plain_loop import plain_target

from encore_core import EditSession, read_facts
from encore_core.editing.batch import batched
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import optimise_targets
from encore_core.facts import Fact
from encore_core.forward.prompts import encode_contexts
from encore_core.models.editable import EditableModel


def targets(lm: EditableModel, options: argparse.Namespace) -> dict[str, Any]:
    """The fast optimisation of a batch against the plain loop over its first facts.

    The batch is run before and after the plain loop and the mean taken, so that a machine that grows slower or faster
    meanwhile favours neither.
    """
    facts = read_facts(options.facts)[: options.batch]
    found: dict[str, Any] = {}
    for name, n_plain in (("MEMIT", options.plain), ("ENCORE", options.plain_mpes)):
        session = EditSession(lm, name, settings={"bfloat16": options.bfloat16})
        session.prepare()
        settings, layer = target_settings(session.settings), session.settings.layers[-1]
        arguments = (lm, facts, session.prefixes, layer, settings)
        optimise_targets(*arguments[:-1], replace(settings, steps=2))  # kernels of these shapes are found and loaded
        fast, first = timed(optimise_targets, *arguments)
        plain, plain_seconds = [], 0.0
        for fact in facts[:n_plain]:
            value, took = timed(
                plain_target, lm.model, lm.tokenizer, lm.blocks[layer], fact, session.prefixes, settings
            )
            plain.append(value)
            plain_seconds += took
        _, second = timed(optimise_targets, *arguments)
        seconds = (first + second) / 2
        # An evaluation of the loss is a step here; the last one has no gradient.
        fast_steps, plain_steps = (sum(target.steps + 1 for target in each) for each in (fast, plain))
        differences = [
            float((a.z - b.z).norm() / b.z.norm()) for a, b in zip(fast, plain, strict=False) if a.steps == b.steps
        ]
        gflop = gflop_per_step(lm, facts, session.prefixes, layer)
        found[name] = row = {
            "fast_s_per_fact_and_step": seconds / fast_steps,
            "plain_s_per_fact_and_step": plain_seconds / plain_steps,
            "speedup": (plain_seconds / plain_steps) / (seconds / fast_steps),
            "fast_s_per_fact": seconds / len(facts),
            "both_runs_s_per_fact": [first / len(facts), second / len(facts)],
            "mean_steps": statistics.mean(target.steps for target in fast),
            "same_stopping_step": sum(a.steps == b.steps for a, b in zip(fast, plain, strict=False)) / len(plain),
            "largest_relative_difference_of_z": max(differences, default=None),
            "plain_facts": len(plain),
            "gflop_per_fact_and_step": gflop,
            "gflops": gflop * fast_steps / seconds,
            "bfloat16": options.bfloat16,
        }
        print(name, row, flush=True)
    found["mpes_saves_percent"] = 100 * (1 - found["ENCORE"]["fast_s_per_fact"] / found["MEMIT"]["fast_s_per_fact"])
    print("MPES saves", round(found["mpes_saves_percent"], 1), "% of the time for targets")
    return found


def gflop_per_step(lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layer: int) -> float:
    """Matrix products that a step of a fact needs, forward and backward, when nothing unneeded is computed.

    Attention's own products and what is done once a batch are left out.
    """
    rows = [row for contexts in encode_contexts(lm, facts, prefixes) for row in contexts]
    n_tokens = sum(len(row.ids) - 1 - row.lookup for row in rows) / len(facts) + 1
    n_logits = sum(row.n_target for row in rows) / len(facts) + 1
    weights = sum(p.numel() for block in lm.blocks[layer + 1 :] for p in block.parameters() if p.dim() == 2)
    head = lm.model.get_output_embeddings().weight.numel()
    return 2 * 2 * (n_tokens * weights + n_logits * head) / 1e9


def methods(lm: EditableModel, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds an edit by phase, for every method, over one batch after the session has been prepared."""
    facts = read_facts(options.facts)[: options.batch]
    found = {}
    for name in options.methods:
        session = EditSession(lm, name)
        session.prepare()
        report = session.edit(facts, known="edit", measure=False)
        phases = {phase: seconds / len(facts) for phase, seconds in report.seconds.items()}
        found[name] = phases | {
            "total": sum(phases.values()),
            "steps": statistics.mean(item.steps for item in report.edited),
        }
        print(f"{name:16}", {key: round(value, 4) for key, value in found[name].items()}, flush=True)
    return found


def rows(lm: EditableModel, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds an edit by the first method of `--rows` and by the others, each on a session of its own that goes on.

    The plain loop finds targets by the first one's settings, on the unedited model; its keys and update are left out.
    Ratios are taken batch by batch.
    """
    facts = list({fact.key: fact for fact in read_facts(options.facts)}.values())
    sessions = {name: EditSession(lm, name, keep_history=False) for name in options.rows}
    for session in sessions.values():
        session.prepare()
    first = sessions[options.rows[0]]
    plain_settings, block = target_settings(first.settings), lm.blocks[first.settings.layers[-1]]

    def plain_targets(some: Sequence[Fact]) -> None:
        for fact in some:
            plain_target(lm.model, lm.tokenizer, block, fact, first.prefixes, plain_settings)

    seconds: dict[str, list[float]] = {name: [] for name in (*options.rows, "plain loop")}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in options.rows}
    steps: dict[str, list[int]] = {name: [] for name in options.rows}
    for number, batch in enumerate(list(batched(facts, options.batch))[: options.rounds + 1]):
        for name, session in sessions.items():
            report = session.edit(batch, known="edit", measure=False)
            if number:
                phases[name].append({phase: taken / len(batch) for phase, taken in report.seconds.items()})
                seconds[name].append(sum(phases[name][-1].values()))
                steps[name] += [item.steps for item in report.edited]
        if number:
            some = batch[: options.plain_rows]
            with first.pristine():
                _, taken = timed(plain_targets, some)
            seconds["plain loop"].append(taken / len(some))
    found: dict[str, Any] = {"facts_per_batch": options.batch, "rounds": len(seconds["plain loop"])}
    for name, taken in seconds.items():
        ratios = [mine / other for mine, other in zip(taken, seconds[options.rows[0]], strict=True)]
        slower = [plain / mine for mine, plain in zip(taken, seconds["plain loop"], strict=True)]
        found[name] = {
            "s_per_edit": statistics.median(taken),
            "of_first": [statistics.median(ratios), min(ratios), max(ratios)],
            "plain_loop_over_it": [statistics.median(slower), min(slower), max(slower)],
        }
        if name in sessions:
            middle = {phase: statistics.median(one[phase] for one in phases[name]) for phase in phases[name][0]}
            found[name] |= {"phases": middle, "steps": statistics.mean(steps[name])}
        print(f"{name:12}", found[name], flush=True)
    return found
