"""Calls as replays of a CUDA graph, for measuring."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(call: Callable[[], object]) -> Callable[[], object] | None:
    """`call` as the replay of a CUDA graph, or None if it cannot be captured.

    Launching a decode kernel from Python takes longer than the kernel itself. In a graph, as servers use it, only the
    kernel's own time is left.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # The stream is of this device: torch's own is of the one that a process captured on first, and would get
        # nothing here. In another mode, what another thread allocates meanwhile fails.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay
