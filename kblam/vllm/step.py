"""What the requests of one step attend to, as the attention of every knowledge layer needs it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
        to_evidence: where nothing of it but the evidence depends on what it attends to from the evidence layer on, the
            first of its tokens that evidence is wanted of; else None.
    """

    request_id: str
    version: Version
    question: dict[int, Tensor] | None
    prompt_tokens: int
    wants_evidence: bool
    line: Line | None = None
    named: tuple[int, ...] = ()
    to_evidence: int | None = None

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
        to_evidence=stamp.get("to_evidence"),
    )


def bias_of(config: AdapterConfig, version: Version) -> float:
    """log C - log M of an adapter with a knowledge scale C; else 0."""
    if config.knowledge_scale is None or not config.separate_query_head:
        return 0.0
    return math.log(config.knowledge_scale) - math.log(max(version.rows.count, 1))


@dataclass(frozen=True, eq=False)
class Step:
    """Requests of a step that attend to knowledge in a layer: R of them, with T tokens.

    Args:
        requests: R, in the order of the batch.
        every: whether these are all tokens of the step.
        places: int64 (R,), which requests of the step they are.
        rows: int64 (T,), which tokens of the step are theirs, those that attend.
        starts: int32 (R + 1,), where the tokens of each begin among the T.
        request_of_row: int64 (T,).
        spans: int32 (R, 2), of the pool.
        bias: float32 (R,).
        answering: the tokens whose evidence is asked for: (the place among the R of whose it is, which of the T).
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


@dataclass(frozen=True, eq=False)
class Steps:
    """What the knowledge layers do in a step.

    Args:
        evidence_layer: of the adapter.
        below: in the layers below it, all requests.
        above: in it and above, those whose answer may depend on it.
        looking: in it, the tokens of all others that evidence is wanted of: nobody reads what they make of it.
    """

    evidence_layer: int
    below: Step | None
    above: Step | None
    looking: Step | None

    def attending(self, layer: int) -> Step | None:
        """Those that attend to knowledge in a layer; None if nobody does."""
        return self.below if layer < self.evidence_layer else self.above


def steps_of(
    config: AdapterConfig,
    requests: Sequence[RequestKnowledge | None],
    starts: Sequence[int],
    lengths: Sequence[int],
    device: torch.device,
    turn: Turn | None = None,
) -> Steps | None:
    """What the knowledge layers do in the step of a batch; None if that is nothing.

    Args:
        config: of the adapter.
        requests: of the batch, in its order.
        starts: where the tokens of each begin, and the end of the last one's.
        lengths: tokens of each that will be in the cache after this step.
        device: of the model.
        turn: of those that have a line.
    """
    seeing = [
        _Seeing(place, request, range(starts[place], starts[place + 1]), lengths[place])
        for place, request in enumerate(requests)
        if request is not None and request.version.rows.count and starts[place + 1] > starts[place]
    ]
    above = [one for one in seeing if one.request.to_evidence is None]
    looking = [one.looked_at for one in seeing if one.request.to_evidence is not None]

    def step(chosen: Sequence[_Seeing]) -> Step | None:
        some = [one for one in chosen if one.rows]
        return _step(config, some, starts[len(requests)], device, turn) if some else None

    made, seen = step(above), step(looking)
    is_first = config.evidence_layer == min(config.knowledge_layers)
    below = None if is_first else made if len(above) == len(seeing) else step(seeing)
    return None if below is None and made is None and seen is None else Steps(config.evidence_layer, below, made, seen)


@dataclass(frozen=True)
class _Seeing:
    """A request of a step that has knowledge.

    Args:
        place: in the batch.
        request: the request.
        rows: its tokens in the step, those that attend.
        length: of it, after the step.
    """

    place: int
    request: RequestKnowledge
    rows: range
    length: int

    @property
    def answering(self) -> range:
        """Those of its rows that evidence is asked of: what it chooses a token from, or all that it is read for."""
        if not self.request.asks_attention:
            return self.rows[:0]
        if self.request.to_evidence is not None:
            first = self.length - len(self.rows)
            return self.rows[max(0, self.request.to_evidence - first) :]
        return self.rows[-1:] if self.length >= self.request.prompt_tokens else self.rows[:0]

    @property
    def looked_at(self) -> _Seeing:
        """The same with those rows alone."""
        return replace(self, rows=self.answering)


def _step(
    config: AdapterConfig, seeing: Sequence[_Seeing], tokens: int, device: torch.device, turn: Turn | None
) -> Step:
    counts = [len(one.rows) for one in seeing]
    own = [0, *itertools.accumulate(counts)]

    def tensor(values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    return Step(
        requests=[one.request for one in seeing],
        every=own[-1] == tokens,
        places=tensor([one.place for one in seeing], torch.int64),
        rows=tensor([row for one in seeing for row in one.rows], torch.int64),
        starts=tensor(own, torch.int32),
        request_of_row=tensor([index for index, count in enumerate(counts) for _ in range(count)], torch.int64),
        spans=tensor([one.request.version.span for one in seeing], torch.int32),
        bias=tensor([bias_of(config, one.request.version) for one in seeing], torch.float32),
        answering=[
            (index, own[index] + row - one.rows.start) for index, one in enumerate(seeing) for row in one.answering
        ],
        turn=turn,
    )
