"""One server for the tests that change nothing, and engines that answer as a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from kblam.generation import Answer
from kblam.generation.speaking import Speaker
from kblam.serve.bases import Base, Bases
from kblam.serve.engine import Asking, Finished
from tests.cli.conftest import adapter, base, kb  # noqa: F401 - fixtures
from tests.serve.served import Served, base_of, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """The tiny model with one base; leave its knowledge as it is."""
    with serving(Bases([base_of()])) as served:
        yield served


@pytest.fixture
def changing() -> Iterator[Served]:
    """One whose knowledge a test may change."""
    with serving(Bases([base_of()])) as served:
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

    def knowledge_bytes(self, _: Base) -> int:
        return 0

    def close(self) -> None:
        pass
