"""The engine within the server: transformers, one model, one answer at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.errors import GenerationError
from kblam.generation import Answer, Session
from kblam.generation.answer import is_refusal
from kblam.generation.base import ask_base
from kblam.generation.options import generating
from kblam.generation.pieces import Wanted, seeded
from kblam.generation.prompt import TOKENIZING, check_conversation, check_question, encode_conversation
from kblam.generation.rag import Retrieved, Retriever, prompt_ids
from kblam.generation.session import check_length, room_of
from kblam.generation.speaking import Speaker
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import Attachment
from kblam.models.chat_template import is_ready, make_ready
from kblam.models.copies import keep, reading, resident_for
from kblam.serve import DEFAULT_TOKENS
from kblam.serve.bases import Base
from kblam.serve.engine import Asking, Finished
from kblam.serve.line import Calls, Line, raisable

_EVIDENCE = 5  # triples told with an answer
_TEMPLATES = 64  # conversations of one tenant that wait for the chat template; each takes a process of its own


class _Job:
    """An answer that somebody waits for, in the loop that made it."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.is_stopped = threading.Event()
        self.said: asyncio.Queue[str | Finished | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def say(self, what: str | Finished | Exception) -> None:
        """From the engine's thread to whoever waits."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self.said.put_nowait, what)


class EmbeddedEngine:
    """Answers in a thread of its own, in the order of the requests; tenants take turns.

    One at a time: a second answer would only share the same cores, and seeds are the process's.

    Args:
        model, attachment, tokenizer: ready to be asked.
        bases: that may be asked; each is copied to the device here.
        queue: how many requests of a tenant may wait.
        with_rag: whether they may be asked by RAG too; then all is made ready for it here.

    Raises:
        EncoderMismatchError, KnowledgeError: a base does not fit the adapter or the device.
    """

    name = "transformers (embedded)"

    def __init__(
        self,
        model: PreTrainedModel,
        attachment: Attachment,
        tokenizer: PreTrainedTokenizerBase,
        bases: Iterable[Base],
        *,
        queue: int,
        with_rag: bool = False,
    ) -> None:
        self._model, self._attachment, self._tokenizer = model, attachment, tokenizer
        self._sessions = {base.place: Session(model, base.knowledge_base, tokenizer=tokenizer) for base in bases}
        keep(attachment, len(self._sessions))
        self._bytes = {
            place: resident_for(attachment, session.knowledge_base).num_bytes
            for place, session in self._sessions.items()
        }
        self._retrievers: dict[KnowledgeBase, Retriever] = {}
        if with_rag:
            prompt_ids(tokenizer, "ready?", (), attachment.config.refusal)  # the chat template is rendered but once
            self._retrievers = {one: Retriever(one) for one in {base.knowledge_base for base in bases}}
        self._current: _Job | None = None
        self._line: Line[_Job] = Line("kblam engine", self._do, queue)
        # A chat template is rendered in a process, which takes seconds: beside answers, and before it is asked for.
        self._templates = Calls("kblam templates", _TEMPLATES)
        self._templates.begin(None, make_ready, tokenizer, ["user"])

    async def answer(self, asking: Asking) -> AsyncGenerator[str | Finished, None]:
        """See `Engine`."""
        await self._make_ready(asking)
        job = _Job(asking)
        self._line.take(job, asking.tenant, goes_on=asking.goes_on)
        try:
            while True:
                said = await job.said.get()
                if isinstance(said, Exception):
                    raise said
                yield said
                if isinstance(said, Finished):
                    return
        finally:
            job.is_stopped.set()
            self._line.drop(job)

    def waiting(self) -> int:
        """How many requests wait, beside the one that is answered."""
        return len(self._line) + len(self._templates)

    def metrics(self) -> bytes:
        """None of its own."""
        return b""

    def is_alive(self) -> bool:
        """It lives and dies with the server."""
        return True

    def check_room(self, base: Base, triples: Sequence[Triple]) -> None:
        """There is room as long as there is memory."""

    def keep(self, base: Base, identities: Iterable[tuple[str, str]]) -> None:
        """A change waits for the answer in progress."""

    async def follow(self, base: Base) -> None:
        """An answer looks for changes by itself."""

    def knowledge_bytes(self, base: Base) -> int:
        """What a base took on the device when it was last asked."""
        return self._bytes[base.place]

    def close(self) -> None:
        """Stops what is being generated, and takes no more."""
        if (current := self._current) is not None:
            current.is_stopped.set()
        self._line.close(seconds=5)
        self._templates.close(seconds=0)  # its process ends by itself

    async def _make_ready(self, asking: Asking) -> None:
        """Has the chat template rendered for a request, where that is still to be done."""
        if asking.base is None:
            check_conversation(asking.turns)
            roles = [role for role, _ in asking.turns]
        else:
            roles = ["system", "user"] if asking.in_prompt else ["user"]
        try:
            if not is_ready(self._tokenizer, roles):
                await self._templates(asking.tenant, make_ready, self._tokenizer, roles)
        except GenerationError:
            if asking.base is None or asking.in_prompt:
                raise
            # Else the adapter may have a prompt of its own.

    def _do(self, job: _Job) -> None:
        self._current = job
        try:
            job.say(self._answered(job))
        except BaseException as error:  # the client is told, and the next one is served
            job.say(raisable(error))
        self._current = None

    def _answered(self, job: _Job) -> Finished:
        asking = job.asking
        speaker = Speaker(self._tokenizer, asking.stops, job.say, job.is_stopped)
        wanted = Wanted(temperature=asking.temperature, top_p=asking.top_p, seed=asking.seed, stops=asking.stops)
        with seeded(wanted.seed, self._attachment.input_device):
            answer, revision, retrieved = self._said(asking, {"streamer": speaker, **wanted.options})
        return Finished(speaker.finish(answer), speaker.prompt_tokens, revision, retrieved)

    def _said(self, asking: Asking, options: dict[str, Any]) -> tuple[Answer, int | None, tuple[Retrieved, ...] | None]:
        """The answer, the base's revision, and what stood in the prompt, see `Finished`."""
        question = asking.turns[-1][1]
        if asking.base is None:
            with TOKENIZING:
                ids = encode_conversation(asking.turns, self._attachment, self._tokenizer)
            return self._alone(ids, asking, options), None, None
        if asking.in_prompt:
            with asking.base.turns.answering():  # or words of one revision would be chosen by vectors of another
                return self._from_prompt(asking.base.knowledge_base, asking, options)
        session = self._sessions[asking.base.place]
        limit = self._limit(asking, lambda: session.prompt(question)["input_ids"].shape[1])
        # Held over the whole answer: words are read later than the attention, and must be of the same revision.
        with asking.base.turns.answering(), reading(self._attachment, session.knowledge_base) as resident:
            self._bytes[asking.base.place] = resident.num_bytes
            answer = session.ask(question, top=_EVIDENCE, max_new_tokens=limit, resident=resident, **options)
            return answer, resident.revision, None

    def _from_prompt(
        self, knowledge_base: KnowledgeBase, asking: Asking, options: dict[str, Any]
    ) -> tuple[Answer, int, tuple[Retrieved, ...]]:
        question = asking.turns[-1][1]
        check_question(question)
        found, revision = self._retrievers[knowledge_base](question)
        refusal = self._attachment.config.refusal
        with TOKENIZING:
            ids = prompt_ids(self._tokenizer, question, [one.fact for one in found], refusal)
        answer = self._alone(ids, asking, options)
        return replace(answer, refused=is_refusal(answer.text, refusal)), revision, tuple(found)

    def _alone(self, ids: list[int], asking: Asking, options: dict[str, Any]) -> Answer:
        """Without any knowledge in force."""
        limit = self._limit(asking, lambda: len(ids))
        how = generating(self._model, self._tokenizer, limit, options)
        check_length(self._model, [ids], [asking.turns[-1][1]], limit)
        return ask_base(self._model, self._attachment, self._tokenizer, [ids], how)[0]

    def _limit(self, asking: Asking, prompt_tokens: Callable[[], int]) -> int:
        """Tokens of an answer at most. Where the client leaves it to the server, no more than there is room for."""
        if asking.max_new_tokens is not None:
            return asking.max_new_tokens
        room = room_of(self._model)
        return DEFAULT_TOKENS if room is None else max(1, min(DEFAULT_TOKENS, room - prompt_tokens()))
