"""A way to serve an op: what it is tried on, and how near to float64 it must be.

A `Way` is one implementation of an op, as its backend or a size of the call chooses it. `ops.py` lists them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from kblam_kernels.knowledge import SCALED_DTYPES
from kblam_kernels.latent import cpu
from kblam_kernels.latent.absorption import Absorbed
from tests import tolerances
from tests.kernels.problems import INF, absorbed_of

R = TypeVar("R")
AnyProblem = Any  # Problem or EvidenceProblem: the same methods
Make = Callable[[torch.dtype], AnyProblem]
Results = tuple[Tensor, ...]
FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
HALF = (FLOAT16, BFLOAT16)
DTYPES = (FLOAT32, *HALF)
# None: the dtype of the query.
STORAGE = (None, FLOAT16, BFLOAT16, *SCALED_DTYPES)


@dataclass(frozen=True)
class Expected:
    """A problem, its results in float64 and those of plain PyTorch in its own dtype."""

    problem: AnyProblem
    exact: Results
    plain: Results


@dataclass(frozen=True)
class Way:
    """One implementation of an op.

    Args:
        name: op, then what is special.
        backend: that serves.
        cases: what it is tried on, in float32 and in the dtypes that `also` says.
        check: (results, expected, whether they are of another device than plain PyTorch's).
        also: other dtypes of a case; None: all of each. The interpreter is slow.
        rows: problems of several rows, each of which must have the bits that it has alone.
        mixes: whether the C++ attention to latents is asked without the matrix products around it, whose bits are the
            matrix library's.
        setting: attribute and value that lead a call this way.
    """

    name: str
    backend: str
    cases: dict[str, Make]
    check: Callable[[Results, Expected, bool], None]
    also: dict[str, tuple[torch.dtype, ...]] | None = None
    rows: dict[str, Make] = field(default_factory=dict)
    mixes: bool = False
    setting: tuple[str, Any] | None = None

    @contextmanager
    def taken(self) -> Any:
        """Calls go this way, and new memory is NaN until it is written."""
        with pytest.MonkeyPatch.context() as patch, poisoned() if self.backend == "cpu" else nullcontext():
            if self.setting is not None:
                patch.setattr(*self.setting)
            yield

    def expected(self, name: str, dtype: torch.dtype) -> Expected:
        """Of a case; computed once."""
        return _expected(self.cases[name], dtype)

    def near(self, name: str, dtype: torch.dtype, device: str = "cpu") -> None:
        """Holds a case to its tolerance."""
        expected = self.expected(name, dtype)
        with self.taken():
            found = expected.problem.on(device).run(self.backend)
        self.check(tuple(result.cpu() for result in found), expected, device != "cpu")

    def bits(self, problem: AnyProblem, rows: slice | None = None) -> Results:
        """Results whose bits are the kernel's own; of some batch rows of what the kernel is handed for all."""
        op, call = problem.call()
        absorbed = absorbed_of(call) if self.mixes else None
        if rows is not None:
            call = call_of_rows(call, rows)
            absorbed = None if absorbed is None else Absorbed(*(part[rows] for part in absorbed))
        with self.taken():
            if absorbed is None:
                return tuple(op(call, self.backend))
            return tuple(cpu.mix(call, absorbed))

    def dtypes_of(self, name: str) -> tuple[torch.dtype, ...]:
        """What a case is tried in on the CPU."""
        return DTYPES if self.also is None else (FLOAT32, *self.also.get(name, ()))


_OF_EACH_ROW = {"query", "value", "knowledge_query", "prompt_mask", "rows", "constant", "lse", "row_weight"}


def call_of_rows(call: Any, rows: slice) -> Any:
    """A call with some rows of its batch."""

    def is_of_each_row(name: str, tensor: Tensor) -> bool:
        if name in ("bias", "knowledge_range"):
            return len(tensor) > 1
        return name in _OF_EACH_ROW or (name.endswith(("key", "value")) and tensor.dim() == 4)

    tensors = {name: getattr(call, name) for name in call.names()}
    return call.but(
        **{name: t[rows] for name, t in tensors.items() if isinstance(t, Tensor) and is_of_each_row(name, t)}
    )


@contextmanager
def poisoned() -> Any:
    """New memory of PyTorch is NaN, or the largest integer, until it is written."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@functools.cache
def _expected(make_problem: Make, dtype: torch.dtype) -> Expected:
    problem = make_problem(dtype)
    return Expected(problem, problem.exact(), problem.run())


def params(ways: Iterable[Way], dtypes: tuple[torch.dtype, ...] | None = None) -> list[Any]:
    """(way, case, dtype) for all cases; `dtypes` instead of those that a case is tried in on the CPU."""
    return [
        pytest.param(way, name, dtype, id=f"{way.name}-{name}-{str(dtype).removeprefix('torch.')}")
        for way in ways
        for name in way.cases
        for dtype in dtypes or way.dtypes_of(name)
    ]


def row_params(ways: Iterable[Way]) -> list[Any]:
    """(way, problem of several rows)."""
    return [pytest.param(way, name, id=f"{way.name}-{name}") for way in ways for name in way.rows]


# How near.


def check_dense(found: Results, expected: Expected, elsewhere: bool) -> None:
    """The output as near as `tolerances` says, the lse near to float64's, a row that saw nothing exactly 0."""
    (output, lse), (exact, exact_lse) = found, expected.exact
    assert output.dtype == expected.problem.query.dtype
    tolerances.check_output(output, exact, expected.plain[0])
    tolerances.check_lse(lse, exact_lse)
    assert (output[exact_lse == -INF] == 0).all()


def check_latent(found: Results, expected: Expected, elsewhere: bool, *, converts: bool = False) -> None:
    """As `check_dense`, but the lse as near to plain PyTorch's: absorbed queries are rounded to the dtype, so scores
    are off by its rounding, however they are summed.

    Args:
        converts: latents of one 16-bit dtype are rounded on the chip to the other that the model has.
    """
    (output, lse), (exact, exact_lse), (plain, plain_lse) = found, expected.exact, expected.plain
    dtype = expected.problem.query.dtype
    tolerances.check_output(output, exact, plain)
    assert torch.equal(lse == -INF, exact_lse == -INF)
    if converts and {dtype, expected.problem.knowledge.key.dtype} == {FLOAT16, BFLOAT16}:
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(lse, plain_lse, rtol=eps, atol=eps)
    else:
        tolerances.check_lse(lse, plain_lse.double())
    assert (output[exact_lse == -INF] == 0).all()


# What rounding absorbed queries to the dtype costs, however their scores are summed: three times the worst case here.
# Nothing else is rounded: dense masses, and those of a float32 model, are float32 from end to end.
ABSORBED = {FLOAT32: 0.0, FLOAT16: 3e-3, BFLOAT16: 4e-2}


def check_mass(found: Results, expected: Expected, elsewhere: bool) -> None:
    """Masses are float32 whatever the inputs, and near to float64 by a fixed measure: plain PyTorch can be wrong too.

    On one device they are as near to plain PyTorch, which rounds absorbed queries to the same numbers. On a GPU the
    tensor cores sum in another order, and exp2 is an approximation.
    """
    (mass,), (exact,), (plain,) = found, expected.exact, expected.plain
    absorbed = ABSORBED[expected.problem.query.dtype] if expected.problem.is_latent else 0.0
    seen = expected.problem.lse[expected.problem.lse.isfinite()]
    # A score and an lse far from 0 are each off by their own rounding.
    far = 2.0**-23 * seen.abs().max().item() if seen.numel() else 0.0
    tolerance = (1e-4 if elsewhere else 2e-5) + far
    assert mass.dtype == FLOAT32
    assert mass.shape == exact.shape
    assert tolerances.relative_error(mass, exact) < tolerance + absorbed
    assert tolerances.relative_error(mass, plain) < tolerance + (absorbed if elsewhere else 0.0)
    if not elsewhere:
        tolerances.check_output(mass, exact, plain)
    # Hidden tokens, and those too light for float32.
    assert torch.equal(mass == 0, plain == 0)


def stored(storage: torch.dtype | None) -> str:
    """For names of cases."""
    return "own" if storage is None else str(storage).removeprefix("torch.")


def captured(run: Callable[[], R]) -> tuple[Callable[[], None], R]:
    """A CUDA graph of a call: its replay, which waits for the device, and where it leaves its results."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay, results
