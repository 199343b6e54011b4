"""Random inputs of rectangular attention, and the one identity that checks them whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels import DenseKnowledge, rectangular_attention

TENSORS = ("query", "key", "value", "knowledge_key", "knowledge_value", "knowledge_query")


@dataclass(frozen=True)
class Problem:
    """One call of `rectangular_attention`; fields as its arguments."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_key: Tensor
    knowledge_value: Tensor
    knowledge_query: Tensor
    knowledge_bias: float | Tensor = 0.0
    prompt_mask: Tensor | None = None
    window: int | None = None
    knowledge_range: Tensor | None = None
    scale: float | None = None

    def but(self, **changes: Any) -> Problem:
        """This problem with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to(self, dtype: torch.dtype) -> Problem:
        """The six differentiable tensors in another dtype."""
        return self.but(**{name: getattr(self, name).to(dtype) for name in TENSORS})

    def leaves(self) -> Problem:
        """Fresh leaves that require gradients."""
        return self.but(**{name: getattr(self, name).detach().clone().requires_grad_() for name in TENSORS})

    def run(self, backend: str = "reference") -> tuple[Tensor, Tensor]:
        """(output, lse)."""
        return rectangular_attention(
            self.query,
            self.key,
            self.value,
            DenseKnowledge(self.knowledge_key, self.knowledge_value),
            self.knowledge_query,
            scale=self.scale,
            knowledge_bias=self.knowledge_bias,
            prompt_mask=self.prompt_mask,
            window=self.window,
            knowledge_range=self.knowledge_range,
            return_lse=True,
            backend=backend,
        )

    def gradients(self, seed: int = 0, backend: str = "reference") -> tuple[Tensor, ...]:
        """Of a random function of output and lse, for the six tensors in the order of TENSORS."""
        leaves = self.leaves()
        output, lse = leaves.run(backend)
        draw = torch.Generator().manual_seed(seed)
        # Drawn in float64 and rounded, so that every dtype differentiates the same function.
        for_output, for_lse = (torch.randn(t.shape, generator=draw, dtype=torch.float64) for t in (output, lse))
        loss = (output * for_output.to(output.dtype)).sum() + (lse * for_lse.to(lse.dtype))[lse.isfinite()].sum()
        return torch.autograd.grad(loss, [getattr(leaves, name) for name in TENSORS])


def make(
    B: int = 2,
    H: int = 4,
    G: int = 2,
    N: int = 5,
    T: int = 9,
    M: int = 7,
    D: int = 16,
    *,
    shared: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """B rows, H query heads, G key heads, N new of T prompt tokens, M knowledge tokens of width D."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    knowledge = (H, M, D) if shared else (B, H, M, D)
    return Problem(
        normal(B, H, N, D),
        normal(B, G, T, D),
        normal(B, G, T, D),
        normal(*knowledge),
        normal(*knowledge),
        normal(B, H, N, D),
        **options,
    )


def visible_columns(problem: Problem) -> Tensor:
    """bool (B, N, T), cell by cell from the words of the docstring."""
    B, _, N, _ = problem.query.shape
    T = problem.key.shape[2]
    visible = torch.zeros(B, N, T, dtype=torch.bool)
    for b in range(B):
        for n in range(N):
            for t in range(T):
                causal = t <= T - N + n
                near = problem.window is None or t > T - N + n - problem.window
                kept = problem.prompt_mask is None or bool(problem.prompt_mask[b, t])
                visible[b, n, t] = causal and near and kept
    return visible


def through_sdpa(problem: Problem) -> Tensor:
    """The output by one call of PyTorch's attention on twice as wide heads.

    [q, r] against prompt keys [k, 0] and knowledge keys [0, kappa] gives the scores of both blocks; bias, ranges and
    masks become its float mask. Rows that see no prompt column are 0.
    """
    B, H, N, D = problem.query.shape
    groups = H // problem.key.shape[1]
    M = problem.knowledge_key.shape[-2]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (problem.key, problem.value))
    kappa, nu = (t.expand(B, H, M, D) for t in (problem.knowledge_key, problem.knowledge_value))
    visible = visible_columns(problem)
    prompt = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, float("-inf"))
    bias = torch.as_tensor(problem.knowledge_bias, dtype=torch.float64).expand(B, M)
    if problem.knowledge_range is not None:
        column = torch.arange(M)
        start, end = problem.knowledge_range[:, :1], problem.knowledge_range[:, 1:]
        bias = bias.masked_fill((column < start) | (column >= end), float("-inf"))
    mask = torch.cat([bias[:, None].expand(B, N, M), prompt], -1)[:, None]
    output = F.scaled_dot_product_attention(
        torch.cat([problem.query, problem.knowledge_query], -1).double(),
        torch.cat([F.pad(kappa, (D, 0)), F.pad(key, (0, D))], 2).double(),
        torch.cat([nu, value], 2).double(),
        mask,
        scale=D**-0.5 if problem.scale is None else problem.scale,
    )
    return torch.where(visible.any(-1)[:, None, :, None], output, 0.0)
