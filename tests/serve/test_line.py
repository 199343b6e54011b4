"""The line in which requests wait for the model."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from kblam.serve.failures import QueueFullError
from kblam.serve.line import Calls, Line


def test_what_would_end_a_thread_is_raised_where_it_is_waited_for_and_the_next_call_is_made() -> None:
    async def called() -> int:
        calls = Calls("test", 4)
        with pytest.raises(RuntimeError, match="SystemExit: 1"):
            await asyncio.wait_for(calls(sys.exit, 1), 20)
        done: int = await asyncio.wait_for(calls(abs, -3), 20)
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
