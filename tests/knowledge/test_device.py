from __future__ import annotations

import numpy as np
import pytest
import torch

from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.rows import DeviceRows
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS
from tests.knowledge.vectors import Vectors, copy_of
from tests.knowledge.worker import facts


def check(copy: DeviceRows, kb: KnowledgeBase) -> None:
    """Row for row the copy holds what the knowledge base holds, and zeros beyond."""
    stored = kb.embeddings()
    row_of = {int(one): row for row, one in enumerate(stored.ids)}
    assert sorted(copy.ids) == sorted(row_of)
    order = [row_of[one] for one in copy.ids]
    for held, expected in ((copy.buffers["key"], stored.key), (copy.buffers["value"], stored.value)):
        expected_rows = torch.from_numpy(expected[order]).to(held.dtype)
        torch.testing.assert_close(held[: copy.count].cpu(), expected_rows, rtol=0, atol=0)
        assert not held[copy.count :].any()
    assert copy.count == len(kb) <= copy.capacity
    assert copy.revision == kb.revision


def addresses(copy: DeviceRows) -> tuple[int, int]:
    return copy.buffers["key"].data_ptr(), copy.buffers["value"].data_ptr()


def test_a_device_has_the_name_that_tensors_on_it_have(kb: KnowledgeBase) -> None:
    """ "cuda" is "cuda:0" to a tensor, and "cpu:0" is "cpu": what a user said must not be compared with that."""
    copy = copy_of(kb, device="cpu:0")
    assert copy.device == copy.buffers["key"].device == torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_copy(kb: KnowledgeBase, dtype: torch.dtype) -> None:
    copy = copy_of(kb, dtype=dtype)
    check(copy, kb)
    assert (copy.buffers["key"].dtype, copy.device.type, copy.dimension, copy.capacity) == (dtype, "cpu", 16, 64)
    assert kb.triples_at(copy.ids) == FACTS


def test_updating_one_triple_rewrites_one_row_in_place(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.from_triples(facts(100), encoder)
    copy = copy_of(kb)
    before, key, where = copy.buffers["value"].clone(), copy.buffers["key"], addresses(copy)
    kb.add(Triple("n42", "p", "changed"))
    assert copy.sync(kb) == [42]
    check(copy, kb)
    assert addresses(copy) == where
    assert copy.buffers["key"] is key
    assert (before != copy.buffers["value"]).any(dim=1).nonzero().flatten().tolist() == [42]


def test_new_triples_are_appended_in_place_until_full(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.from_triples(facts(200), encoder)
    copy = copy_of(kb)
    assert copy.capacity == 225
    where = addresses(copy)
    kb.add(facts(25, "more"))
    assert copy.sync(kb) == list(range(200, 225))
    assert addresses(copy) == where
    check(copy, kb)
    kb.add(Triple("one more", "p", "v"))
    assert copy.sync(kb) == [225]
    assert copy.capacity == 226 + 28
    check(copy, kb)


def test_a_removal_moves_the_last_row_into_the_hole(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.from_triples(facts(10), encoder)
    copy = copy_of(kb)
    where = addresses(copy)
    kb.remove("n3")
    assert copy.sync(kb) == [3]
    assert copy.ids == [1, 2, 3, 10, 5, 6, 7, 8, 9]
    check(copy, kb)
    kb.remove("n8")  # the last row
    assert copy.sync(kb) == []
    check(copy, kb)
    for name in ("n9", "n7", "n0", "n1"):
        kb.remove(name)
    kb.add([Triple("n2", "p", "changed"), Triple("new", "p", "v")])
    rows = copy.sync(kb)
    check(copy, kb)
    assert addresses(copy) == where
    assert set(rows) <= set(range(copy.count))
    for number in (2, 4, 5, 6):
        kb.remove(f"n{number}")
    kb.remove("new")
    assert copy.sync(kb) == []
    assert copy.count == 0
    check(copy, kb)


def test_what_came_and_went_between_two_calls(kb: KnowledgeBase) -> None:
    copy = copy_of(kb)
    kb.add(Triple("a", "p", "v"))
    kb.remove("a")
    assert copy.sync(kb) == []
    check(copy, kb)


def test_nothing_changed(kb: KnowledgeBase) -> None:
    assert copy_of(kb).sync(kb) == []


def test_another_knowledge_base_replaces_everything(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    copy = copy_of(KnowledgeBase.from_triples(facts(90), encoder))
    capacity = copy.capacity
    assert copy.sync(kb) == [0, 1, 2, 3]
    assert copy.capacity == capacity
    check(copy, kb)


def test_random_changes(encoder: HashingEncoder) -> None:
    """Any sequence of changes ends in the right rows, and rows that are not reported did not change."""
    random = np.random.default_rng(0)
    kb = KnowledgeBase.create(None, encoder)
    copy = copy_of(kb)
    for step in range(60):
        before = copy.buffers["value"][: copy.count].clone()
        for _ in range(random.integers(1, 12)):
            name = f"n{random.integers(0, 40)}"
            if random.random() < 0.5:
                kb.remove(name)
            else:
                kb.add(Triple(name, "p", f"value {step} {random.integers(0, 9)}"))
        rows = set(copy.sync(kb))
        check(copy, kb)
        kept = [row for row in range(min(len(before), copy.count)) if row not in rows]
        torch.testing.assert_close(copy.buffers["value"][kept], before[kept], rtol=0, atol=0)
        assert rows >= set(range(len(before), copy.count))


def test_another_dimension_is_refused(kb: KnowledgeBase) -> None:
    copy = copy_of(kb)
    other = KnowledgeBase.from_triples(facts(3), HashingEncoder(8))
    with pytest.raises(KnowledgeError, match=r"vectors of 8 numbers, this copy holds 16; make a new copy"):
        copy.sync(other)
    check(copy, kb)


def test_no_room_leaves_the_copy_as_it_was(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_of(kb)
    before = copy.buffers["key"].clone()
    kb.remove("Zürich")
    kb.add(facts(100))

    def no_memory(*arguments: object, **settings: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", no_memory)
        with pytest.raises(KnowledgeError, match=r"no room for 115 rows .* on cpu: CUDA out of memory; use a smaller"):
            copy.sync(kb)
    assert torch.equal(copy.buffers["key"], before)
    assert copy.count == 4
    assert set(copy.sync(kb)) == set(range(2, 103))
    check(copy, kb)


@pytest.mark.parametrize("where", ["a removed row's place is taken", "a triple is written", "the first copy"])
def test_an_interrupted_call_is_made_good_by_the_next(
    where: str, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = KnowledgeBase.from_triples(facts(100), encoder)
    copy = copy_of(KnowledgeBase.from_triples(facts(90), encoder) if where == "the first copy" else kb)
    for number in range(40):
        kb.remove(f"n{number}")
    kb.add([Triple("n50", "p", "changed"), *(Triple(f"new {number}", "p", "v") for number in range(90))])

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((torch, "tensor") if "removed" in where else (Vectors, "encode")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy.sync(kb)
    copy.sync(kb)
    check(copy, kb)


def test_memory_that_runs_out_while_rows_move_is_told(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_of(kb)
    kb.remove(FACTS[0].name)

    def no_memory(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__setitem__", no_memory)
        with pytest.raises(KnowledgeError, match=r"no room for 2 rows .* on cpu: CUDA out of memory; use a smaller"):
            copy.sync(kb)
    copy.sync(kb)
    check(copy, kb)


@pytest.mark.parametrize(
    "lack",
    ["CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "driver error: CUDA_ERROR_OUT_OF_MEMORY"],
)
def test_a_library_that_finds_no_memory_is_told_as_a_lack_of_it(
    lack: str, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises a plain RuntimeError, with the name of a constant."""

    def no_memory(*arguments: object) -> None:
        raise RuntimeError(f"CUDA error: {lack}")

    monkeypatch.setattr(Vectors, "encode", no_memory)
    with pytest.raises(KnowledgeError, match=r"no room for 4 rows .*_.*; use a smaller"):
        copy_of(kb)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "abacus"}, "cannot hold embeddings on abacus"),
        ({"dimension": 0}, "dimension must be positive"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        DeviceRows(**{"dimension": 16, "form": Vectors(16), "device": "cpu", **settings})  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(KnowledgeError, match=r"cannot hold embeddings on cuda.*use device='cpu'"):
        DeviceRows(16, Vectors(16, device="cuda"), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_on_a_gpu(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.from_triples(facts(100), encoder)
    copy = copy_of(kb, dtype=torch.bfloat16, device="cuda")
    where = addresses(copy)
    kb.add(Triple("n42", "p", "changed"))
    kb.remove("n3")
    assert copy.sync(kb) == [3, 42]
    check(copy, kb)
    assert addresses(copy) == where
