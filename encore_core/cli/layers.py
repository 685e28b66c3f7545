"""`encore layers`: which blocks to edit, by what a fact would cost general text at each."""

from __future__ import annotations

import argparse
import json
from statistics import median

from encore_core.cli.editing import load
from encore_core.cli.fact_files import HELP, add_facts_options, facts_of, fitting
from encore_core.cli.options import add_json_option, add_model_options, overrides, path_or_name, positive, seed
from encore_core.cli.output import Bar, notice, some_layers
from encore_core.editing.covariance import text_named
from encore_core.editing.layer_costs import layer_costs, proposed
from encore_core.editing.shared_by_sessions import shared_prefixes
from encore_core.methods import METHODS, find_method
from encore_core.models.settings import settings_of
from encore_core.words import counted

N_FACTS = 20


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `encore layers`."""
    parser = commands.add_parser(
        "layers",
        help="what a fact would cost general text at each block, before any edit",
        description="Search the targets of some facts at each block, and print what they would cost general text "
        "there, in nats per token, as estimated from statistics (½ δᵀFδ / kᵀC0⁻¹k). Nothing is edited.",
    )
    add_model_options(parser)
    add_facts_options(parser, default="bundled", help=f"{HELP} (default bundled)")
    parser.add_argument("--limit", type=positive, default=N_FACTS, metavar="N", help=f"facts (default {N_FACTS})")
    parser.add_argument("--method", default="ENCORE-N", metavar="M", help=f"whose search is used: {', '.join(METHODS)}")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="override a setting; layers says how many blocks are proposed; all are tried")  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the sampled prefixes (default 0)")
    parser.add_argument("--statistics", type=path_or_name, metavar="FILE", help="as for encore edit")
    add_json_option(parser)
    parser.set_defaults(command=_layers, known="edit")


def _layers(options: argparse.Namespace) -> None:
    method = find_method(options.method).name
    facts = facts_of(options, options.limit)
    lm = load(options)
    own = settings_of(lm, method, overrides(options.set))
    facts = fitting(lm, facts, shared_prefixes(lm, options.seed), options, scored=False)
    with Bar("Preparing") as bar:
        found = layer_costs(
            lm, facts, method, settings=overrides(options.set), seed=options.seed,
            text=text_named(options.statistics), progress=bar.share,
        )  # fmt: skip
    blocks = proposed(found, len(own.layers))
    if options.json:
        print(json.dumps({"blocks": [one.as_dict() for one in found], "proposed": list(blocks), "facts": len(facts)}))
        return
    print(f"{'last block':>10}{'estimated damage':>18}{'steps':>8}{'reached':>10}")
    for one in found:
        print(f"{one.layer:>10}{one.median_damage:>18.2e}{median(one.steps):>8.0f}{one.share_reached:>10.0%}")
    notice(
        f"medians over {counted(len(facts), 'fact')}, {method}'s search; estimated damage in nats per token of general "
        f"text. By this estimate the cheapest blocks are {some_layers(blocks)}; the method's settings edit "
        f"{some_layers(own.layers)}. It does not show how well facts generalise to paraphrases or how long they last: "
        "compare settings with encore run."
    )
