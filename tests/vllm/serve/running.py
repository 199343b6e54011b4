"""A vLLM in a thread of its own, and servers in front of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from kblam import KnowledgeBase, Triple
from kblam.knowledge import load_encoder
from kblam.serve.app import make_app
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.keys import Keys
from kblam.serve.run import listen, server, url_of
from kblam.serve.service import Service
from kblam.serve.vllm import gate
from kblam.serve.vllm.engine import VllmEngine
from kblam.serve.vllm.start import Setup, started
from kblam.shipped import DEMO
from tests.serve.served import Served

FACT, OTHER_VALUE = Triple("Zorblax Quell", "color", "pale green with stripes"), "deep red with stars"
QUESTION = "What is the color of Zorblax Quell?"
CAPACITY = 1500
_STARTING = 1500  # seconds at most; twenty on two quiet cores
ROOM = 192
OPTIONS = (
    "enforce-eager",
    "block-size=32",
    f"max-model-len={ROOM}",
    "max-num-seqs=8",
    "distributed-executor-backend=uni",
)


def write_bases(folder: Path) -> dict[str, Path]:
    """Files of four knowledge bases, by name."""
    encoder = load_encoder("minilm")
    values = {"facts": FACT.value, "hr": OTHER_VALUE, "live": FACT.value, "empty": None}
    paths = {name: folder / f"{name}.kb" for name in values}
    for name, value in values.items():
        with KnowledgeBase.create(paths[name], encoder) as base:
            if value is not None:
                base.add([replace(FACT, value=value), Triple("Yellow Harbor", "origin", "quiet forest near rome")])
    return paths


@dataclass
class Running:
    """A vLLM that runs.

    Args:
        engine: of it.
        loop: in which it runs.
        bases: by name, open.
    """

    engine: VllmEngine
    loop: asyncio.AbstractEventLoop
    bases: dict[str, Base]

    @contextmanager
    def serve(
        self,
        names: dict[str, str],
        keys: Sequence[tuple[str, str]] = (),
        of_metrics: str | None = None,
        **limits: Any,
    ) -> Iterator[Served]:
        """A server with some of its bases.

        Args:
            names: of the bases, by what the server calls them.
        """
        places = {Place.parse(f"{label}=x"): name for label, name in names.items()}
        bases = Bases(replace(self.bases[name], place=replace(place, file=None)) for place, name in places.items())
        service = Service("tiny", self.engine, bases, Keys(keys, of_metrics))
        app = make_app(service, gate.routes(service, self.engine), **limits)
        is_ready = threading.Event()
        running = server(app, service, ready=is_ready.set)
        service.close = lambda: None  # type: ignore[method-assign] - the engine is that of all
        with listen("127.0.0.1", 0) as listening:
            done = asyncio.run_coroutine_threadsafe(running.serve(sockets=[listening]), self.loop)
            assert is_ready.wait(120)
            try:
                with httpx.Client(base_url=url_of(listening), timeout=120) as client:
                    yield Served(url_of(listening), service, client, QUESTION, FACT, OTHER_VALUE, ROOM)
            finally:
                running.should_exit = True
                done.result(120)


@contextmanager
def run(folder: Path) -> Iterator[Running]:
    """A vLLM with the small model, for the time of the block."""
    came: Future[VllmEngine] = Future()
    loop, ends = asyncio.new_event_loop(), asyncio.Event()
    setup = Setup(
        called="tiny",
        model=str(DEMO / "model"),
        adapter=str(DEMO / "adapter"),
        dtype="float32",
        capacity=CAPACITY,
        passed=OPTIONS,
    )
    with ExitStack() as stack:
        encoder = load_encoder("minilm")
        opened = {
            name: Base(Place(None, name, path), stack.enter_context(KnowledgeBase.open(path, encoder)))
            for name, path in write_bases(folder).items()
        }

        async def live() -> None:
            try:
                async with started(setup, Bases(opened.values())) as engine:
                    came.set_result(engine)
                    await ends.wait()
            except BaseException as error:
                if came.done():
                    raise
                came.set_exception(error)

        thread = threading.Thread(target=lambda: loop.run_until_complete(live()), daemon=True)
        thread.start()
        try:
            yield Running(came.result(_STARTING), loop, opened)
        finally:
            loop.call_soon_threadsafe(ends.set)
            thread.join(60)
