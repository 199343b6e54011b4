"""LlamaIndex: `KBLaMLLM` answers from a knowledge base, `KBLaMEvidenceRetriever` finds what an answer would rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    model_name,
    question_of,
    wanted_for,
)

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.llms.generic_utils import (
        astream_completion_response_to_chat_response,
        completion_response_to_chat_response,
        stream_completion_response_to_chat_response,
    )
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
        TextBlock,
    )
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.llms import CustomLLM
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ModuleNotFoundError as error:
    if (reason := missing(error)) is None:
        raise
    raise MissingPackageError(f"kblam.integrations.llama_index: {reason}", name=error.name) from error


class KBLaMLLM(CustomLLM):
    """A language model that answers from a knowledge base; `raw` of a response says what the answer rests on.

        llm = KBLaMLLM(session=open_session("facts.kb"))
        llm.complete("What is the color of Amber Falcon?").raw["evidence"]

    A question to a knowledge base stands alone: a prompt is one question, and of a chat the last message is asked.

    Args:
        session: a model with a knowledge base; `open_session` makes one from files. Threads may share it.
        max_tokens: length limit of an answer.
        temperature: of sampling; None and 0 are greedy.
        top_p: share of the probability to sample from; below 1 it samples at temperature 1 where none is given.
        seed: makes sampling repeat itself.
        stop: strings before which an answer ends.
        top: triples of evidence at most.
        earlier: "ignore" leaves messages before the last one unread, with a warning; "refuse" raises for them.

    Raises:
        GenerationError (`complete`, `chat`, ...): the question is empty or too long, is no text, or an argument cannot
            be.
    """

    session: Session = Field(exclude=True, repr=False)
    max_tokens: int = 128
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    top: int = 5
    earlier: Earlier = "ignore"

    @classmethod
    def class_name(cls) -> str:
        return "KBLaMLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's context and name."""
        config = self.session.model.config.get_text_config()
        return LLMMetadata(
            context_window=int(getattr(config, "max_position_embeddings", None) or 2048),
            num_output=self.max_tokens,
            model_name=model_name(self.session),
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers one question. `kwargs` may be max_tokens, temperature, top_p, seed and stop."""
        return _response(say(self.session, prompt, self._wanted(kwargs), top=self.top))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The answer piece by piece; the last response has what it rests on."""
        wanted = self._wanted(kwargs)

        def answer() -> CompletionResponseGen:
            text = ""
            for piece in pieces(self.session, prompt, wanted, top=self.top):
                text += piece if isinstance(piece, str) else ""
                yield _part(piece, text)

        return answer()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`; the event loop goes on meanwhile, and to cancel it stops the answer."""
        return _response(await asay(self.session, prompt, self._wanted(kwargs), top=self.top))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `stream_complete`; the event loop goes on meanwhile, and to leave it stops the answer."""
        wanted = self._wanted(kwargs)

        async def answer() -> CompletionResponseAsyncGen:
            text = ""
            async with aclosing(apieces(self.session, prompt, wanted, top=self.top)) as said:
                async for piece in said:
                    text += piece if isinstance(piece, str) else ""
                    yield _part(piece, text)

        return answer()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers the last message."""
        return completion_response_to_chat_response(self.complete(self._question(messages), **kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answers the last message piece by piece."""
        return stream_completion_response_to_chat_response(self.stream_complete(self._question(messages), **kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`, see `acomplete`."""
        return completion_response_to_chat_response(await self.acomplete(self._question(messages), **kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`, see `astream_complete`."""
        said = await self.astream_complete(self._question(messages), **kwargs)
        return astream_completion_response_to_chat_response(said)

    def _question(self, messages: Sequence[ChatMessage]) -> str:
        return question_of(messages, _turn, self.earlier)

    def _wanted(self, given: dict[str, Any]) -> Wanted:
        settings = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        changed = {name: value for name, value in given.items() if name != "stop"}
        stop = self.stop if given.get("stop") is None else given["stop"]
        return wanted_for(settings, changed, stop)


class KBLaMEvidenceRetriever(BaseRetriever):
    """Finds the triples that an answer would rest on, the one that answers first.

        KBLaMEvidenceRetriever(open_session("facts.kb"), similarity_top_k=3).retrieve("What is ...?")

    A node is a fact as a sentence, its score the share of the attention. Its metadata are `name`, `property`, `value`,
    `sources` (the documents that say it), and of the question `known` and `confidence`.

    Args:
        session: a model with a knowledge base; `open_session` makes one from files.
        similarity_top_k: how many, 1 .. 16.
        known_only: find nothing where the session counts the question as unknown, in place of what is nearest.
    """

    def __init__(
        self, session: Session, similarity_top_k: int = 4, *, known_only: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._session, self._most, self._known_only = session, similarity_top_k, known_only

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        answer, found = evidence_of(self._session, query_bundle.query_str, self._most)
        if self._known_only and answer.known is False:
            return []
        nodes = []
        for one in found:
            metadata = as_metadata(answer, one)
            score = metadata.pop("mass")
            # Documents and confidence are for people; what a model reads, and an index embeds, is the fact.
            hidden = list(metadata)
            node = TextNode(
                text=as_text(one),
                metadata=metadata,
                excluded_llm_metadata_keys=hidden,
                excluded_embed_metadata_keys=hidden,
            )
            nodes.append(NodeWithScore(node=node, score=score))
        return nodes


def _turn(message: ChatMessage) -> tuple[str, str]:
    """(role, text) of a message.

    Raises:
        GenerationError: it is of a tool, or holds anything but text.
    """
    role = message.role.value
    if role not in ("user", "assistant", "system"):
        raise GenerationError(f"a message of the kind {role!r} cannot be read; send those of people and models")
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            raise GenerationError(f"a message holds {type(block).__name__}; this model reads text alone")
    return role, message.content or ""


def _part(piece: str | Said, text: str) -> CompletionResponse:
    """One response of a stream, of the text so far."""
    return CompletionResponse(text=text, delta=piece) if isinstance(piece, str) else _response(piece, delta="")


def _response(said: Said, delta: str | None = None) -> CompletionResponse:
    answer = said.answer
    usage = {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": answer.num_tokens,
        "total_tokens": said.prompt_tokens + answer.num_tokens,
    }
    return CompletionResponse(
        text=answer.text,
        delta=delta,
        raw={**answer.basis(), "from_base": answer.from_base, "finish_reason": finish_reason(answer), "usage": usage},
        additional_kwargs=usage,
    )
