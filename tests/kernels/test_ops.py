"""What every implementation of every op must do, on the CPU: see `ops.py`. Triton runs in its interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kblam_kernels import BackendUnavailableError, DenseKnowledge, evidence
from tests import tolerances
from tests.kernels import ops, ways
from tests.kernels.cpu.pinned import with_instruction_set, with_threads
from tests.kernels.ops import CPP_WAYS, SMALL, SPECIFIED, TRITON_WAYS
from tests.kernels.problems import (
    INF,
    PROMPT,
    TENSORS,
    EvidenceProblem,
    Problem,
    evidence_of,
    make,
    make_latent,
    through_sdpa,
)
from tests.kernels.ways import DTYPES, STORAGE, AnyProblem, Expected, Way

SPECIFICATIONS = [pytest.param(op, name, id=f"{op}-{name}") for op, cases in SPECIFIED.items() for name in cases]
SMALL_CASES = [pytest.param(op, name, id=f"{op}-{name}") for op, cases in SMALL.items() for name in cases]
WAYS = [pytest.param(way, id=f"{way.backend}-{way.name}") for way in (*TRITON_WAYS, *CPP_WAYS)]
FLOAT32 = torch.float32


@pytest.mark.parametrize(("op", "name"), SPECIFICATIONS)
def test_the_specification_is_pytorchs_own_attention(op: str, name: str) -> None:
    problem = SPECIFIED[op][name](torch.float64)
    theirs = through_sdpa(ops.attention_of(problem))
    expected: tuple[Tensor, ...] = (theirs.output, theirs.lse)
    if isinstance(problem, EvidenceProblem):
        M = problem.attention.knowledge.num_tokens
        expected = ((theirs.weights[..., :M] * problem.row_weight[..., None]).sum((1, 2)),)
    for ours, exact in zip(problem.run(), expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("way", "name", "dtype"), ways.params(TRITON_WAYS))
def test_triton_is_near_float64(way: Way, name: str, dtype: torch.dtype) -> None:
    way.near(name, dtype)


@pytest.mark.parametrize(("way", "name", "dtype"), ways.params(CPP_WAYS))
def test_the_cpp_kernels_are_near_float64(way: Way, name: str, dtype: torch.dtype, instruction_set: str) -> None:
    way.near(name, dtype)


@pytest.mark.usefixtures("interpreted", "rows_apart")
@pytest.mark.parametrize(("way", "name"), ways.row_params(TRITON_WAYS))
def test_a_row_has_the_bits_that_it_has_alone_in_triton(way: Way, name: str) -> None:
    problem = way.rows[name](FLOAT32)
    # The last one: its rows lie in another place of a tile than alone.
    for together, alone in zip(way.bits(problem), way.bits(problem, slice(-1, None)), strict=True):
        assert torch.equal(together[-1:], alone)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("way", "name"), ways.row_params(CPP_WAYS))
def test_a_row_has_the_bits_that_it_has_alone_in_cpp(
    way: Way, name: str, dtype: torch.dtype, instruction_set: str
) -> None:
    problem = way.rows[name](dtype)
    together = way.bits(problem)
    for b in range(len(problem.query)):
        for among, alone in zip(together, way.bits(problem, slice(b, b + 1)), strict=True):
            assert torch.equal(alone[0], among[b])


@pytest.mark.parametrize("way", CPP_WAYS, ids=lambda way: way.name)
def test_threads_change_no_bit(way: Way, instruction_set: str) -> None:
    for name, make_problem in way.rows.items():
        problem, results = make_problem(torch.bfloat16), []
        for threads in (1, 2, 5):
            with with_threads(threads):
                results.append(way.bits(problem))
        for result in results[1:]:
            assert all(torch.equal(ours, first) for ours, first in zip(result, results[0], strict=True)), name


def spread(problem: AnyProblem) -> AnyProblem:
    """The same numbers in other strides, tokens before heads and NaN around them; the last dimension is contiguous."""

    def apart(tensor: Tensor) -> Tensor:
        swapped = tensor.transpose(-2, -3) if tensor.dim() > 2 else tensor
        wide = torch.empty(*swapped.shape[:-2], swapped.shape[-2] + 1, swapped.shape[-1] + 3, dtype=tensor.dtype)
        wide.view(torch.int8).fill_(0x7F)  # NaN, or the largest integer
        view = wide[..., 1:, 1:-2]
        view.copy_(swapped)
        return view.transpose(-2, -3) if tensor.dim() > 2 else view

    attention = ops.attention_of(problem)
    changes = {name: apart(getattr(attention, name)) for name in (*PROMPT, "knowledge_key", "knowledge_value")}
    changed = problem.but(**changes)
    if not isinstance(problem, EvidenceProblem):
        return changed
    lse = problem.lse.transpose(0, 1).contiguous().transpose(0, 1)
    return EvidenceProblem(changed.attention, lse, problem.row_weight)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("way", TRITON_WAYS, ids=lambda way: way.name)
def test_strides_change_no_bit_in_triton(way: Way) -> None:
    for N in (1, 2):
        problem = ops.usual(way, N, M=40)
        for ours, theirs in zip(way.bits(spread(problem)), way.bits(problem), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("way", CPP_WAYS, ids=lambda way: way.name)
def test_strides_change_no_bit_in_cpp(way: Way, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    problem = ops.usual(way, N, dtype)
    for ours, theirs in zip(way.bits(spread(problem)), way.bits(problem), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("sizes", [{"N": 0, "T": 4}, {"N": 0, "T": 0, "M": 0}, {"M": 0}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_empty_shapes(way: Way, sizes: dict[str, int]) -> None:
    maker: Callable[..., Problem] = make_latent if way.name.startswith("latent") else make
    attention = maker(**{"N": 2, "T": 4, "M": 7, **sizes}, dtype=FLOAT32)
    problem: AnyProblem = evidence_of(attention) if way.name == "evidence" else attention
    with way.taken():
        found = problem.run(way.backend)
    assert [result.shape for result in found] == [result.shape for result in problem.exact()]
    way.check(found, Expected(problem, problem.exact(), problem.run()), False)


def arguments_for(problem: AnyProblem, backend: str) -> tuple[Any, tuple[Any, ...]]:
    """The op, and its arguments with leaves where it has a gradient."""
    op, call = (problem.leaves() if ops.is_differentiable(problem) else problem).call()
    return op, (*(getattr(call, field) for field in op.fields), backend)


# What a dtype changes in a schema or a fake is the same in every case of an op.
CHECKED = [("reference", FLOAT32), ("cpu", torch.bfloat16)]
IN_EVERY_DTYPE = [(backend, dtype) for backend in ("reference", "cpu") for dtype in DTYPES]


@pytest.mark.usefixtures("fresh_compiler", "library")
@pytest.mark.parametrize(
    ("op", "name", "backend", "dtype"),
    [
        pytest.param(op, name, backend, dtype, id=f"{op}-{name}-{backend}-{dtype}")
        for op, names in SMALL.items()
        for place, name in enumerate(names)
        for backend, dtype in (CHECKED if place else IN_EVERY_DTYPE)
    ],
)
def test_opcheck(op: str, name: str, backend: str, dtype: torch.dtype) -> None:
    checked, arguments = arguments_for(SMALL[op][name](dtype), backend)
    torch.library.opcheck(checked.overload, arguments)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("op", "name"), [case for case in SMALL_CASES if not SMALL[case.values[0]][case.values[1]](FLOAT32).is_latent]
)
def test_opcheck_of_the_backward(op: str, name: str, dtype: torch.dtype) -> None:
    checked, call = SMALL[op][name](dtype).call()
    results = checked(call, "reference")
    gradients = [torch.ones_like(result) for result in results]
    fields = [getattr(call, field) for field in checked.fields]
    every = [getattr(call, name) is not None for name in call.DIFFERENTIABLE]
    first = [True] + [False] * (len(every) - 1)
    for some, wanted in ((gradients, every), ([None, *gradients[1:]], first)):
        if some != [None]:
            torch.library.opcheck(checked.backward_overload, (*some, *results, *fields, wanted, "reference"))


def compiled(problem: AnyProblem, **options: Any) -> Callable[..., tuple[Tensor, ...]]:
    """`problem.run` as a function of its tensors, traced as one graph."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = problem.but(**dict(zip(names_of(problem), tensors, strict=True)))
        results: tuple[Tensor, ...] = given.run("reference")
        return results

    return torch.compile(run, fullgraph=True, backend="aot_eager", **options) if options.pop("traced", True) else run


def names_of(problem: AnyProblem) -> tuple[str, ...]:
    """Of what `compiled` takes."""
    if isinstance(problem, EvidenceProblem):
        return ("knowledge_query",) if problem.is_latent else ("knowledge_query", "knowledge_key")
    return PROMPT if problem.is_latent else TENSORS


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("op", "name"), SMALL_CASES)
def test_compiles_to_one_graph_with_the_same_gradients(op: str, name: str) -> None:
    problem = SMALL[op][name](FLOAT32)
    tensors = [getattr(ops.attention_of(problem), each) for each in names_of(problem)]
    found = []
    for traced in (False, True):
        leaves = [tensor.detach().clone().requires_grad_(not problem.is_latent) for tensor in tensors]
        results = list(compiled(problem, traced=traced)(*leaves))
        if not problem.is_latent:
            loss = sum(result.masked_fill(result.isinf(), 0).square().sum() for result in results)
            results += torch.autograd.grad(loss, leaves)  # type: ignore[arg-type]
        found.append(results)
    for eager, traced_result in zip(*found, strict=True):
        assert torch.equal(eager, traced_result)


@pytest.mark.parametrize("op", ["dense", "evidence"])
def test_checkpointing_gives_the_same_gradients(op: str) -> None:
    problem = next(made for case in SMALL[op].values() if not (made := case(FLOAT32)).is_latent)
    run = compiled(problem, traced=False)
    gradients = []
    for function in (run, lambda *tensors: checkpoint(run, *tensors, use_reentrant=False)):
        leaves = [getattr(ops.attention_of(problem), each).detach().clone() for each in names_of(problem)]
        results = function(*(leaf.requires_grad_() for leaf in leaves))
        loss = sum(result.masked_fill(result.isinf(), 0).square().sum() for result in results)
        gradients.append(torch.autograd.grad(loss, leaves))  # type: ignore[arg-type]
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("op", SMALL)
def test_one_graph_serves_every_length(op: str) -> None:
    def problem_of(B: int, N: int, T: int, M: int) -> AnyProblem:
        attention = (make_latent if op == "latent" else make)(B=B, N=N, T=T, M=M, dtype=FLOAT32)
        return evidence_of(attention) if op == "evidence" else attention

    def run(*tensors: Any) -> tuple[Tensor, ...]:
        if op == "evidence":
            query, key, value, lse, weight = tensors
            return (evidence(query, DenseKnowledge(key, value), lse, row_weight=weight, backend="reference"),)
        results: tuple[Tensor, ...] = small.but(**dict(zip(given, tensors, strict=True))).run()
        return results

    def tensors_of(problem: AnyProblem) -> list[Any]:
        if op == "evidence":
            p = problem.attention
            return [p.knowledge_query, p.knowledge_key, p.knowledge_value, problem.lse, problem.row_weight]
        return [getattr(problem, name) for name in given]

    small = problem_of(3, 5, 9, 7)  # no two sizes alike: the compiler would tie them
    given = (*PROMPT, "knowledge") if op == "latent" else TENSORS
    traced = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    traced(*tensors_of(small))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for sizes in ((2, 4, 8, 9), (3, 5, 6, 100), (4, 2, 30, 11)):
            problem = problem_of(*sizes)
            for actual, expected in zip(traced(*tensors_of(problem)), problem.run(), strict=True):
                torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("op", "name"), SMALL_CASES)
def test_the_specification_leaves_nothing_unwritten(op: str, name: str, dtype: torch.dtype) -> None:
    problem = SMALL[op][name](dtype)

    def everything() -> list[Tensor]:
        results = [*problem.run()]
        return [*results, *problem.gradients()] if op == "dense" else results

    expected = everything()
    with ways.poisoned():
        for actual, clean in zip(everything(), expected, strict=True):
            assert torch.equal(actual, clean)


@pytest.mark.parametrize(("op", "name"), [case for case in SMALL_CASES if case.values[0] != "evidence"])
def test_a_model_gets_its_layout_without_a_copy(op: str, name: str) -> None:
    output, _ = SMALL[op][name](FLOAT32).run()
    assert output.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("op", SMALL)
@pytest.mark.parametrize(
    ("backend", "dtype", "reason"),
    [
        ("triton", torch.float64, "torch.float64"),
        ("cpu", torch.float64, "torch.float64"),
        ("cpu", None, "head_dim 15 is odd"),
    ],
)
def test_a_backend_says_what_it_does_not_take(op: str, backend: str, dtype: torch.dtype | None, reason: str) -> None:
    attention = (make_latent if op == "latent" else make)(D=15 if dtype is None else 16, dtype=dtype or FLOAT32)
    problem: AnyProblem = evidence_of(attention) if op == "evidence" else attention
    with pytest.raises(BackendUnavailableError, match=rf"'{backend}' cannot serve this call: .*{reason}"):
        problem.run(backend)
    problem.run("auto")


@st.composite
def problems(draw: Any, op: str, *, few: bool) -> AnyProblem:
    """Any shape, mask, window, range, bias and scale, in float64; `few` keeps to less than a chunk of everything."""
    B, group, G = (draw(st.integers(1, n)) for n in (3, 3, 2 if few else 3))
    # Every path of the C++ kernels: streamed, folded, tiles; several blocks of 256 rows.
    N = draw(st.integers(1, 8) if few else st.integers(1, 4) | st.integers(5, 16) | st.integers(17, 300))
    T, M = N + draw(st.integers(0, 4 if few else 150)), draw(st.integers(0, 9 if few else 700))
    bound = st.lists(st.integers(-9, M + 9), min_size=2 * B, max_size=2 * B)
    level = st.one_of(st.floats(-4, 4, width=32), st.just(-INF))
    seed = draw(st.integers(0, 2**16))
    row = torch.randn(B, M, generator=torch.Generator().manual_seed(seed))
    hidden = row.masked_fill(row > 1.5, -INF)
    scattered = torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) > 0.4
    # Left padding, longer in later rows; the last of several rows is all padding.
    padded = torch.arange(T)[None] >= torch.linspace(0, T, B).long()[:, None]
    options: dict[str, Any] = {
        "D": draw(st.sampled_from([1, 3, 8])) if few else 2 * draw(st.integers(1, 70)),
        "seed": seed,
        "window": draw(st.none() | st.integers(1, T + 1)),
        "prompt_mask": draw(st.sampled_from([None, scattered, padded])),
        "knowledge_range": draw(st.none() | bound.map(lambda v: torch.tensor(v, dtype=torch.int32).view(B, 2))),
        "knowledge_bias": draw(level | st.sampled_from([row, row[0], hidden, hidden.T.contiguous().T])),
        "scale": draw(st.none() | st.floats(-0.5, 1.0)),
    }
    latent = op == "latent" or (op == "evidence" and draw(st.booleans()))
    if latent:
        problem = make_latent(B, group * G, G, N, T, M, P=draw(st.integers(1, 20 if few else 150)), **options)
    else:
        problem = make(B, group * G, G, N, T, M, shared=draw(st.booleans()), **options)
    return evidence_of(problem) if op == "evidence" else problem


@pytest.mark.parametrize("op", SPECIFIED)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_call_is_pytorchs_own_attention(op: str, data: st.DataObject) -> None:
    problem = data.draw(problems(op, few=True))
    problem = spread(problem) if data.draw(st.booleans()) else problem
    theirs = through_sdpa(ops.attention_of(problem))
    if isinstance(problem, EvidenceProblem):
        M = problem.attention.knowledge.num_tokens
        mass = (theirs.weights[..., :M] * problem.row_weight[..., None]).sum((1, 2))
        torch.testing.assert_close(problem.run()[0], mass, rtol=1e-9, atol=1e-9)
    else:
        for actual, expected in zip(problem.run(), theirs[:2], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", SPECIFIED)
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_call_on_any_instruction_set(op: str, data: st.DataObject, instruction_sets: list[str]) -> None:
    problem = data.draw(problems(op, few=False))
    storage = data.draw(st.sampled_from(STORAGE)) if problem.is_latent else None
    problem = problem.to(data.draw(st.sampled_from(DTYPES)), storage)
    problem = spread(problem) if data.draw(st.booleans()) else problem
    way = next(way for way in CPP_WAYS if way.name.startswith(op))
    with with_instruction_set(data.draw(st.sampled_from(instruction_sets))), way.taken():
        found = problem.run("cpu")
    exact, plain = problem.exact(), problem.run()
    if isinstance(problem, EvidenceProblem):
        assert found[0].dtype == FLOAT32
        tolerances.check_output(found[0], exact[0], plain[0])
        assert (found[0][exact[0] == 0] == 0).all()
    else:
        way.check(found, Expected(problem, exact, plain), False)
