"""Blocks that end out of order, or elsewhere than they began: generators and tasks do that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest
import torch

from kblam.errors import KnowledgeError
from tests.models.conftest import Tied
from tests.models.tiny import close, logits, prompts, triples


def held(tied: Tied, knowledge: Any) -> Generator[None, None, None]:
    with tied.attachment.using(knowledge):
        yield


def test_blocks_of_generators_end_in_any_order(tied: Tied) -> None:
    ids, mask = prompts()
    alone, first, second = logits(tied.model, ids, mask), triples(tied.adapter, 9), triples(tied.adapter, 4, seed=8)
    with tied.attachment.using(second):
        expected = logits(tied.model, ids, mask)
    one, other = held(tied, first), held(tied, second)
    next(one)
    next(other)
    one.close()
    close(logits(tied.model, ids, mask), expected)
    other.close()
    assert tied.attachment.knowledge is None
    torch.testing.assert_close(logits(tied.model, ids, mask), alone, rtol=0, atol=0)


def test_a_block_that_ended_elsewhere_is_an_error_where_it_began(tied: Tied) -> None:
    ids, mask = prompts()
    seen: list[Any] = []

    def ask() -> None:
        block = held(tied, triples(tied.adapter, 9))
        next(block)
        end = threading.Thread(target=block.close)
        end.start()
        end.join()
        with pytest.raises(KnowledgeError, match=r"block of this thread's or task's knowledge has ended elsewhere"):
            logits(tied.model, ids, mask)
        with tied.attachment.using(triples(tied.adapter, 4)):
            seen.append(logits(tied.model, ids, mask))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    assert len(seen) == 1
    assert tied.attachment.implementation == "sdpa"


def test_a_task_that_outlives_the_block_it_began_in_says_so(tied: Tied) -> None:
    ids, mask = prompts()

    async def later() -> None:
        await asyncio.sleep(0)
        logits(tied.model, ids, mask)

    async def begin() -> None:
        with tied.attachment.using(triples(tied.adapter, 9)):
            task = asyncio.create_task(later())
        await task

    with pytest.raises(KnowledgeError, match="wait within it for the tasks that it starts"):
        asyncio.run(begin())
