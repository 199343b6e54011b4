"""What a server needs of the engine that answers, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kblam.generation import Answer
from kblam.generation.rag import Retrieved
from kblam.knowledge import Triple
from kblam.serve.bases import Base


@dataclass(frozen=True)
class Asking:
    """One answer that is wanted.

    Args:
        turns: (role, text) of each message, the user's question last; with a base it stands alone.
        base: to answer from; None asks the model alone.
        max_new_tokens: length limit; None leaves it to the engine.
        temperature: of sampling, at least .01; None is greedy.
        top_p: share of the probability to sample from.
        seed: of sampling; None draws anew.
        stops: strings before which the answer ends.
        in_prompt: the base's nearest triples stand in the prompt (RAG), and nothing is attended to beside it.
        goes_on: a further answer to a request that was taken; it has its place and is not refused for a full queue.
        tenant: who asks; tenants take turns.
    """

    turns: tuple[tuple[str, str], ...]
    base: Base | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    in_prompt: bool = False
    goes_on: bool = False
    tenant: str | None = None


@dataclass(frozen=True)
class Finished:
    """An answer that is whole.

    Args:
        answer: its text ends before a stop string.
        prompt_tokens: that the model read.
        revision: of the knowledge base that it was made from; None without one.
        retrieved: of RAG, what stood in the prompt; None of any other answer.
    """

    answer: Answer
    prompt_tokens: int
    revision: int | None
    retrieved: tuple[Retrieved, ...] | None = None


class Engine(Protocol):
    """What answers, whichever it is."""

    @property
    def name(self) -> str:
        """Of the engine, for people."""

    def waiting(self) -> int:
        """How many requests wait."""

    def metrics(self) -> bytes:
        """Its own, as Prometheus reads them."""

    def is_alive(self) -> bool:
        """Whether it can answer."""

    def knowledge_bytes(self, base: Base) -> int:
        """What a base takes on the device."""

    def check_room(self, base: Base, triples: Sequence[Triple]) -> None:
        """Checks, before a base is changed, that there is room for the change, and for the triples that it adds.

        Raises:
            NoRoomError: there will never be.
        """

    def keep(self, base: Base, identities: Iterable[tuple[str, str]]) -> None:
        """Called before triples of a base are changed: answers in progress may still say what they said."""

    async def follow(self, base: Base) -> None:
        """Has later answers come from what a base's file says now.

        Raises:
            BehindError: they come from what it said before.
        """

    def close(self) -> None:
        """Stops what is being generated, and takes no more."""


class Answering(Engine, Protocol):
    """An engine that is asked for one answer after another, and left the rest of OpenAI's API to."""

    def answer(self, asking: Asking) -> AsyncGenerator[str | Finished, None]:
        """The pieces of an answer's text as they come, then the whole. To close it early stops the generation.

        Raises:
            QueueFullError: before the first piece.
            GenerationError: it cannot be answered.
        """
