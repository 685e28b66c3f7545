"""Memory that the C allocator keeps for reuse, and gives back when it is told to."""

import platform

import psutil
import pytest
import torch

from encore_core.runtime import return_freed_memory

MIB = 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such call")
def test_freed_memory_is_kept_until_it_is_returned():
    blocks = [torch.ones(MIB // 4) for _ in range(200)]
    last = torch.ones(MIB // 4)  # above the others, so that they are a hole in the heap and not its end
    full = psutil.Process().memory_info().rss
    del blocks
    kept = psutil.Process().memory_info().rss
    assert return_freed_memory()
    left = psutil.Process().memory_info().rss
    assert kept > full - 20 * MIB
    assert left < full - 180 * MIB
    assert float(last.sum()) == MIB // 4
