"""Attention to the k best triples: the right ones, with their own scores, of dense keys and of latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, evidence, knowledge_lse, prune, rectangular_attention
from kblam_kernels.pruning import choose, interface, select
from tests.kernels.problems import INF, Problem, make, make_latent
from tests.kernels.ways import DTYPES, STORAGE, stored

TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
MASK = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
LISTS: dict[str, Any] = {
    "shared": make,
    "per-row": lambda **options: make(shared=False, **options),
    "latent": make_latent,
}


def pruned(p: Problem, k: int, **options: Tensor) -> tuple[DenseKnowledge, Tensor, Tensor]:
    given = {"knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range, **options}
    return prune(p.knowledge_query, p.knowledge, k, **given)  # type: ignore[arg-type]


def attend(p: Problem, knowledge: Any, bias: float | Tensor) -> Tensor:
    return rectangular_attention(
        p.query,
        p.key,
        p.value,
        knowledge,
        p.knowledge_query,
        knowledge_bias=bias,
        prompt_mask=p.prompt_mask,
        backend="reference",
    )


def hiding_the_rest(p: Problem, index: Tensor, bias: Tensor) -> Tensor:
    """Attention to the whole list that hides what was not chosen."""
    hidden = torch.full((len(index), p.knowledge.num_tokens), -INF).scatter(1, index, bias)
    return attend(p, p.knowledge, hidden)


@pytest.mark.parametrize("layout", LISTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"knowledge_bias": 0.5}, {"knowledge_bias": TOKEN_BIAS}, {"knowledge_range": RANGES}],
    ids=["plain", "number", "tokens", "ranges"],
)
@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_the_result_is_attention_that_hides_the_rest(layout: str, options: dict[str, Any], k: int) -> None:
    p = LISTS[layout](**options)
    knowledge, bias, index = pruned(p, k)
    assert isinstance(knowledge, DenseKnowledge)
    assert knowledge.key.shape == (2, 4, min(k, 7), 16)
    torch.testing.assert_close(attend(p, knowledge, bias), hiding_the_rest(p, index, bias))


@pytest.mark.parametrize("layout", LISTS)
def test_the_best_by_score_summed_over_heads_and_queries_come_first(layout: str) -> None:
    p = LISTS[layout](B=3, M=40)
    dense = p.knowledge.to_dense() if p.is_latent else p.knowledge
    summed = (p.knowledge_query @ dense.key.expand(3, 4, 40, 16).mT).sum((1, 2))
    assert torch.equal(pruned(p, 5)[2], summed.topk(5).indices)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LISTS)
def test_the_choice_is_that_of_float64(layout: str, dtype: torch.dtype) -> None:
    hold_choice(LISTS[layout](B=3, N=3, M=70, dtype=dtype), 9)


@pytest.mark.parametrize("storage", STORAGE, ids=stored)
def test_the_choice_among_stored_latents(storage: torch.dtype | None) -> None:
    hold_choice(make_latent(B=3, M=70, dtype=torch.bfloat16, storage=storage), 9)


def hold_choice(problem: Problem, k: int) -> None:
    """The k best by float64 scores but for ties, best first, and exactly their rows."""
    kept, bias, index = pruned(problem, k)
    exact = problem.to(torch.float64)
    key = (exact.knowledge.to_dense() if exact.is_latent else exact.knowledge).key
    scores = torch.einsum("bhnd,bhmd->bm", exact.knowledge_query, key.expand(len(exact.query), *key.shape[-3:]))
    tie = 1e-4 * scores.square().mean().sqrt()
    chosen = scores.gather(1, index)
    assert all(len(set(row)) == k for row in index.tolist())
    assert (chosen >= scores.topk(k).values[:, -1:] - tie).all(), "a better one was left out"
    assert (chosen[:, :-1] >= chosen[:, 1:] - tie).all(), "best first"
    assert (bias == 0).all()
    if not problem.is_latent:
        given = problem.knowledge
        for ours, whole in ((kept.key, given.key), (kept.value, given.value)):
            for b, rows in enumerate(index):
                assert torch.equal(ours[b], whole.expand(len(index), *whole.shape[-3:])[b][:, rows])


@pytest.mark.parametrize("layout", LISTS)
def test_prune_is_choose_then_select(layout: str) -> None:
    p = LISTS[layout](M=20)
    kept, _, index = pruned(p, 4)
    assert torch.equal(choose(p.knowledge_query, p.knowledge, 4), index)
    again = select(p.knowledge, index)
    assert torch.equal(again.key, kept.key)
    assert torch.equal(again.value, kept.value)


def test_the_choice_of_latents_is_that_of_the_dense_keys() -> None:
    p = make_latent(B=3, M=40, knowledge_bias=torch.zeros(40).masked_fill(torch.arange(40) == 4, -INF))
    weight = torch.rand(3, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    latent = pruned(p, 6, row_weight=weight)
    dense = pruned(p.but(knowledge=p.knowledge.to_dense()), 6, row_weight=weight)
    assert torch.equal(latent[2], dense[2])
    assert torch.equal(latent[1], dense[1])
    torch.testing.assert_close(latent[0].key, dense[0].key)
    torch.testing.assert_close(latent[0].value, dense[0].value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantised_latents_keep_their_scales(dtype: torch.dtype) -> None:
    p = make_latent(M=20, dtype=torch.float32, storage=dtype)
    knowledge, bias, index = pruned(p, 5)
    torch.testing.assert_close(attend(p, knowledge, bias), hiding_the_rest(p, index, bias), rtol=1e-4, atol=1e-4)


def test_a_hidden_triple_is_chosen_only_when_nothing_else_is_left() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    loud = p.knowledge_key.clone()
    loud[:, 1] = 100 * p.knowledge_query.sum((0, 2))  # by score it would be first
    p = p.but(knowledge_key=loud)
    assert (pruned(p.but(knowledge_bias=0.0), 1)[2] == 1).all()
    _, bias, index = pruned(p, 6)
    assert 1 not in index
    assert bias.isfinite().all()


def test_ranges_limit_the_choice_of_each_row() -> None:
    p = make(knowledge_range=torch.tensor([[0, 7], [2, 5]], dtype=torch.int32))
    _, bias, index = pruned(p, 4)
    assert set(index[1, :3].tolist()) == {2, 3, 4}
    assert bias[1].tolist() == [0, 0, 0, -INF]  # a fourth place that no triple of the range fills stays empty
    assert bias[0].isfinite().all()


@pytest.mark.parametrize("k", [7, 100])
def test_keeping_all_changes_nothing(k: int) -> None:
    p = make(knowledge_bias=TOKEN_BIAS, prompt_mask=MASK)
    knowledge, bias, index = pruned(p, k)
    assert index.sort().values.tolist() == [list(range(7))] * 2
    torch.testing.assert_close(attend(p, knowledge, bias), attend(p, p.knowledge, TOKEN_BIAS))


def test_row_weight_leaves_padding_out_of_the_vote() -> None:
    p = make(N=9, M=40, prompt_mask=MASK)
    loud = p.knowledge_query.clone()
    loud[0, :, :4] = 100 * p.knowledge_key[:, 11, None]  # the padding queries of row 0 all shout for one triple
    p = p.but(knowledge_query=loud)
    assert pruned(p, 1)[2][0] == 11
    index = pruned(p, 3, row_weight=MASK[:, None])[2]
    alone = p.but(knowledge_query=loud[:1, :, 4:])
    assert torch.equal(index[:1], pruned(alone, 3)[2])


@pytest.mark.parametrize("layout", LISTS)
def test_padding_and_what_is_hidden_may_be_nan(layout: str) -> None:
    p = LISTS[layout](N=3, prompt_mask=MASK, knowledge_range=RANGES[1:].expand(2, 2))
    weight = torch.ones(2, 1, 3).index_fill(2, torch.tensor([0]), 0.0)
    expected = pruned(p, 3, row_weight=weight)
    padded, keys = p.knowledge_query.clone(), p.knowledge_key.clone()
    padded[:, :, 0] = float("nan")
    keys[..., :2, :], keys[..., 5:, :] = float("nan"), float("nan")
    for ours, theirs in zip(
        pruned(p.but(knowledge_query=padded, knowledge_key=keys), 3, row_weight=weight), expected, strict=True
    ):
        assert torch.equal(getattr(ours, "key", ours), getattr(theirs, "key", theirs))


def test_gradients_reach_the_chosen_keys_and_values_only() -> None:
    p = make().leaves()
    knowledge, bias, index = pruned(p, 2)
    attend(p, knowledge, bias).sum().backward()
    chosen = torch.zeros(7, dtype=torch.bool)
    chosen[index.flatten()] = True
    for gradient in (p.knowledge_key.grad, p.knowledge_value.grad):
        assert gradient is not None
        assert torch.equal(gradient.abs().sum((0, 2)) > 0, chosen)


@pytest.mark.parametrize("layout", LISTS)
@pytest.mark.parametrize("numbers", [1, 200])
def test_parts_change_nothing(layout: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = LISTS[layout](M=40)
    expected = pruned(p, 5)[2]
    monkeypatch.setattr(interface, "CONVERTED", numbers)
    assert torch.equal(pruned(p, 5)[2], expected)


@pytest.mark.parametrize("layout", LISTS)
def test_nothing_to_choose_from(layout: str) -> None:
    knowledge, bias, index = pruned(LISTS[layout](M=0), 3)
    assert (knowledge.num_tokens, bias.shape, index.shape) == (0, (2, 0), (2, 0))


@pytest.mark.parametrize("layout", LISTS)
def test_one_graph(layout: str, fresh_compiler: None) -> None:
    p = LISTS[layout](M=20, dtype=torch.float32)

    def call(query: Tensor) -> tuple[Tensor, ...]:
        kept, bias, index = prune(query, p.knowledge, 3)
        return kept.key, kept.value, bias, index

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(p.knowledge_query), call(p.knowledge_query), strict=True):
        torch.testing.assert_close(ours, theirs)


def mass_of(p: Problem, index: Tensor) -> Tensor:
    """Mass of the chosen triples over that of the best as many."""
    mass = evidence(p.knowledge_query, p.knowledge, p.run()[1])
    return mass.gather(1, index).sum(1) / mass.topk(index.shape[1], dim=1).values.sum(1)


def test_one_head_and_query_choose_by_mass_exactly() -> None:
    p = make_latent(H=1, G=1, N=1, M=200)
    torch.testing.assert_close(mass_of(p, pruned(p, 10)[2]), torch.ones(2).double())


@pytest.mark.parametrize(("heads", "queries", "at_least"), [(2, 1, 0.9), (8, 1, 0.85), (8, 8, 0.9)])
def test_recall_over_heads_and_queries(heads: int, queries: int, at_least: float) -> None:
    """A sum of scores is not a sum of exponentials: some mass is missed, little next to taking any 10 of 1,000."""
    p = make_latent(B=8, H=heads, G=1, N=queries, M=1000)
    recall = mass_of(p, pruned(p, 10)[2]).mean()
    assert recall > at_least
    assert recall > mass_of(p, torch.arange(10).expand(8, 10)).mean() + 0.1


@pytest.mark.parametrize("maker", [make, make_latent])
def test_fewer_tokens_than_asked_for_leave_no_nan_of_others(maker: Callable[..., Problem]) -> None:
    """The rest of the k are tokens that the row does not see, which may be NaN."""
    ranges = torch.tensor([[0, 4], [4, 16]], dtype=torch.int32)
    problem = maker(B=2, M=16, knowledge_range=ranges, dtype=torch.float32)
    spoilt = torch.where(torch.arange(16)[:, None] == 9, torch.nan, problem.knowledge_key)
    problem = problem.but(knowledge_key=spoilt)
    chosen, bias, _ = prune(problem.knowledge_query, problem.knowledge, 16, knowledge_range=ranges)
    output, lse = problem.but(knowledge=chosen, knowledge_bias=bias, knowledge_range=None).run()
    expected = problem.run()
    torch.testing.assert_close(output[:1], expected[0][:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lse[:1], expected[1][:1], rtol=1e-4, atol=1e-4)


def test_the_least_number_hides_a_token_as_minus_infinity_does() -> None:
    problem = make(M=9)
    for hides in (-float("inf"), torch.finfo(torch.float32).min):
        bias = torch.zeros(9).index_fill(0, torch.tensor([0, 2, 3, 5, 6, 8]), hides)
        *_, index = prune(problem.knowledge_query, problem.knowledge, 3, knowledge_bias=bias)
        assert (index.sort().values == torch.tensor([1, 4, 7])).all()
        assert knowledge_lse(problem.knowledge_query, problem.knowledge, knowledge_bias=bias).isfinite().all()
        nothing = knowledge_lse(problem.knowledge_query, problem.knowledge, knowledge_bias=torch.full((9,), hides))
        assert (nothing == -float("inf")).all()
