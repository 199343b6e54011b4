"""Putting a quiz to a model with a knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.data.quiz import Quiz
from kblam.evaluation.figures import Figures, Outcome, score
from kblam.generation import Session
from kblam.knowledge import Encoder, KnowledgeBase, Triple
from kblam.knowledge.encoders import Progress

MAX_NEW_TOKENS = 80


class Subject(Protocol):
    """Who is asked: a model with an adapter attached."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...


class RememberingEncoder:
    """An encoder that encodes each text once: the benchmark's knowledge bases hold the same facts."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    @property
    def spec(self) -> str:
        return self._encoder.spec

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def dimension(self) -> int:
        return self._encoder.dimension

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """As `Encoder.encode`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode(new, progress=progress), strict=True))
        return np.stack([self._known[text] for text in texts])


def triples_of(quiz: Quiz) -> list[Triple]:
    """The facts of a quiz as triples."""
    return [Triple(*fact) for fact in quiz.facts]


def answer_quiz(subject: Subject, knowledge_base: KnowledgeBase, quiz: Quiz) -> list[Outcome]:
    """What a model says to every question of a quiz."""
    session = Session(subject.model, knowledge_base, tokenizer=subject.tokenizer)
    texts = [question.text for question in quiz.questions]
    outcomes = []
    for answer in session.ask_many(texts, top=1, max_new_tokens=MAX_NEW_TOKENS):
        triple = answer.evidence[0].triple if answer.evidence else None
        best = None if triple is None else (triple.name, triple.property, triple.value)
        outcomes.append(Outcome(answer.text, best, answer.refused))
    return outcomes


def measure(subject: Subject, encoder: Encoder, parts: Sequence[Quiz]) -> Figures:
    """The figures of all parts together."""
    outcomes: list[Outcome] = []
    for quiz in parts:
        with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
            outcomes += answer_quiz(subject, knowledge_base, quiz)
    return score([question for quiz in parts for question in quiz.questions], outcomes)
