"""An answer for a coroutine that waits for it: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from kblam.generation.pieces import Said, Wanted, begin
from kblam.generation.session import Session


async def apieces(session: Session, question: str, wanted: Wanted, *, top: int = 5) -> AsyncGenerator[str | Said, None]:
    """As `pieces`. To close it or cancel who waits stops the generation at its next token, which is not waited for.

    Raises:
        GenerationError, EncoderError, KnowledgeError: as `Session.ask`, at the first piece.
    """
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[str | Said | BaseException] = asyncio.Queue()
    is_stopped = threading.Event()

    def tell(what: str | Said | BaseException) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(said.put_nowait, what)

    begin(session, question, wanted, top=top, tell=tell, is_stopped=is_stopped)
    try:
        while True:
            piece = await said.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if isinstance(piece, Said):
                return
    finally:
        is_stopped.set()


async def asay(session: Session, question: str, wanted: Wanted, *, top: int = 5) -> Said:
    """As `say`, for who wants the whole alone. To cancel who waits stops the generation.

    Raises:
        GenerationError, EncoderError, KnowledgeError: as `Session.ask`.
    """
    async with aclosing(apieces(session, question, wanted, top=top)) as said:
        whole = [piece async for piece in said if isinstance(piece, Said)]
    return whole[-1]
