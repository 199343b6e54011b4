"""The line in which requests wait for the model."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Generator

import pytest

from kblam.serve.failures import QueueFullError
from kblam.serve.line import Calls, Line


def test_what_would_end_a_thread_is_raised_where_it_is_waited_for_and_the_next_call_is_made() -> None:
    async def called() -> int:
        calls = Calls("test", 4)
        with pytest.raises(RuntimeError, match="SystemExit: 1"):
            await asyncio.wait_for(calls(None, sys.exit, 1), 20)
        done: int = await asyncio.wait_for(calls(None, abs, -3), 20)
        calls.close(1)
        return done

    assert asyncio.run(called()) == 3


def test_more_of_a_request_that_was_taken_has_the_next_turn_also_where_the_line_is_full() -> None:
    done: list[str] = []
    may_go_on, all_done = threading.Event(), threading.Event()

    def work(job: str) -> None:
        may_go_on.wait(20)
        done.append(job)
        if len(done) == 3:
            all_done.set()

    line: Line[str] = Line("test", work, 1)
    line.take("first")
    while len(line):  # until it is at work
        threading.Event().wait(0.01)
    line.take("waits")
    with pytest.raises(QueueFullError):
        line.take("another")
    line.take("more of the first", goes_on=True)
    may_go_on.set()
    assert all_done.wait(20)
    assert done == ["first", "more of the first", "waits"]
    line.close(1)
    with pytest.raises(QueueFullError):
        line.take("late", goes_on=True)


def test_others_have_a_turn_wherever_a_long_call_lets_them() -> None:
    said: list[str] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def steps() -> Generator[None, None, str]:
        has_begun.set()
        may_go_on.wait(20)
        for step in ("first", "second"):
            said.append(step)
            yield
        said.append("last")
        return "done"

    def fails() -> Generator[None, None, str]:
        yield
        raise ZeroDivisionError("in the second step")

    async def called() -> None:
        calls = Calls("test", 4)
        long = asyncio.ensure_future(calls("acme", steps))
        await asyncio.to_thread(has_begun.wait, 20)
        others = [asyncio.ensure_future(calls(tenant, said.append, tenant)) for tenant in ("acme", "globex")]
        await asyncio.sleep(0)
        assert len(calls) == 2
        may_go_on.set()
        assert await asyncio.wait_for(long, 20) == "done"
        await asyncio.gather(*others)
        with pytest.raises(ZeroDivisionError, match="in the second step"):
            await asyncio.wait_for(calls("acme", fails), 20)
        calls.close(1)

    asyncio.run(called())
    assert said == ["first", "globex", "second", "last", "acme"]


def test_what_nobody_waits_for_may_fail() -> None:
    async def called() -> int:
        calls = Calls("test", 4)
        calls.begin(None, sys.exit, 1)
        calls.begin(None, int, "x")
        done: int = await asyncio.wait_for(calls(None, abs, -3), 20)
        calls.close(1)
        return done

    assert asyncio.run(called()) == 3
