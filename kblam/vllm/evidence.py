"""Which triples a request's newest token attended to, of the whole softmax; kept until the step's output goes back."""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from kblam.vllm.pool import KnowledgePool, Version
from kblam.vllm.step import Step
from kblam_kernels import evidence

# Triples kept per token, as `kblam.generation.evidence` keeps them.
KEPT_PER_TOKEN = 16


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
            knowledge_bias=float(step.bias[answering[0][0]]),
            row_weight=torch.full((), 1 / pool.config.num_heads, device=lse.device),
        )
        if get_tensor_model_parallel_world_size() > 1:  # each worker saw the share of its own heads
            mass = tensor_model_parallel_all_reduce(mass)
        best = mass.topk(min(KEPT_PER_TOKEN, mass.shape[1]), dim=1)
        # exp(score - lse) of a score in the hundreds is a few 1e-5 off in float32; a share must not exceed 1.
        masses, places = best.values.clamp(max=1).tolist(), best.indices.tolist()
        for (index, _), triples, shares in zip(answering, places, masses, strict=True):
            ids = [version.rows.ids[place] for place in triples]
            pool.found[step.requests[index].request_id] = list(zip(ids, shares, strict=True))
