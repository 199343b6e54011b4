"""Query heads in int8: what they cost, when they follow the adapter, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from kblam.adapter import KnowledgeAdapter
from kblam.errors import AdapterError, KnowledgeError
from kblam.models import attach, attachment_of
from kblam.models.query_heads import MOST_ROWS, Int8Head
from tests.adapter.test_wrapped import Wrapped
from tests.models.conftest import Tied, tie
from tests.models.tiny import differ, logits, prompts, tiny_adapter, tiny_model, triples

IDS, MASK = prompts()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def answered(tied: Tied, **options: Any) -> torch.Tensor:
    attached = attach(tied.model, tied.adapter, **options)
    with attached.using(triples(tied.adapter, 9)):
        return logits(tied.model, IDS, MASK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, MOST_ROWS + 1], ids=["few", "many"])
def test_a_head_is_its_weights_but_for_rounding(rows: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 64, generator=draw) * torch.rand(24, 1, generator=draw)
    weight[3] = 0
    states = torch.randn(1, rows, 64, generator=draw).to(dtype)
    head, exact = Int8Head.of(weight, torch.device("cpu")), states.float() @ weight.T
    found = head(states)
    assert (found.dtype, found.shape, head.weight.dtype) == (dtype, exact.shape, torch.int8)
    assert found[..., 3].eq(0).all()
    assert 1e-3 < error(found.float(), exact) < 1.5e-2
    stored = head.weight.float() * head.scale.float()[:, None]
    assert error(found.float(), states.float() @ stored.T) < 4e-3
    # The largest number of a row may be cut off by the scale's own rounding.
    assert ((stored - weight).abs() <= 0.75 * head.scale.float()[:, None]).all()


def test_a_model_with_them_says_nearly_the_same(tied: Tied) -> None:
    exact = answered(tied)
    found = answered(tied, query_storage="int8")
    assert 1e-4 < error(found, exact) < 3e-2
    assert torch.equal(answered(tied), exact), "the adapter itself keeps its weights"


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_questions_part_is_added(family: str) -> None:
    tied = tie(family, question_head="linear")
    question = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for options in ({}, {"query_storage": "int8"}):
        with attach(tied.model, tied.adapter, **options).using(triples(tied.adapter, 9), question=question):
            found.append(logits(tied.model, IDS, MASK))
    assert 0 < error(found[1], found[0]) < 3e-2


@pytest.mark.parametrize("is_counted", [True, False], ids=["counted", "past autograd"])
def test_changed_weights_count_from_the_next_block(tied: Tied, is_counted: bool) -> None:
    before = answered(tied, query_storage="int8")
    with torch.no_grad():
        for head in tied.adapter.query_heads.values():
            weight = cast(nn.Linear, head).weight
            (weight if is_counted else weight.data).neg_()
    after = answered(tied, query_storage="int8")
    assert differ(after, before)
    assert error(after, answered(tied)) < 3e-2


def test_a_counted_change_is_seen_where_no_output_is_looked_at(tied: Tied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.models.query_heads._LOOKED_AT", 1)
    attached = attach(tied.model, tied.adapter, query_storage="int8")
    before = attached.query_heads.of(0)
    with torch.no_grad():
        cast(nn.Linear, tied.adapter.query_heads["0"]).weight[-1].neg_()
    with attached.using(triples(tied.adapter, 9)):
        after = attached.query_heads.of(0)
    assert before is not None
    assert after is not None
    assert torch.equal(after.weight[-1], -before.weight[-1])


def test_what_does_not_change_is_not_made_again(tied: Tied) -> None:
    attached = attach(tied.model, tied.adapter, query_storage="int8")
    head = attached.query_heads.of(0)
    with attached.using(triples(tied.adapter, 9)):
        assert attached.query_heads.of(0) is head is not None


def test_the_adapter_is_saved_as_it_was(tied: Tied, tmp_path: Path) -> None:
    weights = {name: weight.clone() for name, weight in tied.adapter.state_dict().items()}
    attach(tied.model, tied.adapter, query_storage="int8")
    tied.adapter.save_pretrained(tmp_path)
    again = KnowledgeAdapter.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_gradients_reach_the_hidden_states(tied: Tied) -> None:
    attached = attach(tied.model, tied.adapter, query_storage="int8")
    embeddings = tied.model.get_input_embeddings()(IDS).detach().requires_grad_(True)
    with attached.using(triples(tied.adapter, 9)):
        tied.model(inputs_embeds=embeddings, attention_mask=MASK).logits.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_it_compiles_to_one_graph(tied: Tied) -> None:
    torch._dynamo.reset()
    exact = answered(tied, query_storage="int8")
    compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    attached = attachment_of(tied.model)
    assert attached is not None
    with torch.no_grad(), attached.using(triples(tied.adapter, 9)):
        found = compiled(IDS, attention_mask=MASK, use_cache=False).logits * MASK[..., None]
    assert error(found, exact) < 1e-2
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        ({}, {"query_storage": "int4"}, r"query_storage must be one of auto, int8; got 'int4'"),
        ({}, {"query_storage": "int8", "trainable": True}, "trainable=True lets them learn"),
        ({"separate_query_head": False}, {"query_storage": "int8"}, "this adapter has no query heads"),
    ],
    ids=["unknown", "trainable", "no heads"],
)
def test_what_cannot_be_is_refused(adapter: dict[str, Any], options: dict[str, Any], message: str) -> None:
    model = tiny_model()
    with pytest.raises(KnowledgeError, match=message):
        attach(model, tiny_adapter(model, **adapter), **options)
    assert attachment_of(model) is None


def test_a_wrapped_head_is_refused_and_what_was_attached_stays(tied: Tied) -> None:
    tied.adapter.query_heads["0"] = Wrapped(cast(nn.Linear, tied.adapter.query_heads["0"]))
    with pytest.raises(AdapterError, match=r"the query head of layer 0 .* is wrapped or hooked"):
        attach(tied.model, tied.adapter, query_storage="int8")
    assert attachment_of(tied.model) is tied.attachment
