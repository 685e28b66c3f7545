"""The campaign of kills itself: a few kills, a table, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_campaign_kills_compares_and_goes_on_where_it_stopped(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}

    def campaign(kills: int) -> str:
        command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path), "--kills", str(kills)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    table = campaign(3)
    lines = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text("utf-8").splitlines()]
    killed = sum(sum(line["kills"].values()) for line in lines)
    assert killed >= 3 and f"{killed} kills of {len(lines)} runs" in table
    assert all(line["differences"] == line["faults"] == [] for line in lines)
    assert "ended otherwise than the run that nobody killed: 0." in table and "| what the process was doing |" in table
    assert campaign(3).splitlines()[2:] == table.splitlines()[2:]
    assert len((tmp_path / "kills.jsonl").read_text("utf-8").splitlines()) == len(lines)
