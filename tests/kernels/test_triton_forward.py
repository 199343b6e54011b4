"""The single-pass Triton kernel in the interpreter, against the specification, on the case grid."""

from __future__ import annotations

import os

import pytest
import torch

from kblam_kernels.errors import UnsupportedInputError
from kblam_kernels.rectangular import chunks
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.held import hold

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0: see test_gpu_forward"),
]


@pytest.fixture(autouse=True)
def single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few queries too."""
    monkeypatch.setattr(chunks, "MAX_DECODE_QUERIES", -1)


@pytest.mark.parametrize("case", cases.PARAMS)
def test_float32(case: Case) -> None:
    hold(case, "triton", torch.float32)


# A dtype changes loads, stores and one conversion, not the loops: the cases that differ in those.
SOME = [
    Case(1, 1, 0, 64),
    Case(2, 35, 40, 96),
    Case(1, 7, 33, 72),
    Case(3, 40, 50, 64, changes={"left": cases.LEFT}),
    cases.GRID[-1],
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SOME])
def test_half(case: Case, dtype: torch.dtype) -> None:
    hold(case, "triton", dtype)


@pytest.mark.parametrize("tile", ["16x64x4x3", "64x16x4x2", "128x32x8x3x1"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in (cases.GRID[7], cases.GRID[-1])])
def test_other_tiles_give_the_same(case: Case, tile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_TILE", tile)
    hold(case, "triton", torch.float32)


def test_a_pinned_tile_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_TILE", "fast")
    with pytest.raises(UnsupportedInputError, match="KBLAM_TILE='fast'"):
        cases.GRID[0].problem(torch.float32).run("triton")


def test_no_query_gives_no_output() -> None:
    output, lse = Case(2, 0, 7, 16, T=4).problem(torch.float32).run("triton")
    assert output.shape == (2, 2, 0, 16)
    assert lse.shape == (2, 2, 0)
