"""Models that cannot be served are refused before anything is changed, with those that can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import KblamError, KnowledgeError, UnsupportedModelError
from kblam.models import FAMILIES, attach, attachment_of
from tests.models.conftest import Tied
from tests.models.tiny import SHAPES, prompts, tiny_model, triples

UNSUPPORTED: list[Any] = [
    pytest.param("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4}, "not a stack of decoder layers", id="gpt2"),
    pytest.param("bloom", {"n_layer": 4, "n_head": 4}, "transformers attention registry", id="bloom"),
    pytest.param("gemma2", {"head_dim": 8}, r"caps its attention scores \(attn_logit_softcapping=50", id="gemma2"),
    pytest.param(
        "gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}, "attention sinks", id="gpt_oss"
    ),
    pytest.param(
        "deepseek_v3",
        {"n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "first_k_dense_replace": 4},
        "keys wider than its values",
        id="deepseek_v3",
    ),
]


def build(family: str, changes: dict[str, Any]) -> PreTrainedModel:
    config = AutoConfig.for_model(family, **{**SHAPES, **changes})
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


@pytest.mark.parametrize(("family", "changes", "reason"), UNSUPPORTED)
def test_a_model_that_cannot_be_served_is_refused(family: str, changes: dict[str, Any], reason: str) -> None:
    model = build(family, changes)
    shapes = {"embedding_dim": 16, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "head_dim": 8}
    with pytest.raises(UnsupportedModelError, match=reason) as raised:
        attach(model, KnowledgeAdapter(AdapterConfig(**shapes)))
    assert all(row.title in str(raised.value) for row in FAMILIES.values())
    assert isinstance(raised.value, KblamError)
    assert attachment_of(model) is None
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_attention_within_chunks_is_refused() -> None:
    model = tiny_model()
    model.config.attention_chunk_size = 8  # as Llama 4 says it
    with pytest.raises(UnsupportedModelError, match=r"attends within chunks \(attention_chunk_size=8\)"):
        attach(model, KnowledgeAdapter(AdapterConfig.for_model(model.config, 16)))


def test_layers_with_heads_of_several_widths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    adapter = KnowledgeAdapter(AdapterConfig.for_model(model.config, 16))

    class PerLayer(type(model.config)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name == "head_dim":
                raise RuntimeError("'head_dim' is a per-layer attribute")  # as Gemma 4's config says it
            return super().__getattribute__(name)

    monkeypatch.setattr(model.config, "__class__", PerLayer)
    with pytest.raises(UnsupportedModelError, match="no single number and width of heads: 'head_dim' is a per-layer"):
        attach(model, adapter)


def test_dropout_of_attention_is_refused_when_training(tied: Tied) -> None:
    ids, _ = prompts()
    for layer in tied.model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with tied.attachment.using(triples(tied.adapter, 9)):
        tied.model(ids)
        tied.model.train()
        with pytest.raises(KnowledgeError, match=r"attention_dropout is 0\.1"):
            tied.model(ids)
