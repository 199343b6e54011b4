"""What the requests of one step attend to, as the attention of every knowledge layer needs it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import AdapterConfig
from kblam.vllm.admission import STAMP, asked_of
from kblam.vllm.pool import KnowledgePool, Version
from kblam.vllm.saying import Line, Turn


@dataclass(frozen=True, eq=False)
class RequestKnowledge:
    """A request in a worker's batch.

    Args:
        request_id: as the scheduler calls it.
        version: what it attends to.
        question: by layer, what its question adds to its knowledge queries, (heads, D); None without.
        prompt_tokens: that the prompt has; attention before its end names no evidence.
        wants_evidence: whether the response has it.
        line: what it is to say; None leaves that to the model.
        named: ids of the triples that its question names.
    """

    request_id: str
    version: Version
    question: dict[int, Tensor] | None
    prompt_tokens: int
    wants_evidence: bool
    line: Line | None = None
    named: tuple[int, ...] = ()

    @property
    def asks_attention(self) -> bool:
        """Whether anybody wants to know which triples its tokens attend to."""
        return self.wants_evidence or (self.line is not None and self.line.asks_attention)


def request_of(pool: KnowledgePool, sampling_params: Any, prompt_tokens: int) -> RequestKnowledge | None:
    """What a request that enters the batch attends to; None if to the prompt alone."""
    asked = asked_of(sampling_params)
    if asked.base is None:
        return None
    stamp = sampling_params.extra_args[STAMP]
    return RequestKnowledge(
        request_id=stamp["request"],
        version=pool.version(stamp["generation"]),
        question=None if asked.vector is None else pool.question_parts(asked.vector),
        prompt_tokens=prompt_tokens,
        wants_evidence=asked.evidence,
        line=stamp.get("line"),
        named=stamp.get("named", ()),
    )


def bias_of(config: AdapterConfig, version: Version) -> float:
    """log C - log M of an adapter with a knowledge scale C; else 0."""
    if config.knowledge_scale is None or not config.separate_query_head:
        return 0.0
    return math.log(config.knowledge_scale) - math.log(max(version.rows.count, 1))


@dataclass(frozen=True, eq=False)
class Step:
    """The requests of a step that attend to knowledge: R of them, with T tokens.

    Args:
        requests: R, in the order of the batch.
        every: whether these are all requests of the step.
        places: int64 (R,), which requests of the step they are.
        rows: int64 (T,), which tokens of the step are theirs.
        starts: int32 (R + 1,), where the tokens of each begin among the T.
        request_of_row: int64 (T,).
        spans: int32 (R, 2), of the pool.
        bias: float32 (R,).
        answering: of those that choose a token in this step and whose attention is asked for: (their place among the R,
            the last of their T tokens).
        turn: what those of them that have a line do in it.
    """

    requests: list[RequestKnowledge]
    every: bool
    places: Tensor
    rows: Tensor
    starts: Tensor
    request_of_row: Tensor
    spans: Tensor
    bias: Tensor
    answering: list[tuple[int, int]] = field(default_factory=list)
    turn: Turn | None = None

    def question(self, layer: int) -> Tensor | None:
        """What questions add to the knowledge queries, (T, heads, D); None if no request has one."""
        parts = [request.question[layer] for request in self.requests if request.question is not None]
        return torch.stack(parts)[self.request_of_row] if parts else None


def step_of(
    config: AdapterConfig,
    requests: Sequence[RequestKnowledge | None],
    starts: Sequence[int],
    lengths: Sequence[int],
    device: torch.device,
    turn: Turn | None = None,
) -> Step | None:
    """The step of a batch; None if no request attends to knowledge.

    Args:
        config: of the adapter.
        requests: of the batch, in its order.
        starts: where the tokens of each begin, and the end of the last one's.
        lengths: tokens of each that will be in the cache after this step.
        device: of the model.
        turn: of those that have a line.
    """
    seeing = [
        (place, request)
        for place, request in enumerate(requests)
        if request is not None and request.version.rows.count and starts[place + 1] > starts[place]
    ]
    if not seeing:
        return None
    counts = [starts[place + 1] - starts[place] for place, _ in seeing]
    own = [0, *itertools.accumulate(counts)]
    rows = [row for place, _ in seeing for row in range(starts[place], starts[place + 1])]

    def tensor(values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    return Step(
        requests=[request for _, request in seeing],
        every=len(seeing) == len(requests),
        places=tensor([place for place, _ in seeing], torch.int64),
        rows=tensor(rows, torch.int64),
        starts=tensor(own, torch.int32),
        request_of_row=tensor([index for index, count in enumerate(counts) for _ in range(count)], torch.int64),
        spans=tensor([request.version.span for _, request in seeing], torch.int32),
        bias=tensor([bias_of(config, request.version) for _, request in seeing], torch.float32),
        answering=[
            (index, own[index + 1] - 1)
            for index, (place, request) in enumerate(seeing)
            if request.asks_attention and lengths[place] >= request.prompt_tokens
        ],
        turn=turn,
    )
