"""What every Triton kernel must do compiled, on a GPU: see `ops.py`; real tiles and sizes, CUDA graphs, one graph."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import (
    DenseKnowledge,
    KnowledgePlan,
    LatentKnowledge,
    evidence,
    partial_knowledge_attention,
    rectangular_attention,
)
from kblam_kernels.common.splits import MAX_DECODE_QUERIES
from kblam_kernels.latent import tiles
from tests import tolerances
from tests.kernels import cases, ops, ways
from tests.kernels.cases import Case
from tests.kernels.ops import TRITON_WAYS
from tests.kernels.problems import EvidenceProblem, Problem, evidence_of, make, make_latent
from tests.kernels.ways import BFLOAT16, DTYPES, FLOAT32, STORAGE, AnyProblem, Way, stored

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler: use make gpu-check"
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

# To try the bodies without a GPU: "cpu", with TRITON_INTERPRET=1 and without the two skips above.
DEVICE = "cuda"
SINGLE_PASS, SPLIT, LATENT, EVIDENCE = TRITON_WAYS
LONG, T = 3001, 777
# Of a model: eight heads for two of the cache, a list of many splits, the last one ragged.
MODEL: dict[str, Any] = {"B": 2, "H": 8, "G": 2, "N": 1, "T": T, "M": LONG, "D": 128}
LATENT_MODEL: dict[str, Any] = MODEL | {"P": 384}
WIDTHS = (5, 256, 384, 512, 768, 1000, 1024, 1536, 3072)


def _latents(storage: torch.dtype | None = None, **changes: Any) -> ways.Make:
    return lambda dtype: make_latent(**LATENT_MODEL | changes, dtype=dtype, storage=storage)


def _evidence(maker: Any, storage: torch.dtype | None = None, **changes: Any) -> ways.Make:
    options = {} if storage is None else {"storage": storage}
    return lambda dtype: evidence_of(maker(**changes, **options, dtype=dtype))


# The small cases, as sizes lead them.
SMALL = (
    dataclasses.replace(
        SINGLE_PASS,
        name="dense",
        cases=ops.grid((*cases.GRID, *cases.SPLITS))
        | {name: each for name, each in SPLIT.cases.items() if name.startswith("alone")},
        setting=None,
    ),
    *(
        dataclasses.replace(way, cases={name: each for name, each in way.cases.items() if name not in ops.STORED_CASES})
        for way in (LATENT, EVIDENCE)
    ),
)
# Real sizes: long enough for every row of the tile tables and many tiles.
REAL = (
    dataclasses.replace(
        SINGLE_PASS,
        name="dense-single_pass-real",
        cases=ops.grid(
            (
                Case(1, 1, LONG, 128, T=T, H=8, G=2),
                Case(2, 48, LONG, 128, H=8, G=2),
                Case(2, 1000, LONG, 64, H=8, G=2),
                Case(1, 1000, LONG, 96, T=1500, H=4, G=4),
                Case(1, 1000, LONG, 128, H=8, G=2, changes={"left": cases.LEFT}),
                Case(1, 500, 1000, 80, H=4, G=4),
                Case(1, 500, 1000, 256, H=4, G=2),
                # Heads of two parts whose rows are not fetched ahead, long enough for loops over whole tiles.
                *(
                    Case(1, N, 300, D, T=500, changes={"model_layout": cases.model_layout})
                    for D in (33, 72, 80, 96, 136)
                    for N in (40, 400)
                ),
            )
        ),
    ),
    dataclasses.replace(
        SPLIT,
        name="dense-split-real",
        cases=ops.grid(
            (
                *(
                    Case(2, N, LONG, D, T=T, H=8, G=2)
                    for D in (64, 80, 96, 128, 256)
                    for N in (1, 3, MAX_DECODE_QUERIES)
                ),
                Case(2, 1, LONG, 128, T=T, H=8, G=8, shared=False),
                Case(3, 2, LONG, 128, T=T, H=8, G=2, changes={"left": cases.LEFT, "window300": cases.window(300)}),
                Case(3, 1, LONG, 128, T=T, H=8, G=2, changes={"ranges": cases.ranges((0, LONG), (700, 701), (9, 9))}),
                Case(32, 1, LONG, 128, T=T, H=8, G=2, changes={"bias": cases.bias(lambda B, M: -4.0)}),
                Case(2, 1, 100_003, 64, T=T, H=2, G=1),
            )
        ),
    ),
    dataclasses.replace(LATENT, name="latent-real", cases={stored(storage): _latents(storage) for storage in STORAGE}),
    dataclasses.replace(
        EVIDENCE,
        name="evidence-real",
        cases={
            f"dense-D{D}-N{N}": _evidence(make, **MODEL | {"D": D, "N": N, "T": max(N, 9)})
            for D in (64, 96, 128, 256)
            for N in (1, 20, 100)
        },
    ),
)
# Of these a dtype changes nothing more.
REAL_BFLOAT16 = (
    dataclasses.replace(
        LATENT,
        name="latent-real",
        cases={
            **{
                f"P{P}-{stored(storage)}": _latents(storage, P=P, N=3)
                for P in WIDTHS
                for storage in (None, torch.int8, torch.float8_e4m3fn)
            },
            **{f"D{D}": _latents(D=D, window=300) for D in (64, 80, 96, 256)},
        },
    ),
    dataclasses.replace(
        EVIDENCE,
        name="evidence-real",
        cases={
            f"latent-P{P}-{stored(storage)}": _evidence(make_latent, storage, **LATENT_MODEL | {"P": P, "T": 9})
            for P in (37, 384, 1024, 1536)
            for storage in STORAGE
        },
    ),
)
# Batches whose rows lie in other places of a tile than alone.
ROWS = (
    dataclasses.replace(SPLIT, rows={f"D{D}": Case(33, 1, LONG, D, T=T, H=6, G=2).problem for D in (64, 96, 128, 256)}),
    dataclasses.replace(
        LATENT,
        rows={f"P{P}-{stored(storage)}": _latents(storage, B=5, H=6, P=P) for P in (384, 1536) for storage in STORAGE},
    ),
    dataclasses.replace(
        EVIDENCE,
        rows={
            "dense": _evidence(make, **MODEL | {"B": 3, "N": 20, "T": 20}),
            "latent": _evidence(make_latent, **LATENT_MODEL | {"B": 3, "T": 9}),
        },
    ),
)
# One usual call of each way.
USUAL: dict[str, tuple[Way, Any]] = {
    "dense-single_pass": (SINGLE_PASS, lambda **seed: make(**MODEL | {"N": 48}, **seed, dtype=BFLOAT16)),
    "dense-split": (SPLIT, lambda **seed: make(**MODEL, **seed, dtype=BFLOAT16)),
    **{
        f"latent-{stored(storage)}": (
            LATENT,
            lambda storage=storage, **seed: make_latent(**LATENT_MODEL, **seed, dtype=BFLOAT16, storage=storage),
        )
        for storage in STORAGE
    },
    "evidence": (EVIDENCE, lambda **seed: evidence_of(make(**MODEL | {"T": 9}, **seed, dtype=BFLOAT16))),
    "evidence-latent": (
        EVIDENCE,
        lambda **seed: evidence_of(make_latent(**LATENT_MODEL | {"T": 9}, **seed, dtype=BFLOAT16)),
    ),
}


@pytest.mark.parametrize(
    ("way", "name", "dtype"), [*ways.params((*SMALL, *REAL), DTYPES), *ways.params(REAL_BFLOAT16, (BFLOAT16,))]
)
def test_near_float64(way: Way, name: str, dtype: torch.dtype) -> None:
    way.near(name, dtype, DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("way", "name"), ways.row_params(ROWS))
def test_a_row_has_the_bits_that_it_has_alone_and_every_time(way: Way, name: str, dtype: torch.dtype) -> None:
    problem = way.rows[name](dtype).on(DEVICE)
    together = way.bits(problem)
    for among, alone, again in zip(together, way.bits(problem, slice(-1, None)), way.bits(problem), strict=True):
        assert torch.equal(among[-1:], alone)
        assert torch.equal(among, again), "twice"


def tensors_of(problem: AnyProblem) -> dict[str, Tensor]:
    """Every tensor of a problem, by its path."""
    found: dict[str, Tensor] = {}

    def walk(owner: Any, path: str) -> None:
        for each in dataclasses.fields(owner):
            value = getattr(owner, each.name)
            if isinstance(value, Tensor):
                found[f"{path}.{each.name}"] = value
            elif dataclasses.is_dataclass(value):
                walk(value, f"{path}.{each.name}")

    walk(problem, "")
    return found


def restricted(problem: AnyProblem, end: int) -> AnyProblem:
    """With a bias, a mask, and a range for each row that shows `end` tokens to the first."""
    attention = ops.attention_of(problem)
    B, M, T = len(attention.query), attention.knowledge.num_tokens, attention.key.shape[2]
    draw = torch.Generator().manual_seed(end)
    changed = problem.but(
        knowledge_bias=torch.randn(B, M, generator=draw),
        prompt_mask=(torch.rand(B, T, generator=draw) > 0.3).index_fill(1, torch.tensor(T - 1), True),
        knowledge_range=torch.tensor([[0, end], [end // 2, M]], dtype=torch.int32),
    )
    return evidence_of(changed.attention) if isinstance(changed, EvidenceProblem) else changed


@pytest.mark.parametrize("name", USUAL)
def test_a_cuda_graph_sees_what_is_written_after_it_was_captured(name: str) -> None:
    """Nothing syncs with the host: queries, knowledge, ranges, bias and mask are read on the device at replay."""
    way, maker = USUAL[name]
    problem = restricted(maker(), 2000).on(DEVICE)
    later = restricted(maker(seed=9), 2500).on(DEVICE)
    with way.taken():
        replay, results = ways.captured(lambda: problem.run("triton"))
        replay()
        before = [result.clone() for result in results]
        there = tensors_of(problem)
        for path, tensor in tensors_of(later).items():
            there[path].copy_(tensor)
        replay()
        for result, old, expected in zip(results, before, later.run("triton"), strict=True):
            assert not torch.equal(result, old)
            # The products around attention to latents may be another library call under capture.
            torch.testing.assert_close(result, expected, rtol=2**-6, atol=2**-6)
            if not name.startswith("latent"):
                assert torch.equal(result, expected)


def test_a_list_grows_under_a_cuda_graph() -> None:
    """One end for the batch, read on the device: tokens written after the capture are seen."""
    filled = torch.tensor([[0, 2000]], dtype=torch.int32, device=DEVICE)
    for maker in (make, make_latent):
        problem = maker(**MODEL, dtype=BFLOAT16).on(DEVICE).but(knowledge_range=filled.expand(2, 2))
        filled.copy_(torch.tensor([[0, 2000]]))
        replay, (output, lse) = ways.captured(functools.partial(problem.run, "triton"))
        replay()
        before = output.clone()
        problem.knowledge.key[..., 2000:2500, :].mul_(3.0)
        filled.copy_(torch.tensor([[0, 2500]]))
        replay()
        assert not torch.equal(output, before)
        expected, expected_lse = problem.run("triton")
        torch.testing.assert_close(output, expected, rtol=2**-6, atol=2**-6)
        torch.testing.assert_close(lse, expected_lse, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("maker", [make, make_latent])
def test_one_cuda_graph_serves_every_batch_of_a_plan(maker: Any) -> None:
    """What requests see is planned outside of it."""
    knowledge = maker(**MODEL, dtype=BFLOAT16).on(DEVICE).knowledge
    query = torch.randn(40, MODEL["H"], MODEL["D"], device=DEVICE, dtype=BFLOAT16)
    attend = KnowledgePlan(knowledge, 64, max_span=1900, backend="triton")
    steps = [
        [torch.tensor(part, dtype=torch.int32, device=DEVICE) for part in step]
        for step in (
            ([0, 1, 2, 30], [[0, 900], [1200, LONG], [5, 1800]]),
            ([0, 35, 35, 40], [[1500, LONG], [0, 9], [7, 7]]),
        )
    ]
    attend.plan(*steps[0])
    replay, results = ways.captured(lambda: attend.run(query, knowledge))
    for step in (*steps, steps[0]):
        attend.plan(*step)
        replay()
        expected = partial_knowledge_attention(query, knowledge, *step, max_span=1900, backend="triton")
        for result, plain in zip(results, expected, strict=True):
            # The products around attention to latents may be another library call under capture.
            torch.testing.assert_close(result, plain, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("name", USUAL)
def test_torch_compile_keeps_one_graph(name: str) -> None:
    way, maker = USUAL[name]
    problem = maker().on(DEVICE)
    torch.compiler.reset()
    with way.taken():
        eager = problem.run("triton")[0]
        compiled = torch.compile(lambda: problem.run("triton")[0] * 1.0, fullgraph=True)
        # The projections around the op may be another library call when compiled.
        tolerance = 2**-6 if problem.is_latent else 0.0
        torch.testing.assert_close(compiled(), eager, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["dense-single_pass", "dense-split", "latent-own"])
def test_float32_is_not_tf32(name: str) -> None:
    """tf32 alone would lose ten bits: its error is over 1e-4 here."""
    way, maker = USUAL[name]
    problem: Problem = maker().to(FLOAT32)
    exact, _ = problem.exact()
    with way.taken():
        output, _ = problem.on(DEVICE).run("triton")
    assert tolerances.relative_error(output.cpu(), exact) < (3e-5 if problem.is_latent else 2e-5)


@pytest.mark.parametrize("name", USUAL)
def test_the_specification_runs_on_the_device(name: str) -> None:
    """This is what the benchmark's gate rests on."""
    way, maker = USUAL[name]
    problem = maker().to(FLOAT32).on(DEVICE)
    with way.taken():
        for kernel, plain in zip(problem.run("triton"), problem.run("reference"), strict=True):
            torch.testing.assert_close(kernel, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("P", [384, 1536])
def test_blocks_of_queries_change_no_bit(P: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_latent(**LATENT_MODEL | {"N": 70, "P": P, "window": 300}, dtype=BFLOAT16).on(DEVICE)
    whole = LATENT.bits(problem)
    monkeypatch.setattr(tiles, "SCRATCH_BYTES", tiles.SCRATCH_BYTES // 32)
    for ours, theirs in zip(LATENT.bits(problem), whole, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.alone
@pytest.mark.parametrize("N", [5, 40], ids=["split", "single_pass"])
def test_offsets_of_dense_knowledge_beyond_32_bits(N: int) -> None:
    heads, D, M = 2, 128, 40_000
    # One slot of a knowledge base in the layout (M, slots, heads, D): M * stride passes 2^31 elements.
    slots = 2**31 // (M * heads * D) + 2
    _needs(2 * M * slots * heads * D)
    store = torch.empty(M, slots, heads, D, dtype=BFLOAT16, device=DEVICE)
    draw = torch.Generator(DEVICE).manual_seed(0)
    dense = torch.randn(heads, M, D, device=DEVICE, generator=draw).to(BFLOAT16)
    store[:, -1] = dense.transpose(0, 1)
    kappa = store[:, -1].transpose(0, 1)
    assert (M - 1) * kappa.stride(1) > 2**31
    query = torch.randn(1, heads, N, D, device=DEVICE, generator=draw).to(BFLOAT16)
    results = []
    for keys in (kappa, dense):
        knowledge = DenseKnowledge(keys, keys)
        output, lse = rectangular_attention(query, query, query, knowledge, return_lse=True, backend="triton")
        results.append((output, lse, evidence(query, knowledge, lse, backend="triton")))
    for strided, plain in zip(*results, strict=True):
        assert torch.equal(strided, plain)


@pytest.mark.alone
def test_offsets_of_latents_beyond_32_bits() -> None:
    P, M = 3072, 2**31 // 3072 + 500
    _needs(M * P + M * 8)
    problem = make_latent(**LATENT_MODEL | {"P": P, "M": 500}, dtype=BFLOAT16, storage=torch.int8).on(DEVICE)
    small = problem.knowledge

    def at_the_end(rows: Tensor) -> Tensor:
        """The rows as the last of M; the others, which a range hides, are zeros."""
        return torch.cat([rows.new_zeros(M - len(rows), *rows.shape[1:]), rows])

    # One list for keys and values: two would not say more.
    key = at_the_end(small.key)
    knowledge = LatentKnowledge(
        key, key, at_the_end(small.norm), small.projection, at_the_end(small.key_scale), at_the_end(small.value_scale)
    )
    shown = torch.tensor([[M - 500, M]], dtype=torch.int32, device=DEVICE).expand(2, 2)
    far = problem.but(knowledge=knowledge, knowledge_range=shown).run("triton")[0]
    near = problem.but(knowledge=dataclasses.replace(small, value=small.key)).run("triton")[0]
    torch.testing.assert_close(far, near, rtol=2**-7, atol=2**-7)


def _needs(size: int) -> None:
    if torch.cuda.mem_get_info()[0] < size + 2**30:
        pytest.skip(f"needs {size / 2**30:.1f} GiB of free device memory")
