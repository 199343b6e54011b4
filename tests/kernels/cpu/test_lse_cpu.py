"""The lse of knowledge scores by the C++ kernels, for every instruction set of this processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, evidence, knowledge_lse
from kblam_kernels.evidence import cpu, reference
from tests.kernels.cpu.pinned import multiplies_bytes, with_threads
from tests.kernels.cpu.test_evidence_cpu import OPTIONS
from tests.kernels.problems import INF, Problem, make, make_latent
from tests.kernels.ways import DTYPES, STORAGE

M = 700  # two chunks, the last ragged


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def level(p: Problem, **options: Any) -> Tensor:
    given = {"scale": p.scale, "knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range}
    return knowledge_lse(p.knowledge_query, p.knowledge, **given, **options)


def hold(problem: Problem, tolerance: float = 2e-6) -> None:
    """Against float64 on exactly these numbers."""
    actual, exact = level(problem), level(problem.to(torch.float64))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each call of the C++ kernels, an entry."""
    calls: list[int] = []
    run = cpu.knowledge_lse
    monkeypatch.setattr(cpu, "knowledge_lse", lambda call, **options: calls.append(1) or run(call, **options))
    return calls


# Options of three batch rows: `test_evidence_cpu.py`. New tokens choose the kernel, dots or lanes, and how many blocks.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("N", [1, 9, 15, 40])
@pytest.mark.parametrize("shared", [True, False])
def test_dense_keys(shared: bool, N: int, name: str, dtype: torch.dtype, instruction_set: str, used: list[int]) -> None:
    options = {key: value for key, value in OPTIONS[name].items() if key != "prompt_mask"}
    hold(make(3, 4, 2, N, N + 4, M, 24, shared=shared, dtype=dtype, **options))
    assert used == [1], "float64 has no kernel"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_latents(storage: torch.dtype | None, dtype: torch.dtype, instruction_set: str, used: list[int]) -> None:
    for N, name in ((1, "plain"), (3, "range-padding"), (3, "token-bias"), (9, "row-bias-scale")):
        options = {key: value for key, value in OPTIONS[name].items() if key != "prompt_mask"}
        # Absorbed queries are rounded to the dtype.
        problem = make_latent(3, 12, 3, N, N + 4, M, D=16, P=37, **options).to(dtype, storage)
        hold(problem, 2e-6 if dtype == torch.float32 else 2e-2)
    assert used == [1] * 4


def test_a_row_has_its_bits_in_any_batch_and_for_any_threads(instruction_set: str) -> None:
    for N in (1, 9, 15):
        problem = make(7, 4, 2, N, N + 4, 3000, 24, dtype=torch.bfloat16)
        together = level(problem)
        for row in (0, 3, 6):
            assert torch.equal(level(problem.rows(slice(row, row + 1)))[0], together[row])
        with with_threads(1):
            assert torch.equal(level(problem), together)


def test_what_nobody_sees_has_no_level_and_nan_shows_where_it_is_seen(instruction_set: str) -> None:
    problem = make(2, 2, 1, 15, 15, M, 24, dtype=torch.float32)
    problem.knowledge_key[1, 650, 3] = float("nan")
    found = level(problem.but(knowledge_range=torch.tensor([[0, 600], [0, M]])))
    assert found[0].isfinite().all()
    assert found[1, 1].isnan().all()
    assert found[1, 0].isfinite().all()
    assert (level(problem.but(knowledge_range=torch.tensor([[5, 5], [M, 9000]]))) == -INF).all()
    assert (level(problem.but(knowledge_bias=-INF))[:, 0] == -INF).all()
    assert (level(make(M=0, dtype=torch.float32)) == -INF).all()
    assert level(make(B=0, dtype=torch.float32)).shape == (0, 4, 5)


@pytest.mark.parametrize("far", [-3e4, 3e4])
@pytest.mark.parametrize("maker", [make, make_latent])
def test_scores_far_from_zero(maker: Any, far: float, instruction_set: str) -> None:
    problem = maker(N=15, M=M, dtype=torch.float32)
    torch.testing.assert_close(level(problem.but(knowledge_bias=far)) - far, level(problem), rtol=0, atol=0.01)


@pytest.mark.usefixtures("library")
def test_scores_are_rounded_as_the_masses_are() -> None:
    if not multiplies_bytes():
        pytest.skip("this processor multiplies no bytes")
    for N in (1, 9):
        problem = make_latent(2, 7, 1, N, N, M, P=75, D=32, scale=0.25).to(torch.float32, torch.int8)
        lse = level(problem, int8_products=True)
        assert not torch.equal(lse, level(problem))
        given = {"scale": problem.scale, "int8_products": True}
        shares = evidence(problem.knowledge_query, problem.knowledge, lse, **given).sum(-1)
        torch.testing.assert_close(shares, torch.full_like(shares, 7.0 * N), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("why", ["gradients", "the environment", "float64"])
def test_plain_pytorch_serves(why: str, used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(dtype=torch.float64 if why == "float64" else torch.float32)
    if why == "the environment":
        monkeypatch.setenv("KBLAM_BACKEND", "reference")
    served: list[int] = []
    run = reference.knowledge_lse
    monkeypatch.setattr(reference, "knowledge_lse", lambda call: served.append(1) or run(call))
    if why == "gradients":
        with torch.enable_grad():
            query = problem.knowledge_query.requires_grad_()
            knowledge_lse(query, DenseKnowledge(problem.knowledge_key, problem.knowledge_value)).sum().backward()
        assert query.grad is not None
    else:
        level(problem)
    assert (served, used) == ([1], [])
