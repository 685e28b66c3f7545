"""`encore tune`: find hyper-parameters for a model, for a few edits or for thousands, with the evidence."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encore_core.cli.editing import load
from encore_core.cli.fact_files import HELP, add_facts_options, facts_of
from encore_core.cli.options import add_json_option, add_model_options, path_or_name, positive, refuse_unused, seed
from encore_core.cli.output import Bar, duration, notice, some_layers
from encore_core.editing.covariance import text_named
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.tasks import load_tasks
from encore_core.methods import METHODS, find_method
from encore_core.models.editable import EditableModel
from encore_core.tuned_rows import EDITS, TunedFor, TunedRow, find_row, forget_row
from encore_core.tuning.facts import N_FACTS, choose_facts
from encore_core.tuning.lives import HELD_OUT, Life
from encore_core.tuning.long_life import BATCH, LifeTuner, LongRow
from encore_core.tuning.search import Trial, Tuned, Tuner


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    tune = commands.add_parser("tune", help="find hyper-parameters for a model, for a few edits or for thousands")
    add_model_options(tune)
    tune.add_argument("--method", default="ENCORE",
                      help=f"one of {', '.join(METHODS)} (default ENCORE); of those that follow gradients, layers and "
                      "learning rate are searched")  # fmt: skip
    add_facts_options(tune, help=f"{HELP} (default bundled; with --horizon long)")
    tune.add_argument("--n-facts", type=positive, metavar="N",
                      help=f"facts to use, half of them for the comparison at the end (default {N_FACTS})")  # fmt: skip
    tune.add_argument("--horizon", type=positive, metavar="N",
                      help="judge settings by what is left of the model after N edits, and store them for thousands; "
                           "needs 2 N facts")  # fmt: skip
    tune.add_argument("--batch-size", type=positive, metavar="N",
                      help=f"with --horizon: facts edited together (default {BATCH})")  # fmt: skip
    tune.add_argument("--downstream", type=path_or_name, metavar="DIR",
                      help="with --horizon: folder of downstream tasks that count, too")  # fmt: skip
    tune.add_argument("--seed", type=seed, default=0, metavar="S", help="of prefixes and noise (default 0)")
    tune.add_argument("--statistics", type=path_or_name, metavar="FILE", help="as for encore edit")
    tune.add_argument(
        "--minutes",
        type=_minutes,
        metavar="M",
        help="stop the search early, to end within M minutes; with --horizon the comparison of two "
        "lives on other facts comes on top",
    )
    tune.add_argument("--adopt", action="store_true",
                      help="use the settings from now on even if the model has validated ones")  # fmt: skip
    tune.add_argument("--estimate", action="store_true", help="only print what it would take")
    tune.add_argument("--forget", action="store_true",
                      help="remove the settings found before (with --horizon those for thousands)")  # fmt: skip
    add_json_option(tune)
    tune.set_defaults(command=_tune)


def _minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return number


def _tune(options: argparse.Namespace) -> None:
    method = find_method(options.method).name
    _check_horizon(options)
    if options.forget:
        of_search = {"--estimate": options.estimate, "--adopt": options.adopt, "--minutes": options.minutes}
        refuse_unused(of_search, "is for a search; leave it out, or --forget")
        _forget(load(options), method, "few" if options.horizon is None else "thousands", options.json)
        return
    options.facts = options.facts or ("bundled" if options.horizon is None else "long")
    facts = facts_of(options)
    lm = load(options)
    if options.horizon is None:
        _for_few(lm, method, facts, options)
    else:
        _for_thousands(lm, method, facts, options)


def _check_horizon(options: argparse.Namespace) -> None:
    """Refuse options that would not count, and fill in those left out.

    Raises:
        InputError: for the first of them.
    """
    if options.horizon is None:
        for name, given in (("--downstream", options.downstream), ("--batch-size", options.batch_size)):
            if given is not None:
                raise InputError(f"{name} counts after many edits; give --horizon N, too, or leave it out.")
    elif options.n_facts is not None:
        raise InputError(
            f"--n-facts does not go with --horizon, which takes {2 * options.horizon:,} facts, half of them for the "
            "comparison; leave it out."
        )
    options.n_facts = options.n_facts or N_FACTS
    options.batch_size = options.batch_size or BATCH


def _forget(lm: EditableModel, method: str, tuned_for: TunedFor, as_json: bool) -> None:
    if not forget_row(lm.shape, method, tuned_for):
        raise InputError(
            f"No settings of {method} for {EDITS[tuned_for]} have been found for this model, so there are none "
            "to forget."
        )
    notice(f"The settings of {method} for {EDITS[tuned_for]} are forgotten.")
    if as_json:
        print(json.dumps({"method": method, "tuned_for": tuned_for}))


def _for_few(lm: EditableModel, method: str, facts: list[Fact], options: argparse.Namespace) -> None:
    chosen, held_out = choose_facts(lm, facts, options.n_facts)
    tuner = Tuner(lm, method, chosen, held_out, seed=options.seed, statistics_text=text_named(options.statistics))
    cost = tuner.estimate()
    notice(
        f"At most {cost.trials} trials, about {duration(cost.seconds)} on this machine as it is now "
        f"({cost.fact_seconds:.2f} s to edit a fact, {cost.scored_fact_seconds:.2f} s to score one)."
    )
    if options.estimate:
        if options.json:
            print(json.dumps(asdict(cost)))
        return
    with Bar("Tuning") as bar:
        found = tuner.search(
            minutes=options.minutes,
            adopt=options.adopt,
            progress=bar.share,
            on_trial=lambda trial: notice(_line(trial)),
        )
    _tell_kept(found.row)
    if options.json:
        print(json.dumps(asdict(found.row)))
    else:
        _print(found)


def _for_thousands(lm: EditableModel, method: str, facts: list[Fact], options: argparse.Namespace) -> None:
    chosen, held_out = choose_facts(lm, facts, 2 * options.horizon)
    tasks = load_tasks(Path(options.downstream)) if options.downstream is not None else None
    tuner = LifeTuner(
        lm, method, chosen, held_out, batch_size=options.batch_size, tasks=tasks, seed=options.seed,
        statistics_text=text_named(options.statistics),
    )  # fmt: skip
    seconds, fact_seconds = tuner.estimate()
    notice(
        f"At most {tuner.most_lives} lives of {options.horizon:,} edits, {duration(seconds)} on this machine as it is "
        f"now if none is stopped early ({fact_seconds:.2f} s to edit a fact), without measuring."
    )
    if options.estimate:
        if options.json:
            print(json.dumps({"seconds": seconds, "lives": tuner.most_lives, "fact_seconds": fact_seconds}))
        return
    with Bar("Tuning") as bar:
        found = tuner.search(
            minutes=options.minutes, adopt=options.adopt, progress=bar.share,
            on_look=lambda life: notice(_life_line(life)),
        )  # fmt: skip
    _tell_kept(found.row)
    if options.json:
        print(json.dumps(asdict(found.row)))
    else:
        _print_long(found)


def _settings_line(s: Mapping[str, Any]) -> str:
    names = ("lambda_p", "lambda_n", "null_threshold", "l2", "lr", "search_step")
    return "  ".join([f"layers {some_layers(s['layers'])}", *(f"{name} {s[name]:g}" for name in names if s.get(name))])


def _life_line(life: Life) -> str:
    if not life.looks:
        return f"{life.stage:18} {_settings_line(life.settings)}:  {life.stopped or 'begins'}"
    look = life.looks[-1]
    tasks = "" if look.tasks is None else f"  tasks {look.tasks:.0f} %"
    ending = f"  ({life.stopped})" if life.stopped else ""
    return (
        f"{life.stage:18} {_settings_line(life.settings)}:  {look.edits:,} edits: left {look.left:.1f}  first "
        f"{look.first:.1f}  last {look.last:.1f}  perplexity x{look.perplexity_ratio:.3f}{tasks}  "
        f"norm x{look.norm_ratio:.3f}  {life.seconds:.0f} s{ending}"
    )


def _line(trial: Trial) -> str:
    if trial.stopped:
        return f"{trial.stage:18} {_settings_line(trial.settings)}:  {trial.stopped}"
    return (
        f"{trial.stage:18} {_settings_line(trial.settings)}:  overall {trial.overall:.1f} "
        f"({trial.edit:.0f} / {trial.paraphrase:.0f} / {trial.neighborhood:.0f})  norm x{trial.norm_ratio:.3f}  "
        f"perplexity x{trial.perplexity_ratio:.3f}  {trial.seconds:.0f} s"
    )


def _print(found: Tuned) -> None:
    held_out = [trial for trial in found.trials if trial.stage.startswith(HELD_OUT)]
    _print_row(found.row, [_line(trial) for trial in held_out], found.complete)
    if found.row.in_force:
        print("These settings are now in use, marked tuned here; --forget removes them.")
    elif held_out[-1].overall < held_out[0].overall:
        print("On held-out facts these settings score lower than those in use; --adopt uses them all the same.")
    else:
        print("The model has validated settings, which stay in use; --adopt uses these instead.")


def _print_long(found: LongRow) -> None:
    held_out = [life for life in found.lives if life.stage.startswith(HELD_OUT)]
    _print_row(found.row, [_life_line(life) for life in held_out], found.complete)
    if found.row.in_force:
        print("tuned_for=thousands uses these settings from now on (--set, or in the app).")
        print("--forget --horizon N removes them.")
    elif held_out[-1].score > held_out[0].score:
        print("The model comes with settings for thousands of edits, which stay in use; --adopt uses these instead.")
    else:
        print("On held-out facts these settings are no better than those for a few edits, so they are not used.")


def _tell_kept(row: TunedRow) -> None:
    """That a row found before was not replaced, where there is one."""
    known = find_row(row.shape, row.method, row.tuned_for)
    if known is not None and known.in_force and not row.in_force:
        notice(
            f"The settings found before ({known.evidence.get('date', 'no date')}) stay in use; the new ones are "
            "not kept."
        )


def _print_row(row: TunedRow, held_out: Sequence[str], complete: bool) -> None:
    print(f"Found for {row.method} on {row.model}: " + ", ".join(f"{n}={v}" for n, v in row.settings.items()))
    print("\n".join(held_out))
    if not complete:
        print("The search was cut short by --minutes; the same command continues where it stopped.")
