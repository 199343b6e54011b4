"""The Triton decode kernel in the interpreter, with poisoned memory, against the specification and float64."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kblam_kernels.latent import reference
from kblam_kernels.rectangular.chunks import MAX_SPLITS, MIN_SPLIT, chunk_of, split_tokens
from tests.kernels.latent.decode_cases import CASES, LEFT_PADDED, LONG, TILES, TOKEN_BIAS, arguments_of, hold, one_row
from tests.kernels.latent.latent_problems import make
from tests.kernels.launches import Recorder, without_data


@pytest.mark.parametrize("name", CASES)
def test_every_case_against_float64(interpreted: ModuleType, name: str) -> None:
    problem = make(**CASES[name], dtype=torch.float32)
    hold(problem)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["decode", "left-padded", "M0", "ranges", "latents-of-three-chunks"])
def test_half_precision_against_float64(interpreted: ModuleType, name: str, dtype: torch.dtype) -> None:
    problem = make(**CASES[name], dtype=dtype)
    hold(problem)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", ["latents-of-three-chunks", "latents-of-a-prime-width", "ranges", "M0", "left-padded"])
def test_every_way_to_cut_the_latents(interpreted: ModuleType, name: str, tile: str) -> None:
    problem = make(**CASES[name], dtype=torch.float32)
    expected = reference.forward(**arguments_of(problem))
    actual = interpreted.forward(**arguments_of(problem), tile=TILES[tile])
    for part, ours, theirs in zip(expected._fields, actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6, msg=part)


@pytest.mark.parametrize("tile", ["parts", "streamed", None])
@pytest.mark.usefixtures("rows_apart")
def test_a_row_does_not_depend_on_the_batch_around_it(interpreted: ModuleType, tile: str | None) -> None:
    # Six heads: the rows of a batch row sit at other places of a row tile than alone.
    M = MIN_SPLIT + 5
    problem = make(B=3, H=6, G=2, N=1, M=M, P=48, dtype=torch.float32, knowledge_bias=TOKEN_BIAS[:M])
    arguments, options = arguments_of(problem), {"tile": TILES[tile] if tile else None}
    together = interpreted.forward(**arguments, **options)
    alone = interpreted.forward(**one_row(arguments, 2), **options)
    for part, ours, theirs in zip(together._fields[:4], alone, together, strict=False):
        assert torch.equal(ours[0], theirs[2]), part


@pytest.mark.usefixtures("rows_apart")
def test_folded_and_separate_rows_give_the_same_bits(interpreted: ModuleType) -> None:
    problem = make(B=2, H=6, G=2, N=1, M=LONG, dtype=torch.float32)
    one = torch.tensor([[3, 200]], dtype=torch.int32)
    folded = interpreted.forward(**arguments_of(problem.but(knowledge_range=one)))
    separate = interpreted.forward(**arguments_of(problem.but(knowledge_range=one.repeat(2, 1))))
    for ours, theirs in zip(folded, separate, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("rows_apart")
def test_room_to_grow_changes_no_bit(interpreted: ModuleType) -> None:
    problem = make(N=1, M=LONG, dtype=torch.float32)
    k = problem.knowledge
    filled = torch.tensor([[0, 200]], dtype=torch.int32)
    exact_fit = problem.but(knowledge=dataclasses.replace(k, key=k.key[:200], value=k.value[:200], norm=k.norm[:200]))
    # What lies past the filled rows is never read.
    for tensor in (k.key, k.value, k.norm):
        tensor[200:] = float("nan")
    grown = interpreted.forward(**arguments_of(problem.but(knowledge_range=filled)))
    for ours, theirs in zip(grown, interpreted.forward(**arguments_of(exact_fit)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_shared_range_folds_the_batch(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(interpreted.latent_decode_kernel)
    monkeypatch.setattr(interpreted, "latent_decode_kernel", recorder)
    filled = torch.tensor([[0, 5]], dtype=torch.int32)
    for ranges in (filled.expand(2, 2), filled.repeat(2, 1)):
        make(N=1, dtype=torch.float32, knowledge_range=ranges, knowledge_bias=0.5).run("triton")
    assert [launch["groups"] for launch in recorder.launches] == [1, 2]


def test_strides_are_free(interpreted: ModuleType) -> None:
    problem = make(N=3, M=40, dtype=torch.float32)
    k = problem.knowledge

    def moved(tensor: Tensor) -> Tensor:
        """(B, heads, tokens, D) in the memory layout (B, tokens, heads, D)."""
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    def widened(tensor: Tensor) -> Tensor:
        """Rows of a wider matrix."""
        wide = torch.full((tensor.shape[0], tensor.shape[1] + 8), float("nan"))
        wide[:, : tensor.shape[1]] = tensor
        return wide[:, : tensor.shape[1]]

    changed = problem.but(
        query=moved(problem.query),
        key=moved(problem.key),
        value=moved(problem.value),
        knowledge_query=moved(problem.knowledge_query),
        knowledge=dataclasses.replace(k, key=widened(k.key), value=widened(k.value)),
    )
    for ours, theirs in zip(changed.run("triton"), problem.run("triton"), strict=True):
        assert torch.equal(ours, theirs)


def test_the_launcher_looks_at_no_data(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreted, "latent_decode_kernel", Recorder())
    monkeypatch.setattr(interpreted, "latent_merge_kernel", Recorder())
    ranges = torch.zeros(2, 2, dtype=torch.int32)
    arguments = arguments_of(make(dtype=torch.float32, prompt_mask=LEFT_PADDED, knowledge_range=ranges))
    assert interpreted.forward(**without_data(**arguments)).prompt.shape == arguments["query"].shape


def test_splits_have_a_size_of_their_own() -> None:
    assert split_tokens(0, 32) == split_tokens(10_000, 32) == MIN_SPLIT
    for M in (100_000, 1_000_000):
        for block in (16, 32, 128):
            size = split_tokens(M, block)
            assert size % block == 0
            assert MAX_SPLITS / 2 < -(-M // size) <= MAX_SPLITS


@pytest.mark.parametrize(
    ("width", "chunk"),
    [(384, 128), (96, 32), (80, 16), (64, 64), (24, 32), (5, 16), (1008, 128), (576, 64), (3072, 128)],
)
def test_chunks_are_powers_of_two_that_fit(width: int, chunk: int) -> None:
    assert chunk_of(width) == chunk
