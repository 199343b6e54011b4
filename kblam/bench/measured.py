"""One implementation on one shape: held against float64, then timed. What goes wrong becomes a row too.

On a GPU each is timed by itself, over copies of its inputs (`timing.measure`); on a CPU all of a shape take turns,
beside probes of what the machine can do (`probes.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from kblam.bench import kernels, memory, peers, probes, subjects, timing
from kblam.bench.ceilings import Ceilings
from kblam.bench.operands import Peer
from kblam.bench.problems import Problem, problem_of
from kblam.bench.rows import FAILED, INPUTS, REFUSED, TOO_LARGE, Row, described, first_line
from kblam.bench.shapes import Shape
from kblam.bench.subjects import Call, Subject
from kblam.bench.tolerances import FACTOR, FLOOR, relative_error
from kblam.errors import BenchmarkError

# A peer may round its partial results to 16 bits before it merges them; the gate only asks whether it computes the
# same function. We are held to the tolerance of the tests.
PEER_FACTOR = 10.0
# What multiplies as int8 is held by the mean error over the root mean square.
ROUNDED = 3e-2


@dataclasses.dataclass(frozen=True)
class Run:
    """What all shapes of a run share.

    Args:
        device, dtype: of the inputs.
        limits: of a GPU; None where all of a shape take turns beside probes, as on a CPU.
        quick: without the slowest peers.
        compiles: with peers that are compiled for each shape.
        budget: seconds of samples of one implementation on a GPU.
        turns: on a CPU.
        chosen: names of the implementations; None for all.
        left_out: of them, those that are not measured.
        own_peers: of the caller, by name, beside those of `peers.py`.
    """

    device: str
    dtype: torch.dtype
    limits: Ceilings | None = None
    quick: bool = False
    compiles: bool = True
    budget: float = 0.5
    turns: int = 15
    chosen: tuple[str, ...] | None = None
    left_out: frozenset[str] = frozenset()
    own_peers: Mapping[str, Peer] = dataclasses.field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def dtype_name(self) -> str:
        """Such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def names(self, phase: str) -> list[str]:
        """Of the implementations that are measured in a phase."""
        every = [*subjects.names(phase, self.device, quick=self.quick), *self.own_peers]
        return [name for name in every if name not in self.left_out and (self.chosen is None or name in self.chosen)]


def ours_and(chosen: Sequence[str], device: str) -> tuple[str, ...]:
    """Ours, and these peers.

    Raises:
        BenchmarkError: one is not known, or does not run here.
    """
    known = [subjects.COMPOSED, *peers.PEERS, *peers.EVIDENCE_PEERS]
    for name in chosen:
        if name not in known:
            raise BenchmarkError(f"--peers: {name!r} is not one of {', '.join(known)}")
        if (reason := peers.reason_against(name, device)) is not None:
            raise BenchmarkError(f"--peers: {name!r} cannot run here: {reason}")
    return (*subjects.OURS, *chosen)


def rows(shape: Shape, run: Run, has: Callable[[str], bool] = lambda name: False) -> Iterator[Row]:
    """Gates, then times, every implementation on one shape but those that `has` already knows."""
    names = [name for name in run.names(shape.phase) if not has(name)]
    if not names:
        return
    # Peers are compiled for each shape; without this the compiler gives up after a few.
    torch.compiler.reset()
    row = Row(shape.name, shape.phase, INPUTS, None, run.dtype_name)
    try:
        x = problem_of(shape, run.device, run.dtype)
        measurable = list(subjects.subjects(shape, x, names, compiles=run.compiles, own_peers=run.own_peers))
    except torch.OutOfMemoryError as problem:
        yield dataclasses.replace(row, status=TOO_LARGE, note=first_line(problem))
        return
    except Exception as problem:
        yield dataclasses.replace(row, status=FAILED, note=described(problem))
        return
    if run.limits is None:
        yield from _in_turns(measurable, x, shape, run)
        return
    for subject in measurable:
        yield from _alone(subject, x, shape, run)
        if run.on_gpu:
            torch.cuda.empty_cache()


def levels(shape: Shape, name: str, run: Run) -> tuple[str, ...]:
    """Which rows an implementation has: "cold", and for decode "warm" where its inputs fit into the L2."""
    moved = subjects.work_of(shape, name).bytes_moved(run.dtype.itemsize)
    fits = run.limits is not None and shape.phase == "decode" and moved < timing.l2_bytes(run.device)
    return ("cold", "warm") if fits else ("cold",)


class Gated(NamedTuple):
    """What the gate found.

    Args:
        row: with the error, or with why it has no time.
        call: what may be timed; None where it cannot run, or gives another result than float64.
        seconds, peak: of its first call, on a CPU; of what is compiled, of the second.
        share: of the heads that it computes.
    """

    row: Row
    call: Call | None
    seconds: float = 0.0
    peak: int | None = None
    share: float = 1.0

    @property
    def is_timed(self) -> bool:
        """Whether that call took so long that it is the only one."""
        return self.seconds > timing.ONCE_SECONDS

    def peak_bytes(self, device: str) -> int | None:
        """Of a call like those that are timed: the first one makes what later ones find.

        None where some heads stand for all: not everything that a call takes grows with them.
        """
        if self.share < 1:
            return None
        return self.peak if self.is_timed or self.call is None else memory.peak(self.call, device)


def gated(subject: Subject, x: Problem, shape: Shape, run: Run) -> Gated:
    """Holds an implementation against float64."""
    row = Row(shape.name, shape.phase, subject.name, subject.backend, run.dtype_name)
    if subject.unavailable:
        return Gated(dataclasses.replace(row, status=REFUSED, note=subject.unavailable), None)
    try:
        judge = subject.judge()
    except torch.OutOfMemoryError as problem:
        row = dataclasses.replace(row, status=TOO_LARGE, note=f"its judge does not fit: {first_line(problem)}")
        return Gated(row, None)
    except Exception as problem:
        return Gated(dataclasses.replace(row, status=FAILED, note=f"its judge: {described(problem)}"), None)
    seconds, peak = 0.0, None
    try:
        call = subject.build(x)
        if run.on_gpu:
            result = call()
        else:
            if subject.name in peers.COMPILED:
                call()  # the compiler's time and memory are not those of a call
            began = time.perf_counter()
            result, peak = memory.watched(call, run.device)
            seconds = time.perf_counter() - began
    except Exception as problem:
        return Gated(_without_time(row, subject, problem), None)
    error = relative_error(result, judge.exact)
    row = dataclasses.replace(row, relative_error=error)
    bound = (FACTOR if subject.is_ours else PEER_FACTOR) * judge.allowed + FLOOR[run.dtype]
    if subject.is_rounded:
        error, bound = _mean_error(result, judge.exact), ROUNDED
    # So written that nan does not pass.
    if not error <= bound:
        note = f"error {error:.1e} is over {bound:.1e}: not timed"
        return Gated(dataclasses.replace(row, status=FAILED, note=note), None)
    return Gated(row, call, seconds, peak, subject.share)


def _without_time(row: Row, subject: Subject, problem: Exception) -> Row:
    if isinstance(problem, torch.OutOfMemoryError):
        return dataclasses.replace(row, status=TOO_LARGE, note=first_line(problem))
    # A peer that refuses a shape is a result; our own exception is a failure. Neither is the end of the run.
    return dataclasses.replace(row, status=FAILED if subject.is_ours else REFUSED, note=described(problem))


def _mean_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


def _alone(subject: Subject, x: Problem, shape: Shape, run: Run) -> Iterator[Row]:
    """Its rows: one for each of `levels`."""
    row, call, *_ = gated(subject, x, shape, run)
    if call is None:
        yield row
        return
    next_row = row
    try:
        for timed in _timed(row, subject, call, x, run, shape):
            yield timed
            next_row = dataclasses.replace(row, l2="warm")
    except Exception as problem:
        yield _without_time(next_row, subject, problem)


def _timed(row: Row, subject: Subject, call: Call, x: Problem, run: Run, shape: Shape) -> Iterator[Row]:
    peak = memory.peak(call, run.device) if run.on_gpu else None
    moved = subject.work.bytes_moved(run.dtype.itemsize)
    copies = timing.copies_for(moved, run.device)
    calls = [call, *(subject.build(x.clone()) for _ in range(copies - 1))]
    cold = with_time(row, timing.measure(calls, run.device, budget=run.budget), subject, run)
    launched = _kernels(calls, run)
    yield dataclasses.replace(
        cold,
        knowledge_bytes=_bytes(subject, x),
        peak_bytes=peak,
        kernels=launched,
        launches=sum(kernel.launches for kernel in launched) if launched else None,
    )
    if "warm" in levels(shape, subject.name, run):
        warm = timing.measure(calls[:1], run.device, budget=run.budget)
        yield with_time(dataclasses.replace(row, l2="warm"), warm, subject, run)


def _in_turns(chosen: Sequence[Subject], x: Problem, shape: Shape, run: Run) -> Iterator[Row]:
    """Their rows: what passes the gate is timed in turns, beside the probes."""
    passed: list[tuple[Row, Subject]] = []
    others: dict[str, Row] = {}
    calls: dict[str, timing.Call] = {}
    once: dict[str, float] = {}
    for subject in chosen:
        gate = gated(subject, x, shape, run)
        if gate.call is None:
            others[subject.name] = gate.row
            continue
        if gate.is_timed:
            once[subject.name] = gate.seconds
        else:
            calls[subject.name] = gate.call
        passed.append((dataclasses.replace(gate.row, peak_bytes=gate.peak_bytes(run.device)), subject))
    measurable = [subject for _, subject in passed]
    probed = probes.probes(shape, measurable, x)
    calls |= {name: probe.call for name, probe in probed.items()}
    products = [name for name in probed if name.startswith(probes.PRODUCT)]
    took = timing.turns(calls, run.turns, several=products) if passed else []
    for turn in took:
        turn |= once
        for subject in measurable:
            # Heads are independent, so the time of some of them is scaled to all.
            turn[subject.name] /= subject.share
    shares = probes.shares(measurable, probed, took, run.dtype.itemsize)
    for row, subject in passed:
        of_turns = timing.over([turn[subject.name] for turn in took])
        share = shares[subject.name]
        notes = ["timed once"] if subject.name in once else []
        notes += [] if subject.share == 1 else [f"{subject.share:.3g} of the heads timed, scaled to all"]
        others[subject.name] = dataclasses.replace(
            with_time(row, of_turns, subject, run),
            knowledge_bytes=round(_bytes(subject, x) / subject.share),
            ceiling_seconds=share.ceiling,
            bound=share.bound,
            share_of_ceiling=share.of_ceiling,
            share_of_probes=share.of_probes,
            note="; ".join(notes),
        )
    yield from (others[subject.name] for subject in chosen)


def _bytes(subject: Subject, x: Problem) -> int:
    return sum(tensor.nbytes for tensor in subject.streams(x))


def _kernels(calls: Sequence[Call], run: Run) -> list[kernels.Kernel]:
    try:
        return kernels.of(calls, run.device, count=kernels.CALLS if run.on_gpu else 2)
    # A profiler that is refused here costs this column, not the row.
    except Exception as problem:
        logging.getLogger(__name__).warning("no kernel times: %s", described(problem))
        return []


def with_time(row: Row, took: timing.Timing, subject: Subject, run: Run) -> Row:
    """The row with a time and what follows from it."""
    flops = subject.work.flops / took.median
    moved = subject.work.bytes_moved(run.dtype.itemsize) / took.median
    limits = run.limits
    if limits is not None:
        row = dataclasses.replace(
            row,
            of_matmul_ceiling=flops / limits.matmul,
            of_copy_ceiling=moved / limits.copy,
            of_read_ceiling=moved / limits.read,
        )
    return dataclasses.replace(
        row,
        seconds=took.median,
        p10=took.p10,
        p90=took.p90,
        calls=took.calls,
        sm_clock=took.sm_clock,
        cuda_graph=took.cuda_graph,
        tflops=flops / 1e12,
        gigabytes_per_second=moved / 1e9,
    )
