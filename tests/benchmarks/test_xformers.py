"""The xFormers peer without xFormers: layouts and arguments, against a stand-in that computes what its source says.

The package needs a GPU and has not run here; what this shows is that a call in its layout gives the right result.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam.bench import peers, problems, shapes
from kblam.bench.tolerances import relative_error

NAME = "two xFormers calls + merge"


def partial(
    query: Tensor, key: Tensor, value: Tensor, mask: object, *, scale: float, op: object, output_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """memory_efficient_attention_partial on (B, tokens, groups, heads of each, D): lse (B, groups, heads, padded)."""
    assert query.dim() == key.dim() == value.dim() == 5
    assert query.shape[2:4] == key.shape[2:4] == value.shape[2:4], "its inputs are not broadcast"
    assert op == ("split" if query.shape[1] <= 16 else None)
    scores = torch.einsum("bnghd,btghd->bghnt", query, key) * scale
    if mask is not None:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    out = torch.einsum("bghnt,btghd->bnghd", scores.softmax(-1), value)
    padded = torch.nn.functional.pad(scores.logsumexp(-1), (0, 3), value=float("inf"))
    return out.to(output_dtype), padded


def merge(
    parts: list[Tensor], lses: list[Tensor], *, write_lse: bool, output_dtype: torch.dtype
) -> tuple[Tensor, None]:
    """merge_attentions of (B, tokens, H, D) with (B, H, tokens)."""
    for out, lse in zip(parts, lses, strict=True):
        assert (out.shape[0], out.shape[2], out.shape[1]) == lse.shape
    shares = torch.stack(lses).softmax(0).transpose(2, 3)[..., None]
    return sum(out * share for out, share in zip(parts, shares, strict=True)).to(output_dtype), None


@pytest.fixture
def _xformers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = ModuleType("xformers.ops")
    made.fmha = SimpleNamespace(
        attn_bias=SimpleNamespace(LowerTriangularMask=object),
        triton_splitk=SimpleNamespace(FwOp="split"),
        memory_efficient_attention_partial=partial,
        merge_attentions=merge,
    )
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", made)


@pytest.mark.usefixtures("_xformers")
@pytest.mark.parametrize(
    "shape",
    [
        shapes.Shape(shapes.TINY, "decode", 2, 1, 9, 20),
        shapes.Shape(shapes.TINY, "prefill", 2, 8, 8, 20),
        shapes.Shape(shapes.TINY, "prefill", 1, 19, 19, 20),
    ],
    ids=lambda shape: shape.name,
)
def test_a_call_in_its_layout_gives_the_right_result(shape: shapes.Shape) -> None:
    x = problems.problem_of(shape, "cpu", torch.float32)
    found = peers.PEERS[NAME](x.operands)()
    judge = problems.attention_judge(x, x.dense)
    assert found.shape == judge.exact.shape
    assert relative_error(found, judge.exact) < 1e-5


def test_without_the_package_or_a_gpu_a_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.reason_against(NAME, "cpu") == "needs a CUDA device"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xformers" else object())
    assert peers.reason_against(NAME, "cuda") == "xformers is not installed"
