"""What the suites of this folder share: inputs and probes of a shape, made once, and one timed implementation."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kblam.bench import ceilings, memory, probes, subjects, timing
from kblam.bench.cases import Case, check_fits
from kblam.bench.environment import environment
from kblam.bench.measured import Run, gated
from kblam.bench.probes import PRODUCT, READ, Probe
from kblam.bench.problems import Problem, problem_of
from kblam.bench.rows import FAILED
from kblam.bench.subjects import Call, Subject
from kblam.errors import BenchmarkError

PROBE_TURNS = 5
ROUNDS_ON_GPU = 100


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A shape whose implementations are timed one after the other."""

    case: Case
    run: Run
    x: Problem
    subjects: dict[str, Subject]
    ceiling: Ceiling


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """What is left of a shape when its inputs are gone: the work of its implementations, and the probes' seconds."""

    subjects: dict[str, Subject]
    probed: dict[str, Probe]
    seconds: dict[str, float]
    element_size: int

    def shares(self, took: dict[str, float]) -> dict[str, probes.Share]:
        """Of implementations that were timed, from their seconds."""
        known = [subject for name, subject in self.subjects.items() if name in took]
        return probes.shares(known, self.probed, [self.seconds | took], self.element_size)


@functools.lru_cache(maxsize=1)
def prepared(case: Case, device: str, compiles: bool) -> Prepared:
    """The inputs of a shape, on a CPU with probes of what the machine can do; the last one is kept."""
    check_fits(case, device)
    torch.compiler.reset()
    run = Run(device, case.dtype, compiles=compiles)
    x = problem_of(case.shape, device, case.dtype)
    found = {s.name: s for s in subjects.subjects(case.shape, x, run.names(case.shape.phase), compiles=compiles)}
    return Prepared(case, run, x, found, _ceiling(case, run, x, found))


def _ceiling(case: Case, run: Run, x: Problem, found: dict[str, Subject]) -> Ceiling:
    light = {name: dataclasses.replace(s, build=_gone, judge=_gone, streams=_gone) for name, s in found.items()}
    size = case.dtype.itemsize
    if run.on_gpu:
        limits = ceilings.of(run.device, case.dtype)
        probed = {READ + s.layout: Probe(_gone, limits.read) for s in found.values()}
        probed[f"{PRODUCT}square"] = Probe(_gone, limits.matmul)
        return Ceiling(light, probed, dict.fromkeys(probed, 1.0), size)
    probed = probes.probes(case.shape, [s for s in found.values() if not s.unavailable], x)
    products = [name for name in probed if name.startswith(PRODUCT)]
    turns = timing.turns({name: probe.call for name, probe in probed.items()}, PROBE_TURNS, several=products)
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in probed}
    return Ceiling(light, {name: Probe(_gone, probe.amount) for name, probe in probed.items()}, seconds, size)


def _gone(*_: Any) -> NoReturn:
    raise AssertionError("only its sizes are kept")


@functools.cache
def about(device: str) -> dict[str, Any]:
    """The environment of this run."""
    return environment(device)


def time_attention(
    case: Case, name: str, benchmark: BenchmarkFixture, *, device: str, compiles: bool, seen: dict[str, Ceiling]
) -> None:
    """Holds one implementation against float64, then times it; what cannot be timed is skipped with the reason.

    Args:
        case, name: what is measured.
        benchmark: pytest-benchmark's fixture.
        device, compiles: as `Run` has them.
        seen: takes the ceiling of the group, for what is computed when all of it are there.
    """
    try:
        made = prepared(case, device, compiles)
    except BenchmarkError as problem:
        pytest.skip(str(problem))
    subject = made.subjects[name]
    gate = gated(subject, made.x, case.shape, made.run)
    row, call = gate.row, gate.call
    if call is None:
        if row.status == FAILED and subject.is_ours:
            pytest.fail(f"{name}: {row.note}")
        pytest.skip(f"{name}: {row.status}: {row.note}")
    benchmark.group = case.name
    seen[benchmark.group] = made.ceiling
    # Heads are independent: where only some of them have keys and values, they are computed as often as all would be.
    times = round(1 / subject.share)
    benchmark.extra_info |= {
        "implementation": name,
        "is_ours": subject.is_ours,
        "phase": case.shape.phase,
        "triples": case.shape.M,
        "dtype": case.dtype_name,
        "backend": subject.backend,
        "layout": subject.layout,
        "storage": _storage(subject, made.x),
        "heads_timed": subject.share,
        "relative_error": row.relative_error,
        "knowledge_bytes": times * sum(tensor.nbytes for tensor in subject.streams(made.x)),
        "peak_bytes": gate.peak_bytes(device),
        "flops": subject.work.flops,
        "bytes": subject.work.bytes_moved(case.dtype.itemsize),
    }
    run_timed(benchmark, repeated(call, times), device, once=gate.is_timed)


def _storage(subject: Subject, x: Problem) -> str:
    streams = subject.streams(x)
    return str(streams[0].dtype).removeprefix("torch.") if streams else ""


def repeated(call: Call, times: int) -> Callable[[], object]:
    """The call, so many times."""
    if times == 1:
        return call

    def several() -> None:
        for _ in range(times):
            call()

    return several


def with_peak(benchmark: BenchmarkFixture, call: Callable[[], object], device: str) -> None:
    """`run_timed`, and the memory of a call; what takes seconds on a CPU is called twice in all."""
    began = time.perf_counter()
    _, peak = memory.watched(call, device)
    once = torch.device(device).type == "cpu" and time.perf_counter() - began > timing.ONCE_SECONDS
    benchmark.extra_info["peak_bytes"] = peak if once else memory.peak(call, device)
    run_timed(benchmark, call, device, once=once)


def run_timed(benchmark: BenchmarkFixture, call: Callable[[], object], device: str, *, once: bool = False) -> None:
    """Times a call and notes where. On a GPU until the device is done, each round after a read of more than the L2.

    `once`: it takes seconds on a CPU, where another round would tell little more.
    """
    benchmark.extra_info |= about(device)
    if torch.device(device).type != "cuda":
        if once:
            benchmark.pedantic(call)
        else:
            benchmark(call)
        return
    flush = torch.ones(timing.FLUSH_BYTES // 4, device=device)

    before, waited = until_done(flush.amax, device), until_done(call, device)
    benchmark.pedantic(waited, setup=before, rounds=ROUNDS_ON_GPU, warmup_rounds=3)


def until_done(call: Callable[[], object], device: str) -> Callable[[], None]:
    """The call, and on a GPU the wait until the device is done."""

    def waited() -> None:
        call()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    return waited


def with_ratios(entries: list[dict[str, Any]], seen: dict[str, Ceiling]) -> None:
    """Gives the entries of a pytest-benchmark file what follows from others of their group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["group"], []).append(entry)
    for group, members in groups.items():
        took = {entry["extra_info"].get("implementation"): entry["stats"]["median"] for entry in members}
        peers = [took[e["extra_info"]["implementation"]] for e in members if e["extra_info"].get("is_ours") is False]
        shares = seen[group].shares(took) if group in seen else {}
        for entry in members:
            info, seconds = entry["extra_info"], entry["stats"]["median"]
            if peers:
                info["ratio_to_best_peer"] = min(peers) / seconds
            if "flops" in info:
                info["tflops"] = info["flops"] / seconds / 1e12
                info["gigabytes_per_second"] = info["bytes"] / seconds / 1e9
            if share := shares.get(info.get("implementation", "")):
                info["share_of_ceiling"], info["share_of_probes"] = share.of_ceiling, share.of_probes
                info["ceiling_seconds"], info["bound"] = share.ceiling, share.bound
