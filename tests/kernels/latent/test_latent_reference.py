"""Attention to latents is attention to the dense keys and values they stand for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import (
    BackendUnavailableError,
    DenseKnowledge,
    LatentKnowledge,
    UnsupportedInputError,
    explain,
    native,
    rectangular_attention,
)
from kblam_kernels.latent import reference
from kblam_kernels.latent.interface import absorb_query
from kblam_kernels.latent.op import latent_forward
from kblam_kernels.rectangular import reference as dense_reference
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

LEFT_PADDED = torch.tensor([[False] * 8 + [True], [True] * 9])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])

PROBLEMS = [
    pytest.param(make(), id="plain"),
    pytest.param(make(N=1, G=1), id="mqa-decode"),
    pytest.param(make(M=0), id="M0"),
    pytest.param(make(M=1), id="M1"),
    pytest.param(make(N=9, G=4), id="no-cache"),
    pytest.param(make(P=100), id="more-latents-than-outputs"),
    pytest.param(make(prompt_mask=LEFT_PADDED), id="left-padded"),
    pytest.param(make(window=2), id="window"),
    pytest.param(make(knowledge_bias=TOKEN_BIAS, knowledge_range=RANGES), id="bias-range"),
    pytest.param(make(knowledge_bias=torch.stack([TOKEN_BIAS, TOKEN_BIAS.flip(0)])), id="row-bias"),
    pytest.param(make(knowledge_bias=-0.75, scale=0.4), id="scalar-bias-scale"),
    pytest.param(make(knowledge_bias=-INF), id="all-hidden"),
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_equals_attention_to_materialised_knowledge(problem: LatentProblem) -> None:
    for actual, expected in zip(problem.run(), problem.exact(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_mask_range_and_bias_equals_dense(data: st.DataObject) -> None:
    draw = data.draw
    B, groups, G = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    T, M, P = draw(st.integers(1, 8)), draw(st.integers(0, 9)), draw(st.integers(1, 20))
    bits = st.lists(st.booleans(), min_size=B * T, max_size=B * T)
    bound = st.lists(st.integers(-2, M + 2), min_size=2 * B, max_size=2 * B)
    level = st.one_of(st.floats(-4, 4, width=32), st.just(-INF))
    row = st.lists(level, min_size=B * M, max_size=B * M)
    problem = make(
        B,
        G * groups,
        G,
        draw(st.integers(1, T)),
        T,
        M,
        D=draw(st.sampled_from([1, 3, 8])),
        P=P,
        seed=draw(st.integers(0, 2**16)),
        prompt_mask=draw(st.none() | bits.map(lambda v: torch.tensor(v).view(B, T))),
        window=draw(st.none() | st.integers(1, T + 1)),
        knowledge_range=draw(st.none() | bound.map(lambda v: torch.tensor(v, dtype=torch.int32).view(B, 2))),
        knowledge_bias=draw(level | row.map(lambda v: torch.tensor(v, dtype=torch.float32).view(B, M))),
        scale=draw(st.none() | st.floats(0.0, 2.0)),
    )
    for actual, expected in zip(problem.run(), problem.exact(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(knowledge_bias=TOKEN_BIAS, prompt_mask=LEFT_PADDED)
    whole = problem.run()
    monkeypatch.setattr(dense_reference, "CHUNK", chunk)
    for actual, expected in zip(problem.run(), whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """RMS of the error over RMS of the exact value."""
    return ((actual.double() - exact).norm() / exact.norm()).item()


def test_parts_sum_to_one_softmax() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    k = p.knowledge
    absorbed_query, constant = absorb_query(p.knowledge_query, k)
    arguments = (p.query, p.key, torch.ones_like(p.value), k.key, torch.ones_like(k.value), k.norm, None, None)
    bias = TOKEN_BIAS[None]
    out = reference.forward(*arguments, absorbed_query, constant, bias, None, None, 0.25, None)
    ones = torch.ones_like(out.share)
    torch.testing.assert_close(out.prompt[..., 0] + out.share, ones, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.latent[..., 0], out.share, rtol=1e-12, atol=1e-12)
    assert 0.01 < out.share.min() < out.share.max() < 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_close_to_float64(dtype: torch.dtype) -> None:
    p = make(M=300, D=64, P=96, H=4, dtype=dtype)
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
    output, lse = make(N=3, prompt_mask=LEFT_PADDED, dtype=dtype).run()
    assert (output[0, :, :2] == 0).all()
    assert (lse[0, :, :2] == -INF).all()
    assert lse[0, :, 2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_knowledge_is_attention_to_the_prompt(dtype: torch.dtype) -> None:
    problem = make(M=0, dtype=dtype)
    expected = rectangular_attention(problem.query, problem.key, problem.value, backend="reference")
    assert torch.equal(problem.run()[0], expected)


def test_rewriting_one_row_changes_the_next_call() -> None:
    problem, other = make(M=7), make(M=7, seed=5)
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


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[6], PROBLEMS[8], PROBLEMS[2]])
def test_opcheck(problem: LatentProblem) -> None:
    k = problem.knowledge
    absorbed_query, constant = absorb_query(problem.knowledge_query, k)
    bias = problem.knowledge_bias if isinstance(problem.knowledge_bias, Tensor) else None
    torch.library.opcheck(
        latent_forward,
        (
            problem.query,
            problem.key,
            problem.value,
            k.key,
            k.value,
            k.norm,
            k.key_scale,
            k.value_scale,
            absorbed_query,
            constant,
            None if bias is None else bias.expand(1, -1),
            problem.prompt_mask,
            problem.knowledge_range,
            0.25,
            problem.window,
            0.0,
            False,
            "reference",
        ),
    )


@pytest.mark.parametrize("M", [0, 3])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_new_token_is_nothing(backend: str, M: int) -> None:
    output, lse = make(N=0, T=2, M=M, dtype=torch.float32).run(backend)
    assert (output.shape, lse.shape) == ((2, 4, 0, 16), (2, 4, 0))


def test_compiles_to_one_graph() -> None:
    problem = make(dtype=torch.float32, knowledge_bias=TOKEN_BIAS, knowledge_range=RANGES)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(query: Tensor, r: Tensor) -> Tensor:
        return problem.but(query=query * 2, knowledge_query=r).run()[0] * 3

    actual = compiled(problem.query, problem.knowledge_query)
    expected = problem.but(query=problem.query * 2).run()[0] * 3
    torch.testing.assert_close(actual, expected)


def test_gradients_are_refused_and_nothing_is_lost_without_them() -> None:
    problem = make()
    training = problem.but(query=problem.query.clone().requires_grad_())
    with pytest.raises(UnsupportedInputError, match="no gradient"):
        training.run()
    with torch.no_grad():
        assert torch.equal(training.run()[0], problem.run()[0])


def test_the_choice_of_backend_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("KBLAM_BACKEND", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    p = make(dtype=torch.float32)
    choice = explain(p.query, p.key, p.value, p.knowledge, p.knowledge_query)
    assert "tensors are on cpu" in choice.rejected["triton"]
    assert choice.backend == ("cpu" if native.unavailable() is None else "reference")
    wide = make(dtype=torch.float64)
    exact = explain(wide.query, wide.key, wide.value, wide.knowledge, wide.knowledge_query)
    assert exact.backend == "reference"
    assert exact.rejected.keys() == {"triton", "cpu"}
    with pytest.raises(BackendUnavailableError, match="'triton' cannot serve this call"):
        p.run("triton")


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    p = make()
    k = p.knowledge
    with pytest.raises(UnsupportedInputError, match=r"both be \(M, P\); got \(7, 24\) and \(6, 24\)"):
        dataclasses.replace(k, value=k.value[:6])
    with pytest.raises(UnsupportedInputError, match="20 wide, the projection takes P = 24"):
        dataclasses.replace(k, key=k.key[:, :20], value=k.value[:, :20])
    with pytest.raises(UnsupportedInputError, match=r"got torch\.float32 and torch\.float32"):
        dataclasses.replace(k, key=k.key.float(), value=k.value.float())
    with pytest.raises(UnsupportedInputError, match=r"norm must be torch\.float64 \(M=7,\); got torch\.float32"):
        dataclasses.replace(k, norm=k.norm.float())
    with pytest.raises(UnsupportedInputError, match="one device"):
        dataclasses.replace(k, key=k.key.to("meta"))
    with pytest.raises(UnsupportedInputError, match=r"key_weight must be \(Hq, D, P\); got shape \(16, 24\)"):
        dataclasses.replace(k.projection, key_weight=k.projection.key_weight[0])
    with pytest.raises(UnsupportedInputError, match="key_bias must be"):
        dataclasses.replace(k.projection, key_bias=k.projection.key_bias[:, :3])
    with pytest.raises(UnsupportedInputError, match=r"value_weight is torch\.float32"):
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
    k = make(M=3).knowledge
    dense = k.to_dense()
    assert isinstance(dense, DenseKnowledge)
    assert (dense.num_tokens, dense.num_heads, dense.head_dim) == (k.num_tokens, k.num_heads, k.head_dim)
    head, token = 2, 1
    expected = k.norm[token] * (k.projection.key_weight[head] @ k.key[token] + k.projection.key_bias[head])
    torch.testing.assert_close(dense.key[head, token], expected)
