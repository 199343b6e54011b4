"""int8 latents multiplied as bytes: what rounding costs, where it is taken, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import rectangular_attention
from kblam_kernels.latent import cpu, fused
from tests.kernels.cpu.pinned import HAVE_BYTES
from tests.kernels.latent.decode_cases import arguments_of, one_row
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

# A query is rounded to 254 levels of its largest number, a weight to 255 of its tile's: so much of an output's root
# mean square, where scores spread by about one.
RMS = 0.012
LSE = 0.02


def allowed(problem: LatentProblem, dtype: torch.dtype) -> LatentProblem:
    return problem.to(dtype, torch.int8).but(int8_products=True)


def hold(problem: LatentProblem) -> None:
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


def whole_numbers(heads: int) -> dict[str, Any]:
    """Arguments of `cpu.forward` that lose nothing to rounding: queries of whole numbers, the largest 127."""
    draw = torch.Generator().manual_seed(1)
    M, P = 300, 90

    def whole(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=draw)

    absorbed = whole(1, heads, 1, P).float()
    absorbed[..., 0] = 127
    arguments = arguments_of(make(B=1, H=heads, G=1, N=1, M=M, P=P, dtype=torch.float32))
    return {
        **arguments,
        "latent_key": whole(M, P).to(torch.int8),
        "latent_value": whole(M, P).to(torch.int8),
        "key_scale": torch.ones(M),
        "value_scale": torch.ones(M),
        "absorbed_query": absorbed,
        "constant": torch.zeros(1, heads, 1),
    }


@pytest.mark.parametrize("heads", [3, 40])
def test_what_needs_no_rounding_is_exact(heads: int, instruction_set: str) -> None:
    arguments = whole_numbers(heads)
    flat = {**arguments, "norm": torch.zeros(300)}
    result = cpu.forward(**flat, int8_products=True)
    mean = arguments["latent_value"].float().mean(0)
    torch.testing.assert_close(result.latent, result.share[..., None] * mean, rtol=1e-5, atol=1e-5)
    # Scores of whole numbers: one triple stands out by its score alone.
    peaked = {**arguments, "norm": torch.full((300,), 1e-4)}
    exact = cpu.forward(**peaked).lse
    torch.testing.assert_close(cpu.forward(**peaked, int8_products=True).lse, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("heads", [3, 40])
def test_it_is_taken_where_the_processor_has_it_and_only_for_int8(heads: int, instruction_set: str) -> None:
    for storage in (torch.int8, torch.bfloat16):
        arguments = arguments_of(make(B=1, H=heads, G=1, N=1, M=200).to(torch.bfloat16, storage))
        exact, rounded = cpu.forward(**arguments), cpu.forward(**arguments, int8_products=True)
        differs = not torch.equal(exact.latent, rounded.latent)
        assert differs == (storage == torch.int8 and instruction_set in HAVE_BYTES)


def test_the_public_call_hands_it_on(library: None) -> None:
    for N in (1, fused.MAX_QUERIES + 1):
        problem = make(B=1, N=N, M=200).to(torch.bfloat16, torch.int8)
        with_permission = problem.but(int8_products=True)
        assert torch.equal(problem.run("reference")[0], with_permission.run("reference")[0])
        hold(with_permission.but(scale=0.25))
        if any(torch.ops.kblam_kernels.cpu_instruction_set(name) for name in HAVE_BYTES):
            assert not torch.equal(problem.run("cpu")[0], with_permission.run("cpu")[0])


@pytest.mark.parametrize("heads", [6, 26])
def test_a_row_does_not_depend_on_the_batch_or_threads(heads: int, instruction_set: str) -> None:
    problem = make(B=3, H=heads, G=2, N=1, M=700, P=48, D=8, knowledge_bias=torch.randn(3, 700))
    arguments = arguments_of(problem.to(torch.bfloat16, torch.int8))
    together = cpu.forward(**arguments, int8_products=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        again = cpu.forward(**arguments, int8_products=True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(again, together, strict=True))
    for b in range(3):
        alone = cpu.forward(**one_row(arguments, b), int8_products=True)
        for part, ours, theirs in zip(together._fields, alone, together, strict=True):
            assert part == "tiles" or torch.equal(ours[0], theirs[b]), (part, b)


@pytest.mark.parametrize("heads", [2, 24])
@pytest.mark.parametrize("name", ["absorbed_query", "norm", "key_scale", "value_scale"])
def test_nan_is_not_hidden(name: str, heads: int, instruction_set: str) -> None:
    arguments = arguments_of(make(B=1, H=heads, G=1, N=1, M=200).to(torch.bfloat16, torch.int8))
    arguments[name] = arguments[name].clone()
    arguments[name].view(-1)[-1] = float("nan")
    assert cpu.forward(**arguments, int8_products=True).latent.isnan().any()


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
    ours = cpu.forward(**arguments_of(problem), int8_products=True)
    theirs = cpu.forward(**arguments_of(problem.but(knowledge=fitted, knowledge_range=None)), int8_products=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_dense_knowledge_and_plain_attention_take_no_notice(library: None) -> None:
    query, cache = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 5, 16)
    plain = rectangular_attention(query, cache, cache)
    assert torch.equal(rectangular_attention(query, cache, cache, int8_products=True), plain)
