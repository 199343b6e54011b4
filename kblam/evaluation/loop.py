"""Putting a quiz to a model with a knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from kblam.data.quiz import Question, Quiz
from kblam.evaluation.figures import Figures, Outcome, score
from kblam.evaluation.machine import Stopwatch, Times
from kblam.generation import Session
from kblam.generation.answer import may_become_refusal
from kblam.generation.decision import Unknown
from kblam.knowledge import Encoder, KnowledgeBase, Triple
from kblam.knowledge.encoders import DeepEncoder, Progress, layered
from kblam.knowledge.encoders.base import beyond_limit

BATCH = 32
TOP = 5
# An answer may be this many tokens longer than the longest right one of its batch; none is longer than the limit.
SPARE_TOKENS = 16
LIMIT = 400
REFUSAL_TOKENS = 32
# Questions that are asked one at a time, for their times, and how many tokens their answers have at most.
TIMED = 8
TIMED_TOKENS = 16

Asked = Callable[[int], None]  # told how many questions have been answered since it was told last


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
        self._layered: dict[tuple[int, ...], dict[str, np.ndarray]] = {}
        self._is_anew = False

    @property
    def plain(self) -> Encoder:
        """The encoder itself, which remembers nothing."""
        return self._encoder

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
        return self._each_once(self._known, self._encoder, texts, progress)

    def learn(self, texts: Sequence[str], *, progress: Progress | None = None) -> None:
        """Encodes the texts that it does not know."""
        _learn(self._known, self._encoder, texts, progress)

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        """As `LimitedEncoder.beyond_limit`."""
        return beyond_limit(self._encoder, texts)

    @property
    def depth(self) -> int:
        """Of the encoder; 0 if it shows no layers."""
        return self._encoder.depth if isinstance(self._encoder, DeepEncoder) else 0

    def encode_layers(
        self, texts: Sequence[str], layers: Sequence[int], *, progress: Progress | None = None
    ) -> np.ndarray:
        """As `DeepEncoder.encode_layers`."""
        known = self._layered.setdefault(tuple(layers), {})
        return self._each_once(known, layered(self._encoder, layers), texts, progress)

    def _each_once(
        self, known: dict[str, np.ndarray], encoder: Encoder, texts: Sequence[str], progress: Progress | None
    ) -> np.ndarray:
        if self._is_anew:
            return encoder.encode(texts, progress=progress)
        _learn(known, encoder, texts, progress)
        if not texts:
            return np.empty((0, encoder.dimension), np.float32)
        return np.stack([known[text] for text in texts])

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Within the block every text is encoded, known or not, as a user's question is whose time is measured."""
        self._is_anew = True
        try:
            yield
        finally:
            self._is_anew = False

    def remember_all(self, knowledge_base: KnowledgeBase) -> None:
        """Takes the vectors of a knowledge base that this encoder built, so that none of its texts is encoded again."""
        vectors = knowledge_base.embeddings()
        for start in range(0, len(vectors), 1000):
            stop = start + 1000
            triples = knowledge_base.triples_at(vectors.ids[start:stop])
            for triple, key, value in zip(triples, vectors.key[start:stop], vectors.value[start:stop], strict=True):
                self._known[triple.key_text], self._known[triple.value_text] = key.astype("f4"), value.astype("f4")


def _learn(known: dict[str, np.ndarray], encoder: Encoder, texts: Sequence[str], progress: Progress | None) -> None:
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        known.update(zip(new, encoder.encode(new, progress=progress), strict=True))


def triples_of(quiz: Quiz) -> list[Triple]:
    """The facts of a quiz as triples, with the keys that they have."""
    return [Triple(*fact, key_string=quiz.keys.get(fact[:2])) for fact in quiz.facts]


def answer_limits(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The most new tokens for each question: a few more than its right answer has, and always room for a refusal."""
    return [min(LIMIT, SPARE_TOKENS + max(REFUSAL_TOKENS, length)) for length in right_lengths(questions, tokenizer)]


def right_lengths(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many tokens each right answer has; 0 where there is none."""
    return [len(tokenizer(question.answer)["input_ids"]) if question.facts else 0 for question in questions]


def batches(limits: Sequence[int], size: int = BATCH) -> list[tuple[list[int], int]]:
    """Batches as (places, the most new tokens): answers of like length go together, so that none waits for another."""
    order = sorted(range(len(limits)), key=lambda place: limits[place])
    return [
        (places, max(limits[place] for place in places))
        for places in (order[start : start + size] for start in range(0, len(order), size))
    ]


def answer_quiz(
    subject: Subject,
    knowledge_base: KnowledgeBase,
    quiz: Quiz,
    *,
    batch_size: int = BATCH,
    asked: Asked | None = None,
    quick: bool = False,
) -> list[Outcome]:
    """What a model says to every question of a quiz, as a user gets it.

    Where a session decides what is known, every question is asked once more by one that leaves that to the model, as
    far as it takes to tell a refusal; not with `quick`.
    """
    session, undecided = session_of(subject, knowledge_base), session_of(subject, knowledge_base, None)
    found: dict[int, Outcome] = {}
    lengths = right_lengths(quiz.questions, subject.tokenizer)
    for places, limit in batches(answer_limits(quiz.questions, subject.tokenizer), batch_size):
        texts = [quiz.questions[place].text for place in places]
        answers = session.ask_many(texts, top=TOP, max_new_tokens=limit, batch_size=batch_size)
        learned: Sequence[bool | None] = [answer.refused for answer in answers]
        if any(answer.known is not None for answer in answers):
            learned = [None] * len(texts) if quick else learned_refusals(undecided, texts, limit)
        for place, answer, by_itself in zip(places, answers, learned, strict=True):
            evidence = tuple((e.triple.name, e.triple.property, e.triple.value) for e in answer.evidence)
            cut = answer.is_cut and lengths[place] > limit
            found[place] = Outcome(answer.text, evidence, answer.refused, answer.known, by_itself, cut=cut)
        if asked is not None:
            asked(len(places))
    return [found[place] for place in range(len(quiz.questions))]


def learned_refusals(session: Session, questions: Sequence[str], most: int) -> list[bool]:
    """Whether a session refuses each question of a batch; no answer goes on once it is told from a refusal.

    Args:
        session: with `unknown=None`, so that the model itself decides.
        questions: of one batch.
        most: tokens at most.
    """
    told = ToldFromRefusal(session.tokenizer, session.attachment.config.refusal)
    answers = session.ask_many(
        questions, top=0, max_new_tokens=most, batch_size=len(questions), stopping_criteria=StoppingCriteriaList([told])
    )
    return [answer.refused for answer in answers]


class ToldFromRefusal(StoppingCriteria):
    """Ends a row of one `generate` call when its text has left the refusal sentence, or has said all of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, refusal: str) -> None:
        self._tokenizer, self._refusal = tokenizer, refusal
        self._prompt: int | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """input_ids (B, N) int64 -> bool (B,); called by `generate` after each token."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1
        texts = self._tokenizer.batch_decode(input_ids[:, self._prompt :], skip_special_tokens=True)
        done = [not may_become_refusal(text, self._refusal) for text in texts]
        return cast(torch.BoolTensor, torch.tensor(done, device=input_ids.device))


def session_of(
    subject: Subject, knowledge_base: KnowledgeBase, unknown: Unknown | Literal["auto"] | None = "auto"
) -> Session:
    """A session; `unknown` as `Session` takes it."""
    return Session(subject.model, knowledge_base, tokenizer=subject.tokenizer, unknown=unknown)


def time_questions(subject: Subject, knowledge_base: KnowledgeBase, questions: Sequence[Question]) -> Times:
    """Times of the first questions as a user asks them, see `timed`."""
    session = session_of(subject, knowledge_base)

    def ask(text: str, watch: Stopwatch) -> None:
        session.ask(text, top=1, max_new_tokens=TIMED_TOKENS, streamer=watch)

    return timed(questions, knowledge_base.encoder, ask)


def timed(questions: Sequence[Question], encoder: Encoder, ask: Callable[[str, Stopwatch], None]) -> Times:
    """Times of the first questions, one at a time, each from its text on, after one that is not counted.

    Args:
        questions: the first `TIMED` are asked.
        encoder: of their sentence vectors, which are made anew.
        ask: answers a text with at most `TIMED_TOKENS` tokens, and gives them to the watch, which runs already.
    """
    watches = []
    with encoder.anew() if isinstance(encoder, RememberingEncoder) else nullcontext():
        for question in [*questions[:1], *questions[:TIMED]]:
            watch = Stopwatch()
            ask(question.text, watch)
            watch.finish()
            watches.append(watch)
    return Times.of(watches[1:])


def measure(subject: Subject, encoder: Encoder, parts: Sequence[Quiz], *, asked: Asked | None = None) -> Figures:
    """The figures of all parts together."""
    outcomes: list[Outcome] = []
    for quiz in parts:
        with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
            outcomes += answer_quiz(subject, knowledge_base, quiz, asked=asked)
    return score([question for quiz in parts for question in quiz.questions], outcomes)
