"""How calls are timed, without a GPU: copies against the L2, turns, reads that flush, and what a sample is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam.bench import timing

MB = 2**20


class Clock:
    """A device whose time passes when a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def event(self, **_: Any) -> Any:
        mark = SimpleNamespace(at=0.0)
        mark.record = lambda: setattr(mark, "at", self.now)
        mark.elapsed_time = lambda end: (end.at - mark.at) * 1000
        return mark

    def takes(self, seconds: float, done: Callable[[], object] = lambda: None) -> timing.Call:
        def call() -> None:
            self.now += seconds
            done()

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A CUDA device that is none: its events read a clock, a graph is the call itself."""
    made = Clock()
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timing, "captured", lambda call: call)
    monkeypatch.setattr(timing, "_buffer", lambda device: torch.ones(4))
    monkeypatch.setattr(timing, "sm_clock", lambda device: 1980 if device.startswith("cuda") else None)
    return made


def test_copies_are_several_times_the_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "l2_bytes", lambda device: 50 * MB)
    assert timing.copies_for(26 * MB, "cuda") == 8
    assert timing.copies_for(1600 * MB, "cuda") == 1, "larger than the cache by itself"
    assert timing.copies_for(200 * MB, "cuda") == 1
    assert timing.copies_for(199 * MB, "cuda") == 2
    assert timing.copies_for(0, "cuda") == timing.MAX_COPIES


def test_a_sample_is_many_short_calls_in_turn(clock: Clock) -> None:
    order: list[str] = []
    calls = [clock.takes(40e-6, lambda name=name: order.append(name)) for name in "abc"]
    took = timing.measure(calls, "cuda", budget=0.0, at_least=5)
    assert took.median == pytest.approx(40e-6)
    assert took.calls == 63, "whole rounds, at most 64"
    assert (took.cuda_graph, took.sm_clock) == (True, 1980)
    assert order[-63:] == list(itertools.islice(itertools.cycle("abc"), 63))


def test_a_long_call_is_a_sample_by_itself(clock: Clock) -> None:
    assert timing.measure([clock.takes(0.02)], "cuda").calls == 1
    assert timing.measure([clock.takes(3e-3)], "cuda").calls == 4


def test_the_budget_bounds_the_samples(clock: Clock) -> None:
    def spent(**limits: float) -> float:
        began = clock.now
        timing.measure([clock.takes(0.05)], "cuda", **limits)  # type: ignore[arg-type]
        return clock.now - began

    assert spent(budget=1.0) == pytest.approx(0.05 * (20 + 4))
    assert spent(budget=0.1) == pytest.approx(0.05 * (5 + 4)), "five samples at least"


def test_percentiles_beside_the_median(clock: Clock) -> None:
    seconds = itertools.cycle([0.02] * 8 + [0.03, 0.05])

    def call() -> None:
        clock.now += next(seconds)

    took = timing.measure([call], "cuda", budget=0.4)
    assert took.p10 == pytest.approx(0.02)
    assert took.median == pytest.approx(0.02)
    assert took.p90 >= 0.03 - 1e-9


def test_what_no_graph_holds_is_timed_after_a_pass_that_reads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "captured", lambda call: None)
    buffer = torch.ones(4)
    monkeypatch.setattr(timing, "_buffer", lambda device: buffer)
    seen: list[str] = []
    read = torch.Tensor.amax

    def amax(tensor: torch.Tensor) -> torch.Tensor:
        seen.append("flush")
        clock.now += 1.0  # not a part of the time
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "amax", amax)
    took = timing.measure([clock.takes(40e-6, lambda: seen.append("call"))], "cuda", budget=0.0)
    assert took.median == pytest.approx(40e-6)
    assert (took.calls, took.cuda_graph) == (1, False)
    assert seen[-10:] == ["flush", "call"] * 5
    assert buffer._version == 0, "a written line would leave the cache while the call runs"


def test_two_calls_take_turns(clock: Clock) -> None:
    order: list[str] = []
    calls = [clock.takes(0.01, lambda: order.append("a")), clock.takes(0.02, lambda: order.append("b"))]
    first, second = timing.in_turn(calls, "cuda", 4)
    assert (first.median, second.median) == (pytest.approx(0.01), pytest.approx(0.02))
    assert order == ["a", "b"] * 5, "once to warm up"


def test_a_clock_that_nobody_can_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nvml(device: str) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")

    monkeypatch.setattr(torch.cuda, "clock_rate", no_nvml)
    assert timing.sm_clock("cuda") is None
    assert timing.sm_clock("cpu") is None
    monkeypatch.setattr(torch.cuda, "clock_rate", lambda device: 1755)
    assert timing.sm_clock("cuda") == 1755
