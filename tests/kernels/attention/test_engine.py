"""A plan of an engine: the results of the plain call, at the same addresses, by launches that no batch changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kblam_kernels import DenseKnowledge, KnowledgePlan, LatentKnowledge, LatentProjection, UnsupportedInputError
from kblam_kernels.attention import engine, packed
from kblam_kernels.common.launch import Launch, recording
from kblam_kernels.common.splits import GROUP
from kblam_kernels.latent import tiles
from tests.kernels.attention.engines import HQ, Batch, D, batch
from tests.kernels.problems import INF
from tests.kernels.ways import FLOAT32

# Few rows: in the interpreter each is a program for every head and split.
NEW, SPANS = [3, 1, 1, 1, 0, 2], [(0, 40), (7, 7), (5, 6), (30, 99), (0, 40), (9, 3)]
OTHER_NEW, OTHER_SPANS = [1, 5], [(20, 33), (-4, 12)]
MOST = 14


def steps(**options: Any) -> tuple[Batch, Batch]:
    """Two steps over one list, of as many rows, but of other requests; the last rows are padding."""
    options = {"dtype": FLOAT32, **options}
    return batch(NEW, SPANS, padding=2, **options), batch(OTHER_NEW, OTHER_SPANS, padding=4, seed=0, **options)


def told(attend: KnowledgePlan, step: Batch) -> None:
    attend.plan(step.starts, step.ranges, knowledge_bias=step.bias)


KINDS = [
    pytest.param({}, id="dense"),
    pytest.param({"is_latent": True}, id="latent"),
    pytest.param({"is_latent": True, "storage": torch.int8}, id="latent-int8"),
]


@pytest.mark.parametrize("options", KINDS)
def test_a_run_has_the_bits_of_the_plain_call_at_the_same_addresses(backend: str, options: dict[str, Any]) -> None:
    first, second = steps(**options)
    attend = KnowledgePlan(first.knowledge, MOST, backend=backend)
    assert attend.backend == backend
    plain = [step.run(backend) for step in (first, second)]
    found = []
    for step, expected in ((first, plain[0]), (second, plain[1]), (first, plain[0])):
        told(attend, step)
        output, lse = attend.run(step.knowledge_query, step.knowledge)
        for ours, theirs in zip((output, lse), expected, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.is_contiguous()
        found.append((output.data_ptr(), lse.data_ptr()))
    assert found[0] == found[1] == found[2]
    assert output.untyped_storage().nbytes() == attend.workspace_bytes


def test_each_layer_has_its_own_projection(backend: str) -> None:
    step, _ = steps(is_latent=True)
    other = batch(NEW, SPANS, is_latent=True, dtype=FLOAT32, padding=2, seed=1).knowledge
    k = step.knowledge
    layer = LatentKnowledge(k.key, k.value, k.norm, other.projection)
    attend = KnowledgePlan(k, MOST, backend=backend)
    told(attend, step)
    attend.run(step.knowledge_query, k)
    changed = Batch(**{**vars(step), "knowledge": layer})
    for ours, theirs in zip(attend.run(step.knowledge_query, layer), changed.run(backend), strict=True):
        assert torch.equal(ours, theirs)


def test_a_list_that_grows_within_its_room_needs_no_new_plan_object() -> None:
    step, _ = steps()
    attend = KnowledgePlan(step.knowledge, MOST)
    told(attend, step)
    step.knowledge.value[:, 5] += 1.0  # request 2 sees this token alone
    output, _ = attend.run(step.knowledge_query, step.knowledge)
    torch.testing.assert_close(output[4], step.knowledge.value[:, 5])


class NothingNew(TorchDispatchMode):
    """Every result of an operation lies in the memory of an argument."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        held = {_storage(t) for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(results) if isinstance(t, Tensor) and _storage(t) not in held]
        assert not made, f"{func} made {[tuple(t.shape) for t in made]}"
        return results


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def watched() -> Iterator[list[Launch]]:
    """Nothing may be allocated; launches are listed, and not run."""
    with recording("sm_90") as recorded, NothingNew():
        yield recorded.launches


def said(launch: Launch) -> Any:
    """Kernel, grid and every argument: of a tensor where it lies."""
    values = tree_leaves(launch.arguments)
    known = [(v.data_ptr(), v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) else v for v in values]
    return launch.kernel, launch.grid, launch.tile, known


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("rows_at_once", [None, 4])
@pytest.mark.parametrize("options", KINDS)
def test_a_run_allocates_nothing_and_launches_the_same_whatever_the_batch(
    options: dict[str, Any], rows_at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows_at_once is not None:
        monkeypatch.setattr(packed, "_rows_at_once", lambda call: rows_at_once)
    first, second = steps(dtype=torch.bfloat16, **options)
    query = first.knowledge_query
    with recording("sm_90"):
        attend = KnowledgePlan(first.knowledge, MOST, backend="triton")
    launches = []
    for step in (first, second):
        told(attend, step)
        with watched() as listed:
            attend.run(query, first.knowledge)
        launches.append([said(launch) for launch in listed])
    assert launches[0] == launches[1]
    pieces = 1 if rows_at_once is None else -(-len(query) // rows_at_once)
    # Attention to latents has three; to keys and values, splits and merge.
    assert len(launches[0]) == (3 if isinstance(first.knowledge, LatentKnowledge) else 2) * pieces


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("options", KINDS[:2])
def test_pieces_of_many_rows_change_no_bit(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = steps(**options)
    whole = step.run("triton")
    monkeypatch.setattr(tiles, "SCRATCH_BYTES", 4 * HQ * 26 * 5)
    for ours, theirs in zip(step.run("triton"), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # the interpreter's BLAS
    attend = KnowledgePlan(step.knowledge, MOST, backend="triton")
    told(attend, step)
    for ours, theirs in zip(attend.run(step.knowledge_query, step.knowledge), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("interpreted")
def test_every_number_of_rows_finds_its_memory() -> None:
    """Of fewer rows partial results may be more: they are not folded then."""
    knowledge, most = batch([1], [(0, 40)], M=4000, is_latent=True, dtype=torch.bfloat16).knowledge, 140
    query = torch.zeros(most, HQ, D, dtype=torch.bfloat16)
    with recording("sm_90"):
        attend = KnowledgePlan(knowledge, most, backend="triton")
    folds = set()
    for rows in range(1, most + 1):
        with watched() as listed:
            attend.run(query[:rows], knowledge)
        folds.add(listed[1].arguments["TILE"].FOLDED)
    assert folds == {1, GROUP}


def test_the_longest_span_alone_sets_grid_and_memory(interpreted: None) -> None:
    small, large = (batch([1], [(0, 40)], M=M, is_latent=True, dtype=FLOAT32).knowledge for M in (400, 4000))
    made, query = [], torch.zeros(MOST, HQ, D)
    for knowledge in (small, large):
        with recording("sm_90"):
            attend = KnowledgePlan(knowledge, MOST, max_span=300, backend="triton")
        with watched() as listed:
            attend.run(query, knowledge)
        made.append((attend.workspace_bytes, [launch.grid for launch in listed]))
    assert made[0] == made[1]
    with pytest.raises(UnsupportedInputError, match="longer than max_span=300"):
        attend.plan(torch.tensor([0, 1]).int(), torch.tensor([[0, 301]]))


@pytest.mark.parametrize("inside", [True, False])
def test_inference_mode_may_come_and_go(inside: bool, backend: str) -> None:
    step, _ = steps(is_latent=True)
    with torch.inference_mode(inside):
        attend = KnowledgePlan(step.knowledge, MOST, backend=backend)
    with torch.inference_mode(not inside):
        told(attend, step)
    with torch.inference_mode(inside):
        found = attend.run(step.knowledge_query, step.knowledge)
    for ours, theirs in zip(found, step.run(backend), strict=True):
        assert torch.equal(ours, theirs)


def test_before_anything_is_planned_nothing_is_seen(backend: str) -> None:
    step, _ = steps()
    attend = KnowledgePlan(step.knowledge, MOST, backend=backend)
    output, lse = attend.run(step.knowledge_query, step.knowledge)
    assert (output == 0).all()
    assert (lse == -INF).all()


def test_a_number_and_a_wide_range_are_planned_too() -> None:
    step, _ = steps()
    attend = KnowledgePlan(step.knowledge, MOST)
    wide = torch.tensor([[-(2**40), 2**40]] * len(NEW))
    attend.plan(step.starts, wide, knowledge_bias=-0.5)
    expected = packed.partial_knowledge_attention(
        step.knowledge_query, step.knowledge, step.starts, knowledge_bias=-0.5
    )
    for ours, theirs in zip(attend.run(step.knowledge_query, step.knowledge), expected, strict=True):
        assert torch.equal(ours, theirs)


META = torch.device("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k: (q[:7], k), "8 rows were planned, of at most max_tokens=14; knowledge_query has 7"),
        (lambda q, k: (q.repeat(2, 1, 1), k), "max_tokens=14; knowledge_query has 20"),
        (lambda q, k: (q[None], k), r"\(total_tokens, Hq, D\)"),
        (lambda q, k: (q.to(META), k), "knowledge_query must be on cpu; got meta"),
        (lambda q, k: (q.half(), k), r"knowledge is torch\.float32"),
        (lambda q, k: (q.clone().requires_grad_(), k), "no gradient and knowledge_query requires one"),
        (
            lambda q, k: (q, DenseKnowledge(k.key.clone().requires_grad_(), k.value)),
            r"no gradient and knowledge_key requires one: run it under torch\.no_grad",
        ),
        (lambda q, k: (q.mT.contiguous().mT, k), "contiguous last dimension"),
        (lambda q, k: (q, DenseKnowledge(k.key[:, 1:], k.value[:, 1:])), r"form of the planned .*40, 16.*39, 16"),
        (lambda q, k: (q, DenseKnowledge(k.key.half(), k.value.half())), "form of the planned .*float16"),
        (lambda q, k: (q, batch([1], [(0, 1)], is_latent=True).knowledge), "form of the planned .*LatentKnowledge"),
    ],
)
def test_a_run_refuses(change: Any, message: str) -> None:
    step, _ = steps()
    attend = KnowledgePlan(step.knowledge, MOST)
    told(attend, step)
    with pytest.raises(UnsupportedInputError, match=message):
        attend.run(*change(step.knowledge_query, step.knowledge))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"projection": of_projection(p, lambda t: t[:, :8])}, r"planned .*\(4, 16\).*got .*\(4, 8\)"),
        (lambda p: {"projection": of_projection(p, Tensor.double)}, r"planned .*float32.*got .*float64"),
        (lambda p: {"materialised": True}, r"planned .*False\).*got .*True\)"),
    ],
    ids=["heads", "dtype", "materialised"],
)
def test_a_layer_that_takes_other_memory_is_refused(change: Any, message: str) -> None:
    step, _ = steps(is_latent=True, storage=torch.float16)
    knowledge = step.knowledge
    assert isinstance(knowledge, LatentKnowledge)
    attend = KnowledgePlan(knowledge, MOST, backend="reference")
    told(attend, step)
    changes = change(knowledge.projection)
    if "projection" in changes and changes["projection"].key_weight.dtype == torch.float64:
        changes["norm"] = knowledge.norm.double()
    other = dataclasses.replace(knowledge, **changes)
    query = step.knowledge_query[..., : other.head_dim].to(other.projection.key_weight.dtype)
    with pytest.raises(UnsupportedInputError, match=f"form of the {message}"):
        attend.run(query, other)


def of_projection(projection: LatentProjection, change: Callable[[Tensor], Tensor]) -> LatentProjection:
    return LatentProjection(*(change(t) for t in vars(projection).values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([0, 50]).int(),), "at most total_tokens=14"),
        ((torch.tensor([0, 5]),), "query_start_loc must be int32"),
        ((torch.tensor([0, 5]).int(), torch.zeros(2, 2).int()), "num_requests=1, 2"),
        ((torch.tensor([0, 5]).int().to(META),), "query_start_loc must be .* on cpu; got .* on meta"),
        (
            (torch.tensor([0, 5]).int(), None, torch.zeros(1, requires_grad=True)),
            r"no gradient and knowledge_bias requires one: pass knowledge_bias\.detach",
        ),
    ],
)
def test_a_plan_refuses(arguments: tuple[Any, ...], message: str) -> None:
    step, _ = steps()
    attend = KnowledgePlan(step.knowledge, MOST)
    told(attend, step)
    with pytest.raises(UnsupportedInputError, match=message):
        attend.plan(*arguments[:2], knowledge_bias=arguments[2] if len(arguments) > 2 else 0.0)
    # What was planned before still is.
    for ours, theirs in zip(attend.run(step.knowledge_query, step.knowledge), step.run("auto"), strict=True):
        assert torch.equal(ours, theirs)


def test_rows_that_no_memory_holds_are_refused_before_any_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system ends a process that takes more."""
    knowledge = steps()[0].knowledge
    row = HQ * (2 * D * 4 + 4) + 12
    for room, most in ((MOST * row, MOST), (None, MOST)):
        monkeypatch.setattr(engine, "available_memory", lambda room=room: room)
        KnowledgePlan(knowledge, most)
    monkeypatch.setattr(engine, "available_memory", lambda: MOST * row - 1)
    with pytest.raises(UnsupportedInputError, match=r"max_tokens=14 rows take 0\.0 GB on cpu, which has 0\.0 GB; give"):
        KnowledgePlan(knowledge, MOST)
    with pytest.raises(UnsupportedInputError, match="max_tokens=2147483647 rows take"):
        KnowledgePlan(knowledge, 2**31 - 1)


def test_there_must_be_room_and_one_list() -> None:
    rows = torch.randn(2, HQ, 5, D)
    with pytest.raises(UnsupportedInputError, match="max_tokens must be at least 1; got 0"):
        KnowledgePlan(DenseKnowledge(rows[0], rows[0]), 0)
    for given in (2.5, "3", None):
        with pytest.raises(UnsupportedInputError, match=f"max_tokens must be a whole number; got {given!r}"):
            KnowledgePlan(DenseKnowledge(rows[0], rows[0]), given)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedInputError, match="share one list"):
        KnowledgePlan(DenseKnowledge(rows, rows), 4)
