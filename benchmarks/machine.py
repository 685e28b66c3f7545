"""The machine that benchmarks run on: what it is, the matrix-product rate that it reaches, and seconds on it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch


def machine() -> dict[str, Any]:
    """What the numbers were measured on, with the matrix-product peak that it reaches."""
    found = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        found["processor"] = names[0] if names else found["processor"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes = (torch.float32, torch.bfloat16)
    found["matmul_gflops"] = {str(dtype)[6:]: round(peak(device, dtype), 1) for dtype in dtypes}
    print(found)
    return found


def peak(device: str, dtype: torch.dtype) -> float:
    """Best matrix-product rate of several tries, in GFLOP/s."""
    rates = []
    for n in (512, 2048):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rates += [2 * n**3 / timed(torch.matmul, a, b)[1] / 1e9 for _ in range(5)]
        if rates[-1] < 10:  # no unit for this type: a larger product would take minutes and say the same
            break
    return max(rates)


def timed(function: Callable, *arguments) -> tuple[Any, float]:
    """What a function returns, and the seconds it took."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, time.perf_counter() - start
