"""The C++ kernels of attention to latents, for every instruction set of this processor, against float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import BackendUnavailableError, explain
from kblam_kernels.latent import cpu, fused, interface
from kblam_kernels.latent.reference import LatentOutput
from tests import tolerances
from tests.kernels.latent.decode_cases import CASES, LONG, arguments_of, one_row
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STORAGE = (None, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
TILE = 128


def hold(problem: LatentProblem) -> None:
    """Against float64 on the very latents that were stored, and against plain PyTorch of the same dtype."""
    output, lse = problem.run("cpu")
    exact, exact_lse = problem.exact()
    plain, plain_lse = problem.run()
    tolerances.check_output(output, exact, plain)
    # Absorbed queries are rounded to the dtype, so scores are off by its rounding, however they are summed.
    tolerances.check_lse(lse, plain_lse.double())
    assert torch.equal(lse == -INF, exact_lse == -INF)
    assert (output[exact_lse == -INF] == 0).all()


def no_fused_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections by PyTorch, around `latent_forward`, for few queries too."""
    monkeypatch.setattr(fused, "MAX_QUERIES", 0)


def run(problem: LatentProblem, **changes: Any) -> LatentOutput:
    """The five results of the op."""
    return cpu.forward(**{**arguments_of(problem), **changes})


@pytest.mark.parametrize("whole", [True, False], ids=["one_call", "forward"])
@pytest.mark.parametrize("name", CASES)
def test_every_case_against_float64(
    name: str, whole: bool, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        no_fused_call(monkeypatch)
    hold(make(**CASES[name], dtype=torch.float32))


@pytest.mark.parametrize("whole", [True, False], ids=["one_call", "forward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_every_storage_under_every_query(
    storage: torch.dtype | None,
    dtype: torch.dtype,
    whole: bool,
    instruction_set: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not whole:
        no_fused_call(monkeypatch)
    # 36 rows: a whole block and a ragged one; a width that ends inside a vector; an odd number of tokens.
    hold(make(B=3, H=12, G=3, N=1, M=147, P=75, D=32).to(dtype, storage))
    hold(make(B=1, H=2, G=1, N=1, M=147, P=96, D=32).to(dtype, storage))
    # 40 rows of one batch row are the lanes of vectors: a whole block and a ragged one, or two batch rows in a block.
    hold(make(B=1, H=40, G=8, N=1, M=147, P=75, D=8).to(dtype, storage))
    hold(make(B=2, H=12, G=3, N=2, M=141, P=96, D=8, knowledge_bias=torch.randn(2, 141)).to(dtype, storage))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_and_stride(data: st.DataObject, library: None) -> None:
    draw = data.draw
    B, group, G, N = (draw(st.integers(1, n)) for n in (3, 3, 3, 6))
    T, M = N + draw(st.integers(0, 80)), draw(st.integers(0, 700))
    bound = st.lists(st.integers(-9, 800), min_size=2 * B, max_size=2 * B)
    problem = make(
        *(B, group * G, G, N, T, M),
        D=2 * draw(st.integers(1, 40)),
        P=draw(st.integers(1, 150)),
        seed=draw(st.integers(0, 99)),
        window=draw(st.none() | st.integers(1, T)),
        prompt_mask=draw(st.sampled_from([None, torch.arange(T).expand(B, T) % 3 != 0])),
        knowledge_range=draw(st.none() | bound.map(lambda v: torch.tensor(v, dtype=torch.int32).view(B, 2))),
        knowledge_bias=draw(st.sampled_from([0.0, -0.5, torch.randn(M), torch.randn(M, B).T])),
    ).to(draw(st.sampled_from(DTYPES)), draw(st.sampled_from(STORAGE)))
    hold(spread(problem) if draw(st.booleans()) else problem)


def spread(problem: LatentProblem) -> LatentProblem:
    """The same numbers in other strides, with junk between them; the last dimension stays contiguous."""
    k = problem.knowledge

    def apart(tensor: Tensor) -> Tensor:
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), 99.0).to(tensor.dtype)
        wide[..., 1:-2] = tensor
        return wide[..., 1:-2]

    names = ("query", "key", "value", "knowledge_query")
    tensors = {name: apart(getattr(problem, name).transpose(1, 2)).transpose(1, 2) for name in names}
    return problem.but(knowledge=dataclasses.replace(k, key=apart(k.key), value=apart(k.value)), **tensors)


@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", [{}, {"knowledge_range": torch.tensor([[3, 700], [9, 9], [200, 401]])}], ids=str)
@pytest.mark.parametrize("heads", [6, 26])
def test_a_row_does_not_depend_on_the_batch_around_it(
    heads: int, changes: dict[str, Any], dtype: torch.dtype, storage: torch.dtype | None, instruction_set: str
) -> None:
    # Six heads: alone, a batch row is less than the four queries that go together; in the batch it straddles them.
    # 26: a batch row fills most of a block of lanes, and begins in the middle of one.
    problem = make(B=3, H=heads, G=2, N=1, M=700, P=48, D=8, knowledge_bias=torch.randn(3, 700), **changes)
    problem = problem.to(dtype, storage)
    arguments = arguments_of(problem)
    together = cpu.forward(**arguments)
    for b in range(3):
        alone = cpu.forward(**one_row(arguments, b))
        for part, ours, theirs in zip(together._fields, alone, together, strict=True):
            assert part == "tiles" or torch.equal(ours[0], theirs[b]), (part, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_call_does_not_depend_on_the_batch_or_threads(dtype: torch.dtype, instruction_set: str) -> None:
    problem = make(B=3, H=6, G=2, N=2, M=700, P=75, D=22, knowledge_bias=torch.randn(3, 700), dtype=dtype)
    together = problem.run("cpu")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert all(torch.equal(a, b) for a, b in zip(problem.run("cpu"), together, strict=True))
    finally:
        torch.set_num_threads(before)
    for b in range(3):
        alone = problem.rows(slice(b, b + 1)).run("cpu")
        assert all(torch.equal(a[0], t[b]) for a, t in zip(alone, together, strict=True))


def test_which_calls_are_one_call(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name, module in (("bound", fused), ("latent_forward", interface)):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real: (taken.append(name), real(*a))[1])
    few, many = make(N=4, T=9, dtype=torch.float32), make(N=5, T=9, dtype=torch.float32)
    weight = few.knowledge.projection.key_weight.mT.contiguous().mT
    gapped = dataclasses.replace(few.knowledge.projection, key_weight=weight)
    for problem in (few, many, few.but(knowledge=dataclasses.replace(few.knowledge, projection=gapped))):
        problem.run("cpu")
    few.run("reference")
    assert taken == ["bound", "latent_forward", "latent_forward", "latent_forward"]


@pytest.mark.parametrize("skip_threshold", [0.0, 0.01])
def test_one_call_is_an_op_with_a_fake(skip_threshold: float, library: None) -> None:
    p = make(N=2, dtype=torch.float32, knowledge_range=torch.tensor([[0, 7], [2, 5]], dtype=torch.int32))
    k, projection = p.knowledge, p.knowledge.projection
    tensors = (p.query, p.key, p.value, k.key, k.value, k.norm, None, None, p.knowledge_query)
    weights = tuple(getattr(projection, f.name) for f in dataclasses.fields(projection))
    options = (None, None, p.knowledge_range, 0.25, None, skip_threshold, False, "")
    torch.library.opcheck(torch.ops.kblam_kernels.latent_attention_cpu.default, (*tensors, None, *weights, *options))
    hidden = (*tensors[:-1], torch.randn(2, 2, 12), torch.randn(4 * 16, 12))
    torch.library.opcheck(torch.ops.kblam_kernels.latent_attention_cpu.default, (*hidden, *weights, *options))


@pytest.mark.parametrize("heads", [4, 10])
@pytest.mark.parametrize("storage", [None, torch.int8], ids=str)
def test_threads_do_not_change_a_bit(storage: torch.dtype | None, heads: int, instruction_set: str) -> None:
    arguments = arguments_of(make(B=2, H=heads, G=2, N=3, T=600, M=3000, P=40).to(torch.bfloat16, storage))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(cpu.forward(**arguments))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(result, results[0], strict=True))


@pytest.mark.parametrize("name", ["key", "value", "norm"])
def test_what_lies_past_the_filled_rows_is_never_read(name: str, instruction_set: str) -> None:
    problem = make(N=1, M=LONG, dtype=torch.bfloat16, knowledge_range=torch.tensor([[0, 201]]).expand(2, 2))
    k = problem.knowledge
    exact_fit = dataclasses.replace(k, key=k.key[:201], value=k.value[:201], norm=k.norm[:201])
    getattr(k, name)[201:] = float("nan")
    fitted = problem.but(knowledge=exact_fit, knowledge_range=None)
    for ours, theirs in zip(run(problem), run(fitted), strict=True):
        assert torch.equal(ours, theirs)


def test_a_changed_row_is_seen_at_once(library: None) -> None:
    problem = make(
        N=1, M=40, dtype=torch.bfloat16, knowledge_bias=torch.full((40,), -INF).index_fill(0, torch.tensor(7), 0)
    )
    run(problem)
    problem.knowledge.value[7] = 3.0
    after = run(problem)
    torch.testing.assert_close(
        after.latent.float(), after.share[..., None].expand(after.latent.shape) * 3, rtol=8e-3, atol=0
    )


@pytest.mark.parametrize("name", ["absorbed_query", "latent_key", "latent_value", "norm"])
@pytest.mark.parametrize("skip_threshold", [0.0, 0.5])
@pytest.mark.parametrize("heads", [2, 24])
def test_nan_is_not_hidden(name: str, skip_threshold: float, heads: int, instruction_set: str) -> None:
    arguments = arguments_of(make(B=1, H=heads, G=1, N=1, M=200, dtype=torch.bfloat16))
    arguments[name] = arguments[name].clone()
    arguments[name].view(-1)[-3 if name != "norm" else -1] = float("nan")
    result = cpu.forward(**arguments, skip_threshold=skip_threshold)
    # Of a value, a skipped tile would not be read; here the last tile has weights near 1.
    assert result.latent.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_output_is_written(dtype: torch.dtype, instruction_set: str) -> None:
    problem = make(N=3, T=9, M=140, dtype=dtype, prompt_mask=torch.arange(9).expand(2, 9) > torch.tensor([[9], [2]]))
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        result = run(problem, skip_threshold=0.01)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(part.isnan().any() for part in result)
    assert (result.lse[0] == -INF).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fp8_number_is_read_as_torch_reads_it(dtype: torch.dtype, instruction_set: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    problem = make(B=1, H=1, G=1, N=1, M=1, P=256, knowledge_bias=200.0).to(dtype, torch.float8_e4m3fn)
    knowledge = dataclasses.replace(problem.knowledge, value=codes, value_scale=torch.ones(1))
    # The bias leaves nothing to the prompt: the mixed latents are the one latent.
    latent = run(problem.but(knowledge=knowledge, knowledge_bias=0.0), bias=torch.full((1, 1), 200.0)).latent
    torch.testing.assert_close(latent.flatten(), codes[0].to(dtype), rtol=0, atol=0, equal_nan=True)


def quiet_after(loud: int, M: int, storage: torch.dtype | None, **options: Any) -> LatentProblem:
    """The first `loud` tokens get all but e^-20 of the attention."""
    bias = torch.full((M,), -20.0)
    bias[:loud] = 0
    return make(N=1, M=M, knowledge_bias=bias, **options).to(torch.float32, storage)


@pytest.mark.parametrize("heads", [4, 24])
@pytest.mark.parametrize("storage", [None, torch.int8], ids=str)
def test_values_below_the_threshold_are_not_read(storage: torch.dtype | None, heads: int, instruction_set: str) -> None:
    problem = quiet_after(5, 3 * TILE + 11, storage, B=1, H=heads)
    exact, skipping = run(problem), run(problem, skip_threshold=1e-4)
    assert skipping.tiles.tolist() == [3, 4]
    assert exact.tiles.shape == (0,)
    # Sums are of all tokens.
    assert torch.equal(skipping.lse, exact.lse)
    assert torch.equal(skipping.share, exact.share)
    assert not torch.equal(skipping.latent, exact.latent)
    torch.testing.assert_close(skipping.latent, exact.latent, rtol=0, atol=1e-4)
    if storage is None:
        problem.knowledge.value[TILE:] = float("nan")
        torch.testing.assert_close(run(problem, skip_threshold=1e-4).latent, skipping.latent)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), exponent=st.floats(-6, -0.01), spread_of=st.floats(0, 12), M=st.integers(1, 900))
def test_the_error_of_skipping_is_bounded(seed: int, exponent: float, spread_of: float, M: int, library: None) -> None:
    threshold = 10**exponent
    bias = torch.randn(M, generator=torch.Generator().manual_seed(seed)) * spread_of
    problem = make(M=M, seed=seed, knowledge_bias=bias, dtype=torch.float32)
    exact, skipping = run(problem), run(problem, skip_threshold=threshold)
    skipped, visited = skipping.tiles.tolist()
    assert 0 <= skipped <= visited
    bound = threshold * M * problem.knowledge.value.abs().max() + 1e-5
    assert (skipping.latent - exact.latent).abs().max() <= bound


def test_latents_on_the_cpu_are_served_by_the_cpp_kernels(library: None) -> None:
    p = make(dtype=torch.float32)
    explanation = explain(p.query, p.key, p.value, p.knowledge)
    assert explanation.backend == "cpu"
    assert list(explanation.rejected) == ["triton"]
    torch.testing.assert_close(p.run("auto")[0], p.run("reference")[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"dtype": torch.float64}, "torch.float64"), ({"D": 15, "dtype": torch.float32}, "head_dim 15 is odd")],
    ids=["float64", "odd"],
)
def test_what_the_cpp_kernels_do_not_take_they_say(changes: dict[str, Any], reason: str) -> None:
    problem = make(**changes)
    with pytest.raises(BackendUnavailableError, match=reason):
        problem.run("cpu")
    problem.run("auto")
