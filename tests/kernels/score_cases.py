"""Cases of the operations on knowledge scores alone, and what every backend's evidence is held to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, evidence
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


def masses(problem: Any, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Evidence by the Triton kernel on `device`, and by the specification, from the same inputs."""
    _, lse = problem.run()
    weight = torch.rand(lse.shape[1:], generator=torch.Generator().manual_seed(1))

    def of(p: Any, backend: str) -> Tensor:
        mass = evidence(
            p.knowledge_query,
            dense_of(p) if isinstance(p, Problem) else p.knowledge,
            lse.to(p.query.device),
            scale=p.scale,
            knowledge_bias=p.knowledge_bias,
            knowledge_range=p.knowledge_range,
            row_weight=weight.to(p.query.device),
            backend=backend,
        )
        return mass.cpu()

    moved = on(problem, device) if isinstance(problem, Problem) else problem.on(device)
    return of(moved, "triton"), of(problem, "reference")


def hold(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    """Both accumulate in float32, from the same rounded inputs."""
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    assert tolerances.relative_error(ours, theirs) < tolerance
    assert torch.equal(ours == 0, theirs == 0)
