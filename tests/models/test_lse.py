"""The lse without the output is the lse with it, and where it cannot be had alone nothing asks for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kblam.models.lse import can_be_alone, lse_alone, tokens_at_once
from kblam_kernels import LatentKnowledge, RectangularAttention, knowledge_lse
from tests.kernels.problems import INF, make, make_latent

PADDED = torch.arange(20) >= torch.tensor([[0], [7], [20]])
RANGES = torch.tensor([[0, 60], [10, 20], [5, 5]])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"prompt_mask": PADDED},
    "window": {"window": 3},
    "bias": {"knowledge_bias": torch.linspace(-2, 2, 60), "knowledge_range": RANGES},
}


@torch.no_grad()
@pytest.mark.parametrize("N", [1, 15])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("maker", [make, make_latent])
def test_it_is_the_lse_of_the_attention(maker: Any, name: str, N: int) -> None:
    p = maker(3, 4, 2, N, 20, 60, dtype=torch.float32, **OPTIONS[name])
    attend = RectangularAttention(p.knowledge)
    given = {
        "scale": 0.3,
        "window": p.window,
        "knowledge_bias": p.knowledge_bias,
        "prompt_mask": p.prompt_mask,
        "knowledge_range": p.knowledge_range,
    }
    assert can_be_alone(attend, p.knowledge_query)
    _, expected = attend(p.query, p.key, p.value, p.knowledge_query, **given)
    found, block_max = lse_alone(attend, p.query, p.key, p.value, p.knowledge_query, **given)
    assert block_max is None, "of so short a list"
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
    if name == "padding":
        assert (found[2] == -INF).all(), "no prompt is seen, so no knowledge"


@torch.no_grad()
def test_of_a_long_list_the_largest_scores_of_blocks_come_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.models.lse.IN_BLOCKS_FROM", 60)
    p = make_latent(3, 4, 2, 2, 20, 60, dtype=torch.float32, **OPTIONS["bias"])
    given = {"scale": 0.3, "knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range}
    attend = RectangularAttention(p.knowledge)
    lse, found = lse_alone(attend, p.query, p.key, p.value, p.knowledge_query, window=3, prompt_mask=None, **given)
    expected, block_max = knowledge_lse(p.knowledge_query, p.knowledge, return_block_max=True, **given)
    assert found is not None
    assert torch.equal(found, block_max)
    assert (lse > expected).all(), "the prompt's part is in it"
    monkeypatch.setattr("kblam.models.lse.num_blocks", lambda tokens: tokens)
    for most, is_there in ((3 * 4 * 2 * 60, True), (3 * 4 * 2 * 60 - 1, False)):
        monkeypatch.setattr("kblam.models.lse.MOST_MAXIMA", most)
        _, found = lse_alone(attend, p.query, p.key, p.value, p.knowledge_query, window=3, prompt_mask=None, **given)
        assert (found is not None) == is_there, "more would take too much memory"
        assert tokens_at_once(p.knowledge, 3) == (2 if is_there else 1)
    monkeypatch.setattr("kblam.models.lse.MOST_MAXIMA", 1)
    assert tokens_at_once(p.knowledge, 3) == 1
    monkeypatch.setattr("kblam.models.lse.IN_BLOCKS_FROM", 61)
    assert tokens_at_once(p.knowledge, 3) is None


@pytest.mark.parametrize("why", ["gradients", "a backend by name", "keys and values made of latents", "no query yet"])
def test_it_is_not_asked_for(why: str) -> None:
    p = make_latent(dtype=torch.float32)
    knowledge, backend, query = p.knowledge, "auto", p.knowledge_query
    assert isinstance(knowledge, LatentKnowledge)
    if why == "a backend by name":
        backend = "reference"
    elif why == "keys and values made of latents":
        knowledge = replace(knowledge, materialised=True)
    with torch.set_grad_enabled(why == "gradients"):
        given = None if why == "no query yet" else query
        assert not can_be_alone(RectangularAttention(knowledge, backend=backend), given)
