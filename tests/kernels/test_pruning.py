"""Attention to the k best triples: the right ones, with their own scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, prune, rectangular_attention
from kblam_kernels.rectangular import reference
from tests.kernels.problems import Problem, make

INF = float("inf")
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
MASK = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])


def knowledge_of(p: Problem) -> DenseKnowledge:
    return DenseKnowledge(p.knowledge_key, p.knowledge_value)


def pruned(p: Problem, k: int, **options: Tensor) -> tuple[DenseKnowledge, Tensor, Tensor]:
    return prune(
        p.knowledge_query,
        knowledge_of(p),
        k,
        knowledge_bias=p.knowledge_bias,
        knowledge_range=p.knowledge_range,
        **options,
    )


def attend(p: Problem, knowledge: DenseKnowledge, bias: float | Tensor) -> Tensor:
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


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-row"])
@pytest.mark.parametrize("bias", [0.0, 0.5, TOKEN_BIAS], ids=["none", "number", "tokens"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_result_is_dense_attention_that_hides_the_rest(shared: bool, bias: float | Tensor, k: int) -> None:
    p = make(shared=shared, knowledge_bias=bias)
    knowledge, chosen_bias, index = pruned(p, k)
    assert knowledge.key.shape == (2, 4, k, 16)
    hidden = torch.full((2, 7), -INF)
    for b in range(2):
        hidden[b, index[b]] = torch.as_tensor(bias, dtype=torch.float32).expand(7)[index[b]]
    torch.testing.assert_close(attend(p, knowledge, chosen_bias), attend(p, knowledge_of(p), hidden))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-row"])
def test_the_best_by_score_summed_over_heads_and_queries_come_first(shared: bool) -> None:
    p = make(B=3, M=40, shared=shared)
    keys = p.knowledge_key.expand(3, 4, 40, 16)
    summed = (p.knowledge_query @ keys.mT).sum((1, 2))
    assert torch.equal(pruned(p, 5)[2], summed.topk(5).indices)


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
    torch.testing.assert_close(attend(p, knowledge, bias), attend(p, knowledge_of(p), TOKEN_BIAS))


def test_row_weight_leaves_padding_out_of_the_vote() -> None:
    p = make(N=9, M=40, prompt_mask=MASK)
    loud = p.knowledge_query.clone()
    loud[0, :, :4] = 100 * p.knowledge_key[:, 11, None]  # the padding queries of row 0 all shout for one triple
    p = p.but(knowledge_query=loud)
    assert pruned(p, 1)[2][0] == 11
    index = pruned(p, 3, row_weight=MASK[:, None])[2]
    alone = p.but(knowledge_query=loud[:1, :, 4:])
    assert torch.equal(index[:1], pruned(alone, 3)[2])


def test_gradients_reach_the_chosen_keys_and_values_only() -> None:
    p = make().leaves()
    knowledge, bias, index = pruned(p, 2)
    attend(p, knowledge, bias).sum().backward()
    chosen = torch.zeros(7, dtype=torch.bool)
    chosen[index.flatten()] = True
    for gradient in (p.knowledge_key.grad, p.knowledge_value.grad):
        assert gradient is not None
        assert torch.equal(gradient.abs().sum((0, 2)) > 0, chosen)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    expected = pruned(p, 3)[2]
    monkeypatch.setattr(reference, "CHUNK", chunk)
    assert torch.equal(pruned(p, 3)[2], expected)


def test_nothing_to_choose_from() -> None:
    knowledge, bias, index = pruned(make(M=0), 3)
    assert (knowledge.num_tokens, bias.shape, index.shape) == (0, (2, 0), (2, 0))
