"""The specification against PyTorch's own attention and against identities that need no second implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kblam_kernels import DenseKnowledge, rectangular_attention
from kblam_kernels.common import columns
from kblam_kernels.common.call import Saved
from kblam_kernels.dense import reference
from tests.kernels.problems import INF, TENSORS, Problem, make, through_sdpa, visible_columns

LEFT_PADDED = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
SCATTERED = torch.tensor([[True, False, True, True, False, True, True, False, True], [False] * 3 + [True] * 6])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])

PROBLEMS = [
    pytest.param(make(), id="plain"),
    pytest.param(make(G=4), id="no-gqa"),
    pytest.param(make(G=1, N=1), id="mqa-decode"),
    pytest.param(make(shared=False), id="per-row"),
    pytest.param(make(M=0), id="M0"),
    pytest.param(make(M=1), id="M1"),
    pytest.param(make(N=9), id="no-cache"),
    pytest.param(make(prompt_mask=LEFT_PADDED), id="left-padded"),
    pytest.param(make(prompt_mask=SCATTERED, window=3), id="scattered-window"),
    pytest.param(make(knowledge_bias=TOKEN_BIAS, knowledge_range=RANGES), id="bias-range"),
    pytest.param(
        make(shared=False, knowledge_bias=torch.stack([TOKEN_BIAS, -TOKEN_BIAS.nan_to_num(neginf=0)]), window=4),
        id="row-bias-window",
    ),
    pytest.param(make(N=9, knowledge_bias=-1.25, scale=0.5, prompt_mask=LEFT_PADDED), id="scalar-bias-scale"),
    pytest.param(make(T=0, is_alone=True, knowledge_bias=TOKEN_BIAS, knowledge_range=RANGES), id="alone"),
]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def without_infinities(lse: Tensor) -> Tensor:
    return lse.masked_fill(lse == -INF, 0.0)


@pytest.mark.parametrize(
    "dims",
    [
        pytest.param({"B": 2, "H": 4, "G": 2, "N": 7, "T": 7}, id="prefill"),
        pytest.param({"B": 1, "H": 2, "G": 2, "N": 1, "T": 5}, id="decode"),
    ],
)
def test_no_knowledge_is_plain_attention(dims: dict[str, int]) -> None:
    p = make(**dims, M=0)
    expected = F.scaled_dot_product_attention(p.query, p.key, p.value, is_causal=dims["N"] > 1, enable_gqa=True)
    close(p.run()[0], expected)
    close(rectangular_attention(p.query, p.key, p.value, backend="reference"), expected)


def test_knowledge_with_the_prompts_own_query_is_plain_attention_to_concatenated_columns() -> None:
    p = make(G=4, N=6, T=6, shared=False)
    p = p.but(knowledge_query=p.query)
    mask = torch.cat([torch.ones(6, 7, dtype=torch.bool), torch.ones(6, 6, dtype=torch.bool).tril()], 1)
    keys, values = torch.cat([p.knowledge_key, p.key], 2), torch.cat([p.knowledge_value, p.value], 2)
    close(p.run()[0], F.scaled_dot_product_attention(p.query, keys, values, mask))
    close(p.run()[1], (p.query @ keys.mT / 4).masked_fill(~mask, -INF).logsumexp(-1))


def test_the_knowledge_query_defaults_to_the_query() -> None:
    p = make()
    tokens = DenseKnowledge(p.knowledge_key, p.knowledge_value)
    default = rectangular_attention(p.query, p.key, p.value, tokens, backend="reference")
    assert torch.equal(default, p.but(knowledge_query=p.query).run()[0])


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_chunks_change_nothing(problem: Problem, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_gradients = problem.run(), problem.gradients()
    monkeypatch.setattr(columns, "CHUNK", chunk)
    for actual, expected in zip((*problem.run(), *problem.gradients()), (*whole, *whole_gradients), strict=True):
        close(actual, expected)


def test_order_of_knowledge_does_not_matter() -> None:
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    p = make(knowledge_bias=TOKEN_BIAS)
    shuffled = p.but(
        knowledge_key=p.knowledge_key[:, order],
        knowledge_value=p.knowledge_value[:, order],
        knowledge_bias=TOKEN_BIAS[order],
    )
    for actual, expected in zip(shuffled.run(), p.run(), strict=True):
        close(actual, expected)


def test_lists_of_knowledge_merge_by_their_lse() -> None:
    p = make()

    def part(tokens: slice) -> tuple[Tensor, Tensor]:
        output, lse = p.but(
            knowledge_key=p.knowledge_key[:, tokens], knowledge_value=p.knowledge_value[:, tokens]
        ).run()
        return output, lse.exp()

    (first, a), (second, b), (prompt, c), (whole, total) = (
        part(slice(0, 3)),
        part(slice(3, 7)),
        part(slice(0, 0)),
        part(slice(0, 7)),
    )
    close(total, a + b - c)
    merged = first * a[..., None] + second * b[..., None] - prompt * c[..., None]
    close(whole, merged / total[..., None])


def test_minus_infinity_bias_is_removal() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    keep = TOKEN_BIAS > -INF
    removed = p.but(
        knowledge_key=p.knowledge_key[:, keep],
        knowledge_value=p.knowledge_value[:, keep],
        knowledge_bias=TOKEN_BIAS[keep],
    )
    for actual, expected in zip(p.run(), removed.run(), strict=True):
        close(actual, expected)


def test_log_multiplicity_bias_is_repetition() -> None:
    times = torch.tensor([1, 3, 1, 2, 5, 1, 1])
    p = make()
    repeated = p.but(
        knowledge_key=p.knowledge_key.repeat_interleave(times, 1),
        knowledge_value=p.knowledge_value.repeat_interleave(times, 1),
    )
    for actual, expected in zip(p.but(knowledge_bias=times.log()).run(), repeated.run(), strict=True):
        close(actual, expected, 1e-6)  # the bias is float32


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_range_is_a_slice_for_each_row(dtype: torch.dtype) -> None:
    ranges = torch.tensor([[0, 7], [2, 5], [4, 4], [6, 99]], dtype=dtype)
    p = make(B=4, knowledge_range=ranges, knowledge_bias=TOKEN_BIAS)
    output, lse = p.run()
    for b, (start, end) in enumerate(ranges.tolist()):
        one = {name: getattr(p, name)[b : b + 1] for name in ("query", "key", "value", "knowledge_query")}
        sliced = p.but(
            **one,
            knowledge_key=p.knowledge_key[:, start:end],
            knowledge_value=p.knowledge_value[:, start:end],
            knowledge_bias=TOKEN_BIAS[start:end],
            knowledge_range=None,
        )
        close(output[b : b + 1], sliced.run()[0])
        close(lse[b : b + 1], sliced.run()[1])


def test_shared_knowledge_is_the_same_list_for_each_row() -> None:
    p = make(knowledge_bias=TOKEN_BIAS, prompt_mask=SCATTERED)
    rows = p.but(
        knowledge_key=p.knowledge_key.expand(2, 4, 7, 16), knowledge_value=p.knowledge_value.expand(2, 4, 7, 16)
    )
    for actual, expected in zip(rows.run(), p.run(), strict=True):
        close(actual, expected)
    for name, shared, row in zip(p.differentiable, p.gradients(), rows.gradients(), strict=True):
        close(row.sum(0) if name in ("knowledge_key", "knowledge_value") else row, shared)


@pytest.mark.parametrize(
    "bias",
    [torch.tensor(-0.75), torch.full((7,), -0.75), torch.full((2, 7), -0.75)],
    ids=["scalar-tensor", "M", "BxM"],
)
def test_every_form_of_one_bias_is_the_same(bias: Tensor) -> None:
    p = make()
    for actual, expected in zip(p.but(knowledge_bias=bias).run(), p.but(knowledge_bias=-0.75).run(), strict=True):
        assert torch.equal(actual, expected)


def test_switches_that_hide_nothing_change_nothing() -> None:
    p = make()
    expected = p.run()
    open_wide = p.but(
        prompt_mask=torch.ones(2, 9, dtype=torch.bool),
        window=9,
        knowledge_range=torch.tensor([[0, 7]] * 2, dtype=torch.int32),
        knowledge_bias=torch.zeros(7),
        scale=1 / 4,
    )
    for actual, reference_ in zip(open_wide.run(), expected, strict=True):
        torch.testing.assert_close(actual, reference_, rtol=1e-13, atol=1e-15)  # MKL sums otherwise by alignment


def test_new_tokens_after_cached_ones_are_the_last_rows_of_the_whole_prompt() -> None:
    whole = make(N=9, window=4, prompt_mask=SCATTERED, knowledge_bias=TOKEN_BIAS)
    last = whole.but(query=whole.query[:, :, 6:], knowledge_query=whole.knowledge_query[:, :, 6:])
    for actual, expected in zip(last.run(), whole.run(), strict=True):
        close(actual, expected[:, :, 6:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_sees_no_prompt_gives_zero_and_passes_no_gradient(dtype: torch.dtype) -> None:
    p = make(N=9, prompt_mask=torch.tensor([[False] * 9, [False] * 4 + [True] * 5])).to(dtype)
    output, lse = p.run()
    blind = ~visible_columns(p).any(-1)  # the whole first row of the batch, and four padding queries of the second
    assert blind.sum() == 13
    assert (output.transpose(1, 2)[blind] == 0).all()
    assert (lse.transpose(1, 2)[blind] == -INF).all()
    assert lse.transpose(1, 2)[~blind].isfinite().all()
    named = dict(zip(p.differentiable, p.gradients(), strict=True))
    assert all(gradient.isfinite().all() for gradient in named.values())
    for name in ("query", "knowledge_query"):
        assert (named[name].transpose(1, 2)[blind] == 0).all()
        assert (named[name].transpose(1, 2)[~blind] != 0).any()
    for name in ("key", "value"):
        assert (named[name][0] == 0).all()
        assert (named[name][1, :, :4] == 0).all()


def test_hiding_every_triple_leaves_the_prompt() -> None:
    p = make(prompt_mask=LEFT_PADDED)
    hidden = p.but(knowledge_bias=-INF)
    nothing = p.but(knowledge_key=p.knowledge_key[:, :0], knowledge_value=p.knowledge_value[:, :0])
    for actual, expected in zip(hidden.run(), nothing.run(), strict=True):
        close(actual, expected)
    gradients = dict(zip(hidden.differentiable, hidden.gradients(), strict=True))
    assert all(gradients[name].count_nonzero() == 0 for name in TENSORS if name.startswith("knowledge"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_that_of_rounding_the_result(dtype: torch.dtype) -> None:
    p = make(N=33, T=64, M=300, D=64, prompt_mask=None).to(dtype)
    output, lse = p.run()
    exact, exact_lse = p.to(torch.float64).run()
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    # Accumulation is float32, so a half-precision result is off by its own rounding and no more.
    torch.testing.assert_close(output.double(), exact, rtol=0.51 * torch.finfo(dtype).eps, atol=2e-6)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_the_error_of_rounding(dtype: torch.dtype) -> None:
    p = make(M=50, window=6).to(dtype)
    for name, actual, exact in zip(p.differentiable, p.gradients(), p.to(torch.float64).gradients(), strict=True):
        assert actual.dtype == dtype, name
        # The output is rounded before the backward pass reads it: a few roundings, not one.
        limit = 4 * torch.finfo(dtype).eps * exact.abs().max().item()
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=max(limit, 1e-5), msg=name)


def test_large_scores_do_not_overflow() -> None:
    p = make(dtype=torch.float32)
    p = p.but(query=p.query * 1e4, knowledge_query=p.knowledge_query * 1e4)
    output, lse = p.run()
    close(output.double(), through_sdpa(p).output, 1e-3)
    assert lse.max() > 1e4
    assert all(gradient.isfinite().all() for gradient in p.gradients())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradcheck_of_output_and_lse(problem: Problem) -> None:
    # gradcheck cannot difference -inf.
    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = problem.but(**dict(zip(TENSORS, tensors, strict=True))).run()
        return output, without_infinities(lse)

    leaves = problem.leaves()
    assert torch.autograd.gradcheck(run, [getattr(leaves, name) for name in TENSORS], fast_mode=True)


def test_two_runs_are_equal_bit_for_bit() -> None:
    p = make(M=100, dtype=torch.bfloat16, prompt_mask=SCATTERED)
    for first, second in zip((*p.run(), *p.gradients()), (*p.run(), *p.gradients()), strict=True):
        assert torch.equal(first, second)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                # An expanded view owns no memory.
                own = math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
                self.elements = max(self.elements, own)
        return result


def test_memory_does_not_grow_with_queries_times_triples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 32)
    N, M, H, D = 64, 2048, 2, 4
    p = make(B=1, H=H, G=1, N=N, T=N, M=M, D=D)
    _, call = p.call()
    # Without the op around them: a dispatch mode does not look inside one.
    with LargestTensor() as forward:
        output, lse = reference.forward(call)
    with LargestTensor() as backward:
        reference.backward(call, Saved((output, lse), (output, lse), call.DIFFERENTIABLE[:-1], "reference"))
    one_chunk, knowledge = H * N * 32, H * M * D
    assert one_chunk <= forward.elements <= knowledge < H * N * M
    assert one_chunk <= backward.elements <= knowledge
