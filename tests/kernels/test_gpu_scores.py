"""Evidence and pruning compiled, on a GPU: the cases and real sizes against float64, CUDA graphs."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from kblam_kernels import evidence, top_evidence
from kblam_kernels.knowledge import SCALED_DTYPES
from tests.kernels.cases import on
from tests.kernels.latent import latent_problems
from tests.kernels.problems import make
from tests.kernels.score_cases import ABSORBED, DENSE, LATENT, dense_of, hold, hold_choice, masses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler: use make gpu-check"
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

# To try the bodies without a GPU: "cpu", with TRITON_INTERPRET=1 and without the two skips above.
DEVICE = "cuda"
# Sums of the tensor cores are in another order, and exp2 is an approximation.
TOLERANCE = 1e-4
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
STORAGES = pytest.mark.parametrize("storage", [None, torch.float16, torch.bfloat16, *SCALED_DTYPES], ids=str)
REAL_DENSE: dict[str, Any] = {"B": 2, "H": 8, "G": 2, "N": 1, "T": 9, "M": 3001, "D": 128}
REAL: dict[str, Any] = REAL_DENSE | {"P": 384}


@DTYPES
@pytest.mark.parametrize("name", DENSE)
def test_dense_cases(name: str, dtype: torch.dtype) -> None:
    hold(masses(make(**DENSE[name], dtype=dtype), DEVICE), TOLERANCE)


@DTYPES
@pytest.mark.parametrize("name", LATENT)
def test_latent_cases(name: str, dtype: torch.dtype) -> None:
    hold(masses(latent_problems.make(**LATENT[name], dtype=dtype), DEVICE), TOLERANCE, ABSORBED[dtype])


@DTYPES
@pytest.mark.parametrize("N", [1, 20, 100])
@pytest.mark.parametrize("D", [64, 96, 128, 256])
def test_dense_at_its_real_size(D: int, N: int, dtype: torch.dtype) -> None:
    hold(masses(make(**REAL_DENSE | {"D": D, "N": N, "T": N}, dtype=dtype), DEVICE), TOLERANCE)


@STORAGES
@pytest.mark.parametrize("P", [37, 384, 1024, 1536])
def test_latents_of_every_storage(P: int, storage: torch.dtype | None) -> None:
    problem = latent_problems.make(**REAL | {"P": P}).to(torch.bfloat16, storage)
    hold(masses(problem, DEVICE), TOLERANCE, ABSORBED[torch.bfloat16])


def test_the_same_bits_twice() -> None:
    problem = on(make(**REAL_DENSE, dtype=torch.bfloat16), DEVICE)
    _, lse = problem.run()
    first, second = (evidence(problem.knowledge_query, dense_of(problem), lse, backend="triton") for _ in range(2))
    assert torch.equal(first, second)


@STORAGES
@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
def test_the_choice_among_latents(shared: bool, storage: torch.dtype | None) -> None:
    hold_choice(latent_problems.make(**REAL).to(torch.bfloat16, storage), 20, shared, DEVICE)


@DTYPES
@pytest.mark.parametrize("D", [64, 96, 128, 256])
@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
def test_the_choice_among_dense_keys(shared: bool, D: int, dtype: torch.dtype) -> None:
    hold_choice(make(**REAL_DENSE | {"D": D, "N": 3}, dtype=dtype), 20, shared, DEVICE)


def test_the_choice_among_keys_of_each_row() -> None:
    hold_choice(make(**REAL_DENSE | {"shared": False}, dtype=torch.bfloat16), 20, False, DEVICE)


def test_a_cuda_graph_replays_with_new_contents() -> None:
    problem = on(make(**REAL_DENSE, dtype=torch.bfloat16), DEVICE)
    _, lse = problem.run()

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        return top_evidence(problem.knowledge_query, dense_of(problem), lse, 16, backend="triton")

    for _ in range(2):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        best, index = call()
    problem.knowledge_query.mul_(-0.5)
    graph.replay()
    torch.cuda.synchronize()
    expected, expected_index = call()
    assert torch.equal(best, expected)
    assert torch.equal(index, expected_index)
