"""One row per model family: how it is asked a question, and where its attention differs from Llama's.

A family that is not in the table is served too when its attention goes through the transformers registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kblam.errors import UnsupportedModelError


@dataclass(frozen=True)
class Family:
    """What attach needs to know of a family.

    Args:
        model_type: `config.model_type` of the text model.
        title: its usual name.
        prompt: template around {question}; None uses the tokenizer's chat template.
        query_norm: attribute of the attention module that normalises queries per head; what a query head makes goes
            through it as well, so that one that starts as a copy of q_proj starts with its scores. With a question
            head it does not.
    """

    model_type: str
    title: str
    prompt: str | None = None
    query_norm: str | None = None


# The two prompts are upstream's: its adapters are trained with them.
LLAMA_PROMPT = (
    "<|start_header_id|>user<|end_header_id|> {question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
)
PHI3_PROMPT = "<|user|>\n{question}<|end|>\n<|assistant|>\n"

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "Llama 3, 3.1, 3.2", prompt=LLAMA_PROMPT),
        Family("phi3", "Phi-3", prompt=PHI3_PROMPT),
        Family("qwen2", "Qwen2, Qwen2.5"),
        Family("qwen3", "Qwen3", query_norm="q_norm"),
        Family("mistral", "Mistral"),
        Family("gemma", "Gemma"),
        Family("gemma3_text", "Gemma 3 (text)", query_norm="q_norm"),
    )
}


def _supported() -> str:
    return ", ".join(f"{family.title} ({family.model_type})" for family in FAMILIES.values())


def family_of(model: PreTrainedModel) -> Family:
    """The row of a model; a plain one for a family outside the table.

    Raises:
        UnsupportedModelError: if its attention does not go through the transformers registry, or does something to
            its scores (soft caps, sinks) that knowledge scores would miss.
    """
    config = model.config.get_text_config()
    name = config.model_type
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} ({name}) does not route attention through the transformers attention registry; "
            f"supported families: {_supported()}"
        )
    if reason := _unlike_the_kernels(config, attention_modules(model)):
        raise UnsupportedModelError(f"{name} {reason}, which the kernels do not; supported families: {_supported()}")
    return FAMILIES.get(name, Family(name, name))


def _unlike_the_kernels(config: Any, attentions: list[nn.Module]) -> str | None:
    """What a model does to its attention that knowledge layers would silently leave out."""
    if cap := getattr(config, "attn_logit_softcapping", None):
        return f"caps its attention scores (attn_logit_softcapping={cap})"
    if any(hasattr(attention, "sinks") for attention in attentions):
        return "uses attention sinks"
    if size := getattr(config, "attention_chunk_size", None):
        return f"attends within chunks (attention_chunk_size={size})"
    if rank := getattr(config, "kv_lora_rank", None):
        return f"has keys wider than its values (latent attention, kv_lora_rank={rank})"
    return None


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The self-attention module of every decoder layer, in order.

    Raises:
        UnsupportedModelError: if the decoder is not a list of layers with `self_attn`.
    """
    decoder: Any = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    modules: list[Any] = [getattr(layer, "self_attn", None) for layer in layers] if layers is not None else []
    if not modules or None in modules:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a stack of decoder layers with self_attn; supported: {_supported()}"
        )
    return modules
