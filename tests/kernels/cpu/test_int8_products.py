"""int8 latents multiplied as bytes: what rounding costs, where it is taken, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import evidence, rectangular_attention
from kblam_kernels.latent import cpu
from kblam_kernels.latent.absorption import Absorbed, Mixed
from tests.kernels.cpu.pinned import HAVE_BYTES, multiplies_bytes, with_threads
from tests.kernels.problems import INF, Problem, absorbed_of
from tests.kernels.problems import make_latent as make
from tests.kernels.ways import call_of_rows

# A query is rounded to 254 levels of its largest number, a weight to 255 of its tile's: so much of an output's root
# mean square, where scores spread by about one.
RMS = 0.012
LSE = 0.02


def allowed(problem: Problem, dtype: torch.dtype) -> Problem:
    return problem.to(dtype, torch.int8).but(int8_products=True)


def hold(problem: Problem) -> None:
    """Against float64 on the latents as stored; a row that sees nothing gives 0."""
    output, lse = problem.run("cpu")
    exact, exact_lse = problem.exact()
    error = (output.double() - exact).pow(2).mean().sqrt()
    assert error <= RMS * exact.pow(2).mean().sqrt(), error
    seen = exact_lse > -INF
    torch.testing.assert_close(lse.double()[seen], exact_lse[seen], rtol=0, atol=LSE)
    assert torch.equal(lse == -INF, ~seen)
    assert (output[~seen] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [2, 7, 40], ids=lambda h: f"H{h}")
@pytest.mark.parametrize("P", [64, 75, 384], ids=lambda p: f"P{p}")
def test_rounding_costs_what_it_is_said_to_cost(P: int, heads: int, dtype: torch.dtype, instruction_set: str) -> None:
    hold(allowed(make(B=2, H=heads, G=1, N=1, M=700, P=P, D=32, scale=0.25), dtype))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(data: st.DataObject, library: None) -> None:
    draw = data.draw
    B, group, G, N = (draw(st.integers(1, n)) for n in (3, 6, 3, 4))
    M, T = draw(st.integers(200, 900)), N + draw(st.integers(0, 20))
    bound = st.lists(st.integers(0, 900), min_size=2 * B, max_size=2 * B)
    problem = make(
        *(B, group * G, G, N, T, M),
        D=2 * draw(st.integers(8, 40)),
        P=draw(st.integers(16, 200)),
        seed=draw(st.integers(0, 99)),
        scale=0.1,
        prompt_mask=draw(st.sampled_from([None, torch.arange(T).expand(B, T) % 3 != 0])),
        knowledge_range=draw(st.none() | bound.map(lambda v: torch.tensor(v, dtype=torch.int32).view(B, 2))),
        knowledge_bias=draw(st.sampled_from([0.0, torch.randn(M), torch.randn(M, B).T])),
    )
    hold(allowed(problem, draw(st.sampled_from([torch.float32, torch.bfloat16]))))


def mixed(problem: Problem, *, rounded: bool, **changes: Any) -> Mixed:
    """The kernel's results, with absorbed queries or fields of the call changed."""
    _, call = problem.call()
    names = {name: changes.pop(name) for name in Absorbed._fields if name in changes}
    return cpu.mix(call.but(int8_products=rounded, **changes), absorbed_of(call)._replace(**names))


def whole_numbers(heads: int) -> tuple[Problem, dict[str, Any]]:
    """What loses nothing to rounding: queries of whole numbers, the largest 127."""
    draw = torch.Generator().manual_seed(1)
    M, P = 300, 90

    def whole(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=draw)

    absorbed = whole(1, heads, 1, P).float()
    absorbed[..., 0] = 127
    return make(B=1, H=heads, G=1, N=1, M=M, P=P, dtype=torch.float32), {
        "latent_key": whole(M, P).to(torch.int8),
        "latent_value": whole(M, P).to(torch.int8),
        "key_scale": torch.ones(M),
        "value_scale": torch.ones(M),
        "query": absorbed,
        "constant": torch.zeros(1, heads, 1),
    }


@pytest.mark.parametrize("heads", [3, 40])
def test_what_needs_no_rounding_is_exact(heads: int, instruction_set: str) -> None:
    problem, numbers = whole_numbers(heads)
    result = mixed(problem, rounded=True, **numbers, norm=torch.zeros(300))
    mean = numbers["latent_value"].float().mean(0)
    torch.testing.assert_close(result.latent, result.share[..., None] * mean, rtol=1e-5, atol=1e-5)
    # Scores of whole numbers: one triple stands out by its score alone.
    exact, rounded = (
        mixed(problem, rounded=rounded, **numbers, norm=torch.full((300,), 1e-4)).lse for rounded in (False, True)
    )
    torch.testing.assert_close(rounded, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("heads", [3, 40])
def test_it_is_taken_where_the_processor_has_it_and_only_for_int8(heads: int, instruction_set: str) -> None:
    for storage in (torch.int8, torch.bfloat16):
        problem = make(B=1, H=heads, G=1, N=1, M=200).to(torch.bfloat16, storage)
        exact, rounded = (mixed(problem, rounded=rounded) for rounded in (False, True))
        differs = not torch.equal(exact.latent, rounded.latent)
        assert differs == (storage == torch.int8 and instruction_set in HAVE_BYTES)


def test_the_public_call_hands_it_on(library: None) -> None:
    for N in (1, cpu.MAX_FUSED_QUERIES + 1):
        problem = make(B=1, N=N, M=200).to(torch.bfloat16, torch.int8)
        with_permission = problem.but(int8_products=True)
        assert torch.equal(problem.run("reference")[0], with_permission.run("reference")[0])
        hold(with_permission.but(scale=0.25))
        if multiplies_bytes():
            assert not torch.equal(problem.run("cpu")[0], with_permission.run("cpu")[0])


@pytest.mark.parametrize("heads", [6, 26])
def test_a_row_does_not_depend_on_the_batch_or_threads(heads: int, instruction_set: str) -> None:
    problem = make(B=3, H=heads, G=2, N=1, M=700, P=48, D=8, knowledge_bias=torch.randn(3, 700))
    problem = allowed(problem, torch.bfloat16)
    _, call = problem.call()
    together = cpu.mix(call, absorbed_of(call))
    with with_threads(torch.get_num_threads() + 1):
        assert all(torch.equal(a, b) for a, b in zip(cpu.mix(call, absorbed_of(call)), together, strict=True))
    for b in range(3):
        row = slice(b, b + 1)
        alone = cpu.mix(call_of_rows(call, row), Absorbed(*(part[row] for part in absorbed_of(call))))
        for part, ours, theirs in zip(together._fields, alone, together, strict=True):
            assert torch.equal(ours[0], theirs[b]), (part, b)


@pytest.mark.parametrize("heads", [2, 24])
@pytest.mark.parametrize("name", ["query", "norm", "key_scale", "value_scale"])
def test_nan_is_not_hidden(name: str, heads: int, instruction_set: str) -> None:
    problem = make(B=1, H=heads, G=1, N=1, M=200).to(torch.bfloat16, torch.int8)
    _, call = problem.call()
    poisoned = (absorbed_of(call).query if name == "query" else getattr(call, name)).clone()
    poisoned.view(-1)[-1] = float("nan")
    assert mixed(problem, rounded=True, **{name: poisoned}).latent.isnan().any()


@pytest.mark.parametrize("heads", [2, 24])
def test_what_lies_past_the_filled_rows_is_never_read(heads: int, instruction_set: str) -> None:
    problem = make(H=heads, N=1, M=333, knowledge_range=torch.tensor([[0, 201]]).expand(2, 2)).to(
        torch.bfloat16, torch.int8
    )
    k = problem.knowledge
    names = ("key", "value", "norm", "key_scale", "value_scale")
    fitted = dataclasses.replace(k, **{name: getattr(k, name)[:201].clone() for name in names})
    for name in ("norm", "key_scale", "value_scale"):
        getattr(k, name)[201:] = float("nan")
    ours = mixed(problem, rounded=True)
    theirs = mixed(problem.but(knowledge=fitted, knowledge_range=None), rounded=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_dense_knowledge_and_plain_attention_take_no_notice(library: None) -> None:
    query, cache = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 5, 16)
    plain = rectangular_attention(query, cache, cache)
    assert torch.equal(rectangular_attention(query, cache, cache, int8_products=True), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [3, 26])
def test_evidence_is_a_share_of_the_rounded_attention(heads: int, dtype: torch.dtype, instruction_set: str) -> None:
    """Peaked scores, where rounding a query moves a score by more than the share that the prompt has."""
    problem = allowed(make(B=2, H=heads, G=1, N=1, T=4, M=300, P=96, D=16, scale=3.0), dtype)
    query, knowledge = problem.knowledge_query, problem.knowledge
    _, lse = problem.run("cpu")
    options = {"scale": 3.0, "int8_products": True, "row_weight": torch.tensor(1 / heads)}
    mass = evidence(query, knowledge, lse, backend="cpu", **options)
    # The rounded scores, as the attention had them: with a value of ones, its output is the share of knowledge.
    _, call = problem.call()
    share = cpu.mix(call, absorbed_of(call)).share.mean(1)[:, 0]
    torch.testing.assert_close(mass.sum(1), share, rtol=2e-2 if dtype != torch.float32 else 2e-3, atol=2e-3)
    if instruction_set in HAVE_BYTES:
        exact = evidence(query, knowledge, lse, backend="cpu", **{**options, "int8_products": False})
        assert (exact.sum(1) - share).abs().max() > 5 * (mass.sum(1) - share).abs().max()
