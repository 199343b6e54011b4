"""The reference and chunked ways of every op, its gradients, plans, packed requests and pruning, on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import RectangularAttention, explain, merge_states, partial_knowledge_attention, prune
from kblam_kernels.latent import quantise
from tests.elsewhere.device import Elsewhere
from tests.kernels.problems import EvidenceProblem, Problem, evidence_of, make, make_latent

F32: dict[str, Any] = {"dtype": torch.float32}
BIAS = torch.linspace(-1, 1, 14).view(2, 7)  # of each row and triple
RANGES = torch.tensor([[0, 7], [2, 5]])
SEEN = torch.tensor([[True] * 9, [False] * 4 + [True] * 5])
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "dense": lambda: make(**F32, knowledge_bias=BIAS, knowledge_range=RANGES, prompt_mask=SEEN),
    "dense of each row": lambda: make(**F32, shared=False, window=4),
    "latent": lambda: make_latent(**F32, knowledge_bias=BIAS, knowledge_range=RANGES),
    "latent in int8": lambda: make_latent(**F32, storage=torch.int8),
    "latent in float16": lambda: make_latent(**F32, storage=torch.float16, prompt_mask=SEEN),
}


def near(found: Any, expected: Any) -> None:
    """The same numbers, all of them elsewhere."""
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Elsewhere)
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize("name", PROBLEMS)
def test_attention_and_its_gradients(there: torch.device, name: str) -> None:
    here = PROBLEMS[name]()
    moved = here.on(str(there))
    near(moved.run("auto"), here.run("reference"))
    tensors, _ = moved.arguments()
    assert explain(*tensors).backend == "reference"

    def gradients(problem: Problem) -> tuple[Tensor, ...]:
        leaves = problem.leaves()
        output, lse = leaves.run("auto")
        (output.square().sum() + lse.sum()).backward()
        return tuple(getattr(leaves, one).grad for one in leaves.differentiable)

    near(gradients(moved), gradients(here))


@pytest.mark.parametrize("name", PROBLEMS)
def test_evidence(there: torch.device, name: str) -> None:
    here: EvidenceProblem = evidence_of(PROBLEMS[name]())
    near(here.on(str(there)).run("auto"), here.run("reference"))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_planned_loop(there: torch.device, name: str) -> None:
    here = dataclasses.replace(PROBLEMS[name](), window=None)
    moved = here.on(str(there))
    found = []
    for problem in (moved, here):
        attend = RectangularAttention(problem.knowledge)
        tensors = problem.query, problem.key, problem.value, problem.knowledge_query
        attend.plan(*tensors)
        step = {one: getattr(problem, one) for one in ("knowledge_bias", "prompt_mask", "knowledge_range")}
        found.append(attend.run(*tensors, **step))
    near(*found)


@pytest.mark.parametrize("name", ["dense", "latent", "latent in int8"])
def test_packed_requests(there: torch.device, name: str) -> None:
    here = PROBLEMS[name]()
    found = []
    for problem, device in ((here.on(str(there)), there), (here, torch.device("cpu"))):
        query = problem.knowledge_query.transpose(1, 2).flatten(0, 1).contiguous()
        starts = torch.tensor([0, query.shape[0] // 2, query.shape[0]], dtype=torch.int32, device=device)
        output, lse = partial_knowledge_attention(
            query, problem.knowledge, starts, problem.knowledge_range, knowledge_bias=BIAS[:, 0].to(device)
        )
        found.append((*merge_states(output, lse, output, lse), output, lse))
    near(*found)


@pytest.mark.parametrize("name", ["dense", "latent", "latent in int8"])
def test_pruning(there: torch.device, name: str) -> None:
    here = PROBLEMS[name]()
    found = []
    for problem in (here.on(str(there)), here):
        chosen, bias, index = prune(
            problem.knowledge_query,
            problem.knowledge,
            3,
            knowledge_bias=problem.knowledge_bias,
            knowledge_range=problem.knowledge_range,
        )
        found.append((chosen.key, chosen.value, bias, index))
    near(*found)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_storage(there: torch.device, dtype: torch.dtype) -> None:
    here = make_latent(**F32).knowledge.key
    found = [quantise(latents, dtype) for latents in (here.to(there), here)]
    near(*[(stored.view(torch.int8), scale) for stored, scale in found])
