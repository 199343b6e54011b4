"""Jobs of several tenants that wait, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Job = TypeVar("Job")
_TENANTS, _TOGETHER = 4, 256


def together(most: int) -> int:
    """How many jobs of all tenants may wait, where one may have `most`; one that has none may always have one more."""
    return max(most, min(_TENANTS * most, _TOGETHER))


def is_full(own: int, all_jobs: int, most: int, most_of_all: int) -> bool:
    """Whether a tenant may have no more jobs, with so many of its own among all."""
    return own >= most or (own > 0 and all_jobs >= most_of_all)


class Waiting(Generic[Job]):
    """Jobs in the order in which they are done: tenants take turns, and each has its own in the order they came.

    A tenant that comes is next after those that wait already, and after the job that is done. With one tenant, or with
    none (None), it is first come, first served.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str | None, deque[Job]] = OrderedDict()  # in the order of their turns; none is empty
        self._served: str | None = None  # had the last turn
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, tenant: str | None) -> int:
        """How many a tenant has."""
        return len(self._of.get(tenant, ()))

    def append(self, job: Job, tenant: str | None, *, first: bool = False) -> None:
        """Adds a job behind the tenant's others, or before them."""
        jobs = self._of.setdefault(tenant, deque())
        (jobs.appendleft if first else jobs.append)(job)
        self._count += 1

    def popleft(self) -> Job:
        """The next one.

        Raises:
            KeyError: none waits.
        """
        if self._served in self._of:
            self._of.move_to_end(self._served)
        tenant, jobs = self._of.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._of[tenant] = jobs
        self._served = tenant
        self._count -= 1
        return job

    def remove(self, job: Job) -> None:
        """Leaves out a job.

        Raises:
            ValueError: it does not wait.
        """
        for tenant, jobs in self._of.items():
            if job in jobs:
                jobs.remove(job)
                self._count -= 1
                if not jobs:
                    del self._of[tenant]
                return
        raise ValueError("the job does not wait")

    def clear(self) -> None:
        """Leaves out all of them."""
        self._of.clear()
        self._count = 0
