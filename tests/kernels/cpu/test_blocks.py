"""The best tokens found in few blocks of them are those found in one pass over all, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kblam_kernels import DenseKnowledge, UnsupportedInputError, evidence, evidence_at, knowledge_lse, top_evidence
from kblam_kernels.evidence import blocks, cpu
from kblam_kernels.evidence.blocks import bounds
from kblam_kernels.evidence.call import BLOCK
from kblam_kernels.evidence.given import call_of
from tests.kernels.cpu.pinned import with_threads
from tests.kernels.problems import INF, Problem, make, make_latent
from tests.kernels.ways import DTYPES, STORAGE

M = 80 * BLOCK + 37
RANGES = torch.tensor([[0, 3000], [130, 9000], [5, 5]])


@pytest.fixture(autouse=True)
def without_gradients(library: None) -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each call of the C++ kernels for chosen blocks, how many."""
    counts: list[int] = []
    run = cpu.of_blocks
    monkeypatch.setattr(
        cpu, "of_blocks", lambda call, rows, blocks: counts.append(len(rows)) or run(call, rows, blocks)
    )
    return counts


def options_of(p: Problem, **more: Any) -> dict[str, Any]:
    return {"scale": p.scale, "knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range, **more}


def levels(p: Problem, **more: Any) -> tuple[Tensor, Tensor]:
    """The lse of prompt and knowledge, where the prompt has as much as the knowledge, and the blocks' maxima."""
    lse, block_max = knowledge_lse(p.knowledge_query, p.knowledge, return_block_max=True, **options_of(p, **more))
    return lse + 0.7, block_max


def peaked(p: Problem, factor: float = 12.0) -> Problem:
    """With queries so large that a few tokens of each row have nearly all attention."""
    return p.but(knowledge_query=p.knowledge_query * factor)


def hold(p: Problem, k: int, row_weight: Tensor | None = None, **more: Any) -> None:
    lse, block_max = levels(p, **more)
    given = (p.knowledge_query, p.knowledge, lse, k)
    options = options_of(p, row_weight=row_weight, **more)
    mass, index = top_evidence(*given, block_max=block_max, **options)
    expected, of_all = top_evidence(*given, **options)
    assert torch.equal(mass, expected)
    masses = evidence(*given[:3], **options)
    assert torch.equal(masses.gather(1, index), mass)
    assert all(len(set(row)) == len(row) for row in index.tolist()), "no token twice"
    same = (index == of_all) | (mass == 0) | (mass == mass.roll(1, 1)) | (mass == mass.roll(-1, 1))
    assert same.all(), "but among equals"


# `test_lse_cpu.py` has what the lse itself has to be.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", ["dense", *STORAGE], ids=str)
def test_maxima_are_those_of_the_reference(storage: Any, dtype: torch.dtype, instruction_set: str) -> None:
    options = {"knowledge_range": torch.tensor([[0, 700], [129, 9000], [5, 5]])}
    for N in (1, 9, 15):
        if storage == "dense":
            p = make(3, 4, 2, N, N + 4, 700, 24, dtype=dtype, **options)
        else:
            p = make_latent(3, 12, 3, N, N + 4, 700, D=16, P=37, **options).to(dtype, storage)
        lse, found = knowledge_lse(p.knowledge_query, p.knowledge, return_block_max=True, **options_of(p))
        plain = knowledge_lse(p.knowledge_query, p.knowledge, **options_of(p))
        torch.testing.assert_close(lse, plain, rtol=2e-6, atol=2e-6)
        exact = p.to(torch.float64)
        _, expected = knowledge_lse(exact.knowledge_query, exact.knowledge, return_block_max=True, **options_of(exact))
        assert found.dtype == torch.float32
        assert found.shape == (3, found.shape[1], N, 6)
        tolerance = 2e-2 if storage != "dense" and dtype != torch.float32 else 2e-5  # absorbed queries are rounded
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        assert (found[1, :, :, 0] == -INF).all()
        assert (found[2] == -INF).all()


def test_maxima_of_the_reference_are_the_largest_scores() -> None:
    """By the definition; chunks that end inside a block."""
    p = make(2, 4, 2, 3, 5, 300, 16, dtype=torch.float64, knowledge_range=torch.tensor([[0, 300], [20, 150]]))
    knowledge = p.knowledge
    assert isinstance(knowledge, DenseKnowledge)
    scores = torch.einsum("bhnd,hmd->bhnm", p.knowledge_query, knowledge.key) * 16**-0.5
    scores[1, ..., :20], scores[1, ..., 150:] = -INF, -INF
    blocks = torch.nn.functional.pad(scores, (0, 84), value=-INF).unflatten(-1, (3, BLOCK)).amax(-1)
    for chunk in (37, 4096):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("kblam_kernels.common.columns.CHUNK", chunk)
            patched.setattr("kblam_kernels.common.columns.LEAST", 1)
            _, found = knowledge_lse(p.knowledge_query, knowledge, return_block_max=True, **options_of(p))
        torch.testing.assert_close(found, blocks)


def test_a_row_has_its_bits_in_any_batch_and_for_any_threads(instruction_set: str) -> None:
    for N in (1, 9, 15):
        p = make(7, 4, 2, N, N + 4, 3000, 24, dtype=torch.bfloat16)
        together = levels(p)
        for row in (0, 3, 6):
            for alone, of_all in zip(levels(p.rows(slice(row, row + 1))), together, strict=True):
                assert torch.equal(alone[0], of_all[row])
        with with_threads(1):
            assert all(torch.equal(*pair) for pair in zip(levels(p), together, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", ["dense", *STORAGE], ids=str)
def test_the_best_are_those_of_one_pass(storage: Any, dtype: torch.dtype, instruction_set: str) -> None:
    for N, k in ((1, 8), (3, 1), (20, 5)):
        options = {"knowledge_range": RANGES, "knowledge_bias": torch.linspace(-1, 1, M)}
        if storage == "dense":
            p = make(3, 4, 2, N, N + 4, M, 24, dtype=dtype, **options)
        else:
            p = make_latent(3, 12, 3, N, N + 4, M, D=16, P=37, **options).to(dtype, storage)
        hold(peaked(p), k)
        hold(p, k, row_weight=torch.rand(3, 1, N).masked_fill(torch.rand(3, 1, N) < 0.3, 0))


def test_bytes() -> None:
    for N in (1, 9):
        p = make_latent(2, 7, 1, N, N, M, P=75, D=32, scale=0.25).to(torch.float32, torch.int8)
        hold(peaked(p), 8, int8_products=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("maker", [make, make_latent])
def test_a_bound_is_one_and_a_close_one(maker: Any, dtype: torch.dtype, instruction_set: str) -> None:
    """Of one row's scores, where nothing but rounding is between the bound and the best of the block."""
    for factor, far in ((1.0, 0.0), (12.0, 0.0), (12.0, 3e4), (1.0, -2e6)):
        p = peaked(maker(30, 1, 1, 1, 4, 1000, dtype=dtype, knowledge_bias=far), factor)
        p = p.but(knowledge_range=torch.tensor([[128, 1000]]).expand(30, 2))
        lse, block_max = levels(p)
        of_call = call_of(p.knowledge_query, p.knowledge, lse, torch.ones_like(lse), **options_of(p))
        bound = bounds(of_call, block_max)
        masses = evidence(p.knowledge_query, p.knowledge, lse, **options_of(p))
        best = torch.nn.functional.pad(masses, (0, 24)).unflatten(1, (8, BLOCK)).amax(-1)
        assert (bound[:, 0] == 0).all()
        assert (bound >= best).all()
        assert far or (bound <= best * 1.04).all()


def test_blocks_that_promise_more_than_they_hold(read: list[int]) -> None:
    """Many blocks have a token for each head; the best tokens, one in each of other blocks, are for all heads."""
    key = torch.full((4, 200 * BLOCK, 8), -1.0)
    for block in range(20):
        for head in range(4):
            key[head, block * BLOCK + head] = 1.0
    best = torch.arange(25, 39) * BLOCK + 100
    key[:, best] = (0.7 + 0.01 * torch.arange(14))[:, None]
    query = torch.ones(1, 4, 1, 8)
    knowledge = DenseKnowledge(key, key)
    lse, block_max = knowledge_lse(query, knowledge, return_block_max=True, scale=0.5)
    mass, index = top_evidence(query, knowledge, lse, 5, block_max=block_max, scale=0.5)
    masses = evidence(query, knowledge, lse, scale=0.5)
    assert index.tolist() == [best.flip(0)[:5].tolist()]
    assert torch.equal(mass, masses.gather(1, index))
    assert read == [10, 24], "ten decoys; then the others, and the blocks of the best"


@pytest.mark.parametrize("shared", [True, False])
def test_few_blocks_are_read(shared: bool, read: list[int]) -> None:
    p = peaked(make(3, 4, 2, 1, 4, M, 24, shared=shared, dtype=torch.float32), 30.0)
    hold(p, 2)
    assert sum(read) < 3 * 81 / 4
    assert read[0] == 3 * 4, "two for each of the two"


@pytest.mark.parametrize("k", [2, 11])
def test_most_of_a_list_is_read_in_one_pass(k: int, read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where attention is everywhere, which the first blocks show, and for so many of the best that they are most."""
    passes: list[int] = []
    run = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda call: passes.append(1) or run(call))
    p = peaked(make(2, 4, 2, 1, 4, M, 24, dtype=torch.float32), 0.01)
    lse, block_max = levels(p)
    mass, _ = top_evidence(p.knowledge_query, p.knowledge, lse, k, block_max=block_max)
    assert (passes, read) == ([1], [2 * 4] if k == 2 else [])
    assert torch.equal(mass, evidence(p.knowledge_query, p.knowledge, lse).topk(k).values)


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 700), st.integers(1, 40), st.floats(0.01, 40.0),
    st.sampled_from([make, make_latent]), st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape(B: int, N: int, tokens: int, k: int, factor: float, maker: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, tokens + 1, (B, 2), generator=generator).sort(-1).values
    bias = torch.randn(B, tokens, generator=generator)
    options = {"knowledge_range": ends, "knowledge_bias": bias.masked_fill(bias > 1, -INF)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "FEW", 2.0)  # of so few blocks most are read
        hold(peaked(maker(B, 4, 2, N, N + 1, tokens, 16, dtype=torch.float32, **options), factor), k)


@pytest.mark.parametrize("far", [-3e4, 3e4])
def test_scores_far_from_zero(far: float) -> None:
    """Rounded to two thousandths, and another way for the lse than for masses."""
    hold(peaked(make(2, 4, 2, 15, 20, M, 24, dtype=torch.float32, knowledge_bias=far)), 8)


def test_nan_shows(read: list[int]) -> None:
    p = peaked(make(2, 4, 2, 1, 4, M, 24, dtype=torch.float32))
    key = p.knowledge_key.clone()
    key[1, 3000, 5] = float("nan")
    p = p.but(knowledge_key=key, knowledge_range=torch.tensor([[0, 2990], [0, M]]))
    lse, block_max = levels(p)
    assert block_max[1, 1, 0].isnan().sum() == 1
    assert block_max[0].isfinite().sum() == 4 * 24
    mass, _ = top_evidence(p.knowledge_query, p.knowledge, lse, 16, block_max=block_max, **options_of(p))
    assert mass[1].isnan().all(), "as of one pass: the row's lse is NaN"
    assert mass[0].isfinite().all()


@pytest.mark.parametrize("k", [1, 5, 16])
def test_an_lse_of_nan_shows(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where most blocks are outside the row's range, and so many are read first that the others look enough."""
    monkeypatch.setattr(blocks, "FEW", 2.0)  # of so few blocks most are read
    p = peaked(make(2, 4, 2, 1, 4, M, 24, dtype=torch.float32, knowledge_range=torch.tensor([[300, 400], [0, M]])))
    lse, block_max = levels(p)
    lse[0, 1] = float("nan")
    given = (p.knowledge_query, p.knowledge, lse, k)
    mass, index = top_evidence(*given, block_max=block_max, **options_of(p))
    expected, _ = top_evidence(*given, **options_of(p))
    assert mass[0].isnan().all()
    assert torch.equal(mass[1], expected[1])
    assert ((index[0] >= 300) & (index[0] < 400)).all()


def test_the_default_device_of_torch_does_not_matter() -> None:
    p = peaked(make(2, 4, 2, 1, 4, M, 24, dtype=torch.float32))
    lse, block_max = levels(p)
    given, places = (p.knowledge_query, p.knowledge, lse), torch.tensor([[7, 3000], [0, M - 1]])
    expected = (*levels(p), *top_evidence(*given, 5, block_max=block_max), evidence_at(*given, places))
    with torch.device("meta"):  # in place of a GPU that these are not on
        found = (*levels(p), *top_evidence(*given, 5, block_max=block_max), evidence_at(*given, places))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("of", ["queries", "keys"])
def test_maxima_in_a_transform(of: str) -> None:
    p = make(2, 4, 2, 3, 5, 300, 16, dtype=torch.float64)
    key = p.knowledge_key
    many = torch.stack([p.knowledge_query, p.knowledge_query.flip(1)] if of == "queries" else [key, key.flip(1)])

    def maxima(one: Tensor) -> Tensor:
        query, keys = (one, key) if of == "queries" else (p.knowledge_query, one)
        return knowledge_lse(query, DenseKnowledge(keys, keys), return_block_max=True)[1]

    torch.testing.assert_close(torch.func.vmap(maxima)(many), torch.stack([maxima(one) for one in many]))


@pytest.mark.parametrize("how", ["compiled", "exported", "fakes", "meta", "vmap"])
def test_masses_of_chosen_tokens_where_nothing_can_be_looked_at(how: str) -> None:
    p = make(2, 4, 2, 1, 4, 300, 16, dtype=torch.float32)
    lse, key, places = levels(p)[0], p.knowledge_key, torch.tensor([[7, 299], [0, 7]])

    def at(query: Tensor, key: Tensor, lse: Tensor, places: Tensor) -> Tensor:
        return evidence_at(query, DenseKnowledge(key, key), lse, places)

    class Model(torch.nn.Module):
        def forward(self, *given: Tensor) -> Tensor:
            return at(*given)

    given = (p.knowledge_query, key, lse, places)
    expected = at(*given)
    if how == "fakes":
        with FakeTensorMode() as fakes:
            assert at(*map(fakes.from_tensor, given)).shape == (2, 2)
    elif how == "meta":
        assert at(*(tensor.to("meta") for tensor in given)).shape == (2, 2)
    elif how == "vmap":
        found = torch.func.vmap(at, (None, None, None, 0))(*given[:3], torch.stack([places, places.flip(1)]))
        torch.testing.assert_close(found, torch.stack([expected, expected.flip(1)]))
    elif how == "exported":
        torch.testing.assert_close(torch.export.export(Model(), given).module()(*given), expected)
    else:
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(at, backend="aot_eager", fullgraph=True)(*given), expected)


def test_rows_that_are_left_out_bound_nothing() -> None:
    p = peaked(make(3, 4, 2, 2, 5, M, 24, dtype=torch.float32))
    lse, block_max = levels(p)
    lse[0, 1], lse[1] = -INF, -INF  # padding
    weight = torch.ones(3, 4, 2)
    weight[2, 3, 1] = 0.0
    lse[2, 3, 1] = block_max[2, 3, 1] = float("nan")
    given = (p.knowledge_query, p.knowledge, lse, 7)
    mass, index = top_evidence(*given, row_weight=weight, block_max=block_max)
    expected, of_all = top_evidence(*given, row_weight=weight)
    assert torch.equal(mass, expected)
    assert torch.equal(index[::2], of_all[::2])
    assert (mass[1] == 0).all()


@pytest.mark.parametrize("why", ["a weight below 0", "gradients", "another backend", "the environment"])
def test_maxima_are_not_used(why: str, read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    p = peaked(make(2, 4, 2, 1, 4, M, 24, dtype=torch.float32))
    lse, block_max = levels(p)
    options: dict[str, Any] = {}
    if why == "a weight below 0":
        options["row_weight"] = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1)
    elif why == "another backend":
        options["backend"] = "reference"
    elif why == "the environment":
        monkeypatch.setenv("KBLAM_BACKEND", "reference")
    places = torch.tensor([[7, 3000], [0, M - 1]])
    with torch.set_grad_enabled(why == "gradients"):
        query = p.knowledge_query.clone().requires_grad_(why == "gradients")
        given = (query, p.knowledge, lse)
        mass, index = top_evidence(*given, 5, block_max=block_max, **options)
        masses = evidence(*given, **options)
        expected = masses.topk(5, -1)
        at = evidence_at(*given, places, **options) if why != "a weight below 0" else None
        if why == "gradients":
            mass.sum().backward()
            assert query.grad is not None
    assert torch.equal(mass, expected.values)
    assert torch.equal(index, expected.indices)
    assert at is None or torch.equal(at, masses.gather(1, places))
    assert read == []


@pytest.mark.parametrize("maker", [make, make_latent])
def test_masses_of_chosen_tokens(maker: Any, instruction_set: str, read: list[int]) -> None:
    p = maker(3, 4, 2, 2, 5, M, dtype=torch.float32, knowledge_range=RANGES)
    lse, _ = levels(p)
    masses = evidence(p.knowledge_query, p.knowledge, lse, **options_of(p))
    places = torch.tensor([[0, 2943, 2942, 2943], [255, M - 1, 129, 131], [5, 4, 127, 5]])
    found = evidence_at(p.knowledge_query, p.knowledge, lse, places, **options_of(p))
    assert torch.equal(found, masses.gather(1, places))
    assert read == [2 + 2 + 1]
    assert evidence_at(p.knowledge_query, p.knowledge, lse, places[:, :0], **options_of(p)).shape == (3, 0)


def test_nothing_to_choose_from() -> None:
    for p in (make(M=0, dtype=torch.float32), make(B=0, dtype=torch.float32)):
        lse, block_max = levels(p)
        B, tokens = len(lse), p.knowledge.num_tokens
        assert block_max.shape[-1] == -(-tokens // BLOCK)
        mass, index = top_evidence(p.knowledge_query, p.knowledge, lse, 3, block_max=block_max)
        assert mass.shape == index.shape == (B, min(3, tokens))


def test_bad_input() -> None:
    p = make(2, 4, 2, 1, 4, 300, 24, dtype=torch.float32)
    lse, block_max = levels(p)
    given = (p.knowledge_query, p.knowledge, lse)
    with pytest.raises(
        UnsupportedInputError, match=r"block_max must be float32 \(B=2, Hq=4, N=1, blocks=3\) on cpu; got"
    ):
        top_evidence(*given, 3, block_max=block_max[..., :2])
    with pytest.raises(UnsupportedInputError, match="block_max must be a tensor"):
        top_evidence(*given, 3, block_max=True)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedInputError, match=r"places must be in \[0, M=300\); got 300"):
        evidence_at(*given, torch.tensor([[0], [300]]))
    with pytest.raises(UnsupportedInputError, match=r"places must be in \[0, M=300\); got -1"):
        evidence_at(*given, torch.tensor([[0], [-1]]))
    for wrong in (torch.zeros(3, 1, dtype=torch.int64), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(UnsupportedInputError, match="places must be int64"):
            evidence_at(*given, wrong)
    with pytest.raises(UnsupportedInputError, match="places must be a tensor"):
        evidence_at(*given, [[0], [1]])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedInputError, match="return_block_max must be True or False"):
        knowledge_lse(*given[:2], return_block_max=1)  # type: ignore[call-overload]


def test_the_op_looks_at_no_block_that_is_not_there() -> None:
    p = make(2, 4, 2, 1, 4, 300, 24, dtype=torch.float32)
    given = (p.knowledge_query, p.knowledge.key, None, None, None, torch.zeros(2, 4, 1), None, None)
    for rows, chosen in (([0, 2], [0, 0]), ([0, -1], [0, 0]), ([0, 1], [0, 3]), ([0], [0, 0])):
        with pytest.raises(RuntimeError, match=r"not one of the call's|of one length"):
            torch.ops.kblam_kernels.evidence_blocks_cpu(
                *given, torch.ones(2, 4, 1), torch.tensor(rows), torch.tensor(chosen), 1.0, False, ""
            )
