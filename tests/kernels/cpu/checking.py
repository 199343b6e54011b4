"""What a C++ result is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.rectangular import cpu, reference
from tests.kernels.problems import TENSORS, Problem


def arguments(p: Problem) -> tuple[object, ...]:
    """Of a `forward`, as the op passes them."""
    B, M, D = p.query.shape[0], p.knowledge_key.shape[-2], p.query.shape[-1]
    bias = torch.as_tensor(p.knowledge_bias, dtype=torch.float32).expand(B, M)
    tensors = (getattr(p, name) for name in TENSORS)
    return (*tensors, bias, p.prompt_mask, p.knowledge_range, D**-0.5 if p.scale is None else p.scale, p.window)


def run(p: Problem) -> tuple[Tensor, Tensor]:
    """Output and lse of the C++ kernels."""
    return cpu.forward(*arguments(p))  # type: ignore[arg-type]


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest error over the root mean square of what is right."""
    if exact.numel() == 0:
        return 0.0
    return ((actual.double() - exact).abs().max() / exact.square().mean().sqrt().clamp_min(1e-30)).item()


def check(p: Problem) -> None:
    """The C++ result against float64, and against what plain PyTorch of the same dtype loses."""
    output, lse = run(p)
    exact, exact_lse = reference.forward(*arguments(p.to(torch.float64)))  # type: ignore[arg-type]
    plain, _ = reference.forward(*arguments(p))  # type: ignore[arg-type]
    nothing = exact_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, nothing)
    assert output.dtype == p.query.dtype
    assert lse.dtype == torch.float32
    assert not output.isnan().any()
    assert (output[nothing] == 0).all()
    # Weights of a tile are rounded to bfloat16 before they meet the values, as in every flash kernel.
    assert relative_error(output, exact) <= 3 * relative_error(plain, exact) + 1e-5
    torch.testing.assert_close(
        lse.double().masked_fill(nothing, 0), exact_lse.masked_fill(nothing, 0), rtol=2e-5, atol=2e-5
    )
