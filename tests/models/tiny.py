"""Tiny random models of the real architectures, and adapters loud enough to be heard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge
from kblam.models.cache_name import as_argument

EMBEDDING_DIM = 16
VOCABULARY = 64
WINDOW = 6
SHAPES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    # A tied head would repeat the last token, whatever attention says.
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What makes a family itself: windows shorter than the prompts here, heads wider than hidden_size / heads.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": WINDOW},
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 10, "sliding_window_pattern": 2},
    # Not in the table: served because its attention goes through the registry.
    "olmo2": {},
}
OUTSIDE_THE_TABLE = "olmo2"


def tiny_model(family: str = "llama", *, attention: str = "sdpa", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal LM of 4 layers, in eval mode."""
    config = AutoConfig.for_model(family, **{**SHAPES, **CONFIGS.get(family, {}), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        randomise(model, 0.2)
    return model.eval()


class PassesOn(nn.Module):
    """As PEFT wraps a model: what it lacks it takes from inside, and its own `generate` takes anything.

    Args:
        model: the model inside.
        own: attributes of the wrapper.
    """

    def __init__(self, model: PreTrainedModel, **own: Any) -> None:
        super().__init__()
        self.base_model, self.config = model, model.config
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model.generate(*args, **kwargs)


def randomise(module: nn.Module, scale: float) -> None:
    """Matrices are drawn anew, so that attention is neither flat nor decided; norms are left as they are."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=scale)


def tiny_adapter(model: PreTrainedModel, *, seed: int = 1, **options: Any) -> KnowledgeAdapter:
    """A frozen random adapter; layers 0 and 2 see knowledge."""
    shape = {"embedding_dim": EMBEDDING_DIM, "layer_frequency": 2, **options}
    config = AdapterConfig.for_model(model.config, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = KnowledgeAdapter(config)
        randomise(adapter, 0.5)
    return adapter.requires_grad_(False)


def triples(adapter: KnowledgeAdapter, *rows_and_count: int, seed: int = 2) -> ProjectedKnowledge:
    """Random knowledge, (M,) shared or (B, M) per row."""
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(*rows_and_count, EMBEDDING_DIM, generator=draw) for _ in range(2))
    return adapter.project(keys, values)


def select(knowledge: ProjectedKnowledge, index: Any) -> ProjectedKnowledge:
    """Some of the triples."""
    return ProjectedKnowledge(knowledge.keys[..., index, :], knowledge.values[..., index, :], knowledge.config)


def prompts(rows: int = 2, length: int = 10, padding: int = 4, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Token ids and mask; the first row is left-padded, its window (6) reaches into the padding."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[0, :padding], mask[0, :padding] = 0, 0
    return ids, mask


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, N, vocabulary); rows of padding are zeroed, for nobody reads them."""
    out: Tensor = model(ids, attention_mask=mask).logits
    return out if mask is None else out * mask[..., None]


def stepwise(model: PreTrainedModel, ids: Tensor, mask: Tensor | None, cache: object, sizes: list[int]) -> Tensor:
    """Logits of the prompt taken in pieces."""
    pieces, start = [], 0
    with torch.no_grad():
        for size in sizes:
            end = start + size
            seen = None if mask is None else mask[:, :end]
            out = model(ids[:, start:end], attention_mask=seen, use_cache=True, **as_argument(model, cache))
            pieces.append(out.logits)
            start = end
    whole = torch.cat(pieces, 1)
    return whole if mask is None else whole * mask[..., None]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Float32 models: what differs by order of summation only."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def differ(actual: Tensor, expected: Tensor, by: float = 0.05) -> bool:
    """Whether logits differ by more than any rounding."""
    return (actual - expected).abs().max().item() > by
