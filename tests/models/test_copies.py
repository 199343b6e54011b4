"""Versions of a device copy: who asks after a change sees it, and waits for nobody who reads what was before."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from kblam.errors import DeviceFullError, KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import copies
from kblam.models.copies import reading, resident_for
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied
from tests.models.tiny import EMBEDDING_DIM, close, differ, logits, prompts

IDS, MASK = prompts()
FACTS = [Triple(f"thing {number}", "color", f"value {number}") for number in range(9)]
ADDED = [Triple(f"other {number}", "size", f"large {number}") for number in range(9)]
SECONDS = 60  # for what would wait for ever otherwise


@pytest.fixture
def kb() -> Iterator[KnowledgeBase]:
    with KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM)) as made:
        yield made


@pytest.fixture
def count(tied: Tied, kb: KnowledgeBase) -> Callable[[], int]:
    """How many triples who asks now sees."""

    def counted() -> int:
        with reading(tied.attachment, kb) as resident:
            return resident.num_triples

    return counted


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for a second version."""

    def full(_: ResidentKnowledge) -> ResidentKnowledge:
        raise DeviceFullError("no room for 18 rows\nand more")

    monkeypatch.setattr(ResidentKnowledge, "twin", full)
    monkeypatch.setattr(copies, "PATIENCE", SECONDS)


def projected(tied: Tied, kb: KnowledgeBase) -> torch.Tensor:
    vectors = kb.embeddings()
    with tied.attachment.using(tied.adapter.project(torch.from_numpy(vectors.key), torch.from_numpy(vectors.value))):
        return logits(tied.model, IDS, MASK)


def test_a_pools_thread_that_a_block_waits_for_sees_the_change(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int]
) -> None:
    with ThreadPoolExecutor(1) as pool, reading(tied.attachment, kb) as before:
        kb.add(ADDED)
        assert pool.submit(count).result(SECONDS) == 18
        assert before.num_triples == 9


def test_a_thread_that_a_task_waits_for_sees_the_change(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int]
) -> None:
    async def ask() -> int:
        with tied.attachment.using(kb):
            kb.add(ADDED)
            return await asyncio.wait_for(asyncio.to_thread(count), SECONDS)

    assert asyncio.run(ask()) == 18


def test_a_block_within_a_block_sees_what_has_changed_between(tied: Tied, kb: KnowledgeBase) -> None:
    before = projected(tied, kb)
    with tied.attachment.using(kb):
        kb.add(ADDED)
        with tied.attachment.using(kb):
            after = logits(tied.model, IDS, MASK)
        close(logits(tied.model, IDS, MASK), before)
    assert differ(after, before)
    close(after, projected(tied, kb))


def test_tasks_of_one_thread_see_each_what_was_when_they_began(tied: Tied, kb: KnowledgeBase) -> None:
    before, found = projected(tied, kb), dict[str, torch.Tensor]()

    async def first(entered: asyncio.Event, changed: asyncio.Event) -> None:
        with tied.attachment.using(kb):
            entered.set()
            await asyncio.wait_for(changed.wait(), SECONDS)
            found["first"] = logits(tied.model, IDS, MASK)

    async def second(entered: asyncio.Event, changed: asyncio.Event) -> None:
        await asyncio.wait_for(entered.wait(), SECONDS)
        kb.add(ADDED)
        with tied.attachment.using(kb):
            changed.set()
            await asyncio.sleep(0)
            found["second"] = logits(tied.model, IDS, MASK)

    async def both() -> None:
        events = asyncio.Event(), asyncio.Event()
        await asyncio.gather(first(*events), second(*events))

    asyncio.run(both())
    close(found["first"], before)
    close(found["second"], projected(tied, kb))


def test_a_block_sees_new_weights_while_others_go_on_with_the_old(tied: Tied, kb: KnowledgeBase) -> None:
    with reading(tied.attachment, kb) as before:
        rows = {name: buffer.clone() for name, buffer in before.buffers.items()}
        with torch.no_grad():
            for weight in tied.adapter.value_projector.parameters():
                weight.mul_(2)
        with tied.attachment.using(kb):
            close(logits(tied.model, IDS, MASK), projected(tied, kb))
        assert all(torch.equal(rows[name], buffer) for name, buffer in before.buffers.items())


def test_threads_that_find_a_change_at_once_make_one_version(
    tied: Tied, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ResidentKnowledge] = []
    others, twin, enough = threading.Barrier(6), ResidentKnowledge.twin, threading.Event()

    def slow(self: ResidentKnowledge) -> ResidentKnowledge:
        enough.wait(0.3)  # for the others to come
        made.append(twin(self))
        return made[-1]

    def ask(_: int) -> ResidentKnowledge:
        others.wait(SECONDS)
        with reading(tied.attachment, kb) as resident:
            return resident

    with ThreadPoolExecutor(6) as pool, reading(tied.attachment, kb):
        kb.add(ADDED)
        monkeypatch.setattr(ResidentKnowledge, "twin", slow)
        found = list(pool.map(ask, range(6), timeout=SECONDS))
    assert len(made) == 1
    assert {id(one) for one in found} == {id(made[0])}


def test_who_leaves_does_not_wait_for_a_version_that_is_made(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, left, twin = threading.Event(), threading.Event(), ResidentKnowledge.twin

    def until_the_other_has_left(self: ResidentKnowledge) -> ResidentKnowledge:
        begun.set()
        assert left.wait(SECONDS)
        return twin(self)

    monkeypatch.setattr(ResidentKnowledge, "twin", until_the_other_has_left)
    with ThreadPoolExecutor(1) as pool:
        with reading(tied.attachment, kb):
            kb.add(ADDED)
            second = pool.submit(count)
            assert begun.wait(SECONDS)
        left.set()
        assert second.result(SECONDS) == 18


def test_a_version_is_freed_with_its_last_reader(tied: Tied, kb: KnowledgeBase) -> None:
    blocks = [reading(tied.attachment, kb) for _ in range(3)]
    first = weakref.ref(blocks[0].__enter__())
    assert blocks[1].__enter__() is first()
    kb.add(ADDED)
    second = weakref.ref(blocks[2].__enter__())
    blocks[0].__exit__(None, None, None)
    assert first() is not None
    blocks[1].__exit__(None, None, None)
    assert first() is None, "at once, and not when memory is collected"
    blocks[2].__exit__(None, None, None)
    kb.add(Triple("third", "size", "small"))
    assert resident_for(tied.attachment, kb) is second(), "the newest is kept, and changed where it is"


@pytest.mark.parametrize("error", [RuntimeError, KnowledgeError, KeyboardInterrupt])
def test_a_version_that_cannot_be_made_leaves_all_as_it_was(
    error: type[BaseException], tied: Tied, kb: KnowledgeBase, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: ResidentKnowledge) -> ResidentKnowledge:
        raise error("made half")

    with reading(tied.attachment, kb) as before:
        kb.add(ADDED)
        with monkeypatch.context() as patch:
            patch.setattr(ResidentKnowledge, "twin", fails)
            with pytest.raises(error, match="made half"):
                count()
        assert before.num_triples == 9
        assert count() == 18
    assert count() == 18


@pytest.mark.usefixtures("no_room")
def test_without_room_a_question_does_not_wait_for_the_block_around_it(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int]
) -> None:
    message = r"read by a block around this question: end that block .* The device says: no room for 18 rows$"

    async def ask() -> None:
        with pytest.raises(DeviceFullError, match=message):
            await asyncio.wait_for(asyncio.to_thread(count), SECONDS)

    with tied.attachment.using(kb):
        kb.add(ADDED)
        with pytest.raises(DeviceFullError, match=message):
            count()
        asyncio.run(ask())
    assert count() == 18


@pytest.mark.usefixtures("no_room")
def test_without_room_a_task_does_not_wait_for_another_one_of_its_thread(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int]
) -> None:
    async def hold(entered: asyncio.Event, leave: asyncio.Event) -> None:
        with tied.attachment.using(kb):
            entered.set()
            await asyncio.wait_for(leave.wait(), SECONDS)

    async def both() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(hold(entered, leave))
        await asyncio.wait_for(entered.wait(), SECONDS)
        kb.add(ADDED)
        with pytest.raises(DeviceFullError, match="end that block before you ask again"):
            count()
        leave.set()
        await holding
        assert count() == 18

    asyncio.run(both())


@pytest.mark.usefixtures("no_room")
def test_without_room_a_question_waits_for_the_readers_of_others(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        with reading(tied.attachment, kb) as first:
            kb.add(ADDED)
            waiting = [pool.submit(count) for _ in range(2)]
            with pytest.raises(TimeoutError):
                waiting[0].result(0.3)
            # Those that wait are in nobody's way: who would wait for itself is told.
            with pytest.raises(DeviceFullError, match="end that block"):
                count()
        assert [one.result(SECONDS) for one in waiting] == [18, 18]
        assert resident_for(tied.attachment, kb) is first, "it was changed where it is"


@pytest.mark.usefixtures("no_room")
def test_without_room_a_question_does_not_wait_for_ever(
    tied: Tied,
    kb: KnowledgeBase,
    count: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pool's thread cannot know that the block waits for it."""
    monkeypatch.setattr(copies, "PATIENCE", 0.1)
    monkeypatch.setattr(copies, "QUIET", 0.05)
    with ThreadPoolExecutor(1) as pool, reading(tied.attachment, kb):
        kb.add(ADDED)
        with pytest.raises(DeviceFullError, match=r"none has ended for 0\.1 s: a block must not wait .*int8"):
            pool.submit(count).result(SECONDS)
    (said,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert said.startswith("a question waits, up to 0.1 s, for an answer in progress, or a block")


def test_copies_that_nobody_reads_make_room_for_a_second_version(
    tied: Tied, kb: KnowledgeBase, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = ResidentKnowledge.twin
    with KnowledgeBase.from_triples(ADDED, HashingEncoder(EMBEDDING_DIM)) as other, reading(tied.attachment, kb):
        idle = weakref.ref(resident_for(tied.attachment, other))

        def beside_no_idle_one(self: ResidentKnowledge) -> Any:
            if idle() is not None:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return twin(self)

        monkeypatch.setattr(ResidentKnowledge, "twin", beside_no_idle_one)
        kb.add(ADDED)
        assert count() == 18
    assert idle() is None
