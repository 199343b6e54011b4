"""A line of jobs of limited length, done one after another in a thread; tenants take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from kblam.serve.failures import QueueFullError
from kblam.serve.waiting import Job, Waiting, is_full, together

Result = TypeVar("Result")


def raisable(error: BaseException) -> Exception:
    """The error itself, or one that says it: SystemExit and its like would end the loop in which they are raised."""
    if isinstance(error, Exception):
        return error
    other = RuntimeError(f"{type(error).__name__}: {error or 'no message'}")
    other.__cause__ = error
    return other


class Line(Generic[Job]):
    """Jobs that wait, and the thread that does them. The thread ends with the process, whatever it does.

    Args:
        name: of the thread.
        work: does a job; it raises nothing.
        most: how many of one tenant may wait, beside the one that is done; of all of them `together`.
    """

    def __init__(self, name: str, work: Callable[[Job], None], most: int) -> None:
        self._work, self._most = work, most
        self._jobs: Waiting[Job] = Waiting()
        self._is_working = self._is_closed = False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self, job: Job, tenant: str | None = None, *, goes_on: bool = False) -> None:
        """Has a job done in its turn.

        Args:
            tenant: whose it is; None where nobody is told apart.
            goes_on: it is more of one that was taken, and has the tenant's next turn.

        Raises:
            QueueFullError: too many wait, or the line is closed.
        """
        with self._turn:
            if self._is_closed or (not goes_on and self._is_full(tenant)):
                raise QueueFullError
            self._jobs.append(job, tenant, first=goes_on)
            self._turn.notify_all()

    def drop(self, job: Job) -> None:
        """Leaves out a job that has not begun."""
        with self._turn, suppress(ValueError):
            self._jobs.remove(job)

    def close(self, seconds: float) -> None:
        """Begins no more jobs, and waits so long for the one that is done."""
        with self._turn:
            self._is_closed = True
            self._jobs.clear()
            self._turn.notify_all()
        self._thread.join(timeout=seconds)

    def _is_full(self, tenant: str | None) -> bool:
        free = not self._is_working  # who finds nobody at work does not wait
        return is_full(self._jobs.of(tenant), len(self._jobs), self._most + free, together(self._most) + free)

    def _run(self) -> None:
        while True:
            with self._turn:
                self._is_working = False
                while not self._jobs and not self._is_closed:
                    self._turn.wait()
                if self._is_closed:
                    return
                job, self._is_working = self._jobs.popleft(), True
            self._work(job)


class Calls:
    """Functions called one after another, for coroutines that wait for what they return."""

    def __init__(self, name: str, most: int) -> None:
        self._line: Line[Callable[[], None]] = Line(name, lambda call: call(), most)

    def __len__(self) -> int:
        return len(self._line)

    async def __call__(
        self,
        tenant: str | None,
        function: Callable[..., Result | Generator[None, None, Result]],
        *arguments: Any,
    ) -> Result:
        """What the function returns or raises. It is called even if nobody waits for it any more.

        Args:
            tenant: whose call it is.
            function: a generator is run to its end, and others may have a turn wherever it yields.

        Raises:
            QueueFullError: too many wait.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def tell(result: Any, error: Exception | None = None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)

        def call() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:  # it is raised where it is waited for
                tell(None, raisable(error))
                return
            if isinstance(result, Generator):
                go_on(result)
            else:
                tell(result)

        def go_on(steps: Generator[None, None, Result]) -> None:
            try:
                next(steps)
                self._line.take(lambda: go_on(steps), tenant, goes_on=True)
            except StopIteration as end:
                tell(end.value)
            except BaseException as error:
                tell(None, raisable(error))

        self._line.take(call, tenant)
        return await future

    def begin(self, tenant: str | None, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function that nobody waits for; what it raises is not told.

        Raises:
            QueueFullError: too many wait.
        """

        def call() -> None:
            with suppress(Exception, SystemExit):  # the thread goes on
                function(*arguments)

        self._line.take(call, tenant)

    def close(self, seconds: float) -> None:
        """As `Line.close`."""
        self._line.close(seconds)
