"""How long work takes, told so that what else a machine does decides no test."""

from __future__ import annotations

import time
from collections.abc import Callable


def is_done_within(seconds: float, work: Callable[[], object], tries: int = 3) -> bool:
    """Whether some work needs fewer seconds of this thread's processor time, at least once in some tries.

    A processor that others share runs now and then at a tenth of its speed, and processor time does not tell. Where
    fewer than ten times the seconds that the work takes are allowed, ask for something that can be counted instead.
    """

    def taken() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return any(taken() < seconds for _ in range(tries))
