"""Attention mass by the C++ kernels, for every instruction set of this processor, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kblam_kernels.evidence.backends import EVIDENCE_BACKENDS
from kblam_kernels.latent.interface import absorb_query
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, dispatch, evidence
from kblam_kernels.evidence import cpu
from kblam_kernels.evidence.op import evidence_mass
from tests import tolerances
from tests.kernels import score_cases
from tests.kernels.cpu.pinned import with_instruction_set, with_threads
from tests.kernels.latent.latent_problems import INF, LatentProblem
from tests.kernels.latent.latent_problems import make as make_latent
from tests.kernels.problems import Problem, make

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STORAGE = (None, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
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


def mass_of(problem: Problem | LatentProblem, lse: Tensor, backend: str, weight: Tensor | None = None) -> Tensor:
    knowledge: DenseKnowledge | LatentKnowledge
    if isinstance(problem, LatentProblem):
        knowledge = problem.knowledge
    else:
        knowledge = DenseKnowledge(problem.knowledge_key, problem.knowledge_value)
    return evidence(
        problem.knowledge_query,
        knowledge,
        lse,
        scale=problem.scale,
        knowledge_bias=problem.knowledge_bias,
        knowledge_range=problem.knowledge_range,
        row_weight=weight,
        backend=backend,
    )


def hold(problem: Problem | LatentProblem) -> None:
    """Against float64 on the same numbers, and against plain PyTorch of the same dtype."""
    _, lse = problem.run()
    weight = torch.rand(lse.shape, generator=torch.Generator().manual_seed(5))
    actual, plain = (mass_of(problem, lse, backend, weight) for backend in ("cpu", "reference"))
    exact = mass_of(problem.to(torch.float64), lse.double(), "reference", weight.double())
    assert actual.dtype == torch.float32
    assert actual.shape == exact.shape
    tolerances.check_output(actual, exact, plain)
    # What nobody sees has no mass at all.
    assert (actual[exact == 0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", score_cases.DENSE)
def test_the_dense_cases_of_every_backend(name: str, dtype: torch.dtype, instruction_set: str) -> None:
    hold(make(**score_cases.DENSE[name], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", score_cases.LATENT)
def test_the_latent_cases_of_every_backend(name: str, dtype: torch.dtype, instruction_set: str) -> None:
    hold(make_latent(**score_cases.LATENT[name], dtype=dtype))


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


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_and_stride_on_any_instruction_set(data: st.DataObject, instruction_sets: list[str]) -> None:
    draw = data.draw
    B, group, G = (draw(st.integers(1, n)) for n in (3, 3, 3))
    N, tokens = draw(st.integers(1, 6) | st.integers(7, 300)), draw(st.integers(0, 1100))
    T = N + draw(st.integers(1, 9))
    bound = st.lists(st.integers(-9, 1200), min_size=2 * B, max_size=2 * B)
    shape = (B, group * G, G, N, T, tokens)
    options: dict[str, Any] = {
        "D": 2 * draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 99)),
        "prompt_mask": draw(st.sampled_from([None, torch.arange(T).expand(B, T) >= T // 2])),
        "knowledge_range": draw(st.none() | bound.map(lambda v: torch.tensor(v, dtype=torch.int32).view(B, 2))),
        "knowledge_bias": draw(st.sampled_from([0.0, -0.5, bias(tokens), bias(tokens, B).T])),
        "scale": draw(st.none() | st.floats(-0.5, 0.5)),
    }
    dtype, storage = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(STORAGE))
    problem: Problem | LatentProblem
    if draw(st.booleans()):
        problem = make(*shape, shared=draw(st.booleans()), dtype=dtype, **options)
        key = problem.knowledge_key.transpose(-2, -3).contiguous().transpose(-2, -3)
        problem = problem.but(knowledge_key=key) if draw(st.booleans()) else problem
    else:
        problem = make_latent(*shape, P=draw(st.integers(1, 150)), **options).to(dtype, storage)
    with with_instruction_set(draw(st.sampled_from(instruction_sets))):
        hold(problem)


def test_a_batch_row_and_threads_change_no_bit(instruction_set: str) -> None:
    p = make(3, 4, 2, 5, 9, M, 24, dtype=torch.bfloat16, knowledge_range=RANGES, knowledge_bias=bias(3, M))
    _, lse = p.run()
    assert isinstance(p.knowledge_bias, Tensor)
    together = mass_of(p, lse, "cpu")
    for threads in (1, 2, 5):
        with with_threads(threads):
            assert torch.equal(mass_of(p, lse, "cpu"), together)
    for b in range(3):
        row = slice(b, b + 1)
        alone = p.but(
            knowledge_query=p.knowledge_query[row], knowledge_range=RANGES[row], knowledge_bias=p.knowledge_bias[row]
        )
        assert torch.equal(mass_of(alone, lse[row], "cpu")[0], together[b])


def test_what_lies_outside_the_range_is_not_read(instruction_set: str) -> None:
    p = make(1, 2, 1, 1, 3, M, 24, dtype=torch.float32, knowledge_range=torch.tensor([[3, 601]]))
    _, lse = p.run()
    poisoned = p.knowledge_key.clone()
    poisoned[:, :3], poisoned[:, 601:] = float("nan"), float("nan")
    assert torch.equal(mass_of(p.but(knowledge_key=poisoned), lse, "cpu"), mass_of(p, lse, "cpu"))


def test_strides_are_free(instruction_set: str) -> None:
    p = make(2, 4, 2, 3, 9, 150, 24, dtype=torch.float32)
    _, lse = p.run()
    wide = torch.full((150, 3, 4, 31), float("nan"))
    wide[:, 1, :, 2:26] = p.knowledge_key.transpose(0, 1)
    moved = p.but(
        knowledge_key=wide[:, 1, :, 2:26].transpose(0, 1),
        knowledge_value=p.knowledge_value,
        knowledge_query=p.knowledge_query.transpose(1, 2).contiguous().transpose(1, 2),
    )
    strided_lse = lse.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(mass_of(moved, strided_lse, "cpu"), mass_of(p, lse, "cpu"))


def test_nan_is_not_hidden(instruction_set: str) -> None:
    p = make(1, 2, 1, 1, 3, 150, 24, dtype=torch.bfloat16)
    _, lse = p.run()
    poisoned = p.knowledge_key.clone()
    poisoned[1, 149, 3] = float("nan")
    mass = mass_of(p.but(knowledge_key=poisoned), lse, "cpu")
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


def test_evidence_on_the_cpu_is_served_by_the_cpp_kernels(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [backend.name for backend in EVIDENCE_BACKENDS] == ["triton", "cpu", "reference"]
    calls: list[object] = []
    real = cpu.mass

    def recorded(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(cpu, "mass", recorded)
    dispatch.forward_of.cache_clear()
    try:
        p = make(dtype=torch.float32)
        mass_of(p, p.run()[1], "auto")
    finally:
        dispatch.forward_of.cache_clear()
    assert len(calls) == 1


@pytest.mark.parametrize("layout", ["dense", "per-row", "latent"])
def test_the_op_with_the_cpp_kernels_is_a_good_citizen(layout: str, library: None) -> None:
    p = make(shared=layout == "dense", dtype=torch.float32, knowledge_range=torch.tensor([[0, 7], [2, 5]])).leaves()
    _, lse = p.run()
    lse = lse.detach().requires_grad_()
    scored: tuple[Any, ...] = (p.knowledge_query, p.knowledge_key, None, None, None)
    if layout == "latent":  # which have no gradient
        latent = make_latent(M=7, dtype=torch.float32).to(torch.float32, torch.int8)
        rows, constant = absorb_query(latent.knowledge_query, latent.knowledge)
        scored = (rows, latent.knowledge.key, latent.knowledge.norm, latent.knowledge.key_scale, constant)
        lse = latent.run()[1]
    row_weight = torch.ones(lse.shape)
    torch.library.opcheck(evidence_mass, (*scored, lse, bias(1, 7), p.knowledge_range, row_weight, 0.25, "cpu"))
