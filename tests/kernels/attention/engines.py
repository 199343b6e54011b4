"""Steps of an engine: packed tokens of several requests, each with its prompt, span and bias, over one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, partial_knowledge_attention
from tests.kernels.problems import INF, make, make_latent

HQ, HKV, D = 4, 2, 16


@dataclass(frozen=True)
class Batch:
    """One step.

    Args:
        new: how many tokens each request brings.
        past: how many it has in the cache.
        spans: the [start, stop) that each sees.
        padding: rows after the last request.
    """

    knowledge: Any
    query: Tensor
    knowledge_query: Tensor
    new: list[int]
    past: list[int]
    spans: list[tuple[int, int]]
    bias: Tensor
    padding: int = 0

    @property
    def starts(self) -> Tensor:
        return torch.tensor([0, *torch.tensor(self.new, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)

    @property
    def ranges(self) -> Tensor:
        return torch.tensor(self.spans, dtype=torch.int32).view(-1, 2)

    def rows(self, request: int) -> slice:
        first, end = self.starts[request : request + 2].tolist()
        return slice(first, end)

    def run(self, backend: str = "reference", **options: Any) -> tuple[Tensor, Tensor]:
        """By the op that is tested."""
        return partial_knowledge_attention(
            self.knowledge_query,
            self.knowledge,
            self.starts,
            self.ranges,
            knowledge_bias=self.bias,
            backend=backend,
            **options,
        )

    def exact(self) -> tuple[Tensor, Tensor]:
        """By a softmax over a slice for each request, in float64."""
        dense = self.knowledge if isinstance(self.knowledge, DenseKnowledge) else self.as_double().knowledge.to_dense()
        output = torch.zeros(self.query.shape, dtype=torch.float64)
        lse = torch.full((HQ, len(output)), -INF, dtype=torch.float64)
        for i, (start, stop) in enumerate(self.spans):
            rows = self.knowledge_query[self.rows(i)].double().transpose(0, 1)
            seen = slice(max(start, 0), max(start, stop, 0))
            keys, values = (t[:, seen].double() for t in (dense.key, dense.value))
            if keys.shape[1] == 0 or self.bias[i] == -INF:
                continue
            scores = rows @ keys.mT * D**-0.5 + self.bias[i].double()
            output[self.rows(i)] = (scores.softmax(-1) @ values).transpose(0, 1)
            lse[:, self.rows(i)] = scores.logsumexp(-1)
        return output, lse

    def as_double(self) -> Batch:
        """The same (rounded) numbers in float64."""
        problem = make(1, HQ, HKV, 1, 1, 1, D).but(knowledge=self.knowledge).to(torch.float64)
        return Batch(
            problem.knowledge, self.query.double(), self.knowledge_query.double(), self.new, self.past, self.spans,
            self.bias, self.padding,
        )  # fmt: skip


def batch(
    new: list[int],
    spans: list[tuple[int, int]],
    *,
    M: int = 40,
    is_latent: bool = False,
    dtype: torch.dtype = torch.float64,
    storage: torch.dtype | None = None,
    padding: int = 0,
    seed: int = 0,
) -> Batch:
    """Random numbers; padding is NaN."""
    draw = torch.Generator().manual_seed(seed)
    T = sum(new) + padding
    query, asked = (torch.randn(T, HQ, D, generator=draw, dtype=torch.float64).to(dtype) for _ in range(2))
    asked[sum(new) :] = float("nan")
    problem = (make_latent if is_latent else make)(1, HQ, HKV, 1, 1, M, D, seed=seed)
    knowledge = problem.to(dtype, storage).knowledge
    past = torch.randint(0, 30, (len(new),), generator=draw).tolist()
    bias = torch.randn(len(new), generator=draw)
    return Batch(knowledge, query, asked, new, past, spans, bias, padding)


# A long span, an empty one, one token, one past the end, a reversed one; several decode steps side by side.
NEW = [3, 1, 1, 1, 9, 0, 2, 2]
SPANS = [(0, 40), (7, 7), (5, 6), (30, 99), (3, 39), (0, 40), (9, 3), (-4, 12)]
