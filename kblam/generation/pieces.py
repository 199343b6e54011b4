"""An answer piece by piece, as it is generated: for whoever shows it before it is whole."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from kblam.generation.answer import Answer
from kblam.generation.session import Session
from kblam.generation.speaking import Speaker

# The random numbers that a seed decides are the process's.
_SEEDED = threading.Lock()


@dataclass(frozen=True)
class Wanted:
    """How an answer is wanted.

    Args:
        max_new_tokens: length limit.
        temperature: of sampling; None, and 0, are greedy.
        top_p: share of the probability to sample from.
        seed: makes sampling repeat itself; None draws anew.
        stops: strings before which the answer ends.
    """

    max_new_tokens: int = 128
    temperature: float | None = None
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What `model.generate` is given for it, but for the length."""
        options: dict[str, Any] = {}
        if self.temperature:
            options |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if self.stops:
            options["stop_strings"] = list(self.stops)
        return options


@dataclass(frozen=True)
class Said:
    """An answer that is whole.

    Args:
        answer: its text ends before a stop string.
        prompt_tokens: that the model read.
    """

    answer: Answer
    prompt_tokens: int


def say(
    session: Session,
    question: str,
    wanted: Wanted,
    *,
    top: int = 5,
    send: Callable[[str], None] = lambda piece: None,
    is_stopped: threading.Event | None = None,
) -> Said:
    """Asks, and sends each piece of the answer's text as soon as nothing can change it any more.

    Args:
        session, question, top: as `Session.ask` takes them.
        wanted: how.
        send: takes each piece, in the thread of the caller.
        is_stopped: set when the answer is not wanted any more.

    Raises:
        StoppedError: `is_stopped` was set.
        GenerationError, EncoderError, KnowledgeError: as `Session.ask`.
    """
    speaker = Speaker(session.tokenizer, wanted.stops, send, is_stopped or threading.Event())
    with seeded(wanted.seed, session.attachment.input_device):
        answer = session.ask(
            question, top=top, max_new_tokens=wanted.max_new_tokens, streamer=speaker, **wanted.options
        )
    return Said(speaker.finish(answer), speaker.prompt_tokens)


def pieces(session: Session, question: str, wanted: Wanted, *, top: int = 5) -> Iterator[str | Said]:
    """The pieces of an answer's text as they come, then the whole; to close it early stops the generation.

    Raises:
        GenerationError, EncoderError, KnowledgeError: as `Session.ask`, at the first piece.
    """
    said: queue.SimpleQueue[str | Said | BaseException] = queue.SimpleQueue()
    is_stopped = threading.Event()
    thread = begin(session, question, wanted, top=top, tell=said.put, is_stopped=is_stopped)
    try:
        while True:
            piece = said.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if isinstance(piece, Said):
                return
    finally:
        is_stopped.set()
        thread.join()


def begin(
    session: Session,
    question: str,
    wanted: Wanted,
    *,
    top: int,
    tell: Callable[[str | Said | BaseException], None],
    is_stopped: threading.Event,
) -> threading.Thread:
    """A thread that asks, and tells each piece, then the whole or what was raised."""

    def work() -> None:
        try:
            tell(say(session, question, wanted, top=top, send=tell, is_stopped=is_stopped))
        except BaseException as error:  # raised where the answer is waited for
            tell(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="kblam answer", daemon=True)
    thread.start()
    return thread


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Sampling that a seed decides, one answer at a time, and afterwards as random as before; None changes nothing."""
    if seed is None:
        yield
        return
    with _SEEDED, torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            # Of several GPUs only this one: the others' randomness is not put back.
            torch.default_generator.manual_seed(seed)
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield
