"""Families other than Llama, with random weights: vLLM's classes of them attend as `attach` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from kblam import KnowledgeAdapter
from kblam.adapter import AdapterConfig
from kblam.knowledge import load_encoder
from kblam.vllm import architecture_of
from tests.vllm.engine import engines
from tests.vllm.engine.engines import Reference, assert_alike, said_by

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}
FAMILIES = {
    "Qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "Qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "Mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "Phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "Gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM),
}


# With a question head the norm that Qwen3 has of queries is left out.
@pytest.mark.parametrize(("family", "head"), [*((family, None) for family in FAMILIES), ("Qwen3", "linear")])
def test_a_family_says_in_vllm_what_it_says_attached(
    family: str, head: str | None, bases: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    config_class, model_class = FAMILIES[family]
    windows = {} if family == "Gemma" else {"sliding_window": None}
    config = config_class(**SHAPE, **windows, vocab_size=len(engines.tokenizer()))
    model_class(config).save_pretrained(tmp_path / "model")
    adapter = KnowledgeAdapter(
        AdapterConfig.for_model(
            config, 384, encoder=load_encoder("minilm").fingerprint, layers=(1, 2), question_head=head
        )
    )
    adapter.save_pretrained(tmp_path / "adapter")
    reference = Reference(bases, KnowledgeAdapter.from_pretrained(tmp_path / "adapter"), model=tmp_path / "model")
    rows = engines.requests(2)
    expected = [reference.say(row, 8) for row in rows]
    assert expected[0].tokens != expected[-2].tokens  # knowledge matters
    engine = engines.start(
        engines.settings(bases, adapter=str(tmp_path / "adapter")),
        model=str(tmp_path / "model"),
        skip_tokenizer_init=True,
        hf_overrides={"architectures": [architecture_of(f"{family}ForCausalLM")]},
    )
    options = {"max_tokens": 8, "min_tokens": 8, "detokenize": False}
    params = [
        row.params(extra={"kblam_question": row.question} if head and row.base else {}, **options) for row in rows
    ]
    outputs = engine.generate([row.prompt for row in rows], params, use_tqdm=False)
    assert_alike([said_by(output) for output in outputs], expected)
