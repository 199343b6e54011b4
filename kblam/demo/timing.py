"""Milliseconds per generated token, with and without knowledge, side by side."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch

from kblam.evaluation.machine import Stopwatch
from kblam.generation import Session
from kblam.generation.prompt import encode_question
from kblam.models.copies import resident_for
from kblam_kernels import explain


@dataclass(frozen=True)
class TokenTimes:
    """Median milliseconds without and with knowledge.

    Args:
        without, with_knowledge: of one decode step, from one token to the next.
        first_without, first_with: to the first token, which is mostly the prompt's forward pass.
    """

    without: float
    with_knowledge: float
    first_without: float
    first_with: float

    def to_dict(self) -> dict[str, float]:
        """As the report has them."""
        return {
            "without": round(self.without, 3),
            "with": round(self.with_knowledge, 3),
            "first_without": round(self.first_without, 3),
            "first_with": round(self.first_with, 3),
        }


@torch.inference_mode()
def time_tokens(session: Session, question: str, *, tokens: int = 16, rounds: int = 15) -> TokenTimes:
    """Decodes the same number of tokens without and with knowledge, in turn, so that both meet the same machine.

    Args:
        session: its model, and the knowledge base that is in force in the second of each pair of runs.
        question: what is asked; the answer is cut or drawn out to `tokens`, and nothing is copied into it.
        tokens: per run, at least 2.
        rounds: pairs of runs, after one to warm up.
    """
    attachment, model = session.attachment, cast(Any, session.model)
    ids = torch.tensor([encode_question(question, attachment, session.tokenizer)], device=model.device)
    options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0}
    resident = resident_for(attachment, session.knowledge_base)
    steps: dict[bool, list[float]] = {False: [], True: []}
    firsts: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for known in (False, True):
            watch = Stopwatch()
            with attachment.using(resident if known else None, question=_vector(session, question) if known else None):
                model.generate(ids, attention_mask=torch.ones_like(ids), streamer=watch, **options)
            if number:
                firsts[known].append(1000 * (watch.tokens[0] - watch.prompt))
                steps[known] += [1000 * (later - earlier) for earlier, later in pairwise(watch.tokens)]
    return TokenTimes(*(statistics.median(times[known]) for times in (steps, firsts) for known in (False, True)))


@torch.inference_mode()
def backend_in_use(session: Session, question: str) -> str:
    """Name of the backend that serves one decode step over this session's knowledge base on this machine."""
    seen: dict[str, Any] = {}
    attachment, model = session.attachment, cast(Any, session.model)
    resident = resident_for(attachment, session.knowledge_base)
    with attachment.using(resident, question=_vector(session, question)), attachment.observing(seen.update):
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    query = seen["query"]
    return str(explain(query, query, query, seen["knowledge"], backend=attachment.options.backend).backend)


def _vector(session: Session, question: str) -> torch.Tensor | None:
    if session.attachment.config.question_head is None:
        return None
    return session.question_vectors([question])
