"""The Triton kernels of latents in the interpreter, beyond `test_ops.py`: tiles, batches that fold, storage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

from kblam_kernels import explain
from kblam_kernels.common.launch import Cut, recording
from kblam_kernels.common.splits import GROUP, GROUPS, LATENT_PROMPT_SPLIT
from kblam_kernels.common.tiles import MULTIPROCESSORS, Arch
from kblam_kernels.common.triton_split import as_numbers
from kblam_kernels.knowledge import SCALED_DTYPES
from kblam_kernels.latent import reference
from kblam_kernels.latent.tiles import LatentTile, latent_tile, storage_of
from tests.kernels.cases import LATENT, LONG
from tests.kernels.problems import Problem, make_latent
from tests.kernels.ways import call_of_rows

pytestmark = pytest.mark.usefixtures("interpreted")
FLOAT32, HALF = torch.float32, torch.float16
# They fit the interpreter.
SMALL = LatentTile(16, 16, num_warps=4, num_stages=2, value_chunks=1, widest_chunk=16)
TILES = {
    f"{name}{suffix}": dataclasses.replace(SMALL, value_chunks=value_chunks, tokens_first=tokens_first)
    for name, value_chunks in (("parts", 1), ("uneven-parts", 2), ("streamed", 0))
    for suffix, tokens_first in (("", False), ("-tokens-first", True))
}


def run(problem: Problem, tile: LatentTile | None = None) -> tuple[Tensor, Tensor]:
    from kblam_kernels.latent import triton_decode

    _, call = problem.call()
    return triton_decode.forward(call, tile)


def cut_of(problem: Problem, arch: Arch = "interpreter") -> tuple[Cut, int]:
    """How the launches of a problem are cut, and how many splits a program folds."""
    with recording(arch) as made:
        run(problem)
    arguments = made.launches[1].arguments
    return arguments["cut"], arguments["TILE"].FOLDED


def same(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    ("name", "storage"),
    [
        *((name, None) for name in ("latents-of-three-chunks", "latents-of-a-prime-width", "ranges", "M0")),
        ("left-padded", None),
        *(("latents-of-three-chunks", storage) for storage in SCALED_DTYPES),
    ],
    ids=str,
)
def test_every_way_to_cut_the_latents(name: str, storage: torch.dtype | None, tile: str) -> None:
    problem = make_latent(**LATENT[name], dtype=FLOAT32, storage=storage)
    _, call = problem.call()
    for ours, theirs in zip(run(problem, TILES[tile]), reference.forward(call), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("tile", TILES)
def test_folded_and_separate_rows_give_the_same_bits(tile: str) -> None:
    problem = make_latent(H=6, N=1, M=LONG, P=32, dtype=FLOAT32)
    one = torch.tensor([[3, 200]], dtype=torch.int32)
    folded = run(problem.but(knowledge_range=one.expand(2, 2)), TILES[tile])
    assert same(folded, run(problem.but(knowledge_range=one.repeat(2, 1)), TILES[tile]))


@pytest.mark.usefixtures("rows_apart")
def test_room_to_grow_changes_no_bit() -> None:
    problem = make_latent(N=1, M=LONG, dtype=FLOAT32)
    k = problem.knowledge
    exact_fit = problem.but(knowledge=dataclasses.replace(k, key=k.key[:260], value=k.value[:260], norm=k.norm[:260]))
    filled = torch.tensor([[0, 260]], dtype=torch.int32).expand(2, 2)
    assert same(run(problem.but(knowledge_range=filled)), run(exact_fit))


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"knowledge_bias": 0.5}, 1),
        ({"knowledge_range": torch.tensor([[0, 5]]).expand(2, 2)}, 1),
        ({"knowledge_range": torch.tensor([[0, 5]]).repeat(2, 1)}, 2),
        ({"knowledge_bias": torch.zeros(2, 7)}, 2),
    ],
    ids=["bias", "one-range", "ranges", "biases"],
)
def test_a_shared_list_folds_the_batch(changes: dict[str, Any], groups: int) -> None:
    cut, _ = cut_of(make_latent(N=1, dtype=FLOAT32, **changes))
    assert (cut.groups, cut.rows) == (groups, 8 // groups)


@pytest.mark.parametrize("louder", ["first", "last"])
def test_a_prompt_of_more_splits_than_are_merged_at_a_time(louder: str) -> None:
    T = GROUPS * LATENT_PROMPT_SPLIT + 9
    problem = make_latent(B=1, H=2, G=1, N=1, T=T, M=9, dtype=FLOAT32)
    some = slice(0, 99) if louder == "first" else slice(-5, None)
    problem.key[:, :, some] *= 9.0
    assert cut_of(problem)[0].splits - 1 > GROUPS
    _, call = problem.call()
    for ours, theirs in zip(run(problem), reference.forward(call), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("M", [300, 20_000, 100_000])
def test_splits_follow_the_list_and_the_device_and_the_batch_has_no_say(M: int, arch: Arch) -> None:
    cuts = [cut_of(make_latent(B=B, H=32, G=1, N=1, M=M, D=2, P=2).to(HALF), arch) for B in (1, 40)]
    (alone, folded_alone), (together, folded) = cuts
    assert alone.split_size == together.split_size
    splits = -(-M // alone.split_size)
    assert splits <= min(MULTIPROCESSORS[arch], GROUP * GROUPS)
    # No program has a tile more than it must.
    block = latent_tile(2, "half", arch).block_m
    assert alone.split_size == block * -(-M // (block * min(MULTIPROCESSORS[arch], GROUP * GROUPS)))
    assert (folded_alone, alone.knowledge_splits) == (1, splits)
    if M > 300:
        assert (folded, together.knowledge_splits) == (GROUP, -(-splits // GROUP))


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize(
    ("storage", "units", "M", "H"),
    [(None, 16, 140, 20), (torch.int8, 16, 140, 20), (None, 64, 500, 40)],
    ids=["two groups", "int8", "four groups"],
)
def test_folding_a_group_in_one_program_changes_no_bit(
    storage: torch.dtype | None, units: int, M: int, H: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row alone, whose splits are merged at the end, and the same row in a batch that folds them on the way."""
    from kblam_kernels.latent import triton_decode

    monkeypatch.setitem(MULTIPROCESSORS, "interpreter", units)
    # Splits of 16.
    ranges = torch.tensor([[0, M], [40, M - 5], [0, 100], [33, 34], [7, M]], dtype=torch.int32)
    bias = torch.arange(M) % 5 - 2.0
    bias[::7] = -torch.inf
    options = {"knowledge_range": ranges, "knowledge_bias": bias, "dtype": FLOAT32, "storage": storage}
    problem = make_latent(B=5, H=H, G=4, N=1, M=M, **options)
    assert cut_of(problem)[1] == GROUP
    together = run(problem)
    _, call = problem.call()
    for b in (1, 4):
        alone = triton_decode.forward(call_of_rows(call, slice(b, b + 1)))
        assert same(alone, (part[b : b + 1] for part in together)), b
    assert cut_of(problem.rows(slice(0, 1)))[1] == 1


def test_scales_and_norm_may_be_columns_of_a_matrix() -> None:
    problem = make_latent(N=1, M=40, dtype=FLOAT32, storage=torch.int8)
    k = problem.knowledge
    columns = torch.full((40, 4), float("nan"))
    changed = {
        name: columns[:, i].copy_(getattr(k, name)) for i, name in enumerate(("norm", "key_scale", "value_scale"))
    }
    strided = problem.but(knowledge=dataclasses.replace(k, **changed))
    assert same(strided.run("triton"), problem.run("triton"))


def test_small_latents_do_not_underflow_in_float16() -> None:
    # Scales of about 1e-6: most weights times one of them are less than float16 holds. Nothing else is in the output.
    problem = make_latent(N=1, T=0, M=50, is_alone=True)
    k = problem.knowledge
    projection = dataclasses.replace(k.projection, value_bias=torch.zeros_like(k.projection.value_bias))
    small = dataclasses.replace(k, value=k.value * 1e-4, projection=projection)
    problem = problem.but(knowledge=small).to(torch.float16, torch.int8)
    _, call = problem.call()
    expected, _ = reference.forward(call)
    # The result itself is near the smallest numbers of float16, whose spacing is 2^-24.
    torch.testing.assert_close(run(problem)[0], expected, rtol=2e-3, atol=2.0**-23)


@triton.jit
def rebuild_kernel(source, target):  # type: ignore[no-untyped-def]
    """What 256 stored numbers read as."""
    at = tl.arange(0, 256)
    tl.store(target + at, as_numbers(tl.load(source + at), tl.float32))


def test_every_fp8_number_is_rebuilt_from_its_bits() -> None:
    bits = torch.arange(256).to(torch.uint8)
    numbers = bits.view(torch.float8_e4m3fn).float()
    rebuilt = torch.empty(256)
    rebuild_kernel[(1,)](bits, rebuilt)
    finite = numbers.isfinite()
    assert finite.sum() == 254
    assert torch.equal(rebuilt[finite] * storage_of(torch.float8_e4m3fn).gain, numbers[finite])


def test_mixed_storage_is_served_by_name() -> None:
    tensors, _ = make_latent(dtype=torch.bfloat16, storage=torch.int8).arguments()
    assert explain(*tensors, backend="triton").backend == "triton"
