"""Putting a quiz to a model with a knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.data.quiz import Question, Quiz
from kblam.evaluation.figures import Figures, Outcome, score
from kblam.evaluation.machine import Stopwatch, Times
from kblam.generation import Session
from kblam.generation.decision import Unknown
from kblam.knowledge import Encoder, KnowledgeBase, Triple
from kblam.knowledge.encoders import Progress
from kblam.models import attachment_of

BATCH = 32
TOP = 5
# An answer may be this many tokens longer than the longest right one of its batch; none is longer than the limit.
SPARE_TOKENS = 16
LIMIT = 400
# Questions that are asked one at a time, for their times.
TIMED = 8

Asked = Callable[[int], None]  # told how many questions have been answered since it was told last


class Subject(Protocol):
    """Who is asked: a model with an adapter attached."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...


class RememberingEncoder:
    """An encoder that encodes each text once: the benchmark's knowledge bases hold the same facts.

    A text that comes alone is encoded anew each time: so come a user's questions, whose times are measured.
    """

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
        if len(texts) == 1:
            return self._encoder.encode(texts, progress=progress)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode(new, progress=progress), strict=True))
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        return np.stack([self._known[text] for text in texts])

    def remember_all(self, knowledge_base: KnowledgeBase) -> None:
        """Takes the vectors of a knowledge base that this encoder built, so that none of its texts is encoded again."""
        vectors = knowledge_base.embeddings()
        for start in range(0, len(vectors), 1000):
            stop = start + 1000
            triples = knowledge_base.triples_at(vectors.ids[start:stop])
            for triple, key, value in zip(triples, vectors.key[start:stop], vectors.value[start:stop], strict=True):
                self._known[triple.key_text], self._known[triple.value_text] = key.astype("f4"), value.astype("f4")


def triples_of(quiz: Quiz) -> list[Triple]:
    """The facts of a quiz as triples."""
    return [Triple(*fact) for fact in quiz.facts]


def batches(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, size: int = BATCH
) -> list[tuple[list[int], int]]:
    """Batches as (places, the most new tokens): answers of like length go together, so that none waits for another."""
    lengths = [len(tokenizer(question.answer)["input_ids"]) if question.facts else 0 for question in questions]
    order = sorted(range(len(questions)), key=lambda place: lengths[place])
    refusal = 32  # room for a refusal, where no question of the batch has an answer
    return [
        (places, min(LIMIT, SPARE_TOKENS + max(refusal, *(lengths[place] for place in places))))
        for places in (order[start : start + size] for start in range(0, len(order), size))
    ]


def answer_quiz(
    subject: Subject, knowledge_base: KnowledgeBase, quiz: Quiz, *, batch_size: int = BATCH, asked: Asked | None = None
) -> list[Outcome]:
    """What a model says to every question of a quiz, as a user gets it.

    Where the adapter has a threshold, what lies below it is asked once more without, to learn what the model would
    have said by itself.
    """
    above = _threshold(subject.model)
    session = session_of(subject, knowledge_base, None if above is None else "refuse")
    found: dict[int, Outcome] = {}
    for places, limit in batches(quiz.questions, subject.tokenizer, batch_size):
        texts = [quiz.questions[place].text for place in places]
        answers = session.ask_many(texts, top=TOP, max_new_tokens=limit, batch_size=batch_size)
        below = [None if above is None else answer.known is False for answer in answers]
        learned = [answer.refused for answer in answers]
        if again := [row for row, low in enumerate(below) if low]:
            said = session_of(subject, knowledge_base, None).ask_many(
                [texts[row] for row in again], top=0, max_new_tokens=limit, batch_size=batch_size
            )
            for row, answer in zip(again, said, strict=True):
                learned[row] = answer.refused
        for place, answer, low, by_itself in zip(places, answers, below, learned, strict=True):
            evidence = tuple((e.triple.name, e.triple.property, e.triple.value) for e in answer.evidence)
            found[place] = Outcome(answer.text, evidence, answer.refused, low, by_itself)
        if asked is not None:
            asked(len(places))
    return [found[place] for place in range(len(quiz.questions))]


def _threshold(model: PreTrainedModel) -> float | None:
    attachment = attachment_of(model)
    return None if attachment is None else attachment.config.known_above


def session_of(subject: Subject, knowledge_base: KnowledgeBase, unknown: Unknown | None) -> Session:
    """A session; `unknown` as `Session` takes it."""
    return Session(subject.model, knowledge_base, tokenizer=subject.tokenizer, unknown=unknown)


def time_questions(subject: Subject, knowledge_base: KnowledgeBase, questions: Sequence[Question]) -> Times:
    """Times of the first questions, one at a time, after one that is not counted."""
    session = session_of(subject, knowledge_base, None)
    watches = []
    for question in [*questions[:1], *questions[:TIMED]]:
        watch = Stopwatch()
        session.ask(question.text, top=1, max_new_tokens=64, streamer=watch)
        watches.append(watch)
    return Times.of(watches[1:])


def measure(subject: Subject, encoder: Encoder, parts: Sequence[Quiz], *, asked: Asked | None = None) -> Figures:
    """The figures of all parts together."""
    outcomes: list[Outcome] = []
    for quiz in parts:
        with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
            outcomes += answer_quiz(subject, knowledge_base, quiz, asked=asked)
    return score([question for quiz in parts for question in quiz.questions], outcomes)
