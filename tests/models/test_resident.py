"""A knowledge base on the device: what a change rewrites, and that it answers as freshly projected knowledge."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import StaticCache

from kblam.errors import EncoderMismatchError, KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models.copies import resident_for
from kblam.models.formats import Joined
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, differ, logits, prompts, tiny_adapter, tiny_model

IDS, MASK = prompts()


def fact(number: int, value: str = "old") -> Triple:
    return Triple(f"thing {number}", "color", f"{value} {number}")


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder(EMBEDDING_DIM)


@pytest.fixture
def kb(encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.from_triples([fact(number) for number in range(9)], encoder) as kb:
        yield kb


def resident_of(kb: KnowledgeBase, tied: Tied, **options: str) -> ResidentKnowledge:
    return ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=torch.device("cpu"), **options)


def test_its_device_has_the_name_that_the_models_has(kb: KnowledgeBase, tied: Tied) -> None:
    made = ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=torch.device("cpu:0"))
    assert made.device == torch.device("cpu")
    with tied.attachment.using(made):
        pass


def rows_of(resident: ResidentKnowledge) -> dict[str, Tensor]:
    """All that is held, copied; a row a triple."""
    return {name: buffer.clone() for name, buffer in resident.buffers.items()}


def addresses(resident: ResidentKnowledge) -> dict[str, int]:
    return {name: buffer.data_ptr() for name, buffer in resident.buffers.items()}


def changed_rows(before: dict[str, Tensor], resident: ResidentKnowledge) -> dict[str, list[int]]:
    """Which rows of each buffer are not what they were."""
    found = {}
    for name, buffer in resident.buffers.items():
        rows = (before[name] != buffer).flatten(1) if buffer.dim() > 1 else (before[name] != buffer)[:, None]
        found[name] = rows.any(1).nonzero().flatten().tolist()
    return found


def check_against_projection(
    resident: ResidentKnowledge, kb: KnowledgeBase, tied: Tied, tolerance: float = 1e-4
) -> None:
    """Logits with the resident copy are those with every triple projected anew."""
    embeddings = kb.embeddings()
    fresh = tied.adapter.project(torch.from_numpy(embeddings.key), torch.from_numpy(embeddings.value))
    assert resident.num_triples == len(kb) == fresh.num_triples
    with tied.attachment.using(fresh):
        expected = logits(tied.model, IDS, MASK)
    with tied.attachment.using(resident):
        close(logits(tied.model, IDS, MASK), expected, tolerance)


PINS = ["latent", "dense", "materialise", "decode=latent,prefill=dense"]


@pytest.mark.parametrize("plan", PINS)
@pytest.mark.parametrize("options", [{}, {"knowledge_scale": 5.0}, {"top_k": 4, "knowledge_scale": 5.0}], ids=str)
def test_it_is_the_projected_knowledge_base_through_every_change(
    options: dict[str, object], plan: str, kb: KnowledgeBase
) -> None:
    tied = tie(**options)
    resident = resident_of(kb, tied, plan=plan)
    check_against_projection(resident, kb, tied)
    assert resident.filled.tolist() == [[0, 9]]
    kb.add(fact(3, "new"))
    kb.add([fact(20), fact(21)])
    kb.remove("thing 0")
    kb.remove("thing 8")
    resident.sync()
    check_against_projection(resident, kb, tied)
    assert resident.filled.tolist() == [[0, 9]]
    kb.add([fact(number) for number in range(100, 300)])
    resident.sync()
    check_against_projection(resident, kb, tied)
    assert resident.filled.tolist() == [[0, 209]]
    torch.testing.assert_close(resident.log_count, torch.tensor(209.0).log())


@pytest.mark.parametrize("plan", PINS)
def test_old_buffers_are_gone_before_there_are_new_ones(
    plan: str, kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = resident_of(kb, tied, plan=plan)
    old = [weakref.ref(buffer) for buffer in resident.buffers.values()]
    alive, allocate = [], Joined.allocate

    def noted(self: Joined, rows: int) -> dict[str, Tensor]:
        alive.append(sum(one() is not None for one in old))
        return allocate(self, rows)

    monkeypatch.setattr(Joined, "allocate", noted)
    with torch.no_grad():
        next(tied.adapter.key_projector.parameters()).add_(0.1)
    resident.sync()
    assert alive[0] == 0


@pytest.mark.parametrize("plan", PINS)
def test_after_an_interruption_layers_read_the_buffers_that_are_written(
    plan: str, kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = resident_of(kb, tied, plan=plan)
    kb.add([fact(number) for number in range(100, 300)])  # more than there is room for

    def interrupted(self: Joined, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Joined, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resident.sync()
    assert resident.is_behind
    resident.sync()
    check_against_projection(resident, kb, tied)
    kb.add(fact(3, "new"))
    resident.sync()
    check_against_projection(resident, kb, tied)


@pytest.mark.parametrize("storage", ["auto", "int8"])
@pytest.mark.parametrize("plan", ["latent", "dense", "decode=latent,prefill=dense"])
def test_updating_one_triple_rewrites_one_row_in_place(plan: str, storage: str, kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied, plan=plan, storage=storage)
    before, where = rows_of(resident), addresses(resident)
    row = next(row for row in range(9) if resident.triples_at([row]) == [fact(4)])
    kb.add(fact(4, "new"))
    assert resident.sync() == 1
    assert addresses(resident) == where
    assert resident.triples_at([row]) == [fact(4, "new")]
    changed = changed_rows(before, resident)
    # The key text is the same. A dense key projected alone may differ in its last bit from one projected in a batch.
    for name, rows in changed.items():
        assert rows == [row] if "value" in name else set(rows) <= {row}, name
        if "key" in name:
            close(before[name].float(), resident.buffers[name].float())


def test_adding_fills_the_next_row_in_place(kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied, plan="decode=latent,prefill=dense")
    before, where = rows_of(resident), addresses(resident)
    kb.add(fact(50))
    assert resident.sync() == 1
    assert addresses(resident) == where
    assert resident.triples_at([9]) == [fact(50)]
    assert set(map(tuple, changed_rows(before, resident).values())) == {(9,)}


def test_removing_moves_the_last_row_into_the_hole(kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied, plan="decode=latent,prefill=dense")
    before, where = rows_of(resident), addresses(resident)
    last = resident.triples_at([8])
    kb.remove(resident.triples_at([2])[0].name)
    assert resident.sync() == 1
    assert addresses(resident) == where
    assert resident.triples_at([2]) == last
    assert resident.num_triples == 8
    for name, old in before.items():
        new = resident.buffers[name]
        torch.testing.assert_close(new[2], old[8])
        assert torch.equal(old[:2], new[:2])
        assert torch.equal(old[3:8], new[3:8])
        assert not new[8:].any(), "what is no longer in use is zero"
    check_against_projection(resident, kb, tied)


@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_nothing_new_is_no_work(plan: str, kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = resident_of(kb, tied, plan=plan)

    def encode(*args: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(Joined, "encode", encode)
    before = addresses(resident)
    assert resident.sync() == 0
    assert addresses(resident) == before


class DrawingEncoder:
    """Random vectors, drawn as they are asked for: cheap, and a text gets another one each time."""

    dimension, spec, fingerprint = EMBEDDING_DIM, "drawing", "drawing:16"

    def __init__(self) -> None:
        self._draw = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        return self._draw.standard_normal((len(texts), self.dimension), np.float32)


@pytest.fixture(scope="module")
def large_kb() -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(None, DrawingEncoder()) as kb:
        kb.update((fact(number) for number in range(100_000)), batch_size=8192)
        yield kb


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call from now on encodes."""
    encoded: list[int] = []
    encode = Joined.encode

    def counted(form: Joined, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        encoded.append(len(key))
        return encode(form, key, value)

    monkeypatch.setattr(Joined, "encode", counted)
    return encoded


@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_one_change_of_a_hundred_thousand_writes_one_row(
    plan: str, large_kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = resident_of(large_kb, tied, plan=plan)
    assert resident.num_triples == 100_000
    encoded = counting(monkeypatch)
    before, where, times = rows_of(resident), addresses(resident), list[float]()
    for number in range(77_777, 77_782):
        large_kb.add(fact(number, f"new {plan}"))
        began = time.perf_counter()
        assert resident.sync() == 1
        times.append(time.perf_counter() - began)
    assert encoded == [1] * 5
    assert {len(rows) for rows in changed_rows(before, resident).values()} == {5}
    assert addresses(resident) == where
    # Writing them all takes far longer; some room for a machine that does much else.
    assert min(times) < 0.02


def test_a_large_knowledge_base_is_projected_in_pieces(
    kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.knowledge.proof.CHUNK", 4)
    check_against_projection(resident_of(kb, tied), kb, tied)


def test_an_empty_knowledge_base_is_no_knowledge(kb: KnowledgeBase) -> None:
    tied = tie(knowledge_scale=5.0)
    base = logits(tied.model, IDS, MASK)
    for number in range(9):
        kb.remove(f"thing {number}")
    resident = resident_of(kb, tied)
    with tied.attachment.using(resident):
        close(logits(tied.model, IDS, MASK), base)
        kb.add(fact(1))
        resident.sync()
        assert differ(logits(tied.model, IDS, MASK), base)


def test_bias_and_ranges_go_by_the_triples_there_are(kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied)
    assert resident.layer(0).num_tokens > 9, "there are spare rows"
    bias = torch.zeros(9)
    bias[4:] = -float("inf")
    ranges = torch.tensor([[0, 4], [0, 4]], dtype=torch.int32)
    with tied.attachment.using(resident, knowledge_range=ranges):
        first_four = logits(tied.model, IDS, MASK)
    with tied.attachment.using(resident, bias=bias):
        close(logits(tied.model, IDS, MASK), first_four)
    with tied.attachment.using(resident, bias=bias.expand(2, 9)):
        close(logits(tied.model, IDS, MASK), first_four)
    # A range past the end ends at the last triple, not in the spare rows.
    with tied.attachment.using(resident):
        whole = logits(tied.model, IDS, MASK)
    with tied.attachment.using(resident, knowledge_range=torch.tensor([[0, 64]] * 2, dtype=torch.int32)):
        assert torch.equal(logits(tied.model, IDS, MASK), whole)
    with pytest.raises(KnowledgeError, match=r"M = 9 triples; got \(64,\)"):
        tied.attachment.set_knowledge(resident, bias=torch.zeros(64))


def test_an_adapter_in_half_precision_projects(kb: KnowledgeBase, tied: Tied) -> None:
    full = resident_of(kb, tied, plan="dense").layer(0).key
    tied.adapter.to(torch.bfloat16)
    half = ResidentKnowledge(kb, tied.adapter, dtype=torch.bfloat16, device=torch.device("cpu"), plan="dense")
    assert half.layer(0).key.dtype == torch.bfloat16
    close(half.layer(0).key.float(), full, 0.05)


def test_another_encoder_is_refused(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    model = tiny_model()
    resident_of(kb, Tied(model, tiny_adapter(model, encoder=encoder.fingerprint), None))  # type: ignore[arg-type]
    other = tiny_adapter(model, encoder="hashing:7:16")
    with pytest.raises(EncoderMismatchError, match=r"trained with encoder 'hashing:7:16'.*built with.*'hashing:0:16'"):
        resident_of(kb, Tied(model, other, None))  # type: ignore[arg-type]


def test_vectors_of_another_width_are_refused(tied: Tied) -> None:
    with KnowledgeBase.from_triples([fact(1)], HashingEncoder(12)) as kb, pytest.raises(KnowledgeError, match="12"):
        resident_of(kb, tied)


def test_one_copy_is_kept_and_brought_up_to_date(kb: KnowledgeBase, tied: Tied, encoder: HashingEncoder) -> None:
    first = resident_for(tied.attachment, kb)
    kb.add(fact(30))
    assert resident_for(tied.attachment, kb) is first
    assert first.num_triples == 10
    with KnowledgeBase.from_triples([fact(1)], encoder) as other:
        assert resident_for(tied.attachment, other).num_triples == 1
    assert resident_for(tied.attachment, kb) is first
    tied.model.to(torch.bfloat16)
    half = resident_for(tied.attachment, kb)
    assert half.dtype == torch.bfloat16
    tied.attachment.set_knowledge(half)


@pytest.mark.parametrize("plan", ["latent", "dense", "decode=latent,prefill=dense"])
def test_a_twin_has_what_changed_and_leaves_the_first_alone(
    plan: str, kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resident_of(kb, tied, plan=plan)
    before, where = rows_of(first), addresses(first)
    with torch.no_grad(), tied.attachment.using(first):
        said = logits(tied.model, IDS, MASK)
    kb.remove("thing 2")
    kb.add([fact(3, "new"), fact(60), fact(61)])
    encoded = counting(monkeypatch)
    with torch.inference_mode():
        twin = first.twin()
    assert encoded == [3], "all else is copied on the device"
    assert not set(addresses(twin).values()) & set(where.values())
    assert (first.num_triples, first.filled.tolist(), first.is_behind) == (9, [[0, 9]], True)
    assert [float(one.log_count) for one in (first, twin)] == pytest.approx([math.log(9), math.log(10)])
    assert (addresses(first), changed_rows(before, first)) == (where, {name: [] for name in before})
    with torch.no_grad():
        with tied.attachment.using(first):
            assert torch.equal(logits(tied.model, IDS, MASK), said)
        check_against_projection(twin, kb, tied)
        kb.add(fact(62))
        assert twin.sync() == 1
        check_against_projection(twin, kb, tied)


def test_a_sync_that_was_interrupted_at_its_end_counts_as_behind(
    kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = resident_of(kb, tied)
    kb.add([fact(number) for number in range(40, 140)])  # more than there is room for

    def interrupted(_: ResidentKnowledge) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResidentKnowledge, "_see_layers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resident.sync()
    assert resident.is_behind
    resident.sync()
    with torch.no_grad():
        check_against_projection(resident, kb, tied)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"knowledge_scale": 5.0}, {"top_k": 10, "knowledge_scale": 5.0}], ids=str)
def test_a_compiled_model_sees_new_facts_without_compiling_again(options: dict[str, object], kb: KnowledgeBase) -> None:
    tied = tie(layers=2, **options)
    resident = resident_of(kb, tied)
    ids, mask = prompts(length=20, padding=2)
    torch._dynamo.reset()
    compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    cache = StaticCache(config=tied.model.config, max_cache_len=20)
    with tied.attachment.using(resident):
        tied.model(ids[:, :10], attention_mask=mask[:, :10], past_key_values=cache)
        for place in (10, 11, 12):
            compiled(ids[:, place : place + 1], attention_mask=mask, past_key_values=cache)
        kb.add([fact(40), fact(3, "new")])
        resident.sync()
        with torch._dynamo.config.patch(error_on_recompile=True):
            first = compiled(ids[:, 13:14], attention_mask=mask, past_key_values=cache).logits
    # The same token, with the cache filled before and the facts after.
    eager = StaticCache(config=tied.model.config, max_cache_len=20)
    with KnowledgeBase.from_triples([fact(n) for n in range(9)], HashingEncoder(EMBEDDING_DIM)) as old:
        fresh = resident_of(old, tied)
        with tied.attachment.using(fresh):
            for start, end in ((0, 10), (10, 11), (11, 12), (12, 13)):
                tied.model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=eager)
    with tied.attachment.using(resident):
        close(first, tied.model(ids[:, 13:14], attention_mask=mask[:, :14], past_key_values=eager).logits)
    torch._dynamo.reset()


@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_made_in_inference_mode_it_is_still_updated_outside(plan: str, kb: KnowledgeBase, tied: Tied) -> None:
    with torch.inference_mode():
        resident = resident_of(kb, tied, plan=plan)
    kb.add(fact(50))
    resident.sync()
    with torch.no_grad():
        check_against_projection(resident, kb, tied)
