"""Where products are of whole blocks of 32 by 32: sizes around them, and what other users of the same registers see.

Every instruction set of this processor holds to the same; only `amx` has such a unit.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.kernels.cpu.pinned import with_threads
from tests.kernels.cpu.test_int8_products import allowed
from tests.kernels.cpu.test_int8_products import hold as hold_rounded
from tests.kernels.problems import Problem, make, make_latent
from tests.kernels.ways import Expected, check_dense, check_latent


def hold(problem: Problem) -> None:
    """As `test_ops.py` holds a case."""
    check = check_latent if problem.is_latent else check_dense
    check(problem.run("cpu"), Expected(problem, problem.exact(), problem.run()), False)


@pytest.mark.parametrize("heads", [4, 5, 16, 17, 33])
@pytest.mark.parametrize("P", [8, 31, 32, 34, 64, 100])
@pytest.mark.parametrize("storage", [None, torch.int8], ids=str)
def test_rows_and_widths_of_latents(storage: torch.dtype | None, P: int, heads: int, instruction_set: str) -> None:
    hold(make_latent(B=1, H=heads, G=1, N=1, M=97, P=P, D=8).to(torch.bfloat16, storage))


@pytest.mark.parametrize("M", [1, 15, 31, 32, 33, 127, 129, 160])
def test_tokens_of_latents(M: int, instruction_set: str) -> None:
    hold(make_latent(B=2, H=20, G=1, N=1, M=M, P=64, D=8).to(torch.bfloat16))
    hold(make_latent(B=2, H=20, G=1, N=1, M=M, P=64, D=8).to(torch.bfloat16, torch.int8))
    if M > 100:  # rounding weights of a tile to one scale averages out over tokens only
        hold_rounded(allowed(make_latent(B=2, H=20, G=1, N=1, M=M, P=96, D=32, scale=0.25), torch.bfloat16))


@pytest.mark.parametrize("N", [1, 4, 5, 16, 17, 33, 65])
@pytest.mark.parametrize("D", [2, 16, 32, 34, 80])
def test_rows_and_widths_of_dense_knowledge(D: int, N: int, instruction_set: str) -> None:
    hold(make(B=1, H=2, G=1, N=N, T=N + 1, M=97, D=D, dtype=torch.bfloat16))


@pytest.mark.parametrize("N", [1, 33])
@pytest.mark.parametrize("M", [1, 31, 32, 33, 127, 129, 160])
def test_tokens_of_dense_knowledge(M: int, N: int, instruction_set: str) -> None:
    hold(make(B=2, H=2, G=1, N=N, T=N + 40, M=M, D=32, dtype=torch.bfloat16))


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1e-20, 3.0])
@pytest.mark.parametrize("N", [1, 20])
def test_any_scale(N: int, scale: float, instruction_set: str) -> None:
    hold(make(N=N, T=30, M=200, D=32, scale=scale, dtype=torch.bfloat16, window=7))


def test_products_of_others_between_calls_are_as_ever(instruction_set: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 256, 192, generator=draw).to(torch.bfloat16) for _ in range(2))
    ours = make(N=20, T=30, M=300, D=64, dtype=torch.bfloat16)
    latents = make_latent(H=32, M=300, P=64).to(torch.bfloat16)

    def others() -> list[torch.Tensor]:
        whole = (a[0].float() * 9).to(torch.int8)
        return [a @ b.mT, F.scaled_dot_product_attention(a, b, b), torch._int_mm(whole, whole.mT.contiguous())]

    for threads in (1, 2):
        with with_threads(threads):
            expected, output, latent = others(), ours.run("cpu")[0], latents.run("cpu")[0]
            for _ in range(3):
                for before, after in zip(expected, others(), strict=True):
                    assert torch.equal(before, after)
                assert torch.equal(ours.run("cpu")[0], output)
                assert torch.equal(latents.run("cpu")[0], latent)
