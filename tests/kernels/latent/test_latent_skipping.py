"""Value tiles that weigh next to nothing are not read: what that may cost, and what is counted."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import UnsupportedInputError, rectangular_attention
from kblam_kernels.latent import reference
from kblam_kernels.latent.reference import LatentOutput
from kblam_kernels.rectangular import reference as dense_reference
from kblam_kernels.rectangular.chunks import MIN_SPLIT
from tests.kernels.latent.decode_cases import TILES, arguments_of
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

THRESHOLD = 1e-3


def peaked(M: int = 2 * MIN_SPLIT, **options: int) -> LatentProblem:
    """Tokens of which the first of each split outweighs the others by far."""
    bias = torch.full((M,), -30.0)
    bias[::MIN_SPLIT] = 0.0
    return make(N=1, M=M, P=32, knowledge_bias=bias, **options)


def check_bound(actual: LatentOutput, exact: LatentOutput, value: Tensor, threshold: float, rounding: float) -> None:
    """The bound of the folder's README, for each column of the mixed latents; the sums are those of all tokens."""
    bound = threshold * value.double().abs().sum(0) + rounding
    assert ((actual.latent.double() - exact.latent.double()).abs() <= bound).all()
    for name in ("prompt", "share", "lse"):
        torch.testing.assert_close(getattr(actual, name), getattr(exact, name), rtol=1e-5, atol=1e-6, msg=name)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    M=st.integers(0, 40),
    chunk=st.integers(1, 9),
    threshold=st.floats(1e-6, 0.9),
    spread=st.floats(0.1, 12.0),
)
def test_the_error_bound_holds(seed: int, M: int, chunk: int, threshold: float, spread: float) -> None:
    bias = torch.randn(M, generator=torch.Generator().manual_seed(seed)) * spread
    arguments = arguments_of(make(N=1, M=M, P=6, seed=seed, knowledge_bias=bias))
    exact = reference.forward(**arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_reference, "CHUNK", chunk)
        actual = reference.forward(**arguments, skip_threshold=threshold)
    check_bound(actual, exact, arguments["latent_value"], threshold, 1e-12)
    skipped, visited = actual.tiles.tolist()
    assert 0 <= skipped <= visited == -(-M // chunk)


@pytest.mark.parametrize(
    ("storage", "tile"),
    [(torch.float32, "parts"), (torch.float32, "streamed"), (torch.int8, "parts"), (torch.int8, None)],
)
def test_the_kernel_reads_no_value_of_a_skipped_tile(
    interpreted: ModuleType, storage: torch.dtype, tile: str | None
) -> None:
    problem = peaked().to(torch.float32, storage)
    arguments, options = arguments_of(problem), {"tile": TILES[tile] if tile else None}
    exact = reference.forward(**arguments)
    actual = interpreted.forward(**arguments, skip_threshold=THRESHOLD, **options)
    values = problem.to(torch.float64).knowledge.value
    check_bound(actual, exact, values, THRESHOLD, 1e-5)
    skipped, visited = actual.tiles.tolist()
    block = TILES[tile].block_m if tile else 64
    # Every program of the value columns visits all tiles and takes in the first of each split.
    assert visited % (2 * MIN_SPLIT // block) == 0
    assert skipped == visited * (1 - block / MIN_SPLIT)
    poisoned = arguments["value_scale"] if storage == torch.int8 else arguments["latent_value"]
    for first in range(0, len(poisoned), MIN_SPLIT):
        poisoned[first + block : first + MIN_SPLIT] = float("nan")
    again = interpreted.forward(**arguments, skip_threshold=THRESHOLD, **options)
    assert torch.equal(again.latent, actual.latent)


def test_the_sums_of_the_kernel_are_exact(interpreted: ModuleType) -> None:
    arguments = arguments_of(peaked().to(torch.float32))
    exact, skipping = (interpreted.forward(**arguments, skip_threshold=s, tile=TILES["parts"]) for s in (0.0, 0.5))
    assert skipping.tiles[0] > 0
    assert exact.tiles.numel() == 0
    for name in ("prompt", "share", "lse"):
        assert torch.equal(getattr(skipping, name), getattr(exact, name)), name


def test_tiles_of_hidden_tokens_come_first(interpreted: ModuleType) -> None:
    # The streamed sums' memory is unwritten when the first tile that counts arrives.
    bias = torch.full((64,), -30.0)
    bias[:32], bias[32] = -INF, 0.0
    arguments = arguments_of(peaked(M=64).to(torch.float32).but(knowledge_bias=bias))
    actual = interpreted.forward(**arguments, skip_threshold=THRESHOLD, tile=TILES["streamed"])
    check_bound(actual, reference.forward(**arguments), arguments["latent_value"], THRESHOLD, 1e-5)
    assert actual.tiles.tolist() == [3, 4]


def test_rows_past_the_last_one_keep_no_tile(interpreted: ModuleType) -> None:
    # They weigh all tokens alike; the rows that are there, the first token alone.
    arguments = arguments_of(make(N=1, M=64, P=32, dtype=torch.float32))
    norm = torch.zeros(64)
    norm[0] = 100.0
    arguments |= {"norm": norm, "constant": torch.ones_like(arguments["constant"])}
    arguments["absorbed_query"] = torch.zeros_like(arguments["absorbed_query"])
    actual = interpreted.forward(**arguments, skip_threshold=THRESHOLD, tile=TILES["streamed"])
    assert actual.tiles.tolist() == [3, 4]


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_call_adds_to_the_counts(interpreted: ModuleType, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_reference, "CHUNK", 32)
    p = peaked().to(torch.float32)
    counts = torch.tensor([5, 7])

    def call(threshold: float) -> Tensor:
        return rectangular_attention(
            p.query,
            p.key,
            p.value,
            p.knowledge,
            p.knowledge_query,
            knowledge_bias=p.knowledge_bias,
            skip_threshold=threshold,
            skip_counts=counts,
            backend=backend,
        )

    exact = call(0.0)
    assert counts.tolist() == [5, 7]
    torch.testing.assert_close(call(THRESHOLD), exact, rtol=0, atol=1e-3)
    skipped, visited = counts.tolist()
    assert 5 < skipped < visited


def test_what_cannot_be_skipped_is_refused() -> None:
    p = make().to(torch.float32)
    arguments = (p.query, p.key, p.value, p.knowledge, p.knowledge_query)
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(UnsupportedInputError, match=f"below 1; got {threshold}"):
            rectangular_attention(*arguments, skip_threshold=threshold)
    dense = p.knowledge.to_dense()
    with pytest.raises(UnsupportedInputError, match=r"skip_threshold=0\.1 is for LatentKnowledge"):
        rectangular_attention(*arguments[:3], dense, skip_threshold=0.1)
    with pytest.raises(
        UnsupportedInputError, match=r"skip_counts must be int64 \(2,\) on cpu; got torch\.float32 \(2,\)"
    ):
        rectangular_attention(*arguments, skip_threshold=0.1, skip_counts=torch.zeros(2))
