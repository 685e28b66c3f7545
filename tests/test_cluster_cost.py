"""The cost of a grid on paper: the measured run comes out as measured, and the rest follows from the sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from encore_core.cli import main
from encore_core.cluster.cost import HARDWARE, find_hardware, run_cost, together
from encore_core.errors import InputError
from encore_core.methods import settings_for
from encore_core.models.memory import Sizes

LLAMA_8B = Sizes(8_030_261_248, 32, 4096, 14336, 128_256, 4096, 2048)
SETTINGS = settings_for("ENCORE", model_type="llama", n_layers=32, d_model=4096, n_vocab=128_256)
H100 = find_hardware("h100")


def cost(n_edits: int = 10_000, batch_size: int = 100, n_devices: int = 1, sizes: Sizes = LLAMA_8B, **more):
    return run_cost(sizes, SETTINGS, n_edits, batch_size, 11, H100, n_devices, 24.8, **more)


def test_the_measured_run_comes_out_as_measured():
    """benchmarks/results/2026-11-26-h100.json, "shape": seconds per edit of targets and keys; a layer's update."""
    found = cost()
    assert found.parts["targets"] / 10_000 == pytest.approx(0.0661, rel=0.02)
    assert found.parts["keys"] / 10_000 == pytest.approx(0.00216, rel=0.02)
    assert found.parts["update"] / 100 / 5 == pytest.approx(0.0047, rel=0.02)
    assert found.workers == found.devices == 1 and found.traffic == found.parts["traffic"] == 0
    # Five layers' P in float64, and their matrices in float32.
    assert found.disk == pytest.approx(3 * 5 * (8 * 14336**2 + 4 * 4096 * 14336), rel=0.01)


def test_workers_share_targets_and_stop_where_the_batch_has_no_more_shards():
    one, four, many = (cost(n_devices=n) for n in (1, 4, 64))
    assert four.workers == 4 and four.parts["targets"] == pytest.approx(one.parts["targets"] * 2 / 7)
    assert many.workers == 7 and many.parts["targets"] == pytest.approx(one.parts["targets"] / 7)
    assert four.parts["update"] == many.parts["update"] == one.parts["update"] and many.traffic > four.traffic > 0
    large = cost(n_edits=1_000_000, n_devices=64)
    assert large.limit == "the batch: 7 shards for 64 workers"
    assert cost(n_edits=1_000_000, batch_size=1024, n_devices=64).workers == 64


def test_a_model_that_needs_several_devices_says_so():
    large = replace(LLAMA_8B, n_weights=9 * LLAMA_8B.n_weights)
    assert cost(sizes=large).limit == f"memory: needs {cost(sizes=large).devices} devices"
    assert cost(sizes=large, n_devices=8).workers == 8 // cost(sizes=large).devices


def test_runs_are_laid_side_by_side():
    costs = [replace(cost(), seconds=seconds) for seconds in (3.0, 1.0, 2.0)]
    assert [together(costs, n) for n in (1, 2, 3, 9)] == [6.0, 3.0, 3.0, 3.0]
    shared = [replace(one, devices=2, workers=4) for one in costs]
    assert [together(shared, n) for n in (8, 16, 24)] == [6.0, 3.0, 3.0]


def test_the_command(tmp_path, tiny_folder, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'methods = ["ENCORE", "MEMIT"]\nmodels = ["{tiny_folder}"]\nedits = 50\n[settings]\nlayers = [0, 1]'
    )
    words = ["cluster", "plan", str(plan)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "ENCORE" in out and "together on 1 device" in out and "measuring and loading are not in it" in err
    assert main([*words, "--json", "--devices", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 2 and found["seconds"] == max(run["seconds"] for run in found["runs"])
    assert main([*words, "--workers", "4"]) == 2  # a plan's runs have one each
    assert "unrecognized arguments: --workers 4" in capsys.readouterr().err
    assert main([*words, "--hardware", "h10"]) == 2
    assert "Unknown hardware 'h10'; did you mean 'h100'?" in capsys.readouterr().err


def test_unknown_hardware_is_refused():
    with pytest.raises(InputError, match="Unknown hardware 'abacus'; choose one of"):
        find_hardware("abacus")
    assert {one.name for one in HARDWARE} >= {"h100"}
