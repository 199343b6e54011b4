"""Attention to latents is attention to the dense keys and values they stand for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, UnsupportedInputError, explain, rectangular_attention
from kblam_kernels.common import columns, native
from kblam_kernels.latent import reference
from tests.kernels.cases import LEFT_PADDED
from tests.kernels.problems import INF, Problem, absorbed_of, make_latent

RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])

PROBLEMS = [
    pytest.param(make_latent(), id="plain"),
    pytest.param(make_latent(N=1, G=1), id="mqa-decode"),
    pytest.param(make_latent(M=0), id="M0"),
    pytest.param(make_latent(M=1), id="M1"),
    pytest.param(make_latent(N=9, G=4), id="no-cache"),
    pytest.param(make_latent(P=100), id="more-latents-than-outputs"),
    pytest.param(make_latent(prompt_mask=LEFT_PADDED), id="left-padded"),
    pytest.param(make_latent(window=2), id="window"),
    pytest.param(make_latent(knowledge_bias=TOKEN_BIAS, knowledge_range=RANGES), id="bias-range"),
    pytest.param(make_latent(knowledge_bias=torch.stack([TOKEN_BIAS, TOKEN_BIAS.flip(0)])), id="row-bias"),
    pytest.param(make_latent(knowledge_bias=-0.75, scale=0.4), id="scalar-bias-scale"),
    pytest.param(make_latent(knowledge_bias=-INF), id="all-hidden"),
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_equals_attention_to_materialised_knowledge(problem: Problem) -> None:
    for actual, expected in zip(problem.run(), problem.exact(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_latent(knowledge_bias=TOKEN_BIAS, prompt_mask=LEFT_PADDED)
    whole = problem.run()
    monkeypatch.setattr(columns, "CHUNK", chunk)
    for actual, expected in zip(problem.run(), whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """RMS of the error over RMS of the exact value."""
    return ((actual.double() - exact).norm() / exact.norm()).item()


def test_parts_sum_to_one_softmax() -> None:
    p = make_latent(knowledge_bias=TOKEN_BIAS)
    k = p.knowledge
    ones = p.but(value=torch.ones_like(p.value), knowledge=dataclasses.replace(k, value=torch.ones_like(k.value)))
    _, call = ones.call()
    mixed = reference.mix(call, absorbed_of(call))
    torch.testing.assert_close(mixed.prompt[..., 0] + mixed.share, torch.ones_like(mixed.share), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed.latent[..., 0], mixed.share, rtol=1e-12, atol=1e-12)
    assert 0.01 < mixed.share.min() < mixed.share.max() < 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_close_to_float64(dtype: torch.dtype) -> None:
    p = make_latent(M=300, D=64, P=96, H=4, dtype=dtype)
    output, lse = p.run()
    exact, exact_lse = p.exact()
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    # Absorbed queries and mixed latents are each rounded once to the dtype, as the dense path rounds its keys.
    eps = torch.finfo(dtype).eps
    error = relative_error(output, exact)
    assert error < max(eps, 5e-7)
    assert error < 2.5 * relative_error(p.run(dense=True)[0], exact)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_that_sees_no_prompt_gives_zero(dtype: torch.dtype) -> None:
    output, lse = make_latent(N=3, prompt_mask=LEFT_PADDED, dtype=dtype).run()
    assert (output[0, :, :2] == 0).all()
    assert (lse[0, :, :2] == -INF).all()
    assert lse[0, :, 2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_knowledge_is_attention_to_the_prompt(dtype: torch.dtype) -> None:
    problem = make_latent(M=0, dtype=dtype)
    expected = rectangular_attention(problem.query, problem.key, problem.value, backend="reference")
    assert torch.equal(problem.run()[0], expected)


def test_rewriting_one_row_changes_the_next_call() -> None:
    problem, other = make_latent(M=7), make_latent(M=7, seed=5)
    mixed = LatentKnowledge(
        *(t.clone() for t in (problem.knowledge.key, problem.knowledge.value, problem.knowledge.norm)),
        problem.knowledge.projection,
    )
    changed = problem.but(knowledge=mixed)
    before = changed.run()[0]
    mixed.key[3], mixed.value[3], mixed.norm[3] = other.knowledge.key[0], other.knowledge.value[0], 0.5
    after, _ = changed.run()
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, changed.exact()[0], rtol=1e-10, atol=1e-10)


def test_gradients_of_latents_and_projections_are_refused() -> None:
    problem = make_latent()
    k = problem.knowledge
    weight = dataclasses.replace(k.projection, value_weight=k.projection.value_weight.clone().requires_grad_())
    for learning in (
        dataclasses.replace(k, value=k.value.clone().requires_grad_()),
        dataclasses.replace(k, norm=k.norm.clone().requires_grad_()),
        dataclasses.replace(k, projection=weight),
    ):
        with pytest.raises(UnsupportedInputError, match=r"latents .* get no gradient and (lat|norm|value_w).*detach"):
            problem.but(knowledge=learning).run()
        with torch.no_grad():
            assert torch.equal(problem.but(knowledge=learning).run()[0], problem.run()[0])


@pytest.mark.parametrize("name", ["norm", "key_scale", "value_scale"])
def test_gradients_of_norms_and_scales_are_refused_by_name(name: str) -> None:
    problem = make_latent(storage=torch.int8, dtype=torch.float32)
    learning = dataclasses.replace(problem.knowledge, **{name: getattr(problem.knowledge, name).requires_grad_()})
    with pytest.raises(UnsupportedInputError, match=f"no gradient and {name} requires one: detach it"):
        problem.but(knowledge=learning).run()


def test_the_choice_of_backend_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("KBLAM_BACKEND", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    choice = explain(*make_latent(dtype=torch.float32).arguments()[0])
    assert "tensors are on cpu" in choice.rejected["triton"]
    assert choice.backend == ("cpu" if native.unavailable() is None else "reference")
    exact = explain(*make_latent(dtype=torch.float64).arguments()[0])
    assert exact.backend == "reference"
    assert exact.rejected.keys() == {"triton", "cpu"}


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    p = make_latent()
    k = p.knowledge
    with pytest.raises(UnsupportedInputError, match=r"both be \(M, P\); got \(7, 24\) and \(6, 24\)"):
        dataclasses.replace(k, value=k.value[:6])
    with pytest.raises(UnsupportedInputError, match="20 wide, the projection takes P = 24"):
        dataclasses.replace(k, key=k.key[:, :20], value=k.value[:, :20])
    with pytest.raises(UnsupportedInputError, match=r"got torch\.float32 and torch\.float32"):
        dataclasses.replace(k, key=k.key.float(), value=k.value.float())
    with pytest.raises(UnsupportedInputError, match=r"norm must be float64 \(M=7,\) on cpu; got torch\.float32"):
        dataclasses.replace(k, norm=k.norm.float())
    with pytest.raises(UnsupportedInputError, match="one device"):
        dataclasses.replace(k, key=k.key.to("meta"))
    with pytest.raises(
        UnsupportedInputError, match=r"key_weight must be \(Hq, D, P\), each at least 1; got shape \(16, 24\)"
    ):
        dataclasses.replace(k.projection, key_weight=k.projection.key_weight[0])
    with pytest.raises(UnsupportedInputError, match="key_bias must be"):
        dataclasses.replace(k.projection, key_bias=k.projection.key_bias[:, :3])
    with pytest.raises(UnsupportedInputError, match=r"value_weight must be float64 .*; got torch\.float32"):
        dataclasses.replace(k.projection, value_weight=k.projection.value_weight.float())
    with pytest.raises(UnsupportedInputError, match=r"for 4 heads of width 16; query .* needs"):
        p.but(query=p.query[:, :2], knowledge_query=p.knowledge_query[:, :2]).run()
    with pytest.raises(UnsupportedInputError, match="knowledge_query must have the shape"):
        p.but(knowledge_query=p.knowledge_query[:, :, :1]).run()
    with pytest.raises(UnsupportedInputError, match=r"knowledge is torch\.float64"):
        p.but(
            query=p.query.float(), key=p.key.float(), value=p.value.float(), knowledge_query=p.knowledge_query.float()
        ).run()


def test_to_dense_is_what_the_layer_sees() -> None:
    k = make_latent(M=3).knowledge
    dense = k.to_dense()
    assert isinstance(dense, DenseKnowledge)
    assert (dense.num_tokens, dense.num_heads, dense.head_dim) == (k.num_tokens, k.num_heads, k.head_dim)
    head, token = 2, 1
    expected = k.norm[token] * (k.projection.key_weight[head] @ k.key[token] + k.projection.key_bias[head])
    torch.testing.assert_close(dense.key[head, token], expected)
