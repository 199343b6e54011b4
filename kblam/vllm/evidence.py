"""Which triples a request's newest token attended to, of the whole softmax; kept until the step's output goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from kblam.generation.evidence import MASSES_AT_ONCE, strongest, strongest_of
from kblam.models.lse import of_knowledge_alone, tokens_at_once
from kblam.vllm.pool import KnowledgePool, Version
from kblam.vllm.step import RequestKnowledge, Step, bias_of
from kblam_kernels import evidence, partial_knowledge_attention


def observe(pool: KnowledgePool, layer: int, rows: Tensor, lse: Tensor, step: Step, scale: float) -> None:
    """Adds the best triples of every answering row to `pool.found`.

    Args:
        pool: of the worker.
        layer: that was attended in.
        rows: (T, heads, D), the knowledge queries.
        lse: float32 (heads, T), of prompt and knowledge together.
        step: whose rows these are.
        scale: of the scores.
    """
    for version, requests, own in _by_version(step, _masses_at_once):
        mass = _masses(pool, layer, version, rows[own], lse[:, own], scale)
        _tell_the_lines(version, step, requests, mass)
        told = [line for line, request in enumerate(requests) if request.wants_evidence]
        if told:
            asking = [requests[line] for line in told]
            _keep(pool, version, asking, *strongest(mass[told], _named(version, asking, mass.device)))


def look(pool: KnowledgePool, layer: int, rows: Tensor, prompt_lse: Tensor, step: Step, scale: float) -> None:
    """As `observe`, of rows that did not attend: nothing else of them is wanted, so their output is not computed.

    Args:
        pool, layer, scale: as `observe` has them.
        rows: (T, heads, D).
        prompt_lse: float32 (heads, T), of the prompt alone.
        step: whose rows these are.
    """
    if not _has_lse_alone(rows.device) or get_tensor_model_parallel_world_size() > 1:
        _, of_knowledge = partial_knowledge_attention(
            rows, pool.layer(layer), step.starts, step.spans, knowledge_bias=step.bias, scale=scale
        )
        observe(pool, layer, rows, torch.logaddexp(prompt_lse, of_knowledge), step, scale)
        return

    def at_once(version: Version) -> int:
        return tokens_at_once(pool.layer(layer).part(slice(*version.span)), 1) or _masses_at_once(version)

    for version, requests, own in _by_version(step, at_once):
        part, options = _attention(pool, layer, version, scale)
        query = rows[own][:, :, None]
        of_knowledge, block_max = of_knowledge_alone(query, part, **options)
        lse = torch.logaddexp(prompt_lse[:, own].T[:, :, None], of_knowledge)
        named, weight = _named(version, requests, lse.device), _weight(pool, lse.device)
        kept = strongest_of(query, part, lse, named, block_max, row_weight=weight, **options)
        _keep(pool, version, requests, *kept)


def _has_lse_alone(device: torch.device) -> bool:
    """Whether the kernels have the lse in less time than the output: the C++ ones do."""
    return device.type == "cpu"


def _by_version(
    step: Step, at_once: Callable[[Version], int]
) -> Iterator[tuple[Version, list[RequestKnowledge], list[int]]]:
    """The answering rows of each version, so many at a time, and whose they are."""
    found: dict[Version, list[tuple[int, int]]] = {}
    for index, row in step.answering:
        found.setdefault(step.requests[index].version, []).append((index, row))
    for version, answering in found.items():
        most = at_once(version)
        for start in range(0, len(answering), most):
            some = answering[start : start + most]
            yield version, [step.requests[index] for index, _ in some], [row for _, row in some]


def _masses_at_once(version: Version) -> int:
    """Rows whose masses of all triples there is memory for."""
    return max(1, MASSES_AT_ONCE // max(1, version.rows.count))


def _attention(pool: KnowledgePool, layer: int, version: Version, scale: float) -> tuple[Any, dict[str, Any]]:
    """What rows attend to, and how."""
    # The bias as a number: of the tensor the host would wait for it.
    options = {"scale": scale, "knowledge_bias": bias_of(pool.config, version)}
    return pool.layer(layer).part(slice(*version.span)), options


def _weight(pool: KnowledgePool, device: torch.device) -> Tensor:
    """Of a head in the mean over all heads, those of other workers included."""
    return torch.full((), 1 / pool.config.num_heads, dtype=torch.float32, device=device)


def _masses(pool: KnowledgePool, layer: int, version: Version, rows: Tensor, lse: Tensor, scale: float) -> Tensor:
    """(A, M) of rows (A, heads, D) and their lse (heads, A)."""
    part, options = _attention(pool, layer, version, scale)
    weight = _weight(pool, lse.device)
    mass = evidence(rows[:, :, None], part, lse.T[:, :, None].contiguous(), row_weight=weight, **options)
    if get_tensor_model_parallel_world_size() > 1:  # each worker saw the share of its own heads
        mass = tensor_model_parallel_all_reduce(mass)
    return mass


def _keep(
    pool: KnowledgePool, version: Version, asking: Sequence[RequestKnowledge], masses: Tensor, places: Tensor
) -> None:
    """Adds (A, k) masses at these places of the version to `pool.found`; a request may have several rows."""
    for request, shares, triples in zip(asking, masses.tolist(), places.tolist(), strict=True):
        found = zip(triples, shares, strict=True)
        own = pool.found.setdefault(request.request_id, [])
        own += [(version.rows.ids[place], share) for place, share in found if share > 0]


def _named(version: Version, asking: Sequence[RequestKnowledge], device: torch.device) -> Tensor | None:
    """The rows of the triples that questions name, int64 (requests, S), -1 where one names fewer; None without any."""
    rows = [version.rows.rows_of(request.named) for request in asking]
    width = max(map(len, rows))
    return torch.tensor([[*one, *[-1] * (width - len(one))] for one in rows], device=device) if width else None


def _tell_the_lines(version: Version, step: Step, answering: Sequence[RequestKnowledge], mass: Tensor) -> None:
    """Sums what the planned triples of each request got, for those that it matters for; nothing leaves the device."""
    if step.turn is None:
        return
    place_of = {id(request): place for place, request in enumerate(step.turn.requests)}
    for line, request in enumerate(answering):
        if request.line is not None and request.line.asks_attention:
            rows = version.rows.rows_of(request.line.facts)
            step.turn.now[place_of[id(request)]] = mass[line, rows].sum()
