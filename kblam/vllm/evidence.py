"""Which triples a request's newest token attended to, of the whole softmax; kept until the step's output goes back."""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from kblam.generation.evidence import strongest
from kblam.vllm.pool import KnowledgePool, Version
from kblam.vllm.step import RequestKnowledge, Step, bias_of
from kblam_kernels import evidence


def observe(pool: KnowledgePool, layer: int, rows: Tensor, lse: Tensor, step: Step, scale: float) -> None:
    """Adds the best triples of every answering request to `pool.found`.

    Args:
        pool: of the worker.
        layer: that was attended in.
        rows: (T, heads, D), the knowledge queries.
        lse: float32 (heads, T), of prompt and knowledge together.
        step: whose rows these are.
        scale: of the scores.
    """
    by_version: dict[Version, list[tuple[int, int]]] = {}
    for index, row in step.answering:
        by_version.setdefault(step.requests[index].version, []).append((index, row))
    knowledge = pool.layer(layer)
    for version, answering in by_version.items():
        own = [row for _, row in answering]
        mass = evidence(
            rows[own][:, :, None],
            knowledge.part(slice(*version.span)),
            lse[:, own].T[:, :, None].contiguous(),
            scale=scale,
            knowledge_bias=bias_of(pool.config, version),  # of the tensor the host would wait for its number
            row_weight=torch.full((), 1 / pool.config.num_heads, dtype=torch.float32, device=lse.device),
        )
        if get_tensor_model_parallel_world_size() > 1:  # each worker saw the share of its own heads
            mass = tensor_model_parallel_all_reduce(mass)
        _tell_the_lines(version, step, [index for index, _ in answering], mass)
        told = [line for line, (index, _) in enumerate(answering) if step.requests[index].wants_evidence]
        if not told:
            continue
        asking = [step.requests[answering[line][0]] for line in told]
        kept = strongest(mass[told], _named(version, asking, mass.device))
        masses, places = (part.tolist() for part in kept)
        for request, triples, shares in zip(asking, places, masses, strict=True):
            found = zip(triples, shares, strict=True)
            pool.found[request.request_id] = [(version.rows.ids[place], share) for place, share in found if share > 0]


def _named(version: Version, asking: list[RequestKnowledge], device: torch.device) -> Tensor | None:
    """The rows of the triples that questions name, int64 (requests, S), -1 where one names fewer; None without any."""
    rows = [version.rows.rows_of(request.named) for request in asking]
    width = max(map(len, rows))
    return torch.tensor([[*one, *[-1] * (width - len(one))] for one in rows], device=device) if width else None


def _tell_the_lines(version: Version, step: Step, answering: list[int], mass: Tensor) -> None:
    """Sums what the planned triples of each request got, for those that it matters for; nothing leaves the device."""
    if step.turn is None:
        return
    place_of = {id(request): place for place, request in enumerate(step.turn.requests)}
    for line, index in enumerate(answering):
        request = step.requests[index]
        if request.line is not None and request.line.asks_attention:
            rows = version.rows.rows_of(request.line.facts)
            step.turn.now[place_of[id(request)]] = mass[line, rows].sum()
