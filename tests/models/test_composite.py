"""A language model inside a larger one: only its own attention is changed."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from kblam.models import attach, detach
from tests.models.tiny import SHAPES, close, differ, randomise, tiny_adapter, triples

IMAGE_TOKEN = 60


@torch.no_grad()
def test_a_vision_tower_keeps_its_own_attention() -> None:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(**SHAPES)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=4)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    randomise(model, 0.2)
    ids = torch.randint(3, IMAGE_TOKEN, (1, 12))
    ids[:, 2:6] = IMAGE_TOKEN
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16)}
    base = model(**inputs).logits
    adapter = tiny_adapter(model)
    attachment = attach(model, adapter)
    assert torch.equal(model(**inputs).logits, base)
    knowledge = triples(adapter, 9)
    with attachment.using(knowledge):
        assert model.model.vision_tower.config._attn_implementation == "sdpa"
        assert model.model.language_model.config._attn_implementation == "kblam"
        assert differ(model(**inputs).logits, base)
    # Causal attention in the tower, were it changed too, would show here.
    with attachment.using(knowledge, bias=torch.full((9,), -float("inf"))):
        close(model(**inputs).logits, base)
    detach(model)
    assert torch.equal(model(**inputs).logits, base)
    assert model.model.language_model.config._attn_implementation == "sdpa"
