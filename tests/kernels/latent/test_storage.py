"""Latents stored in another dtype than the model's: what they stand for, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam_kernels import LatentKnowledge, UnsupportedInputError
from kblam_kernels.knowledge import SCALED_DTYPES, dequantise
from kblam_kernels.latent import absorb, quantise
from kblam_kernels.latent.quantise import LARGEST
from tests.kernels.problems import make_latent

STORAGE = (torch.float16, torch.bfloat16, *SCALED_DTYPES)
# Half the spacing of the numbers that a row's largest is mapped to: of the largest for int8, of each one for fp8.
ROUNDING = {torch.int8: 0.5 / 127, torch.float8_e4m3fn: 2.0**-4}


@pytest.mark.parametrize("dtype", SCALED_DTYPES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 5),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    size=st.sampled_from([1e-20, 1.0, 1e9]),
)
def test_quantised_rows_are_near_and_reach_the_largest(
    dtype: torch.dtype, rows: int, width: int, seed: int, size: float
) -> None:
    latents = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    quantised, scale = quantise(latents, dtype)
    assert quantised.dtype == dtype
    assert (quantised.shape, scale.shape, scale.dtype) == (latents.shape, (rows,), torch.float32)
    largest = latents.abs().amax(1, keepdim=True)
    error = (dequantise(quantised, scale, torch.float32) - latents).abs()
    assert (error <= largest * ROUNDING[dtype] * 1.0001).all()
    assert (quantised.float().abs().amax(1) == LARGEST[dtype]).all()


@pytest.mark.parametrize("dtype", SCALED_DTYPES)
def test_quantising_one_row_is_quantising_the_list(dtype: torch.dtype) -> None:
    latents = torch.randn(5, 24)
    quantised, scale = quantise(latents, dtype)
    one, one_scale = quantise(latents[3:4], dtype)
    assert torch.equal(one.float()[0], quantised.float()[3])
    assert one_scale == scale[3]


@pytest.mark.parametrize("dtype", SCALED_DTYPES)
def test_rows_of_zeros_and_of_what_is_not_finite(dtype: torch.dtype) -> None:
    quantised, scale = quantise(torch.tensor([[0.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0]]), dtype)
    assert scale[0] == 0
    assert (quantised[0].float() == 0).all()
    assert not scale[1:].isfinite().any()


@pytest.mark.parametrize("dtype", SCALED_DTYPES)
def test_what_float64_alone_holds_is_quantised_where_float32_holds_its_scale(dtype: torch.dtype) -> None:
    latents = torch.tensor([[1e39, -5e38, 3e37, 0.0], [2.0, 1.0, -1.0, 0.5]], dtype=torch.float64)
    quantised, scale = quantise(latents, dtype)
    assert scale.dtype == torch.float32
    error = (dequantise(quantised, scale, torch.float64) - latents).abs()
    assert (error <= latents.abs().amax(1, keepdim=True) * ROUNDING[dtype] * 1.0001).all()
    _, scale = quantise(latents * 1e4, dtype)
    assert scale.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("dtype", SCALED_DTYPES)
def test_the_smallest_numbers_are_rounded_and_never_overflow(dtype: torch.dtype) -> None:
    """Of a scale that float32 holds in few bits, or in none, the row's largest number may lie far above `LARGEST`."""
    least = 2.0**-149
    tops = torch.cat([torch.arange(1, 2000), 2 ** torch.arange(11, 30)]).double() * least
    latents = tops[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    quantised, scale = quantise(latents.float(), dtype)
    found = quantised.double() * scale.double()[:, None]
    assert found.isfinite().all()
    # A step of the scale: half of one of the least number, and what the dtype rounds.
    step = scale.double()[:, None] / 2 if dtype == torch.int8 else latents.float().double().abs() * ROUNDING[dtype]
    assert ((found - latents.float().double()).abs() <= step + 0.5 * scale.double()[:, None] * 2.0**-9).all()
    assert quantised.float().abs().max() <= LARGEST[dtype]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_storage_under_every_model_equals_dense_attention(dtype: torch.dtype, storage: torch.dtype) -> None:
    problem = make_latent(M=50, D=32, P=40).to(dtype, storage)
    output, lse = problem.run()
    exact, exact_lse = problem.exact()
    assert output.dtype == dtype
    # The norm is that of a float64 problem before it was rounded: only the rounding of the computation is left.
    tolerance = 1e-9 if dtype == torch.float64 else 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("storage", STORAGE)
def test_to_dense_is_what_the_latents_stand_for(storage: torch.dtype) -> None:
    k = make_latent(M=3).to(torch.float32, storage).knowledge
    dense = k.to_dense()
    assert dense.key.dtype == torch.float32
    key, value = dequantise(k.key, k.key_scale, torch.float32), dequantise(k.value, k.value_scale, torch.float32)
    p, head, token = k.projection, 2, 1
    torch.testing.assert_close(
        dense.key[head, token], k.norm[token] * (p.key_weight[head] @ key[token] + p.key_bias[head])
    )
    torch.testing.assert_close(dense.value[head, token], p.value_weight[head] @ value[token] + p.value_bias[head])


@pytest.mark.parametrize("storage", SCALED_DTYPES)
def test_keys_are_normalised_as_stored(storage: torch.dtype) -> None:
    heads, head_dim, width = 3, 8, 12
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(heads * head_dim, width, generator=draw, dtype=torch.float64)
    adapter = absorb(weight, None, weight, None, num_slots=1, num_heads=heads, head_dim=head_dim)
    key, scale = quantise(torch.randn(9, width, generator=draw), storage)
    norm = adapter.key_norm(key, scale, accumulate=torch.float64)
    assert norm.dtype == torch.float32
    dense = LatentKnowledge(key, key, norm.double(), adapter.slots[0], scale, scale).to_dense()
    # LayerNorm over all outputs of a token: mean 0, variance 1, but for its eps.
    outputs = dense.key.transpose(0, 1).reshape(9, -1)
    torch.testing.assert_close(outputs.mean(1), torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs.square().mean(1), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    k = make_latent().to(torch.float32, torch.int8).knowledge
    assert k.key_scale is not None
    with pytest.raises(UnsupportedInputError, match=r"int8 latents need value_scale, float32 \(M=7,\)"):
        dataclasses.replace(k, value_scale=None)
    with pytest.raises(UnsupportedInputError, match=r"key_scale must be float32 \(M=7,\) on cpu; got torch\.float64"):
        dataclasses.replace(k, key_scale=k.key_scale.double())
    with pytest.raises(UnsupportedInputError, match=r"got torch\.float32 \(3,\)"):
        dataclasses.replace(k, key_scale=k.key_scale[:3])
    with pytest.raises(UnsupportedInputError, match=r"key_scale is for int8 and float8_e4m3fn latents; these are"):
        dataclasses.replace(k, key=k.key.half(), value=k.value.half())
    with pytest.raises(UnsupportedInputError, match=r"got torch\.int8 and torch\.float16"):
        dataclasses.replace(k, value=k.value.half())
    with pytest.raises(UnsupportedInputError, match=r"must be torch\.int8 or torch\.float8_e4m3fn; got torch\.float16"):
        quantise(torch.randn(2, 3), torch.float16)
    with pytest.raises(UnsupportedInputError, match=r"floating point \(M, P\); got torch\.int64 of shape \(2, 3\)"):
        quantise(torch.ones(2, 3, dtype=torch.int64), torch.int8)
