"""Work repeated on the same tensors: on a GPU it is recorded once and replayed.

A small model's step is thousands of short kernels, and Python takes several times as long to launch them as the GPU to
run them. A CUDA graph launches them all at once. In return, the work must read and write tensors that stay at the same
addresses, and must not wait for the device.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import torch

log = logging.getLogger(__name__)

Work = Callable[[], tuple[torch.Tensor, ...]]


class Replayed:
    """Work without arguments, done at every call. The results are copies of what it returns.

        step = Replayed(work)
        for _ in range(20):
            table, state = step()

    The first call does the work without recording, so that it can make what it keeps for later calls (masks, states of
    an optimiser). The second call records it. Work that cannot be recorded is done without, with a line in the log.

    Args:
        work: returns tensors on a CUDA device, and changes tensors only in place.
    """

    def __init__(self, work: Work):
        self.work = work
        self.refused = False
        self._calls = 0
        self._replay: Callable[[], None] | None = None
        self._results: tuple[torch.Tensor, ...] = ()

    def __call__(self) -> tuple[torch.Tensor, ...]:
        self._calls += 1
        if self._calls == 2:
            try:
                self._replay, self._results = recorded(self.work)
            except RuntimeError as error:  # from CUDA, or from what torch refuses while recording
                self.refused = True
                log.warning("A step cannot be recorded (%s); steps are launched one by one.", _first_line(error))
        if self._replay is None:
            return self.work()
        self._replay()
        return tuple(result.clone() for result in self._results)


_one_at_a_time = threading.Lock()
"""Held while something is recorded, because there is one stream to record on."""


def recorded(work: Work) -> tuple[Callable[[], None], tuple[torch.Tensor, ...]]:
    """Record work on the current CUDA device, without doing it.

    Returns:
        a function that does it, and the tensors that then hold its results.

    Raises:
        RuntimeError: when it waits for the device, or otherwise cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with _one_at_a_time:
        results = _record(graph, work, _kept_pool(torch.cuda.current_device()).pool())
    return graph.replay, results


def _record(graph: torch.cuda.CUDAGraph, work: Work, pool: tuple[int, int] | None) -> tuple[torch.Tensor, ...]:
    stream, current = _stream(torch.cuda.current_device()), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        # Not `torch.cuda.graph`, which empties the cache of freed memory each time; a batch's next step would have to
        # fill it again. Other threads may use the GPU meanwhile.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            results = work()
        except BaseException:
            _abandon(graph, pool)
            raise
        graph.capture_end()
    current.wait_stream(stream)
    return results


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int] | None) -> None:
    """End a recording that has failed, and let the next one begin with new memory."""
    try:
        graph.capture_end()
    except RuntimeError as error:  # the error that made the recording invalid is being raised already
        log.debug("%s", _first_line(error))
        # Torch 2.11 then leaves its allocator recording, so no other recording could use this memory.
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            end = getattr(torch._C, name, None)
            if end is not None and pool is not None:
                with suppress(RuntimeError, TypeError):
                    end(torch.cuda.current_device(), pool)
    _kept_pool.cache_clear()


@functools.cache
def _stream(device: int) -> torch.cuda.Stream:
    """The one stream on which everything is recorded, so that libraries allocate their working memory once."""
    return torch.cuda.Stream(device)


@functools.cache
def _kept_pool(device: int) -> torch.cuda.CUDAGraph:
    """A graph that only keeps the memory pool alive that all others share; no two are replayed at the same time."""
    graph = torch.cuda.CUDAGraph()
    _record(graph, lambda: (torch.zeros(1, device=f"cuda:{device}"),), None)
    return graph


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
