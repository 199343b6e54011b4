"""`torch.func`: grad, vjp, vmap and what is made of them, eager and compiled, against an attention written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from kblam_kernels import BackendUnavailableError, DenseKnowledge, rectangular_attention
from tests.kernels.attention.test_forward_mode import CALLS, DENSE, HKV, HQ, KEY, QUERY, TANGENT, VALUE, B, D, M, N, T

MANY = torch.stack([QUERY, TANGENT])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ours(query: Tensor) -> Tensor:
    return rectangular_attention(query, KEY, VALUE, DENSE)


def written_out(query: Tensor) -> Tensor:
    key, value = (tensor.repeat_interleave(HQ // HKV, 1) for tensor in (KEY, VALUE))
    seen = torch.arange(T) <= torch.arange(T - N, T)[:, None]
    prompt = (query @ key.transpose(2, 3)).masked_fill(~seen, -torch.inf)
    knowledge = torch.einsum("bhnd,hmd->bhnm", query, DENSE.key)
    weights = (torch.cat([prompt, knowledge], -1) * D**-0.5).softmax(-1)
    return weights[..., :T] @ value + torch.einsum("bhnm,hmd->bhnd", weights[..., T:], DENSE.value)


def squared(attention: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda query: attention(query).square().sum()


def of_many(attention: Callable[[Tensor], Tensor], queries: Tensor) -> Tensor:
    """The gradient that autograd itself gives through a vmap."""
    queries = queries.clone().requires_grad_()
    return torch.autograd.grad(vmap(attention)(queries).square().sum(), queries)[0]


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "grad": lambda attention: grad(squared(attention))(QUERY),
    "jacrev": lambda attention: jacrev(attention)(QUERY),
    "hessian": lambda attention: hessian(squared(attention))(QUERY),
    "vmap": lambda attention: vmap(attention)(MANY),
    "vmap of grad": lambda attention: vmap(grad(squared(attention)))(MANY),
    "grad of vmap": lambda attention: grad(squared(vmap(attention)))(MANY),
    "backward through vmap": lambda attention: of_many(attention, MANY),
    "compiled grad": lambda attention: torch.compile(grad(squared(attention)), backend="aot_eager")(QUERY),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_gives_what_it_gives_of_plain_pytorch(name: str) -> None:
    transform = TRANSFORMS[name]
    torch.testing.assert_close(transform(ours), transform(written_out), rtol=1e-4, atol=1e-5)


def test_a_compiled_vmap_has_the_gradient_of_an_eager_one() -> None:
    queries = MANY.clone().requires_grad_()
    torch.compile(vmap(ours), backend="aot_eager")(queries).square().sum().backward()
    torch.testing.assert_close(queries.grad, of_many(written_out, MANY), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CALLS)
def test_reverse_and_forward_mode_agree(name: str) -> None:
    call = CALLS[name]
    along = torch.func.jvp(lambda query: call(query).square().sum(), (QUERY,), (TANGENT,))[1]
    torch.testing.assert_close((grad(squared(call))(QUERY) * TANGENT).sum(), along, rtol=1e-4, atol=1e-4)


def test_knowledge_and_bias_have_gradients_too() -> None:
    def of(bias: Tensor, key: Tensor) -> Tensor:
        knowledge = DenseKnowledge(key, DENSE.value)
        return rectangular_attention(QUERY, KEY, VALUE, knowledge, knowledge_bias=bias).square().sum()

    bias, key = torch.zeros(B, M, requires_grad=True), DENSE.key.clone().requires_grad_()
    expected = torch.autograd.grad(of(bias, key), (bias, key))
    found = grad(of, argnums=(0, 1))(bias.detach(), key.detach())
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-5)


def test_a_backend_by_name_that_cannot_says_so(library: None) -> None:
    with pytest.raises(BackendUnavailableError, match=r"none in torch\.func; backend='reference' has them"):
        grad(lambda query: rectangular_attention(query, KEY, VALUE, DENSE, backend="cpu").sum())(QUERY)
