"""What a fact would cost at each block: against its formula written out, and on the command line."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import CITIES, DEFAULTS

from encore_core.cli import main
from encore_core.editing import layer_costs as module
from encore_core.editing.covariance import files_used, second_moments
from encore_core.editing.keys import KeyReader
from encore_core.editing.layer_costs import BlockCost, candidates, layer_costs, proposed
from encore_core.editing.session import EditSession
from encore_core.editing.shared_by_sessions import gradients_kept
from encore_core.errors import InputError

SETTINGS = {name: value for name, value in DEFAULTS.items() if name != "layers"} | {"lambda_n": 0.02}


def test_each_cost_is_its_formula(llama_tied):
    lm = llama_tied
    found = layer_costs(lm, CITIES, "ENCORE", [0, 1], settings=SETTINGS)
    assert [one.layer for one in found] == [0, 1]
    files = files_used(lm, [0, 1], SETTINGS["statistics_tokens"])
    C0s, Fs = second_moments(lm, [0, 1], SETTINGS["statistics_tokens"]), gradients_kept(lm, files)
    for one in found:
        session = EditSession(lm, "ENCORE", settings=SETTINGS | {"layers": (one.layer,)})
        targets = session.find_targets(CITIES)
        K = KeyReader(lm, CITIES, session.prefixes, (one.layer,)).keys(one.layer)
        P = torch.linalg.inv(C0s[one.layer].double() + 0.02 / 0.01 * torch.eye(lm.d_mlp))
        for place, target in enumerate(targets):
            delta, k = (target.z - target.h).double(), K[:, place].double()
            damage = 0.5 * float(delta @ Fs[one.layer].double() @ delta) / float(k @ P @ k)
            assert one.damage[place] == pytest.approx(damage, rel=1e-6)
            assert one.steps[place] == target.steps
            assert one.reached[place] == (target.stopped != "steps")
    assert 0 <= found[0].share_reached <= 1 and found[0].median_damage == sorted(found[0].damage)[1]


def test_what_is_proposed_ends_at_the_cheapest_block_that_reaches_the_facts():
    def cost(layer: int, damage: float, n_reached: int) -> BlockCost:
        return BlockCost(layer, (damage,) * 20, (5,) * 20, (True,) * n_reached + (False,) * (20 - n_reached))

    costs = [cost(0, 0.1, 12), cost(2, 0.3, 20), cost(4, 0.2, 19), cost(6, 0.5, 20)]
    assert proposed(costs, 3) == (2, 3, 4)  # block 0 is cheaper, but does not reach them
    assert proposed(costs, 9) == (0, 1, 2, 3, 4)
    assert proposed(costs[:1], 5) == (0,)


def test_candidates_leave_out_the_last_block():
    assert candidates(4) == (0, 1, 2)
    assert candidates(30) == tuple(range(0, 29, 2))


def test_bad_input_is_refused(llama_tied):
    with pytest.raises(InputError, match="no fact"):
        layer_costs(llama_tied, [])
    with pytest.raises(InputError, match="without targets"):
        layer_costs(llama_tied, CITIES, "UltraEdit")


def test_the_command_prints_blocks_and_a_proposal(llama_tied, monkeypatch, tmp_path, capsys):
    file = tmp_path / "facts.jsonl"
    rows = [
        {"subject": f.subject, "prompt": f.text, "target_new": f.target_new, "ground_truth": f.target_true}
        for f in CITIES
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setattr("encore_core.cli.layers.load", lambda options: llama_tied)
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    assert main(["layers", "--facts", str(file), "--method", "ENCORE", *sets, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in printed["blocks"]] == list(module.candidates(llama_tied.n_layers))
    assert printed["facts"] == 3 and all(len(one["damage"]) == 3 for one in printed["blocks"])
    assert main(["layers", "--facts", str(file), "--method", "ENCORE", *sets]) == 0
    out = capsys.readouterr()
    assert "estimated damage" in out.out and "this estimate the cheapest blocks are" in out.err
