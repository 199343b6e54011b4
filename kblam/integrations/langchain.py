"""LangChain: `ChatKBLaM` answers from a knowledge base, `KBLaMRetriever` finds what an answer would rest on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from kblam.errors import GenerationError, MissingPackageError
from kblam.extras import missing
from kblam.generation import Session
from kblam.generation.awaited import apieces, asay
from kblam.generation.pieces import Said, Wanted, pieces, say
from kblam.integrations.asking import (
    Earlier,
    as_metadata,
    as_text,
    evidence_of,
    finish_reason,
    identity_of,
    model_name,
    question_of,
    wanted_for,
)

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForLLMRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.language_models.base import LangSmithParams
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        ChatMessage,
        HumanMessage,
        SystemMessage,
    )
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field, SecretStr
except ModuleNotFoundError as error:
    if (reason := missing(error)) is None:
        raise
    raise MissingPackageError(f"kblam.integrations.langchain: {reason}", name=error.name) from error

# Those that an answer depends on.
_SETTINGS = {"max_tokens", "temperature", "top_p", "seed", "stop", "top", "earlier"}
# By class, since the chunks of a stream, and their sum, are of these classes and name other types.
_ROLES = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


class ChatKBLaM(BaseChatModel):
    """A chat model that answers from a knowledge base, and says which triples and documents an answer rests on.

        chat = ChatKBLaM(session=open_session("facts.kb"))
        answer = chat.invoke("What is the color of Amber Falcon?")
        answer.response_metadata["kblam"]["evidence"]

    A question to a knowledge base stands alone: the last message is asked, and those before it are not read.

    Args:
        session: a model with a knowledge base; `open_session` makes one from files. Threads may share it.
        max_tokens: length limit of an answer.
        temperature: of sampling; None and 0 are greedy.
        top_p: share of the probability to sample from; below 1 it samples at temperature 1 where none is given.
        seed: makes sampling repeat itself.
        stop: strings before which an answer ends.
        top: triples of evidence at most.
        earlier: "ignore" leaves messages before the last one unread, with a warning; "refuse" raises for them.
        timeout, max_retries, api_key: LangChain's standard parameters; taken and not used, since nothing here goes over
            a network.

    Raises:
        GenerationError (`invoke`, `stream`, ...): the question is empty or too long, is no text, or an argument cannot
            be.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    session: Session = Field(exclude=True, repr=False)
    max_tokens: int = 128
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    top: int = 5
    earlier: Earlier = "ignore"
    streaming: bool = False
    timeout: float | None = None
    max_retries: int | None = None
    api_key: SecretStr | None = None

    @property
    def _llm_type(self) -> str:
        return "kblam"

    @property
    def model_name(self) -> str:
        """The name or folder of the base model."""
        return model_name(self.session)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What an answer depends on beside the messages: LangChain's cache keeps answers by it."""
        settings = self.model_dump(include=_SETTINGS)
        return {**identity_of(self.session), **settings}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_model_name"] = kwargs.get("model") or self.model_name
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        question, wanted = self._asked(messages, stop, kwargs)
        return self._result(say(self.session, question, wanted, top=self.top))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # LangChain's own would let the answer run to its end when nobody waits for it any more.
        question, wanted = self._asked(messages, stop, kwargs)
        return self._result(await asay(self.session, question, wanted, top=self.top))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        question, wanted = self._asked(messages, stop, kwargs)
        sent = ""
        for piece in pieces(self.session, question, wanted, top=self.top):
            chunk = self._chunk(piece, sent)
            if isinstance(piece, str):
                sent += piece
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        question, wanted = self._asked(messages, stop, kwargs)
        sent = ""
        async with aclosing(apieces(self.session, question, wanted, top=self.top)) as said:
            async for piece in said:
                chunk = self._chunk(piece, sent)
                if isinstance(piece, str):
                    sent += piece
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk

    def _asked(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, given: dict[str, Any]
    ) -> tuple[str, Wanted]:
        settings = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        wanted = wanted_for(settings, given, self.stop if stop is None else stop)
        return question_of(messages, _turn, self.earlier), wanted

    def _result(self, said: Said) -> ChatResult:
        message = AIMessage(
            content=said.answer.text, response_metadata=self._told(said), usage_metadata=_usage_of(said)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, piece: str | Said, sent: str) -> ChatGenerationChunk:
        """A chunk of a stream.

        Args:
            sent: the text before it.
        """
        if isinstance(piece, str):
            return ChatGenerationChunk(message=AIMessageChunk(content=piece))
        told = self._told(piece)
        if sent != piece.answer.text:  # the tokenizer cannot write it to the letter
            told["kblam"]["text"] = piece.answer.text
        message = AIMessageChunk(
            content="", response_metadata=told, usage_metadata=_usage_of(piece), chunk_position="last"
        )
        return ChatGenerationChunk(message=message)

    def _told(self, said: Said) -> dict[str, Any]:
        """What is told with an answer."""
        answer = said.answer
        return {
            "model_name": self.model_name,
            "model_provider": "kblam",
            "finish_reason": finish_reason(answer),
            "kblam": {**answer.basis(), "from_base": answer.from_base},
        }


class KBLaMRetriever(BaseRetriever):
    """Finds the triples that an answer would rest on, the one that answers first.

        KBLaMRetriever(session=open_session("facts.kb"), k=3).invoke("What is the color of Amber Falcon?")

    A document is a fact as a sentence. Its metadata are `name`, `property`, `value`, `mass` (the share of the
    attention), `sources` (the documents that say it), and of the question `known` and `confidence`.

    Args:
        session: a model with a knowledge base; `open_session` makes one from files.
        k: how many, 1 .. 16; `invoke(question, k=3)` changes it for one question.
        known_only: find nothing where the session counts the question as unknown, in place of what is nearest.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    session: Session = Field(exclude=True, repr=False)
    k: int = 4
    known_only: bool = False

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self._documents(query, k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await asyncio.to_thread(self._documents, query, k)  # LangChain's own takes no k

    def _documents(self, query: str, k: int | None) -> list[Document]:
        answer, found = evidence_of(self.session, query, self.k if k is None else k)
        if self.known_only and answer.known is False:
            return []
        return [Document(page_content=as_text(one), metadata=as_metadata(answer, one)) for one in found]


def _turn(message: BaseMessage) -> tuple[str, str]:
    """(role, text) of a message.

    Raises:
        GenerationError: it is of a tool, or holds anything but text.
    """
    role = _role(message)
    if role not in _ROLES.values():
        raise GenerationError(f"a message of the kind {role!r} cannot be read; send those of people and models")
    for block in [] if isinstance(message.content, str) else message.content:
        if isinstance(block, dict) and block.get("type") != "text":
            raise GenerationError(f"a message holds {block.get('type')!r}; this model reads text alone")
    return role, str(message.text)


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    return next((role for kind, role in _ROLES.items() if isinstance(message, kind)), message.type)


def _usage_of(said: Said) -> UsageMetadata:
    generated = said.answer.num_tokens
    return UsageMetadata(
        input_tokens=said.prompt_tokens, output_tokens=generated, total_tokens=said.prompt_tokens + generated
    )
