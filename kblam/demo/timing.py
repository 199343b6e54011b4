"""Milliseconds per generated token, with and without knowledge, side by side."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from transformers.generation import BaseStreamer

from kblam.demo.assets import Demo
from kblam.knowledge import KnowledgeBase
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


@dataclass
class _Clock(BaseStreamer):
    """Notes when `generate` hands over the prompt and then each token."""

    at: list[float] = field(default_factory=list)

    def put(self, value: torch.Tensor) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def time_tokens(
    demo: Demo, knowledge_base: KnowledgeBase, question: str, *, tokens: int = 16, rounds: int = 15
) -> TokenTimes:
    """Decodes the same number of tokens without and with knowledge, in turn, so that both meet the same machine.

    Args:
        demo: the model.
        knowledge_base: what is attached in the second of each pair of runs.
        question: what is asked; the answer is cut or drawn out to `tokens`.
        tokens: per run, at least 2.
        rounds: pairs of runs, after one to warm up.
    """
    tokenizer, model = demo.tokenizer, cast(Any, demo.model)
    text = f"{tokenizer.bos_token}{question}{tokenizer.sep_token}"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
    resident = resident_for(demo.attachment, knowledge_base)
    steps: dict[bool, list[float]] = {False: [], True: []}
    firsts: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for known in (False, True):
            clock = _Clock()
            with demo.attachment.using(resident if known else None):
                model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, **options)
            if number:
                prompt, first, *_ = clock.at
                firsts[known].append(1000 * (first - prompt))
                steps[known] += [1000 * (later - earlier) for earlier, later in pairwise(clock.at[1:])]
    return TokenTimes(*(statistics.median(times[known]) for times in (steps, firsts) for known in (False, True)))


@torch.inference_mode()
def backend_in_use(demo: Demo, knowledge_base: KnowledgeBase) -> str:
    """Name of the backend that serves one decode step over this knowledge base on this machine."""
    seen: dict[str, Any] = {}
    resident = resident_for(demo.attachment, knowledge_base)
    with demo.attachment.using(resident), demo.attachment.observing(seen.update):
        demo.model(torch.tensor([[demo.tokenizer.bos_token_id]]))
    query = seen["query"]
    return str(explain(query, query, query, seen["knowledge"], backend=demo.attachment.options.backend).backend)
