"""Arguments that are no tensors and no numbers of the right kind: each is refused by its name and value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import (
    DenseKnowledge,
    KnowledgePlan,
    LatentKnowledge,
    LatentProjection,
    RectangularAttention,
    UnsupportedInputError,
    evidence,
    knowledge_lse,
    merge_states,
    paged_prompt_attention,
    partial_knowledge_attention,
    prune,
    rectangular_attention,
    top_evidence,
)
from kblam_kernels.latent import absorb, narrowed, quantise
from kblam_kernels.plan import Workload, check_pin, device_of, plan
from kblam_kernels.pruning import select
from tests.kernels.attention.engines import batch
from tests.kernels.problems import Problem, evidence_of, make, make_latent

QUERY, KEY = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8)
KNOWLEDGE = DenseKnowledge(torch.randn(4, 7, 8), torch.randn(4, 7, 8))
LATENTS = make_latent(M=7).knowledge
LSE = torch.zeros(2, 4, 3)
NOTHING: Any = None
TEXT: Any = "3"


STATES, WEIGHT = torch.randn(2, 3, 6), torch.randn(32, 6)


def of_hidden(states: Any, weight: Any) -> object:
    return RectangularAttention(KNOWLEDGE).of_hidden_states(QUERY, KEY, KEY, states, weight)


def absorbed(weight: Any = WEIGHT, bias: Any = None, **options: Any) -> Any:
    return absorb(weight, bias, WEIGHT, None, **{"num_slots": 1, "num_heads": 4, "head_dim": 8, **options})


def normed(latents: Any, scale: Any = None, **options: Any) -> object:
    return absorbed().key_norm(latents, scale, **options)


def running(**step: Any) -> object:
    attend = RectangularAttention(KNOWLEDGE)
    attend.plan(QUERY, KEY, KEY)
    return attend.run(QUERY, KEY, KEY, **step)


def packed(**options: Any) -> tuple[Tensor, Tensor]:
    return partial_knowledge_attention(QUERY[0].transpose(0, 1), KNOWLEDGE, torch.tensor([0, 3]).int(), **options)


SIZES: Any = {"triples": 9, "width": 6, "num_heads": 4, "head_dim": 8, "layers": 1}
STORED, SCALE = quantise(torch.randn(7, 6), torch.int8)


def attend(query: Any = QUERY, key: Any = KEY, knowledge: Any = KNOWLEDGE, **options: Any) -> Tensor:
    return rectangular_attention(query, key, KEY, knowledge, **options)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: attend([1.0]), "query must be a tensor; got list"),
    "nothing": (lambda: attend(key=None), "key must be a tensor; got NoneType"),
    "a sparse tensor": (lambda: attend(QUERY.to_sparse()), "query must be a tensor with strides; got a sparse_coo one"),
    "a nested tensor": (lambda: attend(torch.nested.nested_tensor([QUERY[0]])), "got a nested one"),
    "a pair": (lambda: attend(knowledge=(1, 2)), "knowledge must be DenseKnowledge.*; got tuple"),
    "a query of text": (lambda: attend(knowledge_query="r"), "knowledge_query must be a tensor; got str"),
    "a bias of text": (lambda: attend(knowledge_bias="x"), "knowledge_bias must be a number; got 'x'"),
    "no bias": (lambda: attend(knowledge_bias=None), "knowledge_bias must be a number; got None"),
    "a list of biases": (lambda: attend(knowledge_bias=[0.0] * 7), "knowledge_bias must be a number; got "),
    "a bias beyond float32": (lambda: attend(knowledge_bias=1e39), r"finite or -inf in float32; got 1e\+39"),
    "a bias of 401 digits": (lambda: attend(knowledge_bias=10**400), "got a number of 401 digits"),
    "a sparse bias": (lambda: attend(knowledge_bias=torch.zeros(7).to_sparse()), "knowledge_bias must be a tensor"),
    "a mask of lists": (lambda: attend(prompt_mask=[[True] * 5] * 2), "prompt_mask must be a tensor; got list"),
    "a range of lists": (lambda: attend(knowledge_range=[[0, 3]] * 2), "knowledge_range must be a tensor; got list"),
    "a window of text": (lambda: attend(window="3"), "window must be a whole number; got '3'"),
    "half a window": (lambda: attend(window=2.5), "window must be a whole number; got 2.5"),
    "a window beyond 64 bits": (lambda: attend(window=2**70), r"window must be below 2\*\*63"),
    "a scale that is none": (lambda: attend(scale=float("nan")), "scale must be finite; got nan"),
    "an infinite scale": (lambda: attend(scale=float("inf")), "scale must be finite; got inf"),
    "a scale beyond float32": (lambda: attend(scale=1e300), r"scale must be finite in float32; got 1e\+300"),
    "a scale of text": (lambda: attend(scale="1"), "scale must be a number; got '1'"),
    "a loop's scale": (lambda: RectangularAttention(KNOWLEDGE).plan(QUERY, KEY, KEY, scale=TEXT), "scale must be a"),
    "evidence of no lse": (lambda: evidence(QUERY, KNOWLEDGE, NOTHING), "lse must be a tensor; got NoneType"),
    "an lse of another dtype": (lambda: evidence(QUERY, KNOWLEDGE, LSE.double()), "lse must be float32"),
    "weights in a list": (lambda: evidence(QUERY, KNOWLEDGE, LSE, row_weight=TEXT), "row_weight must be a tensor"),
    "evidence of no knowledge": (lambda: evidence(QUERY, NOTHING, LSE), "knowledge must be DenseKnowledge"),
    "evidence at no scale": (lambda: evidence(QUERY, KNOWLEDGE, LSE, scale=float("nan")), "scale must be finite"),
    "lse of no query": (lambda: knowledge_lse(NOTHING, KNOWLEDGE), "knowledge_query must be a tensor"),
    "the best one and a half": (lambda: top_evidence(QUERY, KNOWLEDGE, LSE, 1.5), "k must be a whole number"),  # type: ignore[arg-type]
    "the best '3'": (lambda: top_evidence(QUERY, KNOWLEDGE, LSE, TEXT), "k must be a whole number"),
    "pruned to '3'": (lambda: prune(QUERY, KNOWLEDGE, TEXT), "k must be a whole number; got '3'"),
    "states of nothing": (lambda: merge_states(NOTHING, LSE, LSE, LSE), "output_a must be a tensor"),
    "packed rows of nothing": (
        lambda: partial_knowledge_attention(NOTHING, KNOWLEDGE, torch.zeros(1)),
        "knowledge_query must be a tensor",
    ),
    "pages of nothing": (
        lambda: paged_prompt_attention(QUERY[0], NOTHING, NOTHING, NOTHING, NOTHING, torch.tensor([0, 4]).int()),
        "key_cache must be a tensor",
    ),
    "masses of whole numbers": (lambda: evidence(QUERY.long(), KNOWLEDGE, LSE), "floating-point.*got torch.int64"),
    "an lse of whole numbers": (lambda: knowledge_lse(QUERY.long(), KNOWLEDGE), "floating-point.*got torch.int64"),
    "scores of no width": (
        lambda: evidence(QUERY[..., :0], DenseKnowledge(KNOWLEDGE.key[..., :0], KNOWLEDGE.value[..., :0]), LSE),
        r"head_dim must be at least 1; got knowledge_query \(2, 4, 3, 0\)",
    ),
    "a loop over nothing": (lambda: RectangularAttention(NOTHING), "knowledge must be DenseKnowledge.*; got NoneType"),
    "a loop of nothing": (lambda: RectangularAttention(KNOWLEDGE)(NOTHING, KEY, KEY), "query must be a tensor"),
    "a run of nothing": (lambda: RectangularAttention(KNOWLEDGE).run(NOTHING, KEY, KEY), "query must be a tensor"),
    "hidden states of nothing": (lambda: of_hidden(NOTHING, WEIGHT), "hidden_states must be a tensor"),
    "a head of text": (lambda: of_hidden(STATES, TEXT), "query_weight must be a tensor; got str"),
    "a head of another dtype": (lambda: of_hidden(STATES, WEIGHT.double()), "query_weight is torch.float64 on cpu"),
    "states of another device": (lambda: of_hidden(STATES.to("meta"), WEIGHT), "hidden_states is .* on meta"),
    "a state": (lambda: of_hidden(STATES[0, 0, 0], WEIGHT), r"hidden_states must be \(B=2, N=3, width\)"),
    "a plan of nothing": (lambda: KnowledgePlan(NOTHING, 4), "knowledge must be DenseKnowledge"),
    "a plan of any span": (lambda: KnowledgePlan(KNOWLEDGE, 4, max_span=TEXT), "max_span must be a whole number"),
    "a plan of no span": (lambda: KnowledgePlan(KNOWLEDGE, 4, max_span=0), "max_span must be at least 1; got 0"),
    "a planned run of nothing": (
        lambda: KnowledgePlan(KNOWLEDGE, 4).run(QUERY[0].transpose(0, 1), NOTHING),
        "knowledge must be DenseKnowledge",
    ),
    "pages of no token": (
        lambda: paged_prompt_attention(
            *(QUERY[0].transpose(0, 1), *torch.zeros(2, 3, 0, 2, 8), torch.zeros(1, 1).int()),
            *(torch.tensor([3]).int(), torch.tensor([0, 3]).int()),
        ),
        r"block_size at least 1.*got \(3, 0, 2, 8\)",
    ),
    "latents of nothing": (lambda: quantise(NOTHING, torch.int8), "latents must be a tensor; got NoneType"),
    "an adapter of nothing": (lambda: absorbed(NOTHING), "key_weight must be a tensor; got NoneType"),
    "an adapter of whole numbers": (lambda: absorbed(WEIGHT.long()), "of floating-point.*got torch.int64"),
    "an adapter's bias of text": (lambda: absorbed(WEIGHT, TEXT), "key_bias must be a tensor; got str"),
    "a vector to narrow": (lambda: narrowed(WEIGHT[0]), r"weight must be .*\(O, P\); got torch.float32 \(6,\)"),
    "a choice in halves": (lambda: select(KNOWLEDGE, torch.zeros(2, 3)), r"index must be int64.*float32 \(2, 3\)"),
    "a choice past the end": (lambda: select(KNOWLEDGE, torch.tensor([[0, 7]])), r"in \[0, M=7\); got 7"),
    "a choice before the start": (lambda: select(LATENTS, torch.tensor([[6, -1]])), r"in \[0, M=7\); got -1"),
    "a choice of other rows": (
        lambda: select(DenseKnowledge(*[torch.zeros(3, 4, 7, 8)] * 2), torch.zeros(2, 1).long()),
        r"a row for each of 3 rows of knowledge; got \(2, 1\)",
    ),
    "keys of text": (lambda: DenseKnowledge(TEXT, TEXT), "key must be a tensor; got str"),
    "no projection": (lambda: LatentProjection(NOTHING, NOTHING, NOTHING, NOTHING), "key_weight must be a tensor"),
    "a projection of no width": (
        lambda: LatentProjection(*[torch.zeros(4, 8, 0), torch.zeros(4, 8)] * 2),
        r"key_weight must be \(Hq, D, P\), each at least 1; got shape \(4, 8, 0\)",
    ),
    "a projection of no head": (
        lambda: LatentProjection(*[torch.zeros(0, 8, 16), torch.zeros(0, 8)] * 2),
        r"key_weight must be \(Hq, D, P\), each at least 1; got shape \(0, 8, 16\)",
    ),
    "a projection of text": (
        lambda: LatentKnowledge(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3), TEXT),
        "projection must be a LatentProjection; got str",
    ),
    "products of text": (lambda: attend(int8_products=TEXT), "int8_products must be True or False; got '3'"),
    "products of latents": (lambda: attend(knowledge=LATENTS, int8_products=1), "int8_products must be .*; got 1"),
    "products of evidence": (lambda: evidence(QUERY, KNOWLEDGE, LSE, int8_products=TEXT), "int8_products must be"),
    "products of a loop": (
        lambda: RectangularAttention(KNOWLEDGE, int8_products=TEXT)(QUERY, KEY, KEY),
        "int8_products must be",
    ),
    "products of a plan": (lambda: KnowledgePlan(KNOWLEDGE, 4, int8_products=TEXT), "int8_products must be"),
    "products of packed rows": (lambda: packed(int8_products=TEXT), "int8_products must be"),
    "an lse of text": (lambda: attend(return_lse=TEXT), "return_lse must be True or False; got '3'"),
    "materialised as text": (lambda: replace(LATENTS, materialised=TEXT), "materialised must be True or False"),  # type: ignore[arg-type]
    "a scale that was planned": (
        lambda: running(scale=0.5),
        "scale is planned and no argument of run: give it to",
    ),
    "a window that was planned": (lambda: running(window=3), "window is planned and no argument of run"),
    "products of a run": (lambda: running(int8_products=False), r"int8_products is no argument of a step: .*\(knowl"),
    "a backend of a run": (lambda: running(backend="cpu"), r"backend is no argument of a step: give it to Rectangul"),
    "an lse that is asked for": (lambda: running(return_lse=True), "return_lse is no argument of a step"),
    "more rows than int32 counts": (
        lambda: KnowledgePlan(KNOWLEDGE, 2**40),
        rf"max_tokens must be below 2\*\*31, since query_start_loc is int32; got {2**40}",
    ),
    "a plan of no sizes": (lambda: plan(TEXT, "a100"), "workload must be a Workload .*; got str"),
    "a plan for nothing": (lambda: plan(Workload(**SIZES), NOTHING), "device must be a torch device or .*; got None"),
    "a plan for meta": (lambda: plan(Workload(**SIZES), torch.device("meta")), "device 'meta' computes nothing here"),
    "typical rates of meta": (lambda: device_of(torch.device("meta"), measure=False), "'meta' computes nothing"),
    "sizes of text": (lambda: Workload(**SIZES, absorbable=TEXT), "absorbable must be True or False; got '3'"),
    "half a slot": (lambda: absorbed(num_slots=0.5), "num_slots must be a whole number; got 0.5"),
    "projections of whole numbers": (lambda: absorbed(dtype=torch.int32), "dtype must be torch.float32.*got torch.int"),
    "an epsilon of text": (lambda: absorbed(eps=TEXT), "eps must be a number; got '3'"),
    "an epsilon below 0": (lambda: absorbed(eps=-1.0), "eps must not be below 0; got -1.0"),
    "a complex bias": (lambda: absorbed(bias=torch.zeros(32, dtype=torch.complex64)), "key_bias must be .*complex64"),
    "an adapter of two devices": (
        lambda: absorbed(bias=torch.zeros(32).to("meta")),
        "key_bias must be on cpu.*meta",
    ),
    "an adapter of NaN": (lambda: absorbed(WEIGHT * torch.nan), "key_weight holds NaN or infinity"),
    "norms of text": (lambda: normed(TEXT), "latents must be a tensor; got str"),
    "norms of other latents": (lambda: normed(STATES[0, :, :5]), r"latents must be \(M, P=6\) on cpu.*got \(3, 5\)"),
    "norms of meta": (lambda: normed(STATES[0].to("meta")), r"latents must be .* on cpu.*on meta"),
    "norms of whole numbers": (lambda: normed(STATES[0].int()), "latents must be floating point.*got torch.int32"),
    "norms without a scale": (lambda: normed(STORED), "int8 latents need their scale.*got scale=None"),
    "norms with a scale": (lambda: normed(STATES[0], SCALE), "float32 latents have no scale"),
    "norms at one scale": (lambda: normed(STORED, SCALE[:1]), r"scale must be float32 \(M=7,\).*got .*\(1,\)"),
    "norms added in halves": (lambda: normed(STATES[0], accumulate=torch.float16), "accumulate must be.*float16"),
    "latents of no width": (lambda: quantise(STATES[0, :, :0], torch.int8), r"got .* \(3, 0\), and P is at least 1"),
    "a pin that is no text": (lambda: check_pin(NOTHING), "pin must be a text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name_and_value(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(UnsupportedInputError, match=words):
        call()


@pytest.mark.parametrize("is_materialised", [None, False, True], ids=["dense", "latents", "materialised"])
def test_an_option_that_evidence_lacks_is_an_error_on_every_layout(is_materialised: bool | None) -> None:
    """A name that is misspelt must not leave a bias out."""
    problem = make(M=7) if is_materialised is None else make_latent(M=7)
    knowledge, lse = problem.knowledge, evidence_of(problem).lse
    if is_materialised:
        knowledge = replace(knowledge, materialised=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'knowledge_bais'"):
        evidence(problem.knowledge_query, knowledge, lse, knowledge_bais=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'knowledge_bais'"):
        top_evidence(problem.knowledge_query, knowledge, lse, 3, knowledge_bais=1.0)  # type: ignore[call-arg]


def test_a_run_refuses_what_was_planned_without_gradients_too() -> None:
    """Where the C++ op is called directly."""
    for step in ({"scale": 1.0}, {"int8_products": True}):
        with torch.no_grad(), pytest.raises(UnsupportedInputError, match=f"{next(iter(step))} is"):
            running(**step)
        with pytest.raises(UnsupportedInputError, match="is no argument of a step"):
            RectangularAttention(KNOWLEDGE)(QUERY, KEY, KEY, int8_products=False)  # type: ignore[call-arg]


def test_a_whole_bias_of_packed_rows_may_be_larger_than_an_integer_of_torch() -> None:
    for ours, theirs in zip(packed(knowledge_bias=2**70), packed(knowledge_bias=2.0**70), strict=True):
        assert torch.equal(ours, theirs)


def test_numbers_of_other_types_are_numbers() -> None:
    import numpy as np

    assert isinstance(attend(return_lse=np.False_, int8_products=np.True_), Tensor)

    expected = attend(scale=0.5, window=2, knowledge_bias=1.0)
    for scale, window, bias in (
        (np.float64(0.5), np.int64(2), np.float32(1)),
        (torch.tensor(0.5).item(), torch.tensor(2), 1),
    ):
        torch.testing.assert_close(attend(scale=scale, window=window, knowledge_bias=bias), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("maker", [make, make_latent])
@pytest.mark.parametrize("N", [1, 9])
def test_autocast_changes_no_bit(maker: Callable[..., Problem], N: int, backend: str) -> None:
    problem = maker(N=N, T=12, M=40, dtype=torch.float32)
    expected = problem.run(backend)
    masses = evidence_of(problem).run(backend)
    with torch.autocast("cpu", torch.bfloat16):
        found, found_masses = problem.run(backend), evidence_of(problem).run(backend)
    for ours, theirs in zip((*found, *found_masses), (*expected, *masses), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("maker", [make, make_latent])
def test_autocast_changes_no_choice_and_no_materialised_token(maker: Callable[..., Problem]) -> None:
    """In bfloat16 nearly equal scores change places."""
    problem = maker(N=3, T=12, M=400, dtype=torch.float32)
    query, knowledge = problem.knowledge_query, problem.knowledge
    expected = prune(query, knowledge, 50)
    with torch.autocast("cpu", torch.bfloat16):
        found = prune(query, knowledge, 50)
    assert torch.equal(found[2], expected[2])
    pairs = [(found[0], expected[0])]
    if isinstance(knowledge, LatentKnowledge):
        with torch.autocast("cpu", torch.bfloat16):
            dense = knowledge.to_dense()
        pairs.append((dense, knowledge.to_dense()))
    for ours, theirs in pairs:
        assert torch.equal(ours.key, theirs.key)
        assert torch.equal(ours.value, theirs.value)


@pytest.mark.usefixtures("library")
def test_autocast_changes_no_planned_run_and_no_lse_of_knowledge() -> None:
    step = batch([5, 1], [(0, 40), (7, 20)], dtype=torch.float32, is_latent=True)
    attend = KnowledgePlan(step.knowledge, 6, backend="cpu")
    attend.plan(step.starts, step.ranges, knowledge_bias=step.bias)
    expected = [t.clone() for t in attend.run(step.knowledge_query, step.knowledge)]
    dense = make(N=3, T=12, M=400, dtype=torch.float32)
    lse = knowledge_lse(dense.knowledge_query, dense.knowledge)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend.run(step.knowledge_query, step.knowledge)
        found_lse = knowledge_lse(dense.knowledge_query, dense.knowledge)
    for ours, theirs in zip((*found, found_lse), (*expected, lse), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("dtype", "cast"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)])
def test_a_model_may_be_in_other_half_precision_than_autocast(dtype: torch.dtype, cast: torch.dtype) -> None:
    """PyTorch refuses to put its tensors together there."""
    step = batch([5, 1, 2], [(0, 40), (7, 20), (0, 9)], dtype=dtype, is_latent=True)
    weight = WEIGHT.to(dtype)

    def made() -> list[Tensor]:
        rows = step.knowledge_query.repeat(2, 1, 1)[:9]  # the last is padding
        attended = partial_knowledge_attention(rows, step.knowledge, step.starts, step.ranges, knowledge_bias=step.bias)
        query, dense = rows.transpose(0, 1)[None], step.knowledge.to_dense()
        mass = evidence(query, replace(step.knowledge, materialised=True), attended[1][None])
        adapter = absorb(weight, None, weight, None, num_slots=1, num_heads=4, head_dim=8)
        return [*attended, dense.key, dense.value, mass, adapter.slots[0].key_weight, adapter.key_norm(weight)]

    expected = made()
    with torch.autocast("cpu", cast):
        found = made()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("maker", [make, make_latent])
def test_a_bias_of_no_tokens_may_have_any_strides(maker: Callable[..., Problem]) -> None:
    problem = maker(B=2, N=1, T=12, M=0, dtype=torch.float32)
    bias = torch.zeros(0, 2).T
    for ours, theirs in zip(replace(problem, knowledge_bias=bias).run("cpu"), problem.run("cpu"), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("maker", [make, make_latent])
def test_a_bias_of_no_rows_may_have_any_strides(maker: Callable[..., Problem]) -> None:
    problem = maker(B=0, N=1, T=12, M=7, dtype=torch.float32)
    bias = torch.zeros(7, 2)[:, 0].expand(0, 7)
    output, lse = replace(problem, knowledge_bias=bias).run("cpu")
    assert output.shape == problem.query.shape
    assert lse.shape == problem.query.shape[:3]
