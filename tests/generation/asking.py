"""A tiny model whose questions find their triples, with tokenizers of three kinds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kblam import KnowledgeAdapter, KnowledgeBase, Session, Triple, attach
from kblam.adapter.projected import slot_view
from kblam.demo.tiny.tokenizer import build_tokenizer
from kblam.models import Attachment
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, tiny_adapter

FACTS = [
    Triple("France", "currency", "Euro"),
    Triple("Project Nightjar", "budget", "4,711,000 crowns"),
    Triple("Project Nightjar", "founder", "Łucja Ødegård-Żak"),
    Triple("Procter and Gamble", "CEO", "Ann Lee"),
    Triple("Peru", "capital", "Lima"),
]
CONTROLS = ["<|end|>", "<|user|>", "</s>"]
CHAT = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}\n{% endif %}"
PROMPT = "<|user|>{question}<|end|>\n"
# Without the last fact, whose words therefore take several tokens each.
_CORPUS = [f"The {fact.property} of {fact.name} is {fact.value}." for fact in FACTS[:-1]] * 3 + [
    "What is the currency of France and the budget of Project Nightjar?",
    "I am sorry I cannot find relevant information in the KB.",
]


@lru_cache(maxsize=1)
def byte_bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM2 have."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=CONTROLS, initial_alphabet=alphabet)
    )
    return _fast(inner)


@lru_cache(maxsize=1)
def sentence_piece() -> PreTrainedTokenizerFast:
    """BPE with "▁" for spaces, one at the beginning, and bytes for unknown characters, as Llama 2 and Mistral have."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", *CONTROLS, *[f"<0x{byte:02X}>" for byte in range(256)]]
    inner.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=pieces))
    found = json.loads(inner.to_str())
    # Bytes are pieces of the model here and no added tokens, so that their names in a text stay text.
    found["added_tokens"] = [token for token in found["added_tokens"] if not token["content"].startswith("<0x")]
    return _fast(Tokenizer.from_str(json.dumps(found)), unk_token="<unk>")


@lru_cache(maxsize=1)
def word_piece() -> PreTrainedTokenizerFast:
    """The demo's: lower case, and [UNK] for what it does not know."""
    return build_tokenizer()


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte BPE": byte_bpe,
    "SentencePiece": sentence_piece,
    "WordPiece": word_piece,
}


class QuestionEncoder(HashingEncoder):
    """Key texts have directions of their own, and a question has those of the key texts it holds.

    Other texts are next to nothing: a store takes no zeros.
    """

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        vectors = super().encode(texts, progress=progress)
        values = {fact.value for fact in FACTS}
        for row, text in enumerate(texts):
            if text not in values:
                held = [float(_holds(text, fact)) for fact in FACTS]
                vectors[row] = np.pad(held, (0, self.dimension - len(held))) / max(1, sum(held))
                vectors[row, -1] = 0 if any(held) else 1e-3
        return vectors


def _holds(text: str, fact: Triple) -> bool:
    text = text.casefold()
    about = f"about {fact.name.casefold()}" in text
    return about or any(key.casefold() in text for key in (fact.key_text, f"{fact.name}'s {fact.property}"))


def asking_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.4,
        )
        return LlamaForCausalLM(config).eval()


def asking_adapter(model: LlamaForCausalLM, encoder: HashingEncoder, **options: object) -> KnowledgeAdapter:
    """Layer 0 attends to the triple whose key text the question's vector is, whatever the prompt says."""
    options = {"question_head": "linear", "pointer": True, "known_above": 0.6, "prompt": PROMPT} | options
    adapter = tiny_adapter(model, encoder, **options)
    with torch.no_grad():
        weight = adapter.key_projector.weight  # (out_dim, P): in every head, each key text has a dimension of its own
        weight.copy_(
            torch.eye(adapter.config.head_dim, EMBEDDING_DIM).repeat(len(weight) // adapter.config.head_dim, 1)
        )
        adapter.key_projector.bias.zero_()
        rows = [slot_view(weight[:, at][None], adapter.config, 0).flatten() for at in range(EMBEDDING_DIM)]
        for layer in ("0", "1"):
            adapter.query_heads[layer].weight.zero_()
            adapter.question_heads[layer].weight.copy_(30.0 * torch.stack(rows, -1))
            adapter.question_heads[layer].bias.zero_()
    return adapter


def attached(
    tokenizer: PreTrainedTokenizerFast, encoder: HashingEncoder | None = None, **options: object
) -> tuple[LlamaForCausalLM, Attachment]:
    """A model with such an adapter."""
    model = asking_model(tokenizer)
    return model, attach(model, asking_adapter(model, encoder or QuestionEncoder(EMBEDDING_DIM), **options))


def _fast(inner: Tokenizer, **options: str) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|end|>",
        pad_token="</s>",
        additional_special_tokens=["<|user|>"],
        **options,
    )
    fast.chat_template = CHAT
    return fast


@dataclass
class Asked:
    """What a question needs."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    attachment: Attachment
    encoder: QuestionEncoder
    kb: KnowledgeBase

    def session(self, **options: object) -> Session:
        return Session(self.model, self.kb, tokenizer=self.tokenizer, **options)  # type: ignore[arg-type]


@contextmanager
def asking(tokenizer: PreTrainedTokenizerFast, **options: Any) -> Iterator[Asked]:
    """The model with `FACTS`; options as `attached` takes them."""
    encoder = QuestionEncoder(EMBEDDING_DIM)
    model, attachment = attached(tokenizer, encoder, **options)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        yield Asked(model, tokenizer, attachment, encoder, kb)
