"""Questions to a model with a knowledge base, in one call; `Session` for more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.generation.answer import Answer
from kblam.generation.session import Session
from kblam.knowledge import KnowledgeBase


def ask(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    question: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> Answer:
    """Answers one question from a knowledge base; greedy unless the options say otherwise.

    Args:
        model, knowledge_base, tokenizer: as `Session` takes them.
        question: one question in natural language.
        options: as `Session.ask` takes them (`top`, `max_new_tokens`, `do_sample`, `streamer`, ...).

    Raises:
        As `Session` and `Session.ask`.
    """
    return Session(model, knowledge_base, tokenizer=tokenizer).ask(question, **options)


def ask_many(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    questions: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> list[Answer]:
    """`ask` for several questions; `options` are those of `Session.ask_many`."""
    return Session(model, knowledge_base, tokenizer=tokenizer).ask_many(questions, **options)
