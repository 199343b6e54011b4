"""Whether a model keeps its own abilities while a large knowledge base that has nothing to do with them is attached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from kblam.data.passages import PASSAGES
from kblam.evaluation.baselines import Reader
from kblam.evaluation.force import attached, in_force
from kblam.evaluation.loop import BATCH, Asked, Subject, session_of
from kblam.evaluation.shares import Share
from kblam.generation.prompt import encode_for_base
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class General:
    """What an irrelevant knowledge base does to questions and text that it has no answer to.

    Args:
        equal: general questions whose greedy answer equals the base model's own, to the letter.
        known: those that counted as known, so that the knowledge base answered and not the base model.
        perplexity_alone: of prose, for the base model; perplexity_with: with the knowledge in force all the time,
            whatever the calibrated decision would say.
        triples: in the knowledge base.
        changed: up to five (question, the base's answer, the answer with knowledge).
    """

    equal: Share
    known: Share
    perplexity_alone: float
    perplexity_with: float
    triples: int
    changed: tuple[tuple[str, str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "equal": round(float(self.equal), 4),
            "known": round(float(self.known), 4),
            "questions": self.equal.of,
            "triples": self.triples,
            "perplexity_alone": round(self.perplexity_alone, 3),
            "perplexity_with": round(self.perplexity_with, 3),
            "intervals": {
                name: [*(round(end, 4) for end in share.interval), share.hits, share.of]
                for name, share in (("equal", self.equal), ("known", self.known))
            },
            "changed": [dict(zip(("question", "alone", "with"), each, strict=True)) for each in self.changed],
        }


def measure_general(
    subject: Subject, knowledge_base: KnowledgeBase, questions: Sequence[str], *, asked: Asked | None = None
) -> General:
    """Asks general questions with and without an irrelevant knowledge base.

    With a calibrated adapter, what is unknown goes to the base model; without, the knowledge is in force for all.
    """
    attachment = attached(subject.model)
    alone = _own_answers(subject, attachment, questions)
    session = session_of(subject, knowledge_base, None if attachment.config.known_above is None else "base")
    answers = []
    for start in range(0, len(questions), BATCH):
        answers += session.ask_many(questions[start : start + BATCH], top=0, max_new_tokens=MAX_NEW_TOKENS)
        if asked is not None:
            asked(len(answers) - start)
    pairs = list(zip(questions, alone, answers, strict=True))
    changed = [(question, own, answer.text) for question, own, answer in pairs if own != answer.text]
    return General(
        equal=Share(len(pairs) - len(changed), len(pairs)),
        known=Share.of_all(not answer.from_base for answer in answers),
        perplexity_alone=perplexity(subject, None),
        perplexity_with=perplexity(subject, knowledge_base),
        triples=len(knowledge_base),
        changed=tuple(changed[:5]),
    )


@torch.inference_mode()
def perplexity(subject: Subject, knowledge_base: KnowledgeBase | None, passages: Sequence[str] = PASSAGES) -> float:
    """exp of the mean negative log-likelihood of a token, each passage by itself; None for the model alone."""
    attachment, model = attached(subject.model), subject.model
    total, count = 0.0, 0
    for passage in passages:
        ids = torch.tensor([subject.tokenizer(passage)["input_ids"]], device=attachment.input_device)
        with in_force(attachment, knowledge_base, [passage]):
            logits = model(ids).logits
        total += F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return math.exp(total / count)


def _own_answers(subject: Subject, attachment: Attachment, questions: Sequence[str]) -> list[str]:
    reader, found = Reader(subject), list[str]()
    for start in range(0, len(questions), BATCH):
        rows = [encode_for_base(text, attachment, subject.tokenizer) for text in questions[start : start + BATCH]]
        found += reader.answer(rows, MAX_NEW_TOKENS)
    return found
