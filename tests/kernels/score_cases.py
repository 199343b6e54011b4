"""Cases of the operations on knowledge scores alone, and what every backend's evidence is held to."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, evidence, prune
from tests import tolerances
from tests.kernels.cases import on
from tests.kernels.problems import Problem

INF = float("inf")
RANGES = torch.tensor([[0, 70], [33, 35], [40, 200], [9, 9]], dtype=torch.int32)
BIAS = torch.randn(70, generator=torch.Generator().manual_seed(0)).masked_fill(torch.arange(70) % 5 == 2, -INF)
MASK = torch.arange(9) >= torch.tensor([[0], [8], [3]])

DENSE: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": 70},
    "several-rows": {"N": 5, "M": 33, "D": 24},
    "more-rows-than-a-tile": {"N": 19, "T": 20, "M": 33},
    "heads-of-two-chunks": {"B": 1, "H": 2, "N": 1, "M": 40, "D": 160},
    "per-row": {"N": 2, "M": 40, "shared": False},
    "ranges": {"B": 4, "N": 1, "M": 70, "knowledge_range": RANGES},
    "token-bias": {"N": 1, "M": 70, "knowledge_bias": BIAS},
    "row-bias": {"N": 1, "M": 70, "knowledge_bias": torch.stack([BIAS, BIAS.flip(0)])},
    "all-hidden": {"N": 1, "M": 40, "knowledge_bias": -INF},
    "left-padded": {"B": 3, "N": 9, "M": 40, "prompt_mask": MASK},
    "M0": {"M": 0},
    "M1": {"M": 1},
    "no-query": {"N": 0, "M": 5},
    "scale": {"N": 1, "M": 40, "scale": -0.4},
}
LATENT: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": 70},
    "more-rows-than-a-tile": {"H": 8, "N": 5, "M": 33},
    "wide": {"B": 1, "N": 1, "M": 33, "P": 400},
    "prime-width": {"N": 1, "M": 33, "P": 37},
    "ranges": {"B": 4, "N": 1, "M": 70, "knowledge_range": RANGES.long()},
    "row-bias": {"N": 1, "M": 70, "knowledge_bias": torch.stack([BIAS, BIAS.flip(0)])},
    "left-padded": {"B": 3, "N": 9, "M": 40, "prompt_mask": MASK},
    "M0": {"M": 0},
}


def dense_of(problem: Problem) -> DenseKnowledge:
    """The dense knowledge of a problem."""
    return DenseKnowledge(problem.knowledge_key, problem.knowledge_value)


class Masses(NamedTuple):
    """Evidence by the Triton kernel, in float64, and by plain PyTorch of the measured dtype, from the same inputs.

    `elsewhere`: the kernel ran on another device than plain PyTorch.
    """

    ours: Tensor
    exact: Tensor
    plain: Tensor
    elsewhere: bool = False


def masses(problem: Any, device: str = "cpu") -> Masses:
    """All three; the kernel's on `device`. The lse is an input: one for all."""
    _, lse = problem.run()
    weight = torch.rand(lse.shape[1:], generator=torch.Generator().manual_seed(1))

    def of(p: Any, backend: str) -> Tensor:
        mass = evidence(
            p.knowledge_query,
            dense_of(p) if isinstance(p, Problem) else p.knowledge,
            lse.to(p.query.device, torch.promote_types(p.query.dtype, torch.float32)),
            scale=p.scale,
            knowledge_bias=p.knowledge_bias,
            knowledge_range=p.knowledge_range,
            row_weight=weight.to(p.query.device),
            backend=backend,
        )
        return mass.cpu()

    moved = on(problem, device) if isinstance(problem, Problem) else problem.on(device)
    exact, plain = of(problem.to(torch.float64), "reference"), of(problem, "reference")
    return Masses(of(moved, "triton"), exact, plain, device != "cpu")


# What rounding absorbed queries to the dtype costs, however their scores are summed: three times the worst case here.
# Nothing else is rounded: dense masses, and those of a float32 model, are float32 from end to end.
ABSORBED = {torch.float32: 0.0, torch.float16: 3e-3, torch.bfloat16: 4e-2}


def hold(found: Masses, tolerance: float = 2e-5, absorbed: float = 0.0) -> None:
    """Masses are float32 whatever the inputs, and near to float64 by a fixed measure: plain PyTorch can be wrong too.

    On one device they are as near to plain PyTorch, which rounds absorbed queries to the same numbers.
    """
    ours, exact, plain, elsewhere = found
    assert ours.dtype == torch.float32
    assert ours.shape == exact.shape
    assert tolerances.relative_error(ours, exact) < tolerance + absorbed
    assert tolerances.relative_error(ours, plain) < tolerance + (absorbed if elsewhere else 0.0)
    # Hidden tokens, and those too light for float32.
    assert torch.equal(ours == 0, plain == 0)


def hold_choice(problem: Any, k: int, shared: bool, device: str = "cpu") -> None:
    """`prune` by Triton: the k best by float64 scores but for ties, best first, and exactly their rows."""
    moved = on(problem, device) if isinstance(problem, Problem) else problem.on(device)
    given = dense_of(moved) if isinstance(moved, Problem) else moved.knowledge
    kept, bias, index = prune(moved.knowledge_query, given, k, shared=shared, backend="triton")
    exact = problem.to(torch.float64)
    key = exact.knowledge_key if isinstance(exact, Problem) else exact.knowledge.to_dense().key
    scores = torch.einsum("bhnd,bhmd->bm", exact.knowledge_query, key.expand(len(exact.query), *key.shape[-3:]))
    scores = scores.sum(0, keepdim=True).expand_as(scores) if shared else scores
    tie = 1e-4 * scores.square().mean().sqrt()
    chosen = scores.gather(1, index.cpu())
    assert all(len(set(row)) == k for row in index.tolist())
    assert (chosen >= scores.topk(k).values[:, -1:] - tie).all(), "a better one was left out"
    assert (chosen[:, :-1] >= chosen[:, 1:] - tie).all(), "best first"
    assert (bias == 0).all()
    if isinstance(kept, DenseKnowledge) and isinstance(given, DenseKnowledge):
        for ours, whole in ((kept.key, given.key), (kept.value, given.value)):
            whole, ours = (t.expand(len(index), *t.shape[-3:]) for t in (whole, ours))
            for b, rows in enumerate(index):
                assert torch.equal(ours[b], whole[b][:, rows])
