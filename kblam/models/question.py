"""The question's sentence vectors, as a call to an adapter with a question head needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from kblam.adapter import AdapterConfig
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.asking import asked_in
from kblam.knowledge.fields import can_be_seen
from kblam.models.source import KnowledgeSource

# A text, one for each batch row, or their vectors.
Question: TypeAlias = "Tensor | str | Sequence[str]"
_VECTORS = "their float32 (B, P) vectors, torch.from_numpy(knowledge_base.encode(texts)).to(attachment.device)"
_KINDS = f"question is a text, or a list of texts, one for each batch row; or {_VECTORS}"


def encoded(knowledge_base: KnowledgeBase, questions: Sequence[str], device: torch.device) -> Tensor:
    """Sentence vectors of questions from a knowledge base's encoder, float32 (B, P) on a device.

    Raises:
        EncoderError: the encoder cannot be loaded, or fails.
    """
    return torch.from_numpy(knowledge_base.encode(list(questions))).float().to(device)


def vectors_of(question: Question | None, config: AdapterConfig, source: KnowledgeSource) -> Tensor | None:
    """The vectors that a question means; texts are encoded by the encoder of the knowledge base in force.

    Raises:
        KnowledgeError: it is no text, or the knowledge has no encoder.
        EncoderError: as `encoded`.
    """
    # Without a question head there is nothing to encode for: `check_question` says so.
    if question is None or isinstance(question, Tensor) or config.question_head is None:
        return question  # type: ignore[return-value]
    try:
        texts = [question] if isinstance(question, str) else list(question)
    except TypeError as error:
        raise KnowledgeError(f"{_KINDS}; got {type(question).__name__}") from error
    if not texts:
        raise KnowledgeError("question=[] holds no question; give one text for each batch row")
    for text in texts:
        if not isinstance(text, str) or not can_be_seen(text):
            raise KnowledgeError(f"{_KINDS}; it holds {repr(text)[:60]}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise KnowledgeError(f"question {text!a} holds half a character; decode its bytes rightly") from error
    knowledge_base: KnowledgeBase | None = getattr(source, "knowledge_base", None)
    if knowledge_base is None:
        raise KnowledgeError(
            f"{type(source).__name__} has no encoder to encode question={texts[0][:40]!r} with; put a KnowledgeBase in "
            f"force, or pass {_VECTORS}"
        )
    return encoded(knowledge_base, [asked_in(text, knowledge_base.encoder) for text in texts], source.device)
