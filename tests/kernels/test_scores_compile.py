"""`torch.compile` keeps one graph around evidence and pruning, dense and latent, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import prune, top_evidence
from kblam_kernels.pruning.op import summed_scores
from tests.kernels.latent.latent_problems import make


@pytest.mark.parametrize("layout", ["dense", "latent"])
def test_one_graph(layout: str) -> None:
    problem = make(M=20, dtype=torch.float32)
    knowledge = problem.knowledge if layout == "latent" else problem.knowledge.to_dense()
    _, lse = problem.run()

    def scores(query: Tensor) -> tuple[Any, ...]:
        own, bias, index = prune(query, knowledge, 3)
        _, _, shared = prune(query, knowledge, 3, shared=True)
        return (*top_evidence(query, knowledge, lse, 4), own.key, own.value, bias, index, shared)

    torch.compiler.reset()
    compiled = torch.compile(scores, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(problem.knowledge_query), scores(problem.knowledge_query), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_op_is_a_good_citizen(backend: str) -> None:
    k = make(M=20, dtype=torch.float32).knowledge
    rows, constant = torch.randn(2, 1, 24), torch.randn(2)
    torch.library.opcheck(summed_scores, (rows, k.key, k.norm, None, constant, backend))
    torch.library.opcheck(summed_scores, (torch.randn(2, 4, 16), torch.randn(4, 20, 16), None, None, None, backend))
