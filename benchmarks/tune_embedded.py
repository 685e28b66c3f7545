"""How the embedded model's hyper-parameters were chosen: scores over a grid of λp, λn and extra MPES steps.

    python benchmarks/tune_embedded.py FACTS.jsonl [--first 2000] [--batch 50] [--single 20]

Targets do not depend on λp and λn, so they are found once for each number of extra steps; each pair of λ then costs
keys, update and scoring alone. Two situations are scored: one batch of facts, and facts edited one at a time on a
pristine model (what the Edit page does). Take facts other than those on which results are reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from encore_core import Fact, load_model, read_facts
from encore_core.covariance import second_moments
from encore_core.editor import EditSession, target_settings
from encore_core.keys import KeyReader
from encore_core.methods import Settings, override
from encore_core.metrics import Scores, evaluate
from encore_core.models import EditableModel
from encore_core.targets import Target, optimise_targets
from encore_core.update_rule import inverse_preservation, null_space_preservation, solve


def edited_scores(
    lm: EditableModel,
    facts: Sequence[Fact],
    targets: Sequence[Target],
    prefixes: Sequence[str],
    settings: Settings,
    P: dict[int, torch.Tensor],
) -> tuple[Scores, float]:
    """Scores after one batch, and the growth of the last layer's norm in per cent."""
    layers = settings.layers
    working = {layer: lm.parameter(layer).data.clone() for layer in layers}
    with lm.matrices_replaced(working):
        reader = KeyReader(lm, facts, prefixes, layers)
        z = torch.stack([target.z for target in targets], 1).double()
        for j, layer in enumerate(layers):
            K, h = reader.keys(layer), reader.states(layer)
            update = solve((z - h) / (len(layers) - j), K, P[layer] @ K, settings.slack(len(facts)))
            update.add_to(lm.oriented(layer, working[layer]))
            if j + 1 < len(layers):
                reader.advance(layer, layers[j + 1])
        scores = evaluate(lm, facts, generate=False)
        growth = float(lm.matrix(layers[-1]).norm())
    return scores, 100 * (growth / float(lm.matrix(layers[-1]).norm()) - 1)


def mean_scores(scores: Sequence[Scores]) -> dict[str, float]:
    names = ("edit_score", "paraphrase_score", "neighborhood_score", "accuracy")
    return {name: sum(getattr(item, name) for item in scores) / len(scores) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("facts")
    parser.add_argument("--first", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--methods", default="ENCORE")
    parser.add_argument("--extra-steps", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lambda-p", type=float, nargs="+", default=[300, 1000])
    parser.add_argument("--lambda-n", type=float, nargs="+", default=[5, 20])
    parser.add_argument("--null-threshold", type=float, nargs="+", default=[0.02])
    parser.add_argument("--l2", type=float, nargs="+", default=[10])
    options = parser.parse_args()

    lm = load_model("smollm2-135m")
    facts = read_facts(options.facts)[options.first :][: options.batch]
    singles = [fact for fact in read_facts("bundled") if fact.known][: options.single]
    for name in options.methods.split(","):
        base = EditSession(lm, name)
        moments = second_moments(lm, base.settings.layers, base.settings.statistics_tokens)
        for extra in options.extra_steps if base.settings.mpes else [0]:
            s = override(base.settings, {"mpes_extra_steps": extra}, lm.n_layers)
            batch_targets, single_targets = (
                optimise_targets(lm, some, base.prefixes, s.layers[-1], target_settings(s)) for some in (facts, singles)
            )
            steps = sum(target.steps for target in batch_targets) / len(batch_targets)
            for settings in grid(s, options, lm.n_layers):
                P = {
                    layer: null_space_preservation(C0, settings.null_threshold, settings.l2)
                    if settings.preservation == "null_space"
                    else inverse_preservation(C0, settings.lambda_p, settings.lambda_n)
                    for layer, C0 in moments.items()
                }
                together, growth = edited_scores(lm, facts, batch_targets, base.prefixes, settings, P)
                alone = [
                    edited_scores(lm, [fact], [target], base.prefixes, settings, P)[0]
                    for fact, target in zip(singles, single_targets, strict=True)
                ]
                label = f"{name} extra={extra} λp={settings.lambda_p:g} λn={settings.lambda_n:g}"
                if settings.preservation == "null_space":
                    label = f"{name} threshold={settings.null_threshold:g} L2={settings.l2:g}"
                print(
                    f"{label:42} steps {steps:4.1f}  batch {row(mean_scores([together]))} norm +{growth:.2f} %", end=""
                )
                print(f"  single {row(mean_scores(alone))}", flush=True)


def grid(s: Settings, options: argparse.Namespace, n_layers: int):
    if s.preservation == "null_space":
        for threshold in options.null_threshold:
            for l2 in options.l2:
                yield override(s, {"null_threshold": threshold, "l2": l2}, n_layers)
        return
    for lambda_p in options.lambda_p:
        for lambda_n in options.lambda_n if s.lambda_n else [0]:
            yield override(s, {"lambda_p": lambda_p, "lambda_n": lambda_n}, n_layers)


def row(scores: dict[str, float]) -> str:
    return " / ".join(f"{value:5.1f}" for value in scores.values())


if __name__ == "__main__":
    main()
