"""One table of ops: who serves each, and what it is tried on.

`test_ops.py` asks the same of every way on the CPU, where Triton runs in its interpreter; `test_gpu_ops.py` on a CUDA
device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.splits import MIN_DENSE_SPLIT
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.problems import INF, EvidenceProblem, Problem, evidence_of, make, make_latent
from tests.kernels.ways import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    HALF,
    STORAGE,
    AnyProblem,
    Make,
    Way,
    check_dense,
    check_latent,
    check_mass,
    stored,
)


def grid(chosen: Iterable[Case]) -> dict[str, Make]:
    """By name."""
    return {case.name: case.problem for case in chosen}


def _of(maker: Callable[..., AnyProblem], **arguments: Any) -> Make:
    return lambda dtype: maker(**arguments, dtype=dtype)


def _evidence(maker: Callable[..., Problem], **arguments: Any) -> Make:
    return lambda dtype: evidence_of(maker(**arguments, dtype=dtype))


_GENERATOR = torch.Generator().manual_seed(11)


def _bias(*shape: int) -> Tensor:
    values = torch.randn(*shape, generator=_GENERATOR)
    return values.masked_fill(values > 1.5, -INF)


def _ranges(M: int) -> Tensor:
    return torch.tensor([[3, M], [M // 3, M + 99], [M // 2, M // 2 + 1], [9, 9], [-5, 2]], dtype=torch.int32)


def _seen(B: int, T: int) -> Tensor:
    return torch.rand(B, T, generator=_GENERATOR) > 0.4


def _alone(maker: Callable[..., Problem], *sizes: int, M: int, only: tuple[str, ...] | None = None) -> dict[str, Make]:
    """Knowledge without a prompt, seen by so many new queries: a row may see nothing of it."""
    options: dict[str, dict[str, Any]] = {
        "whole": {},
        "ranges": {"B": 5, "knowledge_range": _ranges(M), "knowledge_bias": torch.randn(5, 1).expand(5, M)},
        "row-bias": {"knowledge_bias": _bias(2, M)},
        "all-hidden": {"knowledge_bias": -INF},
        "far-above": {"knowledge_bias": cases.FAR},
        "far-below": {"knowledge_bias": -cases.FAR},
        "M0": {"M": 0},
    }
    return {
        f"alone-N{N}-{name}": _of(maker, **{"N": N, "T": 0, "M": M, "is_alone": True, **given})
        for N in sizes
        for name, given in options.items()
        if only is None or name in only
    }


# More queries than a tile of rows has: in the interpreter only what a second tile may change.
_MANY = ("whole", "row-bias", "all-hidden")
_LATENT = {name: _of(make_latent, **arguments) for name, arguments in cases.LATENT.items()}
_STORED = {
    f"{name}-{stored(storage)}": _of(make_latent, **cases.LATENT[name], storage=storage)
    for name in ("decode", "ranges", "token-bias", "several-new-tokens", "latents-of-a-prime-width", "M0")
    for storage in STORAGE[1:]
}
# 36 rows: a whole block and a ragged one; a width that ends inside a vector; an odd number of tokens. 40 rows of one
# batch row are the lanes of vectors: a whole block and a ragged one, or two batch rows in a block.
_LANES = {
    f"{name}-{stored(storage)}": _of(make_latent, **arguments, storage=storage)
    for name, arguments in (
        ("36-rows", {"B": 3, "H": 12, "G": 3, "N": 1, "M": 147, "P": 75, "D": 32}),
        ("2-rows", {"B": 1, "H": 2, "G": 1, "N": 1, "M": 147, "P": 96, "D": 32}),
        ("40-rows", {"B": 1, "H": 40, "G": 8, "N": 1, "M": 147, "P": 75, "D": 8}),
        (
            "24-rows-of-each",
            {"B": 2, "H": 12, "G": 3, "N": 2, "M": 141, "P": 96, "D": 8, "knowledge_bias": _bias(2, 141)},
        ),
    )
    for storage in STORAGE
}
_EVIDENCE = {
    **{f"dense-{name}": _evidence(make, **arguments) for name, arguments in cases.EVIDENCE.items()},
    **{f"latent-{name}": _evidence(make_latent, **arguments) for name, arguments in cases.LATENT_EVIDENCE.items()},
}
_STORED_EVIDENCE = {
    f"latent-{stored(storage)}": _evidence(make_latent, N=1, M=70, storage=storage) for storage in STORAGE[1:]
}
_M, _LATENT_M = MIN_DENSE_SPLIT + 5, 133
_MASK = torch.ones(7, 9, dtype=torch.bool)
_MASK[2:, :3] = False
# Seven times three queries of a head fill a row tile and begin another.
_DENSE_ROWS = {
    "padded": _of(make, B=7, H=2, G=1, N=3, T=9, M=_M, prompt_mask=_MASK),
    "ranges": _of(make, B=5, H=2, G=1, N=1, T=9, M=_M, knowledge_range=_ranges(_M), knowledge_bias=_bias(5, _M)),
    "own-knowledge": _of(make, B=3, H=2, G=1, N=2, T=9, M=70, shared=False),
    "alone": _of(make, B=5, H=2, G=1, N=1, T=0, M=_M, is_alone=True, knowledge_range=_ranges(_M).flip(0)),
}
# Six heads: the rows of a batch row sit at other places of a row tile than alone.
_LATENT_ROWS = {
    f"P{P}-{stored(storage)}": _of(
        make_latent, B=3, H=6, G=2, N=1, M=_LATENT_M, P=P, knowledge_bias=_bias(_LATENT_M), storage=storage
    )
    for P, storage in ((48, None), (32, FLOAT16), (32, BFLOAT16), (32, torch.int8), (32, torch.float8_e4m3fn))
}
_EVIDENCE_ROWS = {
    "dense": _evidence(make, B=3, N=2, M=70, knowledge_range=_ranges(70)[:3], knowledge_bias=_bias(3, 70)),
    "latent": _evidence(make_latent, B=3, H=6, G=2, N=3, M=70, knowledge_bias=_bias(70)),
}
# The C++ kernels are fast enough for several tiles of 128 tokens. Rows of one task are of several batch rows where
# those share knowledge, and at most 32 when folded, 256 in tiles.
_CPP_DENSE_ROWS = {
    f"B{B}-N{N}-{name}": _of(make, B=B, N=N, T=N + 30, M=1100, D=40, prompt_mask=_seen(B, N + 30), **ranges)
    for B, N in ((5, 1), (5, 9), (5, 20), (5, 70))
    for name, ranges in (("whole", {}), ("ranges", {"knowledge_range": _ranges(1100)}))
}
# Six heads: alone, a batch row is less than the four queries that go together; in the batch it straddles them. 26: a
# batch row fills most of a block of lanes, and begins in the middle of one.
_CPP_LATENT_ROWS = {
    f"H{H}-{name}-{stored(storage)}": _of(
        make_latent, B=3, H=H, G=2, N=1, M=700, P=48, D=8, knowledge_bias=_bias(3, 700), storage=storage, **ranges
    )
    for H in (6, 26)
    for name, ranges in (("whole", {}), ("ranges", {"knowledge_range": _ranges(700)[1:4]}))
    for storage in STORAGE
}
_CPP_EVIDENCE_ROWS = {
    "dense": _evidence(make, B=3, N=5, M=700, D=24, knowledge_range=_ranges(700)[1:4], knowledge_bias=_bias(3, 700)),
    "latent": _evidence(make_latent, B=3, H=12, G=3, N=3, M=700, P=37, knowledge_bias=_bias(3, 700)),
}


SINGLE_PASS = ("kblam_kernels.dense.op.MAX_DECODE_QUERIES", -1)
# A dtype changes loads, stores and one conversion, not the loops: of the grid, the cases that differ in those.
TRITON_WAYS = (
    Way(
        "dense-single_pass",
        "triton",
        {**grid((*cases.GRID, *cases.OTHER_SHAPES)), **_alone(make, 20, M=133)},
        check_dense,
        also=dict.fromkeys((case.name for case in cases.OTHER_DTYPES), HALF),
        setting=SINGLE_PASS,
    ),
    Way(
        "dense-split",
        "triton",
        {**grid((*cases.FEW, *cases.SPLITS)), **_alone(make, 1, M=_M)},
        check_dense,
        # The interpreter cuts weights off to bfloat16 where a GPU rounds them: errors are near twice as large here.
        also=dict.fromkeys(("B2-N4-T63-M100-D96", cases.SPLITS[4].name), HALF),
        rows=_DENSE_ROWS,
    ),
    Way(
        "latent",
        "triton",
        {
            **_LATENT,
            **_STORED,
            **_alone(make_latent, 1, M=_LATENT_M),
            **_alone(make_latent, 9, M=_LATENT_M, only=_MANY),
        },
        functools.partial(check_latent, converts=True),
        also=dict.fromkeys(
            (
                *("decode", "left-padded", "M0", "ranges", "latents-of-three-chunks"),
                *(f"decode-{stored(storage)}" for storage in STORAGE[1:]),
            ),
            HALF,
        ),
        rows=_LATENT_ROWS,
    ),
    Way(
        "evidence",
        "triton",
        {**_EVIDENCE, **_STORED_EVIDENCE},
        check_mass,
        also={name: (BFLOAT16,) if name.startswith("dense") else (FLOAT16,) for name in _EVIDENCE},
        rows=_EVIDENCE_ROWS,
    ),
)
_CPP_LATENT = {**_LATENT, **_LANES, **_alone(make_latent, 1, 9, M=700)}
CPP_WAYS = (
    Way(
        "dense",
        "cpu",
        {**grid(case for case in cases.GRID if case.D % 2 == 0), **_alone(make, 1, 9, 20, 70, M=1100)},
        check_dense,
        rows=_CPP_DENSE_ROWS,
    ),
    Way("latent-one_call", "cpu", _CPP_LATENT, check_latent, also=dict.fromkeys(_LANES, HALF), rows=_CPP_LATENT_ROWS),
    Way(
        "latent-parts",
        "cpu",
        _CPP_LATENT,
        check_latent,
        also=dict.fromkeys(_LANES, HALF),
        rows=_CPP_LATENT_ROWS,
        mixes=True,
        setting=("kblam_kernels.latent.cpu.MAX_FUSED_QUERIES", 0),
    ),
    Way("evidence", "cpu", {**_EVIDENCE, **_STORED_EVIDENCE}, check_mass, rows=_CPP_EVIDENCE_ROWS),
)

STORED_CASES = frozenset((*_STORED, *_STORED_EVIDENCE))

# The specifications in float64, on what PyTorch's own attention can be asked too.
SPECIFIED: dict[str, dict[str, Make]] = {
    "dense": {**grid(cases.GRID), **_alone(make, 1, 5, M=40)},
    "latent": {**_LATENT, **_STORED, **_alone(make_latent, 1, 5, M=40)},
    "evidence": {**_EVIDENCE, **_STORED_EVIDENCE},
}
# What PyTorch asks of an op is asked of these.
SMALL: dict[str, dict[str, Make]] = {
    "dense": {
        "plain": _of(make),
        "M0": _of(make, M=0),
        "per-row": _of(make, shared=False, knowledge_bias=_bias(2, 7)),
        "mask-window": _of(make, prompt_mask=torch.tensor([[False] * 9, [False] * 3 + [True] * 6]), window=4),
        "decode-range": _of(make, N=1, knowledge_range=_ranges(7)[:2], knowledge_bias=0.5),
        "alone": _of(make, B=3, T=0, is_alone=True, knowledge_range=_ranges(7)[1:4], knowledge_bias=_bias(3, 7)),
    },
    "latent": {
        "plain": _of(make_latent),
        "M0": _of(make_latent, M=0),
        "window": _of(make_latent, window=2),
        "bias-range": _of(make_latent, knowledge_bias=_bias(7), knowledge_range=_ranges(7)[:2]),
        "alone": _of(make_latent, B=3, T=0, is_alone=True, knowledge_range=_ranges(7)[1:4], knowledge_bias=_bias(3, 7)),
        "float16": _of(make_latent, storage=FLOAT16),
        "int8": _of(make_latent, storage=torch.int8),
    },
    "evidence": {
        "dense": _evidence(make, knowledge_range=_ranges(7)[:2], knowledge_bias=_bias(7)),
        "per-row": _evidence(make, shared=False),
        "M0": _evidence(make, M=0),
        "latent": _evidence(make_latent, knowledge_range=_ranges(7)[:2]),
        "latent-int8": _evidence(make_latent, storage=torch.int8, knowledge_bias=_bias(7)),
    },
}


def usual(way: Way, N: int, dtype: torch.dtype = FLOAT32, **options: Any) -> AnyProblem:
    """A call of a way, of N new tokens; evidence is of latents for an odd N."""
    is_latent = way.name.startswith("latent") or (way.name == "evidence" and N % 2 == 1)
    problem = (make_latent if is_latent else make)(N=N, T=N + 9, **{"M": 140, "D": 24, **options}, dtype=dtype)
    return evidence_of(problem) if way.name == "evidence" else problem


def is_differentiable(problem: AnyProblem) -> bool:
    """Evidence of latents has no gradient."""
    return not (problem.is_latent and isinstance(problem, EvidenceProblem))


def attention_of(problem: AnyProblem) -> Problem:
    """The attention of evidence, or the problem itself."""
    return problem.attention if isinstance(problem, EvidenceProblem) else problem
