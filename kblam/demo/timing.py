"""Milliseconds per generated token, with and without knowledge, side by side."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from kblam.demo.assets import Demo
from kblam.knowledge import KnowledgeBase
from kblam.models.resident import resident_for
from kblam_kernels import explain


@dataclass(frozen=True)
class TokenTimes:
    """Median milliseconds per token of one decode step."""

    without: float
    with_knowledge: float


@torch.inference_mode()
def time_tokens(
    demo: Demo, knowledge_base: KnowledgeBase, question: str, *, tokens: int = 16, rounds: int = 7
) -> TokenTimes:
    """Decodes the same number of tokens without and with knowledge, in turn, so that both meet the same machine.

    Args:
        demo: the model.
        knowledge_base: what is attached in the second of each pair of runs.
        question: what is asked; the answer is cut or drawn out to `tokens`.
        tokens: per run.
        rounds: pairs of runs, after one to warm up.
    """
    tokenizer, model = demo.tokenizer, cast(Any, demo.model)
    text = f"{tokenizer.bos_token}{question}{tokenizer.sep_token}"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
    resident = resident_for(demo.attachment, knowledge_base)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for known in (False, True):
            with demo.attachment.using(resident if known else None):
                began = time.perf_counter()
                model.generate(ids, attention_mask=torch.ones_like(ids), **options)
                took = time.perf_counter() - began
            if number:
                times[known].append(1000 * took / tokens)
    return TokenTimes(statistics.median(times[False]), statistics.median(times[True]))


@torch.inference_mode()
def backend_in_use(demo: Demo, knowledge_base: KnowledgeBase) -> str:
    """Name of the backend that serves one decode step over this knowledge base on this machine."""
    seen: dict[str, Any] = {}
    resident = resident_for(demo.attachment, knowledge_base)
    with demo.attachment.using(resident), demo.attachment.observing(seen.update):
        demo.model(torch.tensor([[demo.tokenizer.bos_token_id]]))
    query = seen["query"]
    return str(explain(query, query, query, seen["knowledge"], backend=demo.attachment.backend).backend)
