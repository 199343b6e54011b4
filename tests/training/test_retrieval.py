"""Stage 1: where it starts, what it learns, and the threshold."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.adapter.confidence import Signs
from kblam.errors import TrainingError
from kblam.training.calibrate import PRIOR, Case, learn
from kblam.training.material import Material
from kblam.training.questions import Kind
from kblam.training.retrieval import RetrievalBatch, RetrievalData, retrieval_losses, retrieval_scores, train_retrieval
from kblam.training.start import COSINE, GAIN, Measured, initialise, measure, right_padded

SHAPE = {"embedding_dim": 256, "hidden_size": 32, "num_layers": 4, "num_heads": 3, "head_dim": 64, "layers": (1, 3)}


def fresh(**options: object) -> KnowledgeAdapter:
    return KnowledgeAdapter(AdapterConfig(**{**SHAPE, "question_head": "linear", **options}))


def test_scores_start_as_cosines_against_the_prompt() -> None:
    adapter = fresh()
    usual = Measured.usual(adapter.config, 0.0)
    weighs = torch.tensor([[1.0, 3.0, 5.0], [3.0, 5.0, 7.0]])  # of two prompts
    measured = Measured(dict.fromkeys((1, 3), weighs), usual.scale)
    initialise(adapter, measured, seed=0)
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(40, 256, generator=draw)
    for cosine in (0.0, 0.5, COSINE, 1.0):
        other = torch.randn(40, 256, generator=draw)
        other = other - (other * base).sum(-1, keepdim=True) / (base * base).sum(-1, keepdim=True) * base
        other = F.normalize(other, dim=-1) * base.norm(dim=-1, keepdim=True)
        mixed = cosine * base + math.sqrt(1 - cosine**2) * other
        with torch.no_grad():
            scores = retrieval_scores(adapter, base, mixed, usual.scale).diagonal(dim1=-2, dim2=-1).mean(-1)  # (L, H)
        wanted = weighs.mean(0) + GAIN * (cosine - COSINE)
        torch.testing.assert_close(scores, wanted.expand(2, 3), atol=3.0, rtol=0.0)


def test_losses_are_those_of_one_softmax_in_float64() -> None:
    adapter = fresh(question_head="mlp", question_hidden_dim=8)
    draw = torch.Generator().manual_seed(2)
    question, keys = torch.randn(4, 256, generator=draw), torch.randn(6, 256, generator=draw)
    wanted = torch.zeros(4, 6)
    wanted[0, 2], wanted[1, 3], wanted[1, 4] = 1.0, 0.5, 0.5
    bias = torch.zeros(4, 6)
    bias[2, 1] = -1e9
    lse = torch.rand(2, 3, 4, generator=draw)
    scale = {1: 0.125, 3: 0.2}
    found = retrieval_losses(adapter, RetrievalBatch(question, keys, wanted, bias), lse, scale, bf16=False)
    scores = retrieval_scores(adapter.double(), question.double(), keys.double(), scale) + bias.double()
    shares = torch.cat([scores, lse.double()[..., None]], -1).softmax(-1)[..., :-1]
    retrieval = -(shares.log()[:, :, :2].clamp(min=-1e6) * wanted[:2]).sum(-1).mean()
    refusal = -(1 - shares[:, :, 2:].sum(-1)).log().mean()
    torch.testing.assert_close(found[0].double(), retrieval, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), refusal, rtol=1e-4, atol=1e-6)


def a_batch(wanted: torch.Tensor) -> RetrievalBatch:
    draw = torch.Generator().manual_seed(2)
    rows, columns = wanted.shape
    question, keys = (torch.randn(count, 256, generator=draw) for count in (rows, columns))
    return RetrievalBatch(question, keys, wanted, torch.zeros(rows, columns))


def test_a_batch_without_questions_of_one_kind_has_no_loss_of_it() -> None:
    """A mean of none would be NaN, in the log too."""
    adapter, lse, scale = fresh(), torch.zeros(2, 3, 2), {1: 0.125, 3: 0.125}
    answered, refused = (a_batch(torch.eye(2) * wanted) for wanted in (1, 0))
    found, nothing = retrieval_losses(adapter, answered, lse, scale, bf16=False)
    none, left = retrieval_losses(adapter, refused, lse, scale, bf16=False)
    assert (nothing.item(), none.item()) == (0, 0)
    assert found.item() > 0 < left.item()
    for loss in (found + nothing, none + left):
        assert all(
            slope is None or slope.isfinite().all()
            for slope in torch.autograd.grad(loss, list(adapter.parameters()), allow_unused=True, retain_graph=True)
        )


def test_a_stage_that_diverges_says_which_rate_is_too_high() -> None:
    adapter = fresh()
    measured = Measured.usual(adapter.config, 3.0)
    initialise(adapter, measured, seed=0)
    data: Any = SimpleNamespace(seed=0, batch=lambda step: a_batch(torch.eye(2) * torch.tensor([[1.0], [0.0]])))
    with pytest.raises(TrainingError, match=r"^the loss of step \d of stage 1 is not finite; lower retrieval"):
        train_retrieval(adapter, data, measured, steps=8, learning_rate=1e30, warmup=0, bf16=False)


def test_it_learns_to_find_what_is_there_and_to_leave_what_is_not(prepared: Callable[..., Material]) -> None:
    material = prepared()
    adapter = KnowledgeAdapter(material.adapter_config)
    measured = Measured.usual(material.adapter_config, 3.0)
    initialise(adapter, measured, seed=0)
    data = RetrievalData(material.train, material.asked, material.vectors, size=32, virtual_triples=100, seed=0)
    told: list[dict[str, float]] = []
    train_retrieval(
        adapter, data, measured, steps=60, learning_rate=5e-3, warmup=5, bf16=False, report=lambda _, f: told.append(f)
    )
    first, last = (sum(f["retrieval"] + f["refusal"] for f in part) for part in (told[:5], told[-5:]))
    assert last < 0.7 * first


def test_a_batch_follows_from_its_step(prepared: Callable[..., Material]) -> None:
    material = prepared()
    data = RetrievalData(material.train, material.asked, material.vectors, size=8, virtual_triples=500, seed=0)
    one, same, other = data.batch(3), data.batch(3), data.batch(4)
    assert torch.equal(one.bias, same.bias)
    assert torch.equal(one.wanted, same.wanted)
    assert one.question.shape != other.question.shape or not torch.equal(one.question, other.question)
    for batch in (one, other):
        assert ((batch.wanted.sum(1) - 1).abs() < 1e-6).logical_or(batch.wanted.sum(1) == 0).all()
        assert (batch.bias[batch.wanted > 0] == 0).all()


def test_every_kind_of_question_is_drawn(prepared: Callable[..., Material]) -> None:
    material = prepared(retrieval_questions=400)
    counts = {kind: [len(one.facts) for one in material.asked if one.kind is kind] for kind in Kind}
    assert all(counts.values())
    assert set(counts[Kind.SINGLE]) == {1}
    assert set(counts[Kind.PAIR]) == {2}
    assert min(counts[Kind.OPEN]) > 1
    assert set(counts[Kind.GENERAL]) == {0}


def test_the_prompt_is_weighed_as_the_model_weighs_it(prepared: Callable[..., Material]) -> None:
    material = prepared()
    prompts = [[5, 6, 7, 8], [9, 10]]
    found = measure(material.model, material.adapter_config, prompts).prompt_lse
    ids, mask, last = right_padded(prompts, material.model.device)
    seen: dict[str, torch.Tensor] = {}
    attention = material.model.model.layers[2].self_attn

    def keep(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.update(
            h=kwargs["hidden_states"], cos=kwargs["position_embeddings"][0], sin=kwargs["position_embeddings"][1]
        )

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        material.model(ids, attention_mask=mask)
    hook.remove()
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    B, N, _ = seen["h"].shape
    q = attention.q_proj(seen["h"]).view(B, N, 4, 8).transpose(1, 2)
    k = attention.k_proj(seen["h"]).view(B, N, 2, 8).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, seen["cos"], seen["sin"])
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)) * 8**-0.5
    for row, end in enumerate(last.tolist()):
        wanted = scores[row, :, end, : end + 1].logsumexp(-1)
        torch.testing.assert_close(found[2][row], wanted.detach(), rtol=1e-4, atol=1e-4)


SIGNS = st.builds(
    Signs,
    mass=st.integers(0, 100).map(lambda n: n / 100),
    name=st.sampled_from([0.0, 1.0]),
    property=st.sampled_from([0.0, 1.0]),
    other=st.sampled_from([0.0, 1.0]),
    share=st.floats(-6, 0),
    best=st.sampled_from([0.0, 1.0]),
    beaten=st.sampled_from([0.0, 1.0]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    signs = draw(st.lists(SIGNS, max_size=4))
    right = draw(st.none() | st.integers(0, len(signs) - 1)) if signs else None
    return Case(signs, right, right is not None or draw(st.booleans()), draw(st.booleans()))


@settings(max_examples=40, deadline=None)
@given(st.lists(cases(), max_size=30))
def test_the_weights_are_the_most_likely_ones(asked: list[Case]) -> None:
    found = learn(asked)
    assert 0 <= found.precision <= 1
    assert 0 <= found.recall <= 1
    assert 0 <= found.top1 <= 1

    def cost(weights: list[float]) -> float:
        """Of the weights and their distance from where they start, to be as small as can be."""
        total = sum((new - old) ** 2 for new, old in zip(weights, PRIOR.weights, strict=True))
        for signs, right, *_ in asked:
            odds = [0.0, *(sum(w * n for w, n in zip(weights, one.numbers, strict=True)) for one in signs)]
            most = max(odds)
            total += most + math.log(sum(math.exp(one - most) for one in odds))
            total -= odds[0 if right is None else right + 1]
        return total

    for place in range(8):
        for step in (-0.05, 0.05):
            beside = list(found.confidence.weights)
            beside[place] += step
            assert cost(beside) > cost(found.confidence.weights)


def test_without_questions_the_weights_stay_where_they_start() -> None:
    assert learn([]).confidence == PRIOR


def test_what_tells_right_from_wrong_gets_the_weight() -> None:
    """Masses say nothing here, names everything."""
    unnamed, named = (Signs(0.5, name=name, property=1, other=0, share=-1) for name in (0.0, 1.0))
    asked = [case for _ in range(200) for case in (Case([unnamed, named], 1, True), Case([unnamed], None, False))]
    found = learn(asked)
    assert (found.precision, found.recall, found.f1, found.top1, found.questions) == (1, 1, 1, 1, 400)
    assert found.confidence.of(named) > 0.9
    assert found.confidence.of(unnamed) < 0.1


def test_what_is_not_found_counts_as_refused() -> None:
    sure = Signs(0.9, name=1, property=1, other=0, share=0, best=1)
    found = learn([Case([sure], 0, True)] * 3 + [Case([], None, True), Case([], None, False)])
    assert (found.top1, found.precision, found.recall) == (0.75, 0.5, 1)


def test_nearly_separable_answers_have_weights_too() -> None:
    """Whole Newton steps ran away here."""
    draw = random.Random(0)
    asked = []
    for place in range(600):
        is_right = place % 3 > 0
        share = -abs(draw.gauss(0, 0.1)) if is_right else -6 * draw.random()
        signs = Signs(draw.random(), name=1, property=float(draw.random() < 0.5), other=0, share=share)
        asked.append(Case([signs], 0 if is_right else None, is_right))
    found = learn(asked)
    assert found.f1 > 0.9
    assert max(map(abs, found.confidence.weights)) < 100
