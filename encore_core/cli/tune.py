"""`encore tune`: find hyper-parameters for a model, with the evidence."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from encore_core.cli.editing import load
from encore_core.cli.fact_files import HELP, add_facts_options, facts_of
from encore_core.cli.options import add_json_option, add_model_options, positive, seed
from encore_core.cli.output import Bar, duration, notice, some_layers
from encore_core.editing.covariance import text_named
from encore_core.errors import InputError
from encore_core.methods import METHODS, find_method
from encore_core.tuned_rows import Shape, forget_row
from encore_core.tuning.search import N_FACTS, Trial, Tuned, Tuner, choose_facts


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to the parser's."""
    tune = commands.add_parser("tune", help="find hyper-parameters for a model on a few facts")
    add_model_options(tune)
    tune.add_argument("--method", default="ENCORE", help=f"one of {', '.join(METHODS)} (default ENCORE)")
    add_facts_options(tune, default="bundled", help=f"{HELP} (default bundled)")
    tune.add_argument("--n-facts", type=positive, default=N_FACTS, metavar="N",
                      help=f"facts to use, half of them for the comparison at the end (default {N_FACTS})")  # fmt: skip
    tune.add_argument("--seed", type=seed, default=0, metavar="S", help="of prefixes and noise (default 0)")
    tune.add_argument("--statistics", metavar="FILE", help="as for encore edit")
    tune.add_argument("--minutes", type=_minutes, metavar="M", help="stop the search early, to end within M minutes")
    tune.add_argument("--adopt", action="store_true",
                      help="use the row from now on even if the model has a validated one")  # fmt: skip
    tune.add_argument("--estimate", action="store_true", help="only print what it would take")
    tune.add_argument("--forget", action="store_true", help="remove the row found before, and stop")
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
    facts = facts_of(options)
    lm = load(options)
    if options.forget:
        shape = Shape(lm.model.config.model_type, lm.n_layers, lm.d_model, lm.n_vocab)
        if not forget_row(shape, method):
            raise InputError(f"No row of {method} has been found for this model, so there is none to forget.")
        notice(f"The row of {method} is forgotten.")
        return
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
    if options.json:
        print(json.dumps(asdict(found.row)))
    else:
        _print(found)


def _line(trial: Trial) -> str:
    s = trial.settings
    numbers = "  ".join(
        f"{name} {s[name]:g}" for name in ("lambda_p", "lambda_n", "null_threshold", "l2", "lr") if s.get(name)
    )
    return (
        f"{trial.stage:18} layers {some_layers(s['layers'])}  {numbers}:  overall {trial.overall:.1f} "
        f"({trial.edit:.0f} / {trial.paraphrase:.0f} / {trial.neighborhood:.0f})  norm x{trial.norm_ratio:.3f}  "
        f"perplexity x{trial.perplexity_ratio:.3f}  {trial.seconds:.0f} s"
    )


def _print(found: Tuned) -> None:
    row = found.row
    print(f"Found for {row.method} on {row.model}: " + ", ".join(f"{n}={v}" for n, v in row.settings.items()))
    for trial in found.trials:
        if trial.stage.startswith("held out"):
            print(_line(trial))
    if not found.complete:
        print("The search was cut short by --minutes; the same command continues where it stopped.")
    if row.in_force:
        print("The row is in force from now on, marked tuned here; --forget removes it.")
    else:
        print("The model has a validated row, which stays in force; --adopt uses this one instead.")
