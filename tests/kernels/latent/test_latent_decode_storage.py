"""Latents that the Triton decode kernel converts on the chip: float16, bfloat16, int8, fp8 under every model dtype."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from kblam_kernels import explain
from kblam_kernels.knowledge import SCALED_DTYPES
from kblam_kernels.latent import reference
from kblam_kernels.latent.tiles import storage_of
from kblam_kernels.latent.triton_storage import as_numbers
from tests.kernels.latent.decode_cases import CASES, LONG, TILES, TOKEN_BIAS, arguments_of, hold, one_row
from tests.kernels.latent.latent_problems import make

STORAGE = (torch.float16, torch.bfloat16, *SCALED_DTYPES)
NAMES = ["ranges", "token-bias", "several-new-tokens", "latents-of-a-prime-width", "M0"]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("name", NAMES)
def test_every_storage_under_float32_against_float64(interpreted: ModuleType, name: str, storage: torch.dtype) -> None:
    hold(make(**CASES[name]).to(torch.float32, storage))


@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        *((torch.bfloat16, storage) for storage in (torch.float16, *SCALED_DTYPES)),
        *((torch.float16, storage) for storage in (torch.bfloat16, *SCALED_DTYPES)),
    ],
)
def test_every_storage_under_half_precision_against_float64(
    interpreted: ModuleType, dtype: torch.dtype, storage: torch.dtype
) -> None:
    hold(make(**CASES["decode"]).to(dtype, storage))


@pytest.mark.parametrize("tile", ["uneven-parts", "streamed"])
@pytest.mark.parametrize("storage", SCALED_DTYPES)
def test_every_way_to_cut_quantised_latents(interpreted: ModuleType, storage: torch.dtype, tile: str) -> None:
    problem = make(**CASES["latents-of-three-chunks"]).to(torch.float32, storage)
    expected = reference.forward(**arguments_of(problem))
    actual = interpreted.forward(**arguments_of(problem), tile=TILES[tile])
    for part, ours, theirs in zip(expected._fields, actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6, msg=part)


@pytest.mark.parametrize("tile", ["parts", "streamed"])
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.usefixtures("rows_apart")
def test_a_row_does_not_depend_on_the_batch_around_it(interpreted: ModuleType, storage: torch.dtype, tile: str) -> None:
    problem = make(B=3, H=6, G=2, N=1, M=37, P=32, knowledge_bias=TOKEN_BIAS[:37]).to(torch.bfloat16, storage)
    arguments = arguments_of(problem)
    together = interpreted.forward(**arguments, tile=TILES[tile])
    alone = interpreted.forward(**one_row(arguments, 2), tile=TILES[tile])
    for part, ours, theirs in zip(together._fields[:4], alone, together, strict=False):
        assert torch.equal(ours[0], theirs[2]), part


@pytest.mark.parametrize("storage", SCALED_DTYPES)
def test_what_lies_past_the_filled_rows_is_never_read(interpreted: ModuleType, storage: torch.dtype) -> None:
    problem = make(N=1, M=LONG, knowledge_range=torch.tensor([[0, 200]], dtype=torch.int32).expand(2, 2))
    problem = problem.but(knowledge_bias=TOKEN_BIAS)
    problem = problem.to(torch.float32, storage)
    before = problem.run("triton")
    k = problem.knowledge
    assert k.key_scale is not None
    assert k.value_scale is not None
    for tensor in (k.norm, k.key_scale, k.value_scale):
        tensor[200:] = float("nan")
    for ours, theirs in zip(problem.run("triton"), before, strict=True):
        assert torch.equal(ours, theirs)


def test_scales_and_norm_may_be_columns_of_a_matrix(interpreted: ModuleType) -> None:
    problem = make(N=1, M=40).to(torch.float32, torch.int8)
    k = problem.knowledge
    columns = torch.full((40, 4), float("nan"))
    changed = {
        name: columns[:, i].copy_(getattr(k, name)) for i, name in enumerate(("norm", "key_scale", "value_scale"))
    }
    strided = problem.but(knowledge=dataclasses.replace(k, **changed))
    for ours, theirs in zip(strided.run("triton"), problem.run("triton"), strict=True):
        assert torch.equal(ours, theirs)


def test_small_latents_do_not_underflow_in_float16(interpreted: ModuleType) -> None:
    # Scales of about 1e-6: most weights times one of them are less than float16 holds.
    problem = make(N=1, M=50)
    small = dataclasses.replace(problem.knowledge, value=problem.knowledge.value * 1e-4)
    arguments = arguments_of(problem.but(knowledge=small).to(torch.float16, torch.int8))
    actual, expected = interpreted.forward(**arguments).latent, reference.forward(**arguments).latent
    # The result itself is near the smallest numbers of float16, whose spacing is 2^-24.
    torch.testing.assert_close(actual, expected, rtol=2e-3, atol=2.0**-24)


@triton.jit
def rebuild_kernel(source, target):  # type: ignore[no-untyped-def]
    """What 256 stored numbers read as."""
    at = tl.arange(0, 256)
    tl.store(target + at, as_numbers(tl.load(source + at), tl.float32))


def test_every_fp8_number_is_rebuilt_from_its_bits(interpreted: ModuleType) -> None:
    bits = torch.arange(256).to(torch.uint8)
    numbers = bits.view(torch.float8_e4m3fn).float()
    rebuilt = torch.empty(256)
    rebuild_kernel[(1,)](bits, rebuilt)
    finite = numbers.isfinite()
    assert finite.sum() == 254
    assert torch.equal(rebuilt[finite] * storage_of(torch.float8_e4m3fn).gain, numbers[finite])


def test_mixed_storage_is_served_by_name(interpreted: ModuleType) -> None:
    p = make().to(torch.bfloat16, torch.int8)
    assert explain(p.query, p.key, p.value, p.knowledge, p.knowledge_query, backend="triton").backend == "triton"
