"""The pool of latents and what a step reads of it; no vLLM is needed."""

from __future__ import annotations

import copy
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam import KnowledgeAdapter, KnowledgeBase, Triple
from kblam.adapter import AdapterConfig
from kblam.errors import EncoderMismatchError, EngineError
from kblam.knowledge.rows import DeviceRows
from kblam.models.resident import ResidentKnowledge
from kblam.vllm.pool import KnowledgePool
from kblam.vllm.registry import Registry, open_folder
from kblam.vllm.settings import Settings
from kblam.vllm.step import RequestKnowledge, steps_of
from kblam_kernels import partial_knowledge_attention
from tests.fakes import HashingEncoder

WIDTH = 16
ENCODER = HashingEncoder(WIDTH)
CONFIG = AdapterConfig(
    embedding_dim=WIDTH,
    hidden_size=32,
    num_layers=4,
    num_heads=4,
    head_dim=16,
    layers=(1, 3),
    question_head="linear",
    knowledge_scale=50.0,
    encoder=ENCODER.fingerprint,
)


@pytest.fixture
def adapter() -> KnowledgeAdapter:
    torch.manual_seed(0)
    return KnowledgeAdapter(CONFIG).eval()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = SimpleNamespace(instance_id="7")
    open_folder(found)
    return found


def base_of(path: Path, count: int, start: int = 0) -> Path:
    with KnowledgeBase.create(path, ENCODER) as base:
        base.add([Triple(f"Name {at}", "color", f"shade {at}") for at in range(start, start + count)])
    return path


def pool_of(adapter: KnowledgeAdapter, engine: Any, knowledge: dict[str, Path], **options: Any) -> KnowledgePool:
    settings = Settings("adapter", {name: str(path) for name, path in knowledge.items()}, **options)
    return KnowledgePool(
        settings,
        adapter,
        Registry(engine),
        dtype=torch.float32,
        device=torch.device("cpu"),
        heads=slice(0, CONFIG.num_heads),
        tells=True,
    )


@pytest.fixture
def bases(tmp_path: Path) -> Iterator[dict[str, Path]]:
    return {"a": base_of(tmp_path / "a.kb", 90), "b": base_of(tmp_path / "b.kb", 30, 200)}


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_each_base_is_attended_to_as_alone_in_memory(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path], storage: str
) -> None:
    pool = pool_of(adapter, engine, bases, storage=storage)
    query = torch.randn(5, CONFIG.num_heads, CONFIG.head_dim)
    for name, path in bases.items():
        with KnowledgeBase.open(path) as base:
            alone = ResidentKnowledge(
                base, adapter, dtype=torch.float32, device=torch.device("cpu"), storage=storage, plan="latent"
            )
            starts = torch.tensor([0, 5], dtype=torch.int32)
            version = pool.version(pool.bases()[name].generation)
            ours = partial_knowledge_attention(query, pool.layer(3), starts, torch.tensor([version.span]))
            theirs = partial_knowledge_attention(query, alone.layer(3), starts, alone.filled)
            torch.testing.assert_close(ours, theirs)


def test_a_worker_has_the_heads_that_are_its_own(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path]
) -> None:
    whole = pool_of(adapter, engine, bases)
    settings = Settings("adapter", {name: str(path) for name, path in bases.items()})
    part = KnowledgePool(
        settings,
        adapter,
        Registry(engine),
        dtype=torch.float32,
        device=torch.device("cpu"),
        heads=slice(2, 4),
        tells=False,
    )
    assert torch.equal(part.layer(1).projection.key_weight, whole.layer(1).projection.key_weight[2:])
    weight = whole.query_weight(1)
    assert weight is not None
    assert torch.equal(part.query_weight(1), weight[2 * CONFIG.head_dim :])
    vector = tuple(range(WIDTH))
    assert torch.equal(part.question_parts(vector)[3], whole.question_parts(vector)[3][2:])


def tensors_of(what: Any) -> dict[int, torch.Tensor]:
    """All tensors that an object of ours can reach, by the memory that they are in."""
    found, todo, seen = dict[int, torch.Tensor](), [what], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found[one.data_ptr()] = one.detach()
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list | tuple | set):
            todo += one
        elif hasattr(one, "__dict__") and type(one).__module__.startswith(("kblam", "torch.nn")):
            todo.append(vars(one))
    return found


@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("heads", [slice(0, 4), slice(2, 4)], ids=["alone", "one of two"])
def test_a_worker_that_slept_has_all_it_had_if_its_buffers_were_saved(
    heads: slice, storage: str, engine: Any, bases: dict[str, Path]
) -> None:
    """vLLM saves the buffers of its model at level 2, and nothing else of what was made with it; nor weights."""
    config = replace(
        CONFIG, projector="mlp", mlp_depth=1, mlp_hidden_dim=12, question_head="mlp", question_hidden_dim=8
    )
    torch.manual_seed(0)
    shape: Any = {"dtype": torch.float32, "device": torch.device("cpu"), "heads": heads, "tells": True}
    settings = Settings("adapter", {name: str(path) for name, path in bases.items()}, storage=storage)
    pool = KnowledgePool(settings, KnowledgeAdapter(config).eval(), Registry(engine), **shape)
    query = torch.randn(5, heads.stop - heads.start, CONFIG.head_dim)
    starts, span = torch.tensor([0, 5], dtype=torch.int32), torch.tensor([[0, 90]])

    def known() -> list[torch.Tensor]:
        parts = pool.question_parts(tuple(range(WIDTH)))
        attended = [partial_knowledge_attention(query, pool.layer(layer), starts, span) for layer in parts]
        weights = [pool.query_weight(layer) for layer in parts]
        encoded = pool.form.encode(*torch.ones(2, 3, WIDTH)).values()
        return [one.clone() for one in (*parts.values(), *sum(attended, ()), *weights, *encoded) if one is not None]

    before = known()
    saved = {name: buffer.clone() for name, buffer in pool.named_buffers()}
    for tensor in tensors_of(pool).values():
        tensor.fill_(77)
    for name, buffer in pool.named_buffers():
        buffer.data.copy_(saved[name])
    for now, then in zip(known(), before, strict=True):
        assert torch.equal(now, then)
    assert not pool.state_dict()  # of the checkpoint it has nothing


def test_a_version_stays_as_long_as_a_request_needs_it(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path]
) -> None:
    pool, registry = pool_of(adapter, engine, bases, capacity=600), Registry(engine)
    first = registry.bases()["a"]
    registry.say_in_use(frozenset({first.generation}))
    before = pool.version(first.generation).rows.buffers["key"].clone()
    for at in range(3):
        with KnowledgeBase.open(bases["a"], ENCODER) as base:
            base.add(Triple(f"Other {at}", "color", "pale"))
        pool.update("a")
    assert torch.equal(pool.version(first.generation).rows.buffers["key"], before)
    latest = registry.bases()["a"]
    assert (latest.triples, latest.revision > first.revision) == (93, True)
    (registry.folder / "in_use.json").unlink()  # somebody tidied up: nobody knows that it is not needed any more
    with KnowledgeBase.open(bases["b"], ENCODER) as base:
        base.remove("Name 201", "color")
    pool.update("b")
    assert torch.equal(pool.version(first.generation).rows.buffers["key"], before)
    registry.say_in_use(frozenset())
    pool.update("b")  # nothing has changed: not even versions are looked through
    with KnowledgeBase.open(bases["b"], ENCODER) as base:
        base.remove("Name 200")
    pool.update("b")
    with pytest.raises(KeyError):
        pool.version(first.generation)
    assert registry.bases()["b"].triples == 28


def test_a_base_that_does_not_fit_is_refused_and_its_room_given_back(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    pool = pool_of(adapter, engine, {"a": bases["a"]}, capacity=400)
    before = pool.bases()
    with pytest.raises(EngineError, match=r"no room for 337 rows of knowledge: 2\d\d of 400 are free"):
        pool.load("large", str(base_of(tmp_path / "large.kb", 300)))
    assert pool.bases() == before
    pool.load("b", str(bases["b"]))
    with KnowledgeBase.create(tmp_path / "other.kb", HashingEncoder(WIDTH, seed=1)) as base:
        base.add(Triple("a", "b", "c"))
    with pytest.raises(EncoderMismatchError):
        pool.load("other", str(tmp_path / "other.kb"))
    with pytest.raises(EngineError, match="there is no knowledge base 'none'; there are"):
        pool.unload("none")
    pool.unload("b")
    assert set(Registry(engine).bases()) == {"a"}


def test_bases_of_two_encoders_are_not_served_together_where_an_adapter_does_not_record_its_own(
    engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    """One encoder reads the questions to all of them."""
    adapter = KnowledgeAdapter(replace(CONFIG, encoder=None)).eval()
    pool = pool_of(adapter, engine, {"a": bases["a"]}, capacity=400)
    with KnowledgeBase.create(tmp_path / "other.kb", HashingEncoder(WIDTH, seed=1)) as base:
        base.add(Triple("a", "b", "c"))
    before = pool.bases()
    with pytest.raises(EncoderMismatchError, match=r"'other' was built with encoder .*, 'a' with 'hashing:0:16', and"):
        pool.load("other", str(tmp_path / "other.kb"))
    assert pool.bases() == before
    pool.load("a", str(tmp_path / "other.kb"))  # in its place
    assert Registry(engine).bases()["a"].encoder == "hashing:1:16"


def test_gaps_between_bases_are_closed_where_a_base_fits_into_all_of_them_together(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    others = {f"n{at}": base_of(tmp_path / f"n{at}.kb", 40, 1000 * at) for at in range(6)}
    pool, registry = pool_of(adapter, engine, others, capacity=7 * 64), Registry(engine)
    registry.say_in_use(frozenset({registry.bases()["n1"].generation}))
    query, starts = torch.randn(2, CONFIG.num_heads, CONFIG.head_dim), torch.tensor([0, 2], dtype=torch.int32)

    def seen(name: str) -> Any:
        span = pool.version(generations[name]).span
        return partial_knowledge_attention(query, pool.layer(3), starts, torch.tensor([span]))

    generations = {name: one.generation for name, one in pool.bases().items()}
    before = {name: seen(name) for name in others}
    for name in ("n0", "n1", "n2", "n4"):  # a request in progress has the second
        pool.unload(name)
    pool.load("large", str(base_of(tmp_path / "large.kb", 110)))
    assert [(span.start, span.rows) for span in pool.spans.taken] == [(64, 64), (128, 64), (192, 64), (256, 123)]
    for name in ("n1", "n3", "n5"):
        for now, then in zip(seen(name), before[name], strict=True):
            assert torch.equal(now, then)
    with KnowledgeBase.open(others["n3"], ENCODER) as base:
        base.add(Triple("Name 3000", "color", "another"))
    pool.update("n3")  # what moved is still written where it is
    with KnowledgeBase.open(others["n3"]) as base:
        alone = ResidentKnowledge(base, adapter, dtype=torch.float32, device=torch.device("cpu"), plan="latent")
        theirs = partial_knowledge_attention(query, alone.layer(3), starts, alone.filled)
    generations["n3"] = pool.bases()["n3"].generation
    torch.testing.assert_close(seen("n3"), theirs)


def test_a_step_knows_the_rows_spans_and_answers_of_its_requests(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path]
) -> None:
    pool = pool_of(adapter, engine, bases)
    a, b = (pool.version(pool.bases()[name].generation) for name in "ab")
    parts = pool.question_parts(tuple(range(WIDTH)))
    first = RequestKnowledge("first", a, parts, prompt_tokens=9, wants_evidence=True)
    second = RequestKnowledge("second", b, parts, prompt_tokens=9, wants_evidence=True)
    steps = steps_of(pool.config, [first, None, second], [0, 2, 3, 6], [9, 4, 5], torch.device("cpu"))
    assert steps is not None
    assert steps.looking is None
    step = steps.attending(1)
    assert step is not None
    assert step is steps.attending(3)
    assert not step.every
    assert step.rows.tolist() == [0, 1, 3, 4, 5]
    assert step.starts.tolist() == [0, 2, 5]
    assert step.places.tolist() == [0, 2]
    assert step.spans.tolist() == [list(a.span), list(b.span)]
    assert step.bias.tolist() == pytest.approx([math.log(50 / 90), math.log(50 / 30)])
    assert step.answering == [(0, 1)]  # the second is in the middle of its prompt
    question = step.question(1)
    assert question is not None
    assert torch.equal(question, parts[1].expand(5, -1, -1))
    assert steps_of(pool.config, [None, replace(first)], [0, 2, 2], [2, 9], torch.device("cpu")) is None


@pytest.mark.parametrize("evidence_layer", [1, 3])
def test_what_only_its_evidence_is_wanted_of_attends_below_the_evidence_layer_and_is_looked_at_in_it(
    engine: Any, bases: dict[str, Path], evidence_layer: int
) -> None:
    adapter = KnowledgeAdapter(replace(CONFIG, evidence_layer=evidence_layer)).eval()
    pool = pool_of(adapter, engine, bases)
    a, b = (pool.version(pool.bases()[name].generation) for name in "ab")
    parts = pool.question_parts(tuple(range(WIDTH)))
    whole = RequestKnowledge("whole", a, parts, prompt_tokens=4, wants_evidence=True)
    # Of a prompt of 6 tokens 2 and 4 are in the cache: of 4 from the third on, and of the last alone.
    answer = RequestKnowledge("answer", b, parts, prompt_tokens=6, wants_evidence=True, to_evidence=3)
    lookup = RequestKnowledge("lookup", b, parts, prompt_tokens=6, wants_evidence=True, to_evidence=5)
    early = RequestKnowledge("early", a, parts, prompt_tokens=9, wants_evidence=True, to_evidence=8)
    requests, starts, lengths = [whole, answer, lookup, None, early], [0, 2, 6, 8, 9, 11], [4, 6, 6, 3, 5]
    steps = steps_of(pool.config, requests, starts, lengths, torch.device("cpu"))
    assert steps is not None
    assert steps.looking is not None
    assert steps.looking.requests == [answer, lookup]
    assert steps.looking.places.tolist() == [1, 2]
    assert steps.looking.rows.tolist() == [3, 4, 5, 7]
    assert steps.looking.starts.tolist() == [0, 3, 4]
    assert steps.looking.answering == [(0, 0), (0, 1), (0, 2), (1, 3)]
    of_evidence, below = steps.attending(evidence_layer), steps.attending(1)
    assert of_evidence is not None
    assert of_evidence.rows.tolist() == [0, 1]
    assert of_evidence.answering == [(0, 1)]
    if evidence_layer == 3:
        assert below is not None
        assert below.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    alone = steps_of(pool.config, [early], [0, 2], [5], torch.device("cpu"))
    assert (alone is None) == (evidence_layer == 1)


def test_without_bases_to_start_with_a_pool_has_to_be_told_its_size(adapter: KnowledgeAdapter, engine: Any) -> None:
    with pytest.raises(EngineError, match=r"kblam\.capacity is missing"):
        pool_of(adapter, engine, {})


class Meeting:
    """Two workers in threads that tell each other a number."""

    def __init__(self) -> None:
        self._said, self._met = [0, 0], threading.Barrier(2, timeout=20)

    def of(self, rank: int) -> Callable[[int], list[int]]:
        def together(mine: int) -> list[int]:
            self._said[rank] = mine
            self._met.wait()
            said = list(self._said)
            self._met.wait()
            return said

        return together


def two_pools(adapter: KnowledgeAdapter, engine: Any, knowledge: dict[str, Path]) -> list[KnowledgePool]:
    meeting = Meeting()
    settings = Settings("adapter", {name: str(path) for name, path in knowledge.items()})
    shape = {"dtype": torch.float32, "device": torch.device("cpu")}
    with ThreadPoolExecutor() as threads:
        makers = [
            threads.submit(
                KnowledgePool,
                settings,
                copy.deepcopy(adapter),
                Registry(engine),
                heads=slice(2 * rank, 2 * rank + 2),
                tells=rank == 0,
                together=meeting.of(rank),
                **shape,
            )
            for rank in range(2)
        ]
        return [maker.result() for maker in makers]


def both(pools: list[KnowledgePool], work: Callable[[KnowledgePool], Any]) -> list[Any]:
    """What a piece of work gives in each, or raises."""

    def tried(pool: KnowledgePool) -> Any:
        try:
            return work(pool)
        except Exception as error:
            return error

    with ThreadPoolExecutor() as threads:
        return list(threads.map(tried, pools))


def test_workers_land_on_one_revision_although_the_file_changes_between_their_looks(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = two_pools(adapter, engine, bases)
    real, late = DeviceRows.sync, [Triple("Late", "color", "red"), Triple("Later", "color", "blue")]

    looked = threading.Event()  # the first worker, or the file might change before both look

    def sync(self: DeviceRows, kb: KnowledgeBase) -> list[int]:
        if self in second and late:
            assert looked.wait(60)
            writer.add(late.pop())
        changed = real(self, kb)
        if self not in second:
            looked.set()
        return changed

    class Second(list[DeviceRows]):
        def __contains__(self, rows: object) -> bool:
            return isinstance(rows, DeviceRows) and rows._form._pool is pools[1]  # type: ignore[attr-defined]

    second = Second()
    with KnowledgeBase.open(bases["a"], ENCODER) as writer:
        writer.add(Triple("First", "color", "green"))
        with monkeypatch.context() as patch:
            patch.setattr(DeviceRows, "sync", sync)
            one, other = both(pools, lambda pool: pool.update("a"))
        assert one == other == Registry(engine).bases()["a"]
        assert (one.revision, one.triples) == (writer.revision, 93)
        one, other = both(pools, lambda pool: pool.update("a"))  # nothing has changed
        assert one == other
        assert one.generation == 3
        for pool in pools:
            rows = pool.version(one.generation).rows
            assert len(writer.triples_at(rows.ids)) == rows.count == 93


@pytest.mark.parametrize("what", ["update", "load", "unload"])
def test_what_fails_in_one_worker_fails_in_all(
    what: str, adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = two_pools(adapter, engine, bases)
    before, taken = [pool.bases() for pool in pools], [list(pool.spans.taken) for pool in pools]
    with KnowledgeBase.open(bases["a"], ENCODER) as writer:
        writer.add(Triple("First", "color", "green"))

    def work(pool: KnowledgePool) -> Any:
        return (
            {"update": pool.update, "unload": pool.unload}[what]("a")
            if what != "load"
            else pool.load("b", str(bases["a"]))
        )

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "say_bases", full)
        first, other = both(pools, work)
    assert isinstance(first, OSError)
    assert isinstance(other, EngineError)
    assert "it failed in worker 0, whose log says why; nothing has changed" in str(other)
    assert [pool.bases() for pool in pools] == before
    assert [list(pool.spans.taken) for pool in pools] == taken
    assert not any(isinstance(found, Exception) for found in both(pools, work))
    assert pools[0].bases() == pools[1].bases() == Registry(engine).bases() != before[0]


def test_bases_stay_known_when_somebody_tidies_up(
    adapter: KnowledgeAdapter, engine: Any, bases: dict[str, Path]
) -> None:
    pool_of(adapter, engine, bases)
    registry = Registry(engine)
    assert set(registry.bases()) == {"a", "b"}
    (registry.folder / "bases.json").unlink()
    assert set(registry.bases()) == {"a", "b"}
