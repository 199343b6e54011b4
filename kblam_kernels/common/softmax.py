"""Results of attention: their dtype, their place in memory, and the softmax of the reference backends."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import memory

# A score below it counts as -inf, on every backend: kernels that keep scores times log2(e) hold nothing less. So the
# least number of float32, which masks of transformers have in place of -inf, hides a token as -inf does.
LOWEST = -2.3586e38


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def empty_output(query: Tensor) -> tuple[Tensor, Tensor]:
    """Unwritten (output (B, Hq, N, D), lse (B, Hq, N)).

    In memory the output is (B, N, Hq, D), so that a model's `transpose(1, 2).reshape(B, N, -1)` costs nothing.
    """
    B, Hq, N, D = query.shape
    output = memory.empty(query, B, N, Hq, D).transpose(1, 2)
    return output, memory.empty(query, B, Hq, N, dtype=accumulation_dtype(query))


def in_model_layout(output: Tensor) -> Tensor:
    """(B, Hq, N, D) in the memory layout of `empty_output`; copied only if it has another."""
    return output.transpose(1, 2).contiguous().transpose(1, 2)


def highest(maximum: Tensor) -> Tensor:
    """The largest scores of rows, -inf where none is as high as LOWEST."""
    return maximum.masked_fill(maximum < LOWEST, float("-inf"))


class OnlineSoftmax:
    """Running maximum, sum and weighted values of a softmax whose columns arrive in chunks."""

    def __init__(self, rows: tuple[int, ...], width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum = torch.full(rows, float("-inf"), dtype=dtype, device=device)
        self.total = torch.zeros(rows, dtype=dtype, device=device)
        self.output = torch.zeros(*rows, width, dtype=dtype, device=device)

    def rescale(self, scores: Tensor) -> Tensor:
        """Adds scores (..., L) and returns exp(scores - new maximum), the caller's weights for the values."""
        maximum = highest(torch.maximum(self.maximum, scores.amax(-1)))
        # A row that has seen nothing keeps -inf; subtracting it from itself would be NaN.
        safe = maximum.masked_fill(maximum == float("-inf"), 0.0)
        shrink = torch.exp(self.maximum - safe)
        weights = torch.exp(scores - safe[..., None])
        self.maximum = maximum
        self.total = self.total * shrink + weights.sum(-1)
        self.output = self.output * shrink[..., None]
        return weights


def merged(output_a: Tensor, lse_a: Tensor, output_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two lists of columns together: output (..., D) in the accumulation dtype, and lse (...).

    Where a lse is -inf its output is not read; where both are, the output is 0. +inf is FlashAttention 2's lse of a row
    without a column, whose output is 0, and of one that is NaN: its output counts with weight 0, which hides no NaN.
    """
    nothing, dtype = float("-inf"), accumulation_dtype(output_a)
    nan = float("nan")  # one launch for each lse
    weighed_a, weighed_b = (lse.nan_to_num(nan=nan, posinf=nothing, neginf=nothing) for lse in (lse_a, lse_b))
    level = torch.maximum(weighed_a, weighed_b)
    level = level.masked_fill(level == nothing, 0.0)  # -inf less -inf would be NaN
    total = torch.zeros_like(level)
    summed = torch.zeros_like(output_a, dtype=dtype)
    for output, lse, weighed in ((output_a, lse_a, weighed_a), (output_b, lse_b, weighed_b)):
        weight = torch.exp(weighed - level)
        total = total + weight
        seen = output.to(dtype).masked_fill((lse == nothing)[..., None], 0.0)
        summed = summed + seen * weight[..., None]
    sees_nothing = total == 0
    total = total.masked_fill(sees_nothing, 1.0)
    return summed / total[..., None], (level + total.log()).masked_fill(sees_nothing, nothing)


def level_of(lse: Tensor) -> Tensor:
    """(..., N) -> (..., N, 1), the level in p = exp(score - level): +inf where a row saw nothing, so that p is 0."""
    return lse.masked_fill(lse == float("-inf"), float("inf"))[..., None]
