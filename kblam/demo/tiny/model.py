"""The demo's model: a four-layer Llama and its knowledge adapter, with word embeddings that start from MiniLM's.

The embedding of a token is a learned projection of its row in the sentence encoder's (frozen) word-embedding
table; only special tokens and the demo world's own words get a learned part of their own. A word that training
never showed is thus still placed where the encoder would place it, and names made of such words retrieve. Once
trained, all of it folds into an ordinary `embed_tokens.weight`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.adapter.config import REFUSAL
from kblam.data.questions import PAIR_QUESTIONS, PLAIN_QUESTIONS
from kblam.demo.tiny.tokenizer import SPECIALS, kept_pieces, minilm_path
from kblam.demo.tiny.words import FIRST_NAMES, PROPERTIES, SECOND_NAMES
from kblam.demo.tiny.world import world_words

EMBEDDING_DIM = 384  # MiniLM's


# All names share the projection of the token embeddings: large weights and a small factor make its steps small
# against its values, else every optimizer step would move the embedding of every word by a tenth.
_PROJECTION_SCALE = 0.1


def build_model(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 256, layers: int = 4) -> LlamaForCausalLM:
    """The base model with random weights: head width 64, feed-forward twice the hidden size, tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=512,
            initializer_range=hidden**-0.5,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_adapter(config: LlamaConfig, encoder: str | None = None) -> KnowledgeAdapter:
    """Knowledge at layer 2 alone, the one that retrieves: layer 0 sees no context yet and cannot ask."""
    return KnowledgeAdapter(
        AdapterConfig.for_model(
            config,
            EMBEDDING_DIM,
            layers=(2,),
            prompt="[BOS]{question}[SEP]",
            refusal=REFUSAL,
            encoder=encoder,
        )
    )


def encoder_word_table() -> Tensor:
    """(V, 384) float32: MiniLM's word embeddings of the demo vocabulary, centred, unit norm; zero for specials."""
    weights = load_file(minilm_path() / "model.safetensors")
    table = weights["embeddings.word_embeddings.weight"][[row for row, _ in kept_pieces()]].float()
    table = F.normalize(table - table.mean(0), dim=-1)
    return torch.cat([torch.zeros(len(SPECIALS), table.shape[1]), table])


def own_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens with a learned embedding of their own: specials, the world's words and those of the questions."""
    texts = [*world_words(), *PROPERTIES, *FIRST_NAMES, *SECOND_NAMES, REFUSAL]
    texts += [*PLAIN_QUESTIONS, *PAIR_QUESTIONS]
    ids = {token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)}
    return sorted(ids | set(range(len(SPECIALS))))


class TokenEmbedding(nn.Module):
    """Token embeddings during training: projected encoder rows, plus a learned part for `own` tokens.

    Args:
        table: (V, 384) frozen.
        own: token ids with a learned part.
        width: of the embeddings.
    """

    table: Tensor
    slots: Tensor

    def __init__(self, table: Tensor, own: list[int], width: int) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        slots = torch.zeros(table.shape[0], dtype=torch.int64)  # 0: none
        slots[own] = torch.arange(1, len(own) + 1)
        self.register_buffer("slots", slots, persistent=False)
        self.init_std = width**-0.5
        self.projection = nn.Linear(table.shape[1], width, bias=False)
        self.set_projection(torch.randn(width, table.shape[1]) * self.init_std)
        self.own = nn.Embedding(len(own) + 1, width, padding_idx=0)
        nn.init.zeros_(self.own.weight)
        specials = slots[: len(SPECIALS)]
        with torch.no_grad():
            self.own.weight[specials] = torch.randn(len(specials), width) * self.init_std

    @torch.no_grad()
    def set_projection(self, projection: Tensor) -> None:
        """Make `projection` (width, 384) the map from the encoder's rows to embeddings."""
        self.projection.weight.copy_(projection / _PROJECTION_SCALE)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n,) token ids -> (n, width)."""
        return _PROJECTION_SCALE * self.projection(self.table[tokens]) + self.own(self.slots[tokens])


class DemoModel(nn.Module):
    """Everything that is trained: base model, adapter, token embedding.

    Args:
        tokenizer: the demo tokenizer.
        hidden, layers: shape of the base model.
        encoder: fingerprint of the sentence encoder, for the adapter's config.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *, hidden: int = 256, layers: int = 4, encoder: str | None = None
    ) -> None:
        super().__init__()
        self.base = build_model(tokenizer, hidden=hidden, layers=layers)
        self.adapter = build_adapter(self.base.config, encoder)
        self.embedding = TokenEmbedding(encoder_word_table(), own_tokens(tokenizer), hidden)

    @torch.no_grad()
    def fold(self) -> None:
        """Write the token embeddings into the base model's `embed_tokens.weight` (tied to the output layer)."""
        cast(nn.Embedding, self.base.get_input_embeddings()).weight.copy_(
            self.embedding(torch.arange(self.embedding.table.shape[0]))
        )


@torch.no_grad()
def rescale_inputs(adapter: KnowledgeAdapter, factor: float = math.sqrt(EMBEDDING_DIM)) -> None:
    """Make the adapter take unit-norm sentence vectors; it was trained on vectors `factor` times as long."""
    for projector in (adapter.key_projector, adapter.value_projector):
        linear = cast(nn.Linear, projector)
        linear.weight.mul_(factor)
