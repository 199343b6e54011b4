"""Questions to a model with a knowledge base, in one call; `Session` for more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.generation.answer import Answer
from kblam.generation.decision import Unknown
from kblam.generation.session import Session
from kblam.knowledge import KnowledgeBase


def ask(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    question: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    unknown: Unknown | Literal["auto"] | None = "auto",
    known_above: float | None = None,
    **options: Any,
) -> Answer:
    """Answers one question from a knowledge base; greedy unless the options say otherwise.

    Args:
        model, knowledge_base, tokenizer: as `Session` takes them.
        question: one question in natural language.
        unknown, known_above: as `Session` takes them.
        options: as `Session.ask` takes them (`top`, `max_new_tokens`, `do_sample`, `streamer`, ...).

    Raises:
        As `Session` and `Session.ask`.
    """
    session = Session(model, knowledge_base, tokenizer=tokenizer, unknown=unknown, known_above=known_above)
    return session.ask(question, **options)


def ask_many(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    questions: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    unknown: Unknown | Literal["auto"] | None = "auto",
    known_above: float | None = None,
    **options: Any,
) -> list[Answer]:
    """`ask` for several questions; `options` are those of `Session.ask_many`."""
    session = Session(model, knowledge_base, tokenizer=tokenizer, unknown=unknown, known_above=known_above)
    return session.ask_many(questions, **options)
