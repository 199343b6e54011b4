"""Kernel cases: outputs and log-sum-exps in every dtype against upstream's float64 values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, explain, knowledge_lse, rectangular_attention
from kblam_kernels.common import native
from kblam_kernels.dense.op import dense_attention
from tests.golden.comparison import Scores
from tests.golden.files import Case, cases_of

pytestmark = pytest.mark.golden

# Inputs are exact in all four. A 16-bit output is rounded once, and a kernel may round its softmax weights to 16 bits
# before the value product: each costs at most eps times the largest value. Scores accumulate in at least float32,
# whose error is relative to their size: the extreme cases have scores near 100.
FLOAT32_TOLERANCE = 2e-5
FLOAT64_TOLERANCE = 1e-12
# The bias is a float32 of the op, whatever the dtype of the rest.
FLOAT32_BIAS_TOLERANCE = 1e-6
OUTPUT_TOLERANCE = {
    torch.float64: FLOAT64_TOLERANCE,
    torch.float32: FLOAT32_TOLERANCE,
    torch.float16: torch.finfo(torch.float16).eps,
    torch.bfloat16: torch.finfo(torch.bfloat16).eps,
}


@pytest.mark.parametrize("dtype", OUTPUT_TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("case", cases_of("kernel"))
def test_kernel(case: Case, dtype: torch.dtype, scores: Scores) -> None:
    """On every backend that serves these tensors on this machine, Triton's in its interpreter."""
    t = case.tensors()
    # Copies: where M is 0, a file's empty tensors share an address with others, which Triton's interpreter confuses.
    names = ("q", "k", "v", "q_kb", "k_kb", "v_kb")
    query, key, value, r, kappa, nu = (t[name].to(dtype, copy=True) for name in names)
    knowledge, mask, bias = DenseKnowledge(kappa, nu), t["key_mask"].bool(), 0.0
    if case["kb_scale_factor"] is not None and case["M"]:
        bias = math.log(case["kb_scale_factor"]) - math.log(case["M"])
    r_or_none = None if case["shared_query"] else r
    seen = t["row_valid"].bool()[:, None].expand(query.shape[:3])
    largest = max(x.abs().max().item() for x in (t["v"].float(), t["v_kb"].float()) if x.numel())
    bias_error = FLOAT32_BIAS_TOLERANCE if bias else 0.0
    tolerance = (FLOAT64_TOLERANCE if dtype == torch.float64 else FLOAT32_TOLERANCE) + bias_error
    name = str(dtype).removeprefix("torch.")

    def check_lse(what: str, ours: Tensor) -> None:
        golden = t[what][seen]
        assert torch.equal(ours[seen].isfinite(), golden.isfinite()), f"{what} is -inf elsewhere than upstream's"
        finite = golden.isfinite()
        size = golden[finite].abs().max().item() if finite.any() else 1.0
        scores.close(f"lse {name}", ours[seen][finite], golden[finite], tolerance * max(1.0, size))

    for backend in backends_for(query, key, value, knowledge, r):
        output, lse = rectangular_attention(
            query,
            key,
            value,
            knowledge,
            r_or_none,
            prompt_mask=mask,
            knowledge_bias=bias,
            return_lse=True,
            backend=backend,
        )
        _, lse_prompt = rectangular_attention(query, key, value, prompt_mask=mask, return_lse=True, backend=backend)
        # A query that sees no prompt column: output 0 and lse -inf here, a meaningless mean upstream.
        assert torch.all(output[~seen] == 0)
        assert torch.all(lse[~seen] == -math.inf)
        allowed = (OUTPUT_TOLERANCE[dtype] + bias_error) * max(1.0, largest)
        scores.close(f"{backend} {name}", output[seen], t["out"][seen], allowed)
        check_lse("lse", lse)
        check_lse("lse_prompt", lse_prompt)
    lse_kb = knowledge_lse(r, knowledge, knowledge_bias=bias)
    check_lse("lse_kb", lse_kb)
    check_lse("lse", torch.logaddexp(lse_kb, lse_prompt))


CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", OUTPUT_TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_the_cpp_kernels_are_among_the_backends(dtype: torch.dtype) -> None:
    """Or every case would be held by the reference alone, and nobody would see it."""
    reason = native.unavailable()
    if reason is not None:
        pytest.skip(reason)
    # A dtype and an even head dimension are all that they ask of a case.
    for param in cases_of("kernel"):
        t = param.values[0].tensors()
        query, key, value, r, kappa, nu = (t[name].to(dtype) for name in ("q", "k", "v", "q_kb", "k_kb", "v_kb"))
        names = backends_for(query, key, value, DenseKnowledge(kappa, nu), r)
        assert ("cpu" in names) == (dtype in CPU_DTYPES and query.shape[-1] % 2 == 0)


def backends_for(query: Tensor, key: Tensor, value: Tensor, knowledge: DenseKnowledge, r: Tensor) -> list[str]:
    """Names of the backends that take these tensors; the reference takes all."""
    names = [backend.name for backend in dense_attention.backends]
    return [name for name in names if explain(query, key, value, knowledge, r, backend=name).backend == name]
