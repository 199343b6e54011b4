"""torch.export and torch.compile make programs of any number of rows and new tokens: nothing asks for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from kblam_kernels import RectangularAttention, prune, rectangular_attention, top_evidence
from kblam_kernels.latent.cpu import MAX_FUSED_QUERIES
from tests.kernels.problems import Problem, make, make_latent

Results = tuple[Tensor, ...]
Asked = Callable[[Problem, str, Results], Results]


def attention(p: Problem, backend: str, given: Results) -> Results:
    *tensors, r = given
    return rectangular_attention(*tensors, p.knowledge, r, return_lse=True, backend=backend)


def of_a_loop(p: Problem, backend: str, given: Results) -> Results:
    return RectangularAttention(p.knowledge, backend=backend)(*given)


def masses(p: Problem, backend: str, given: Results) -> Results:
    _, lse = attention(p, backend, given)
    return top_evidence(given[3], p.knowledge, lse, 3, backend=backend)


def of_the_best(p: Problem, backend: str, given: Results) -> Results:
    *tensors, r = given
    best, bias, _ = prune(r, p.knowledge, 5)
    return (rectangular_attention(*tensors, best, r, knowledge_bias=bias, backend=backend),)


class Asking(nn.Module):
    def __init__(self, asked: Asked, problem: Problem, backend: str) -> None:
        super().__init__()
        self.asked, self.problem, self.backend = asked, problem, backend

    def forward(self, query: Tensor, key: Tensor, value: Tensor, knowledge_query: Tensor) -> Results:
        return self.asked(self.problem, self.backend, (query, key, value, knowledge_query))


def given(rows: int, tokens: int) -> Results:
    p = make(B=rows, N=tokens, T=40, dtype=torch.float32, seed=tokens)
    return p.query, p.key, p.value, p.knowledge_query


@pytest.mark.usefixtures("library", "fresh_compiler")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("asked", [attention, of_a_loop, masses, of_the_best])
@pytest.mark.parametrize("maker", [make, make_latent])
def test_a_program_serves_any_number_of_rows_and_new_tokens(
    maker: Callable[..., Problem], asked: Asked, backend: str, strict: bool
) -> None:
    module = Asking(asked, maker(M=20, dtype=torch.float32), backend)
    rows, tokens = Dim("rows", min=1, max=16), Dim("tokens", min=1, max=40)
    of_query, of_prompt = {0: rows, 2: tokens}, {0: rows}
    with torch.no_grad():
        program = export(
            module, given(2, 6), dynamic_shapes=(of_query, of_prompt, of_prompt, of_query), strict=strict
        ).module()
        for B, N in ((1, 1), (2, MAX_FUSED_QUERIES), (5, MAX_FUSED_QUERIES + 1), (3, 9)):
            tensors = given(B, N)
            for ours, theirs in zip(program(*tensors), module(*tensors), strict=True):
                torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("library", "fresh_compiler")
def test_a_compiled_graph_is_of_few_and_many_new_tokens() -> None:
    module = Asking(attention, make_latent(M=20, dtype=torch.float32), "cpu")
    compiled: Any = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        first = given(2, 6)
        for tensor in (first[0], first[3]):
            torch._dynamo.mark_dynamic(tensor, 2)
        compiled(*first)
        with torch.compiler.set_stance("fail_on_recompile"):
            for N in (2, MAX_FUSED_QUERIES, MAX_FUSED_QUERIES + 1):
                for ours, theirs in zip(compiled(*given(2, N)), module(*given(2, N)), strict=True):
                    torch.testing.assert_close(ours, theirs)
