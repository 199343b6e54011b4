"""The C++ kernels of dense knowledge, for every instruction set of this processor, beyond `test_ops.py`."""

from __future__ import annotations

import pytest
import torch

from kblam_kernels import DenseKnowledge, rectangular_attention
from tests.kernels.problems import INF, Problem, make
from tests.kernels.ways import DTYPES, Expected, check_dense


def hold(problem: Problem) -> None:
    """As `test_ops.py` holds a case."""
    check_dense(problem.run("cpu"), Expected(problem, problem.exact(), problem.run()), False)


def padded(B: int, T: int) -> torch.Tensor:
    """Left padding, longer in later rows; the last row is all padding."""
    return torch.arange(T)[None] >= torch.linspace(0, T, B).long()[:, None]


def scattered(B: int, T: int) -> torch.Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(1)) > 0.4


def bias(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    return values.masked_fill(values > 1.5, -INF)


RANGES = torch.tensor([[0, 130], [64, 300], [300, 300], [-5, 1000]], dtype=torch.int32)

# Longer than the shared grid, which is for Triton's interpreter: several tiles of 128 tokens and chunks of 512. N up to
# 4 streams keys and values past the rows; up to 32 fold as latents do, from 12 on as lanes of vectors; more go through
# the tile products.
CASES = [
    pytest.param({"N": 1, "T": 40, "M": 1031, "B": 1}, {}, id="B1-N1-M1031"),
    pytest.param({"N": 4, "T": 600, "M": 513, "G": 1}, {}, id="N4-T600-M513-mqa"),
    pytest.param({"N": 20, "T": 33, "M": 300, "G": 4}, {}, id="N20-M300-no-gqa"),
    pytest.param({"N": 20, "T": 20, "M": 1031, "B": 5}, {}, id="B5-N20-M1031"),
    pytest.param({"N": 32, "T": 33, "M": 300, "G": 4}, {}, id="N32-M300-no-gqa"),
    pytest.param({"N": 33, "T": 33, "M": 300, "G": 4}, {}, id="N33-M300-no-gqa"),
    pytest.param({"N": 70, "T": 70, "M": 257}, {}, id="N70-M257-no-cache"),
    pytest.param({"N": 140, "T": 145, "M": 129, "B": 3}, {}, id="B3-N140-M129"),
    pytest.param({"N": 2, "T": 30, "M": 300}, {"shared": False}, id="N2-per-row"),
    pytest.param({"N": 30, "T": 30, "M": 300}, {"shared": False}, id="N30-per-row"),
    pytest.param({"N": 40, "T": 40, "M": 300}, {"shared": False}, id="N40-per-row"),
    pytest.param({"N": 1, "T": 70, "M": 300}, {"prompt_mask": padded(2, 70)}, id="N1-left-padded"),
    pytest.param({"N": 40, "T": 70, "M": 300}, {"prompt_mask": padded(2, 70)}, id="N40-left-padded"),
    pytest.param({"N": 40, "T": 70, "M": 90}, {"prompt_mask": scattered(2, 70), "window": 9}, id="N40-window"),
    pytest.param({"N": 3, "T": 70, "M": 90}, {"prompt_mask": scattered(2, 70), "window": 9}, id="N3-window"),
    pytest.param({"N": 1, "T": 5, "M": 300, "B": 4}, {"knowledge_range": RANGES}, id="N1-ranges"),
    pytest.param({"N": 12, "T": 12, "M": 300, "B": 4}, {"knowledge_range": RANGES}, id="N12-ranges"),
    pytest.param({"N": 40, "T": 40, "M": 300, "B": 4}, {"knowledge_range": RANGES}, id="N40-ranges"),
    pytest.param({"N": 1, "T": 5, "M": 300}, {"knowledge_bias": bias(300)}, id="N1-bias"),
    pytest.param({"N": 12, "T": 12, "M": 300}, {"knowledge_bias": bias(300)}, id="N12-bias"),
    pytest.param({"N": 1, "T": 5, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N1-row-bias"),
    pytest.param({"N": 7, "T": 12, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N7-row-bias"),
    pytest.param({"N": 12, "T": 12, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N12-row-bias"),
    pytest.param({"N": 40, "T": 40, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N40-row-bias"),
    pytest.param({"N": 1, "T": 5, "M": 70}, {"knowledge_bias": -1.5, "scale": -0.3}, id="N1-scalar-bias-scale"),
    pytest.param({"N": 6, "T": 6, "M": 70}, {"knowledge_bias": -1.5, "scale": -0.3}, id="N6-scalar-bias-scale"),
    pytest.param({"N": 2, "T": 5, "M": 70}, {"knowledge_bias": -INF}, id="N2-all-hidden"),
    pytest.param({"N": 9, "T": 9, "M": 70}, {"knowledge_bias": -INF}, id="N9-all-hidden"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_several_tiles_and_chunks(
    shape: dict[str, int], options: dict[str, object], dtype: torch.dtype, instruction_set: str
) -> None:
    hold(make(**shape, **options, D=64, dtype=dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 9, 18, 34])
@pytest.mark.parametrize("D", [2, 12, 24, 80, 96, 128, 256])
def test_head_dimensions(D: int, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    hold(make(B=1, H=2, G=1, N=N, T=N + 3, M=150, D=D, dtype=dtype))


@pytest.mark.parametrize("N", [1, 9, 20, 40])
def test_an_expanded_knowledge_is_read_as_shared(N: int, library: None) -> None:
    p = make(B=3, N=N, T=40, M=200, dtype=torch.float32)
    expanded = p.but(**{name: getattr(p, name).expand(3, -1, -1, -1) for name in ("knowledge_key", "knowledge_value")})
    assert torch.equal(expanded.run("cpu")[0], p.run("cpu")[0])


@pytest.mark.parametrize("N", [1, 9, 20, 40])
@pytest.mark.parametrize("name", ["query", "knowledge_key", "knowledge_value"])
def test_nan_is_not_hidden(name: str, N: int, instruction_set: str) -> None:
    p = make(B=1, H=2, N=N, T=40, M=200, dtype=torch.bfloat16)
    poisoned = getattr(p, name).clone()
    poisoned[..., 0, -1, 3] = float("nan")  # the last token or query of one head
    output, _ = p.but(**{name: poisoned}).run("cpu")
    assert output.isnan().any()


@pytest.mark.parametrize("N", [1, 9, 20, 40])
@pytest.mark.parametrize("mask", [[[False] * 4 + [True] * 36], [[True] * 3 + [False] + [True] * 36, [True] * 40]])
def test_a_hidden_prompt_key_may_be_nan(mask: list[list[bool]], N: int, instruction_set: str) -> None:
    hidden = torch.tensor(mask)
    p = make(B=len(mask), H=6, N=N, T=40, M=20, dtype=torch.bfloat16, prompt_mask=hidden)
    poisoned = p.key.masked_fill(~hidden[:, None, :, None], float("nan"))
    for actual, expected in zip(p.but(key=poisoned).run("cpu"), p.run("cpu"), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("N", [1, 9, 20, 40])
def test_large_scores(N: int, instruction_set: str) -> None:
    p = make(B=1, N=N, T=40, M=200, D=64, dtype=torch.float32)
    hold(p.but(knowledge_query=p.knowledge_query * 100, query=p.query * 100))


@pytest.mark.parametrize("N", [17, 40])
@pytest.mark.parametrize("bias", [1e4, 1e10, 3e38, -1e10, -3e38])
@pytest.mark.parametrize("biased", [600, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_finite_bias_of_any_size_over_whole_chunks(
    dtype: torch.dtype, biased: int, bias: float, N: int, instruction_set: str
) -> None:
    """Products of a maximum and log2(e) that are rounded by themselves are off by hundreds here."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, N, 64).to(dtype) for _ in range(3))
    knowledge = DenseKnowledge(*(torch.randn(4, 700, 64).to(dtype) for _ in range(2)))
    biases = torch.zeros(700)
    biases[:biased] = bias
    found, expected = (
        rectangular_attention(query, key, value, knowledge, knowledge_bias=biases, backend=backend, return_lse=True)
        for backend in ("cpu", "reference")
    )
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found[0].float(), expected[0].float(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-2)


def test_many_rows_over_many_triples_are_as_exact_as_plain_pytorch() -> None:
    """One task sums 10,000 values that have a mean: one by one each would be rounded to what all before it sum to."""
    draw = torch.Generator().manual_seed(0)
    H, N, M, D = 4, 512, 10_000, 16
    query, key, value = (torch.randn(1, H, N, D, generator=draw) for _ in range(3))
    knowledge = DenseKnowledge(torch.randn(H, M, D, generator=draw), torch.randn(H, M, D, generator=draw) + 1)
    wide = DenseKnowledge(knowledge.key.double(), knowledge.value.double())
    exact = rectangular_attention(query.double(), key.double(), value.double(), wide, backend="reference")

    def error(backend: str) -> float:
        found = rectangular_attention(query, key, value, knowledge, backend=backend)
        return (found.double() - exact).square().mean().sqrt().item()

    # Measured 1.03; 2.7 when a tile's product began from the sum so far.
    assert error("cpu") < 1.8 * error("reference")


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("N", [1, 12, 20, 40])
def test_another_rows_large_bias_changes_no_bit(N: int) -> None:
    """Beyond 1,024 bfloat16 kernels take powers of 2 otherwise, for the rows concerned alone."""
    bias = torch.zeros(2, 300)
    bias[1] = 2000.0
    problem = make(B=2, N=N, T=N + 4, M=300, dtype=torch.bfloat16, knowledge_bias=bias)
    for together, alone in zip(problem.run("cpu"), problem.rows(slice(0, 1)).run("cpu"), strict=True):
        assert torch.equal(together[:1], alone)
