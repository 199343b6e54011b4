"""The Triton kernels of dense knowledge in the interpreter, beyond `test_ops.py`: tiles, splits, batches that fold."""

from __future__ import annotations

import pytest
import torch

from kblam_kernels.common import splits
from kblam_kernels.common.launch import recording
from kblam_kernels.common.tiles import Tile
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.dense.tiles import DECODE
from kblam_kernels.errors import UnsupportedInputError
from tests.kernels import cases, ops, ways
from tests.kernels.cases import LONG_DENSE
from tests.kernels.problems import INF, Problem, make
from tests.kernels.ways import Expected, Results

pytestmark = pytest.mark.usefixtures("interpreted")
FLOAT32 = torch.float32


def decoded(problem: Problem, tile: Tile | None = None) -> Results:
    """By split decode."""
    from kblam_kernels.dense import triton_decode

    return triton_decode.forward(problem.call()[1], tile)


def one_token(**options: object) -> Problem:
    return make(B=1, H=2, G=1, N=1, M=LONG_DENSE, dtype=FLOAT32, **options)


@pytest.mark.parametrize("tile", ["16x64x4x3", "64x16x4x2", "128x32x8x3x1"])
@pytest.mark.parametrize("case", [cases.GRID[7], cases.ALL_AT_ONCE], ids=lambda case: case.name)
def test_other_tiles_of_the_single_pass_give_the_same(
    case: cases.Case, tile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBLAM_TILE", tile)
    ops.TRITON_WAYS[0].near(case.name, FLOAT32)


def of_layout(D: int, layout: str) -> cases.Case:
    return next(c for c in cases.GRID if c.D == D and list(c.changes) == [layout])


def test_on_hopper_rows_that_come_late_have_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """ptxas 12.8 loses columns of the narrow part of such heads: `tiles.width_to_cut`."""
    from kblam_kernels.dense import triton_forward

    monkeypatch.delenv("KBLAM_TILE", raising=False)
    late = of_layout(72, "model_layout").problem(torch.float16)
    with recording("sm_90") as made:
        for problem in (late, make(N=33, T=70, D=80, dtype=torch.float16)):
            triton_forward.forward(problem.call()[1])
    parts = [launch.arguments["TILE"].SIZES for launch in made.launches]
    assert parts == [(64, 64), (64, 16)]
    assert [launch.arguments["TILE"].WIDTH for launch in made.launches] == [72, 80]


@pytest.mark.parametrize(
    "case", [of_layout(72, "model_layout"), cases.Case(1, 7, 33, 33)], ids=lambda case: str(case.name)
)
def test_heads_cut_as_wider_ones_give_the_same(case: cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.dense import triton_forward

    monkeypatch.setattr(triton_forward, "width_to_cut", lambda *_, **__: 128)
    monkeypatch.setenv("KBLAM_TILE", "64x32x4x1")
    ops.TRITON_WAYS[0].near(case.name, FLOAT32)


@pytest.mark.parametrize("tile", [Tile(16, 16, 4, 1), Tile(32, 64, 4, 2)], ids=str)
def test_other_tiles_of_split_decode_give_the_same(tile: Tile) -> None:
    problem = cases.SPLITS[2].problem(FLOAT32)
    ways.check_dense(decoded(problem, tile), Expected(problem, problem.exact(), problem.run()), False)


@pytest.mark.usefixtures("rows_apart")
def test_folded_and_separate_rows_give_the_same_bits() -> None:
    problem = make(B=3, H=2, G=1, N=2, M=LONG_DENSE, dtype=FLOAT32)
    one = torch.tensor([[5, LONG_DENSE - 3]], dtype=torch.int32)
    folded = decoded(problem.but(knowledge_range=one.expand(3, 2)))
    separate = decoded(problem.but(knowledge_range=one.repeat(3, 1)))
    own = problem.but(
        knowledge_range=one.expand(3, 2),
        knowledge_key=problem.knowledge_key.repeat(3, 1, 1, 1),
        knowledge_value=problem.knowledge_value.repeat(3, 1, 1, 1),
    )
    for result in (separate, decoded(own)):
        for ours, theirs in zip(folded, result, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("rows_apart")
def test_room_to_grow_changes_no_bit() -> None:
    problem = one_token()
    exact_fit = problem.but(
        knowledge_key=problem.knowledge_key[:, :300], knowledge_value=problem.knowledge_value[:, :300]
    )
    filled = torch.tensor([[0, 300]], dtype=torch.int32)
    for ours, theirs in zip(decoded(problem.but(knowledge_range=filled)), decoded(exact_fit), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("rows_apart")
def test_a_range_hides_tokens_and_moves_no_sum() -> None:
    hidden = torch.zeros(1, LONG_DENSE).masked_fill(torch.arange(LONG_DENSE) < 70, -INF)
    by_range = decoded(one_token(knowledge_range=torch.tensor([[70, LONG_DENSE]])))
    for ours, theirs in zip(by_range, decoded(one_token(knowledge_bias=hidden)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"knowledge_bias": 0.5}, 1),
        ({"knowledge_range": torch.tensor([[0, 5]]).expand(2, 2)}, 1),
        ({"knowledge_range": torch.tensor([[0, 5], [1, 7]])}, 2),
        ({"knowledge_bias": torch.zeros(2, 7)}, 2),
        ({"shared": False}, 2),
    ],
    ids=["bias", "one-range", "ranges", "biases", "own-knowledge"],
)
def test_a_shared_list_folds_the_batch(changes: dict[str, object], groups: int) -> None:
    with recording("sm_80") as made:
        decoded(make(N=1, dtype=FLOAT32, **changes))
    cut = made.launches[0][2]["cut"]
    assert (cut.groups, cut.rows) == (groups, 2 // groups)


@pytest.mark.parametrize("M", [300, 20_000, 100_000])
def test_splits_follow_the_list_and_the_batch_has_no_say(M: int) -> None:
    cuts = []
    for B in (1, 9):
        with recording("sm_80") as made:
            decoded(make(B=B, H=1, G=1, N=1, M=M, D=2, dtype=FLOAT32))
        cuts.append(made.launches[0][2]["cut"])
    assert cuts[0].split_size == cuts[1].split_size
    assert cuts[0].knowledge_splits == cuts[1].knowledge_splits <= splits.MAX_DENSE_SPLITS


@pytest.mark.parametrize(("N", "split"), [(1, True), (16, True), (17, False), (1000, False)])
def test_few_queries_are_split_and_the_batch_has_no_say(N: int, split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBLAM_TILE", raising=False)
    for B in (1, 3):
        module = dense_attention.named("triton").serving(make(B=B, N=N, T=N).call()[1])
        assert module.__name__.endswith("triton_decode" if split else "triton_forward")


def test_a_pinned_tile_keeps_the_single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels() -> list[str]:
        with recording("sm_80") as made:
            make(N=1, dtype=FLOAT32).run("triton")
        return [kernel.__name__ for kernel, *_ in made.launches]

    monkeypatch.setenv("KBLAM_TILE", "16x32x4x1")
    assert kernels() == ["dense_forward_kernel"]
    monkeypatch.delenv("KBLAM_TILE")
    assert kernels() == ["dense_decode_kernel", "dense_merge_kernel"]


def test_a_pinned_tile_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_TILE", "fast")
    with pytest.raises(UnsupportedInputError, match="KBLAM_TILE='fast'"):
        make(dtype=FLOAT32).run("triton")


def test_splits_are_whole_tiles_of_every_head_dim() -> None:
    for choice in DECODE:
        assert splits.MIN_DENSE_SPLIT % choice.tile.block_m == 0
        assert choice.tile.block_rows == 16
    for D in range(1, 257):
        for element_size in (2, 4):
            for split in (splits.PROMPT_SPLIT, splits.LATENT_PROMPT_SPLIT):
                assert split % splits.prompt_block(D, element_size) == 0


def test_many_queries_of_knowledge_alone_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pieces of materialised latents are read: partial sums of each split would be gigabytes."""
    monkeypatch.delenv("KBLAM_TILE", raising=False)
    _, call = make(N=splits.MAX_DECODE_QUERIES + 1, T=0, M=70, is_alone=True, dtype=torch.float16).call()
    with recording("sm_90") as made:
        dense_attention.named("triton").forward(call)
    assert [launch.kernel.__name__ for launch in made.launches] == ["dense_forward_kernel"]


@pytest.mark.parametrize("alone", ["key", "value"])
def test_keys_that_the_batch_shares_do_not_say_that_values_are(alone: str) -> None:
    """A list of each row whose keys, or values, are views of one."""
    problem = make(B=2, N=1, M=70, shared=False, dtype=FLOAT32)
    shared = getattr(problem, f"knowledge_{alone}")[:1].expand_as(problem.knowledge_key)
    problem = problem.but(**{f"knowledge_{alone}": shared})
    for ours, theirs in zip(problem.run("triton"), problem.run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
