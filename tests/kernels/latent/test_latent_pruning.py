"""Pruning of latents: the choice and the result of dense keys, as dense knowledge a row or as latents for the batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, evidence, prune, rectangular_attention
from kblam_kernels.latent import quantise
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)


def pruned(p: LatentProblem, k: int, knowledge: Any = None, **options: Any) -> Any:
    return prune(
        p.knowledge_query,
        knowledge or p.knowledge,
        k,
        knowledge_bias=p.knowledge_bias,
        knowledge_range=p.knowledge_range,
        **options,
    )


def attend(p: LatentProblem, knowledge: DenseKnowledge | LatentKnowledge, bias: Tensor) -> Tensor:
    return rectangular_attention(
        p.query, p.key, p.value, knowledge, p.knowledge_query, knowledge_bias=bias, backend="reference"
    )


def hiding_the_rest(p: LatentProblem, index: Tensor, bias: Tensor) -> Tensor:
    """Attention to the whole list that hides what was not chosen."""
    hidden = torch.full((2, p.knowledge.num_tokens), -INF).scatter(1, index, bias)
    return attend(p, p.knowledge, hidden)


@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
@pytest.mark.parametrize("options", [{}, {"knowledge_bias": BIAS}, {"knowledge_range": RANGES}], ids=str)
@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_the_result_is_attention_that_hides_the_rest(shared: bool, options: dict[str, Any], k: int) -> None:
    p = make(**options)
    knowledge, bias, index = pruned(p, k, shared=shared)
    assert isinstance(knowledge, LatentKnowledge if shared else DenseKnowledge)
    assert knowledge.num_tokens == min(k, 7)
    torch.testing.assert_close(attend(p, knowledge, bias), hiding_the_rest(p, index, bias))


@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
def test_the_choice_is_that_of_the_dense_keys(shared: bool) -> None:
    p = make(B=3, M=40, knowledge_bias=torch.zeros(40).masked_fill(torch.arange(40) == 4, -INF))
    weight = torch.rand(3, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    latent, dense = (
        pruned(p, 6, knowledge, shared=shared, row_weight=weight) for knowledge in (p.knowledge, p.knowledge.to_dense())
    )
    assert torch.equal(latent[2], dense[2])
    assert torch.equal(latent[1], dense[1])
    if not shared:
        torch.testing.assert_close(latent[0].key, dense[0].key)
        torch.testing.assert_close(latent[0].value, dense[0].value)


def test_one_choice_for_the_batch_counts_the_rows_that_see_a_triple() -> None:
    p = make(B=2, M=7, knowledge_range=torch.tensor([[0, 5], [3, 5]], dtype=torch.int32))
    keys = p.knowledge.to_dense().key
    scores = (p.knowledge_query @ keys.mT).sum((1, 2))
    scores[0, 5:] = 0
    scores[1, :3] = 0
    scores[1, 5:] = 0
    summed = scores.sum(0)
    summed[5:] = -INF  # nobody sees them
    _, bias, index = pruned(p, 5, shared=True)
    assert torch.equal(index, summed.topk(5).indices.expand(2, -1))
    assert torch.equal(bias == -INF, torch.stack([torch.zeros(5).bool(), index[0] < 3]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
def test_quantised_latents_keep_their_scales(dtype: torch.dtype, shared: bool) -> None:
    p = make(M=20, dtype=torch.float32)
    k = p.knowledge
    (key, key_scale), (value, value_scale) = (quantise(latents, dtype) for latents in (k.key, k.value))
    p = p.but(knowledge=LatentKnowledge(key, value, k.norm, k.projection, key_scale=key_scale, value_scale=value_scale))
    knowledge, bias, index = pruned(p, 5, shared=shared)
    torch.testing.assert_close(attend(p, knowledge, bias), hiding_the_rest(p, index, bias), rtol=1e-4, atol=1e-4)


def test_dense_knowledge_of_each_row_can_be_chosen_for_the_batch() -> None:
    p = make(B=2, M=9)
    rows = DenseKnowledge(*(t.repeat(2, 1, 1, 1) for t in dataclasses.astuple(p.knowledge.to_dense())))
    knowledge, _, index = pruned(p, 4, rows, shared=True)
    assert knowledge.key.shape == (2, 4, 4, 16)
    assert torch.equal(knowledge.key, rows.key[:, :, index[0]])


def mass_of(p: LatentProblem, index: Tensor) -> Tensor:
    """Mass of the chosen triples over that of the best as many."""
    mass = evidence(p.knowledge_query, p.knowledge, p.run()[1])
    return mass.gather(1, index).sum(1) / mass.topk(index.shape[1], dim=1).values.sum(1)


def test_one_head_and_query_choose_by_mass_exactly() -> None:
    p = make(H=1, G=1, N=1, M=200)
    torch.testing.assert_close(mass_of(p, pruned(p, 10)[2]), torch.ones(2).double())


@pytest.mark.parametrize(("heads", "queries", "at_least"), [(2, 1, 0.9), (4, 1, 0.85), (8, 8, 0.9)])
def test_recall_over_heads_and_queries(heads: int, queries: int, at_least: float) -> None:
    """A sum of scores is not a sum of exponentials: some mass is missed, little next to taking any 10 of 1,000."""
    p = make(B=8, H=heads, G=1, N=queries, M=1000)
    recall = mass_of(p, pruned(p, 10)[2]).mean()
    assert recall > at_least
    assert recall > mass_of(p, torch.arange(10).expand(8, 10)).mean() + 0.1
