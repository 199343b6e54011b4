"""A task's sum over thousands of tokens is as exact as a sum of tiles.

One value after another, each would be rounded to what all before it sum to.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, rectangular_attention
from kblam_kernels.knowledge import LatentProjection

M = 500_000  # tokens; tasks of 8,000 to 16,000
D = 32

# New tokens, which choose the kernel: stream, fold (dots and lanes) and tile for dense knowledge, dots and lanes for
# latents.
ROWS = {"dense": (1, 2, 8, 17, 40), "latent": (1, 64)}


@pytest.fixture(scope="module")
def values() -> Tensor:
    """(M, D): all of one sign, as values with a mean are."""
    return torch.rand(M, D, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize(("kind", "N"), [(kind, N) for kind, rows in ROWS.items() for N in rows])
def test_a_mean_of_many_values(kind: str, N: int, values: Tensor, instruction_set: str) -> None:
    """A query of zeros weighs every token alike."""
    none = torch.zeros(1, 1, N, D)
    if kind == "dense":
        knowledge: DenseKnowledge | LatentKnowledge = DenseKnowledge(values[None], values[None])
    else:
        unchanged, no_bias = torch.eye(D)[None], torch.zeros(1, D)
        projection = LatentProjection(unchanged, no_bias, unchanged, no_bias)
        knowledge = LatentKnowledge(values, values, torch.ones(M), projection)
    found = rectangular_attention(none, none, none, knowledge, backend="cpu")
    exact = values.double().sum(0) / (M + 1 + torch.arange(N))[:, None]  # and the tokens of the prompt, all zeros
    error = ((found - exact) / exact).square().mean().sqrt()
    # Measured 1.1e-7 at most; 2.2e-7 and more when a tile's product began from the sum so far.
    assert error < 1.6e-7
