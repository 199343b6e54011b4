"""One attached model and one knowledge base for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kblam import Attachment, KnowledgeAdapter, KnowledgeBase, attach
from tests.fakes import HashingEncoder
from tests.generation.asking import Asked, asking, byte_bpe
from tests.generation.tiny import EMBEDDING_DIM, FACTS, tiny_adapter, tiny_model, tiny_tokenizer


@dataclass
class World:
    """What a question needs."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    adapter: KnowledgeAdapter
    attachment: Attachment
    encoder: HashingEncoder
    kb: KnowledgeBase


@pytest.fixture
def world() -> Iterator[World]:
    """A random model and adapter, and three facts."""
    encoder = HashingEncoder(EMBEDDING_DIM)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    adapter = tiny_adapter(model, encoder)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        yield World(model, tokenizer, adapter, attach(model, adapter), encoder, kb)


@pytest.fixture
def asked() -> Iterator[Asked]:
    """A model that answers from the tests' facts, by the encoder's own cosine."""
    with asking(byte_bpe()) as found:
        yield found
