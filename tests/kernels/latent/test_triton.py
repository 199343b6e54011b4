"""The Triton kernels of latents in the interpreter, beyond `test_ops.py`: tiles, batches that fold, storage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from kblam_kernels import explain
from kblam_kernels.common.launch import recording
from kblam_kernels.common.splits import MAX_SPLITS
from kblam_kernels.common.triton_split import as_numbers
from kblam_kernels.knowledge import SCALED_DTYPES
from kblam_kernels.latent import reference
from kblam_kernels.latent.absorption import Mixed
from kblam_kernels.latent.tiles import LatentTile, storage_of
from tests.kernels.cases import LATENT, LONG
from tests.kernels.problems import Problem, absorbed_of, make_latent

pytestmark = pytest.mark.usefixtures("interpreted")
FLOAT32 = torch.float32
# They fit the interpreter.
SMALL = LatentTile(16, 16, num_warps=4, num_stages=2, value_chunks=1, widest_chunk=16)
TILES = {
    "parts": SMALL,
    "uneven-parts": dataclasses.replace(SMALL, value_chunks=2),
    "streamed": dataclasses.replace(SMALL, value_chunks=0),
}


def mixed(problem: Problem, tile: LatentTile | None = None) -> Mixed:
    from kblam_kernels.latent import triton_decode

    _, call = problem.call()
    return triton_decode.mix(call, absorbed_of(call), tile)


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
    expected = reference.mix(call, absorbed_of(call))
    for part, ours, theirs in zip(expected._fields, mixed(problem, TILES[tile]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6, msg=part)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("tile", TILES)
def test_folded_and_separate_rows_give_the_same_bits(tile: str) -> None:
    problem = make_latent(H=6, N=1, M=LONG, P=32, dtype=FLOAT32)
    one = torch.tensor([[3, 200]], dtype=torch.int32)
    folded = mixed(problem.but(knowledge_range=one.expand(2, 2)), TILES[tile])
    assert same(folded, mixed(problem.but(knowledge_range=one.repeat(2, 1)), TILES[tile]))


@pytest.mark.usefixtures("rows_apart")
def test_room_to_grow_changes_no_bit() -> None:
    problem = make_latent(N=1, M=LONG, dtype=FLOAT32)
    k = problem.knowledge
    exact_fit = problem.but(knowledge=dataclasses.replace(k, key=k.key[:200], value=k.value[:200], norm=k.norm[:200]))
    filled = torch.tensor([[0, 200]], dtype=torch.int32).expand(2, 2)
    assert same(mixed(problem.but(knowledge_range=filled)), mixed(exact_fit))


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
    with recording("sm_80") as made:
        mixed(make_latent(N=1, dtype=FLOAT32, **changes))
    cut = made.launches[0][2]["cut"]
    assert (cut.groups, cut.rows) == (groups, 8 // groups)


@pytest.mark.parametrize("M", [300, 20_000, 100_000])
def test_splits_follow_the_list_and_the_batch_has_no_say(M: int) -> None:
    cuts = []
    for B in (1, 9):
        with recording("sm_80") as made:
            mixed(make_latent(B=B, H=1, G=1, N=1, M=M, D=2, P=2, dtype=FLOAT32))
        cuts.append(made.launches[0][2]["cut"])
    assert cuts[0].split_size == cuts[1].split_size
    assert cuts[0].knowledge_splits == cuts[1].knowledge_splits <= MAX_SPLITS


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
    # Scales of about 1e-6: most weights times one of them are less than float16 holds.
    problem = make_latent(N=1, M=50)
    small = dataclasses.replace(problem.knowledge, value=problem.knowledge.value * 1e-4)
    problem = problem.but(knowledge=small).to(torch.float16, torch.int8)
    _, call = problem.call()
    expected = reference.mix(call, absorbed_of(call)).latent
    # The result itself is near the smallest numbers of float16, whose spacing is 2^-24.
    torch.testing.assert_close(mixed(problem).latent, expected, rtol=2e-3, atol=2.0**-24)


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
