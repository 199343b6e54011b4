"""One small attached Llama for the tests that are not about a family."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from transformers import PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.models import Attachment, attach
from tests.models.tiny import tiny_adapter, tiny_model


@dataclass
class Tied:
    """A model, an adapter and their attachment."""

    model: PreTrainedModel
    adapter: KnowledgeAdapter
    attachment: Attachment


def tie(family: str = "llama", *, layers: int = 4, **options: object) -> Tied:
    """A fresh model with a fresh adapter attached; `options` are the adapter's."""
    model = tiny_model(family, num_hidden_layers=layers)
    adapter = tiny_adapter(model, **options)
    return Tied(model, adapter, attach(model, adapter))


@pytest.fixture
def tied() -> Tied:
    return tie()
