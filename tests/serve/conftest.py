"""One server for the tests that change nothing, and engines that answer as a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from kblam import Triple
from kblam.generation import Answer
from kblam.generation.speaking import Speaker
from kblam.serve.bases import Base, Bases
from kblam.serve.engine import Asking, Finished
from kblam.serve.keys import Keys
from tests.cli.conftest import adapter, base, kb  # noqa: F401 - fixtures
from tests.generation.asking import FACTS
from tests.serve.contract import ACME, GLOBEX, OTHER, SCRAPE
from tests.serve.served import Served, base_of, serving


def two_bases() -> Bases:
    """Of whoever asks without a key; the second says another currency."""
    return Bases([base_of(), base_of("hr", facts=[Triple("France", "currency", "Franc"), *FACTS[1:]])])


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """The tiny model with two bases; leave its knowledge as it is."""
    with serving(two_bases()) as served:
        yield served


@pytest.fixture
def changing() -> Iterator[Served]:
    """One whose knowledge a test may change."""
    with serving(two_bases()) as served:
        yield served


@pytest.fixture(scope="session")
def keyed() -> Iterator[Served]:
    """Two tenants; both have facts, and one has more."""
    bases = Bases([base_of("facts", "acme"), base_of("hr", "acme"), base_of("facts", "globex", [])])
    keys = Keys([("acme", ACME), ("acme", OTHER), ("globex", GLOBEX)], SCRAPE)
    with serving(bases, Counting(), keys) as served:
        yield served


@pytest.fixture(scope="session")
def small() -> Iterator[Served]:
    """A server that takes small bodies, and requests for one name."""
    limits = {"most": 1000, "most_of_uploads": 5000, "hosts": ("localhost", "127.0.0.1")}
    with serving(Bases([base_of()]), Counting(), **limits) as served:
        yield served


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of the embedded engine come to a halt after some tokens, until nobody wants them any more."""
    put = Speaker.put

    def hold(self: Speaker, value: Any) -> None:
        put(self, value)
        while len(self._tokens) > 5 and not self._is_stopped.is_set():
            time.sleep(0.005)

    monkeypatch.setattr(Speaker, "put", hold)


class Counting:
    """An engine that says numbers for ever, and knows whether it is still asked to."""

    name = "counting"

    def __init__(self, error: Exception | None = None, after: int = 0) -> None:
        self.error, self.after = error, after
        self.began = self.closed = 0

    async def answer(self, asking: Asking) -> AsyncGenerator[str | Finished, None]:
        self.began += 1
        try:
            for number in range(10_000):
                if self.error is not None and number == self.after:
                    raise self.error
                yield f"{number} "
                await asyncio.sleep(0.01)
            yield Finished(Answer("", (), False, 1), 1, None)
        finally:
            self.closed += 1

    def waiting(self) -> int:
        return 0

    def metrics(self) -> bytes:
        return b""

    def is_alive(self) -> bool:
        return True

    def check_room(self, _: Base, triples: object) -> None:
        pass

    def keep(self, _: Base, identities: object) -> None:
        pass

    async def follow(self, _: Base) -> None:
        pass

    def knowledge_bytes(self, _: Base) -> int:
        return 0

    def close(self) -> None:
        pass
