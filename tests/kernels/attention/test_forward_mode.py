"""Forward-mode derivatives: plain PyTorch gives the right ones, and no backend without a formula gives zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from kblam_kernels import (
    BackendUnavailableError,
    DenseKnowledge,
    RectangularAttention,
    evidence,
    rectangular_attention,
)
from tests.kernels.problems import make_latent

B, HQ, HKV, N, T, M, D = 2, 4, 2, 3, 6, 20, 8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).float()


QUERY, TANGENT, KEY, VALUE = (
    draw(B, h, n, D, seed=i) for i, (h, n) in enumerate(((HQ, N), (HQ, N), (HKV, T), (HKV, T)))
)
DENSE = DenseKnowledge(draw(HQ, M, D, seed=4), draw(HQ, M, D, seed=5))
LATENT = make_latent(B=1, H=HQ, G=HKV, N=1, M=M, D=D, P=12).to(torch.float32, None).knowledge
LSE = rectangular_attention(QUERY, KEY, VALUE, DENSE, backend="reference", return_lse=True)[1]

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "query": lambda q: rectangular_attention(q, KEY, VALUE, DENSE),
    "key": lambda q: rectangular_attention(QUERY, q[:, ::2].repeat(1, 1, 2, 1), VALUE, DENSE),
    "knowledge": lambda q: rectangular_attention(
        QUERY, KEY, VALUE, DenseKnowledge(q[0].repeat(1, 5, 1), q[1].repeat(1, 5, 1))
    ),
    "latents": lambda q: rectangular_attention(q, KEY, VALUE, LATENT),
    "lse": lambda q: rectangular_attention(q, KEY, VALUE, DENSE, return_lse=True)[1],
    "evidence": lambda q: evidence(q, DENSE, LSE),
    "an object": lambda q: RectangularAttention(DENSE)(q, KEY, VALUE)[0],
}


def by_differences(call: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> Tensor:
    step = 1e-2
    return (call(at + step * along) - call(at - step * along)) / (2 * step)


@pytest.mark.parametrize("name", CALLS)
def test_the_derivative_is_the_slope(name: str) -> None:
    call = CALLS[name]
    _, found = torch.func.jvp(call, (QUERY,), (TANGENT,))
    torch.testing.assert_close(found, by_differences(call, QUERY, TANGENT), rtol=0.02, atol=5e-3)


def test_gradients_turned_off_do_not_turn_it_off() -> None:
    attend = RectangularAttention(DENSE)
    with torch.no_grad():
        attend(QUERY, KEY, VALUE)  # what is planned here goes straight to a C++ op later
        expected = by_differences(lambda q: rectangular_attention(q, KEY, VALUE, DENSE), QUERY, TANGENT)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(QUERY, TANGENT)
            for output in (attend(dual, KEY, VALUE)[0], attend.run(dual, KEY, VALUE)[0]):
                found = forward_ad.unpack_dual(output).tangent
                torch.testing.assert_close(found, expected, rtol=0.02, atol=5e-3)


def test_all_columns_of_a_jacobian() -> None:
    def one_token(q: Tensor) -> Tensor:
        return rectangular_attention(q.view(1, HQ, 1, D), KEY[:1], VALUE[:1], DENSE).flatten()

    at = QUERY[0, :, 0].flatten()
    columns = [by_differences(one_token, at, along) for along in torch.eye(len(at))]
    torch.testing.assert_close(torch.func.jacfwd(one_token)(at), torch.stack(columns, 1), rtol=0.02, atol=5e-3)


def test_a_backend_by_name_that_has_none_says_so(library: None) -> None:
    def call(q: Tensor, **options: Any) -> Tensor:
        return rectangular_attention(q, KEY, VALUE, DENSE, backend="cpu", **options)

    with pytest.raises(BackendUnavailableError, match=r"no forward-mode derivative, .*backend='reference' has them"):
        torch.func.jvp(call, (QUERY,), (TANGENT,))
