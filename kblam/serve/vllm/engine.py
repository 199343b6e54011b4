"""vLLM as an engine of the server: which bases it has, and how they follow their files."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from kblam.errors import KblamError
from kblam.knowledge import Triple
from kblam.knowledge.rows import room_for
from kblam.serve.bases import Base, Bases
from kblam.serve.failures import BehindError, NoRoomError, QueueFullError
from kblam.serve.vllm.asking import Asking
from kblam.serve.waiting import is_full, together
from kblam.vllm.past import Past
from kblam.vllm.spans import NO_ROOM

logger = logging.getLogger("kblam")

_PATIENCE, _PAUSE = (
    5.0,
    0.1,
)  # seconds: how long answers in progress may keep the room that a change needs; between tries
_ENDING = 3.0  # seconds for its processes to end by themselves
_AGAIN = 1.0  # seconds until a question tries again what a change could not
_PREFIX = "Call to collective_rpc method failed: "


@dataclass(frozen=True)
class _Failed:
    """A change that the engine could not follow.

    Args:
        at: when it gave up.
        revision: that the file had at least.
        reason: for clients.
    """

    at: float
    revision: int
    reason: str


def names_of(bases: Bases) -> dict[str, Base]:
    """The bases as an engine has them: by the label of the first, each file once."""
    by_file: dict[int, tuple[str, Base]] = {}
    for base in bases:
        by_file.setdefault(id(base.knowledge_base), (base.place.label, base))
    return dict(by_file.values())


class VllmEngine:
    """A running vLLM.

    Args:
        version: of vLLM.
        llm: its client.
        app: its web application.
        bases: that it has loaded.
        capacity: rows of its pool.
        most: requests of one tenant that it takes at once.
        running: requests that it answers at once; the others of `most` wait.
        refusal: the adapter's refusal sentence.
        past: of the engine.

    Attributes:
        asking: turns clients' requests into vLLM's; set by whoever made this.
    """

    asking: Asking

    def __init__(
        self,
        version: str,
        llm: Any,
        app: ASGIApp,
        bases: Bases,
        *,
        capacity: int,
        most: int,
        running: int,
        refusal: str,
        past: Past,
    ) -> None:
        self._past = past
        self.name, self.app, self.refusal = f"vLLM {version}", app, refusal
        self._llm, self._capacity, self.most, self._running = llm, capacity, most, running
        self._name_of = {id(base.knowledge_base): name for name, base in names_of(bases).items()}
        self._served: dict[str, dict[str, Any]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: dict[str, _Failed] = {}
        self._taken: Counter[str | None] = Counter()
        self._is_closed = False

    async def look(self) -> None:
        """Learns what the workers have loaded."""
        self._served = await self._call("kblam_bases")

    def name_of(self, base: Base) -> str:
        """What the engine calls a base; tenants that share a file share its rows."""
        return self._name_of[id(base.knowledge_base)]

    @property
    def most_of_all(self) -> int:
        """Requests of all tenants that it takes at once, beside one more of each that has none."""
        return self._running + together(self.most - self._running)

    @contextmanager
    def taken(self, tenant: str | None) -> Iterator[None]:
        """For one request of a tenant.

        Raises:
            QueueFullError: too many wait.
        """
        if is_full(self._taken[tenant], self._taken.total(), self.most, self.most_of_all):
            raise QueueFullError
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1

    def waiting(self) -> int:
        """How many requests have no place in the batch."""
        return max(0, self._taken.total() - self._running)

    def metrics(self) -> bytes:
        """vLLM's own."""
        from prometheus_client import generate_latest
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        return generate_latest(get_prometheus_registry())

    def is_alive(self) -> bool:
        """Whether its processes are, or were ended from here."""
        return self._is_closed or not self._llm.errored

    def knowledge_bytes(self, base: Base) -> int:
        """What the newest version of a base takes on the device."""
        return int(self._served[self.name_of(base)]["bytes"])

    def check_room(self, base: Base, triples: Sequence[Triple]) -> None:
        """See `Engine`. What is in use, its copy and, if that is too small, a larger one fit beside the rest or not."""
        has, count = self._served[self.name_of(base)], len(base.knowledge_base)
        copied = room_for(has["triples"])
        free = self._capacity - sum(one["rows"] for one in self._served.values())

        def fits(total: int) -> bool:
            return copied + (room_for(total) if total > copied else 0) <= free

        if fits(count + len(triples)):
            return
        kept = {one.identity for name in {one.name for one in triples} for one in base.knowledge_base.find(name)}
        total = count + sum(one.identity not in kept for one in triples)
        if not fits(total):
            raise NoRoomError(
                f"{total:,} triples in {base.name!r} have no room: the engine keeps {self._capacity:,} rows for all "
                f"bases, {free:,} of which are free, and one that is changed takes its rows twice meanwhile, one that "
                "grows three times; nothing was changed. Start with a larger --capacity"
            )

    def keep(self, base: Base, identities: Iterable[tuple[str, str]]) -> None:
        """See `Engine`."""
        self._past.keep(base.knowledge_base, identities)

    async def follow(self, base: Base) -> None:
        """See `Engine`. Answers in progress may keep the room that this needs, for a while."""
        await self._follow(base, _PATIENCE)

    async def catch_up(self, base: Base) -> None:
        """Before a question: follows what other programs have changed, or what could not be followed before. If that
        cannot be, the answer comes from the version before, and says so by its revision."""
        failed = self._failed.get(self.name_of(base))
        if failed is not None and asyncio.get_running_loop().time() - failed.at < _AGAIN:
            return
        try:
            await self._follow(base, 0)
        except BehindError as error:
            logger.warning("%s: %s", base.place.label, error)
        except KblamError as error:  # of the file: it was replaced, or cannot be read
            logger.warning("%s: %s; answers come from what was read of it before", base.place.label, error)

    async def _follow(self, base: Base, patience: float) -> None:
        name, clock = self.name_of(base), asyncio.get_running_loop().time
        revision = await asyncio.to_thread(lambda: base.knowledge_base.revision)
        if self._served[name]["revision"] == revision:
            return
        came = clock()
        end = came + patience
        async with self._locks[name]:
            while (served := self._served[name]["revision"]) < revision:
                failed = self._failed.get(name)
                # Of what failed while this waited, everybody is told; else they would all try it, one after another.
                if failed is not None and failed.at >= came and failed.revision >= revision and clock() >= end:
                    raise BehindError(revision, served, failed.reason)
                try:
                    self._served = await self._call("kblam_update", name)
                    self._failed.pop(name, None)
                except Exception as error:  # vLLM passes on the message alone
                    if not self.is_alive():
                        raise
                    if clock() >= end:
                        reason = _reason(error, base)
                        self._failed[name] = _Failed(clock(), revision, reason)
                        raise BehindError(revision, served, reason) from error
                    await asyncio.sleep(_PAUSE)

    async def _call(self, method: str, *arguments: str) -> dict[str, Any]:
        """What the first worker says; all have done the same."""
        answers = await self._llm.collective_rpc(method, args=arguments)
        found: dict[str, Any] = answers[0]
        return found

    def close(self) -> None:
        """Ends its processes."""
        self._is_closed = True
        self._llm.shutdown(timeout=_ENDING)


def _reason(error: Exception, base: Base) -> str:
    """Why the engine could not follow a change, as clients may read it: it may name files."""
    reason = str(error).removeprefix(_PREFIX)
    _, no_room, rest = reason.partition(NO_ROOM)
    if no_room:  # of several workers, with words of vLLM's around it
        return no_room + rest.partition("', please")[0]
    logger.warning("%s: %s", base.place.label, reason)
    return "the engine could not read it; its log says why"
