"""Models of real shapes with random weights, and synthetic knowledge for them; needs transformers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.models import Attachment, attach
from kblam.models.formats import LatentFormat
from kblam_kernels import LatentKnowledge
from kblam_kernels.plan.workload import MODELS

EMBEDDING_DIM = 384  # MiniLM's
# Synthetic triples encoded at a time: bounds what building needs beside the latents themselves.
ROWS = 16384
TINY = "tiny"
# Beside the attention of `MODELS`: hidden and intermediate size, vocabulary, whether the embeddings are tied.
_OTHER_SIZES = {
    "llama-3-8b": (4096, 14336, 128256, False),
    "llama-3.2-1b": (2048, 8192, 128256, True),
    "phi-3-mini": (3072, 8192, 32064, False),
    "qwen2.5-0.5b": (896, 4864, 151936, True),
    "smollm2-135m": (576, 1536, 49152, True),
}


def _config(hidden: int, intermediate: int, vocabulary: int, tied: bool, **attention: Any) -> LlamaConfig:
    """Llama's architecture: the others' weights are as many, whatever their names."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        **attention,
    )


CONFIGS = {
    size.title: _config(
        *_OTHER_SIZES[name],
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_key_heads,
        head_dim=size.head_dim,
    )
    for name, size in MODELS.items()
}
CONFIGS[TINY] = _config(
    *(64, 128, 256, False), num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)


class SyntheticKnowledge:
    """Random triples as latents, laid out as a resident knowledge base lays them out, without a store behind.

    Args:
        adapter: what reads them.
        triples: how many.
        dtype: of the model.
        storage: of the latents.
        device: of the model.
    """

    filled: Tensor | None = None  # every row holds a triple
    log_count: Tensor | float

    def __init__(
        self, adapter: KnowledgeAdapter, triples: int, dtype: torch.dtype, storage: torch.dtype, device: str = "cpu"
    ) -> None:
        self.num_triples, self.log_count, self.dtype = triples, math.log(max(triples, 1)), dtype
        self.device = torch.empty(0, device=device).device  # with its number, as the model's
        form = LatentFormat(adapter, dtype, self.device, storage)
        self.buffers = form.allocate(triples)
        self._form = form
        for start in range(0, triples, ROWS):
            self.write(start, min(start + ROWS, triples))
        self._layers = {layer: form.layer(layer, self.buffers) for layer in adapter.config.knowledge_layers}

    def write(self, start: int, end: int) -> None:
        """Rows [start, end) anew."""
        draw = torch.Generator(self.device).manual_seed(start)
        key, value = (
            torch.randn(end - start, EMBEDDING_DIM, generator=draw, dtype=torch.float32, device=self.device)
            for _ in range(2)
        )
        for name, rows in self._form.encode(key, value).items():
            self.buffers[name][start:end] = rows

    @property
    def num_bytes(self) -> int:
        """What the buffers take."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers.values())

    def layer(self, layer: int, new_tokens: int = 1) -> LatentKnowledge:
        """The latents as one layer reads them."""
        return self._layers[layer]


class GrowingKnowledge(SyntheticKnowledge):
    """With the numbers that a knowledge base keeps on the device because it may grow: each layer reads them."""

    def __init__(self, adapter: KnowledgeAdapter, triples: int, *others: Any) -> None:
        super().__init__(adapter, triples, *others)
        self.filled = torch.tensor([[0, triples]], dtype=torch.int32, device=self.device)
        self.log_count = torch.tensor(math.log(max(triples, 1)), dtype=torch.float32, device=self.device)


def parts(
    config: LlamaConfig, device: str, dtype: torch.dtype = torch.bfloat16
) -> tuple[PreTrainedModel, KnowledgeAdapter]:
    """The model with random weights drawn on its device, and a random adapter for every third layer."""
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        adapter = KnowledgeAdapter(AdapterConfig.for_model(config, EMBEDDING_DIM, knowledge_scale=100.0))
    return model, adapter.requires_grad_(False)


def build(
    config: LlamaConfig, *, int8_products: bool = False, device: str = "cpu", dtype: torch.dtype = torch.bfloat16
) -> Attachment:
    """`parts`, attached."""
    return attach(*parts(config, device, dtype), int8_products=int8_products)
