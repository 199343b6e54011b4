"""A tiny random Llama with a word tokenizer, and adapters whose attention is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kblam import AdapterConfig, KnowledgeAdapter, Triple
from kblam.adapter.projected import slot_view
from tests.fakes import HashingEncoder

WORDS = ["what", "is", "the", "of", "capital", "founder", "motto", "amber", "falcon", "quiet", "harbor", "silver"]
WORDS += ["meadow", "zirconia", "basalt", "pine", "sorry"]
SPECIALS = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
EMBEDDING_DIM = 16

FACTS = [
    Triple("Amber Falcon", "capital", "Zirconia"),
    Triple("Quiet Harbor", "founder", "Basalt"),
    Triple("Silver Meadow", "motto", "Pine"),
]


def tiny_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; `extra` are further special tokens."""
    vocabulary = {word: place for place, word in enumerate([*SPECIALS, *extra, *WORDS, "?", "."])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        additional_special_tokens=list(extra),
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, positions: int = 64) -> LlamaForCausalLM:
    """Random weights; greedy answers never end by themselves, so their length is the limit given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.4,
        )
        return LlamaForCausalLM(config).eval()


def tiny_adapter(model: LlamaForCausalLM, encoder: HashingEncoder | None = None, **options: Any) -> KnowledgeAdapter:
    """A random adapter that sees knowledge in both layers and reads evidence in the first."""
    options = {"layer_frequency": 1, "evidence_layer": 0} | options
    if encoder is not None:
        options["encoder"] = encoder.fingerprint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return KnowledgeAdapter(AdapterConfig.for_model(model.config, EMBEDDING_DIM, **options)).eval()


@torch.no_grad()
def make_uniform(model: LlamaForCausalLM, adapter: KnowledgeAdapter) -> None:
    """All scores of layer 0 become 0, so that each of M triples and T prompt tokens gets 1 / (M + T)."""
    model.model.layers[0].self_attn.q_proj.weight.zero_()
    adapter.query_heads["0"].weight.zero_()


@torch.no_grad()
def make_prefer(
    model: LlamaForCausalLM, adapter: KnowledgeAdapter, encoder: HashingEncoder, triple: Triple, strength: float = 20.0
) -> None:
    """In layer 0 every token's knowledge query becomes a multiple of this triple's key, which takes all attention."""
    # A constant component of every hidden state is what the query heads read.
    model.model.embed_tokens.weight[:, 0] = 10.0
    key = adapter.project_keys(torch.from_numpy(encoder.encode([triple.key_text])))
    direction = slot_view(key, adapter.config, 0).flatten()  # (Hq * D)
    adapter.query_heads["0"].weight.zero_()
    adapter.query_heads["0"].weight[:, 0] = strength * direction


def save_base(folder: Path, **options: Any) -> Path:
    """The tiny model and its tokenizer as a folder that transformers loads."""
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
