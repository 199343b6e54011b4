"""Calls as CUDA graphs, with a device of their own made up."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam_kernels.common.graphs import captured


def test_a_graph_is_of_the_current_device_and_other_threads_may_allocate(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}

    def graph(made: Any, **given: Any) -> Any:
        options.update(given)
        return contextlib.nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    assert captured(lambda: None) is not None
    assert options["capture_error_mode"] == "thread_local"
    # Without one, torch takes a stream of the device that the process captured on first; elsewhere the graph is empty.
    assert options["stream"] is stream
