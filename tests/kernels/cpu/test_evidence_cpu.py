"""Attention mass by the C++ kernels, for every instruction set of this processor, beyond `test_ops.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, evidence
from tests import tolerances
from tests.kernels.problems import INF, EvidenceProblem, Problem, evidence_of, make, make_latent
from tests.kernels.ways import DTYPES, STORAGE

M = 700  # two tasks, the last ragged
RANGES = torch.tensor([[0, 130], [64, 9000], [300, 300]], dtype=torch.int32)
PADDED = torch.arange(9) >= torch.tensor([[4], [0], [9]])


def bias(*shape: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    return values.masked_fill(values > 1.5, -INF)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "range-padding": {"knowledge_range": RANGES, "prompt_mask": PADDED},
    "shared-range": {"knowledge_range": torch.tensor([[3, 601]]).expand(3, 2), "knowledge_bias": -0.5},
    "token-bias": {"knowledge_bias": bias(M)},
    "row-bias-scale": {"knowledge_bias": bias(3, M), "scale": 0.4},
}


def hold(attention: Problem) -> None:
    """Against float64 on the same numbers, and against plain PyTorch of the same dtype."""
    problem = evidence_of(attention)
    (actual,), (plain,), (exact,) = problem.run("cpu"), problem.run(), problem.exact()
    assert actual.dtype == torch.float32
    assert actual.shape == exact.shape
    tolerances.check_output(actual, exact, plain)
    # What nobody sees has no mass at all.
    assert (actual[exact == 0] == 0).all()


def mass_of(problem: EvidenceProblem) -> Tensor:
    return problem.run("cpu")[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shared", [True, False])
def test_dense_mass_against_float64(shared: bool, name: str, dtype: torch.dtype, instruction_set: str) -> None:
    hold(make(3, 4, 2, 5, 9, M, 24, shared=shared, dtype=dtype, **OPTIONS[name]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_latent_mass_against_float64(storage: torch.dtype | None, dtype: torch.dtype, instruction_set: str) -> None:
    # 36 rows of a batch row: a whole block and a ragged one. A width that ends inside a vector.
    for options in OPTIONS.values():
        hold(make_latent(3, 12, 3, 3, 9, M, D=16, P=37, **options).to(dtype, storage))


@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_few_tokens(tokens: int, instruction_set: str) -> None:
    hold(make(2, 2, 1, 1, 3, tokens, 16, dtype=torch.float32))


@pytest.mark.parametrize("queries", [1, 3, 40])
@pytest.mark.parametrize("maker", [make, make_latent])
def test_batch_rows_that_are_read_together_are_as_alone(maker: Any, queries: int, instruction_set: str) -> None:
    """A key is read once for up to 32 rows of a batch, of which neighbours may see other tokens."""
    rows = 37
    ranges = torch.tensor([[0, M]]).repeat(rows, 1)
    ranges[5:8], ranges[8], ranges[36] = torch.tensor([100, 513]), torch.tensor([7, 7]), torch.tensor([699, M])
    options = {"knowledge_range": ranges, "knowledge_bias": bias(rows, M), "dtype": torch.float32}
    problem = evidence_of(maker(rows, 2, 1, queries, queries + 4, M, 24, **options))
    problem.row_weight[3], problem.lse[4] = 0.0, -INF
    together = mass_of(problem)
    tolerances.check_output(together, problem.exact()[0], problem.run()[0])
    assert (together[3:5] == 0).all()
    if not problem.is_latent:  # PyTorch absorbs the queries of a batch in another order than those of a row
        for row in (0, 4, 6, 8, 20, 31, 32, 36):
            assert torch.equal(mass_of(problem.rows(slice(row, row + 1)))[0], together[row]), row


def test_nan_is_not_hidden(instruction_set: str) -> None:
    problem = evidence_of(make(1, 2, 1, 1, 3, 150, 24, dtype=torch.bfloat16))
    problem.attention.knowledge_key[1, 149, 3] = float("nan")
    mass = mass_of(problem)
    assert mass[0, 149].isnan()
    assert not mass[0, :149].isnan().any()


def test_a_score_far_above_the_lse_gives_what_exp_gives(instruction_set: str) -> None:
    # Against an lse of 0, a query (1, 0) and a scale of 1, the mass is e to the key's first number.
    ends = torch.tensor([-INF, -1e4, -104.5, 88.37, 88.38, 88.5, 88.72, 88.73, 95.0, 137.0, 1e4, INF, float("nan")])
    x = torch.cat([torch.linspace(-110, 88.7, 1900), ends])
    key = torch.stack([x, torch.zeros_like(x)], -1)[None]
    mass = evidence(
        torch.tensor([1.0, 0.0]).view(1, 1, 1, 2),
        DenseKnowledge(key, key),
        torch.zeros(1, 1, 1),
        scale=1.0,
        backend="cpu",
    )[0]
    torch.testing.assert_close(mass, x.double().exp().float(), rtol=5e-7, atol=1.8e-38, equal_nan=True)
