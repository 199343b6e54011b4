"""The line in which requests wait for the model."""

from __future__ import annotations

import threading

import pytest

from kblam.serve.failures import QueueFullError
from kblam.serve.line import Line


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
