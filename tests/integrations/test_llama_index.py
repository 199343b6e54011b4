"""`KBLaMLLM` and `KBLaMEvidenceRetriever`: completions, chats, streams, evidence as nodes."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.chat_engine import SimpleChatEngine

from kblam import Session
from kblam.errors import GenerationError, KblamWarning
from kblam.integrations.llama_index import KBLaMEvidenceRetriever, KBLaMLLM
from tests.integrations.conftest import ANSWER, QUESTION, SOURCE


@pytest.fixture
def llm(session: Session) -> KBLaMLLM:
    return KBLaMLLM(session=session, max_tokens=40)


def test_a_completion_has_its_evidence_with_the_document(llm: KBLaMLLM) -> None:
    said = llm.complete(QUESTION)
    assert said.text == ANSWER
    assert said.raw["evidence"][0].items() >= {"value": "Euro", "sources": [SOURCE.to_record()]}.items()
    assert said.raw["finish_reason"] == "stop"
    assert said.additional_kwargs["total_tokens"] == sum(
        said.additional_kwargs[name] for name in ("prompt_tokens", "completion_tokens")
    )
    assert llm.complete(QUESTION, max_tokens=2).raw["finish_reason"] == "length"
    assert llm.complete(QUESTION, stop="France").text == "The currency of"
    assert (llm.metadata.context_window, llm.metadata.num_output, llm.metadata.model_name) == (512, 40, "tiny-model")


def test_a_stream_says_the_same(llm: KBLaMLLM) -> None:
    *parts, last = llm.stream_complete(QUESTION)
    assert len(parts) > 3
    assert "".join(part.delta or "" for part in parts) == last.text == ANSWER
    assert last.raw == llm.complete(QUESTION).raw
    *_, last_of_chat = llm.stream_chat([ChatMessage(content=QUESTION)])
    assert last_of_chat.message.content == ANSWER


def test_of_a_chat_the_last_message_is_asked(llm: KBLaMLLM) -> None:
    assert llm.chat([ChatMessage(content=QUESTION)]).message.content == ANSWER
    earlier = [ChatMessage(role=MessageRole.SYSTEM, content="Be brief."), ChatMessage(content=QUESTION)]
    with pytest.warns(KblamWarning, match="earlier messages are not read"):
        assert llm.chat(earlier).message.content == ANSWER
    with pytest.raises(GenerationError, match="1 messages before the question"):
        llm.model_copy(update={"earlier": "refuse"}).chat(earlier)
    with pytest.raises(GenerationError, match="a message holds ImageBlock"):
        llm.chat([ChatMessage(blocks=[ImageBlock(url="http://127.0.0.1/x.png")])])
    with pytest.raises(GenerationError, match="'tool' cannot be read"):
        llm.chat([ChatMessage(role=MessageRole.TOOL, content="x")])
    with pytest.raises(GenerationError, match="'best_of' is nothing that can be asked for"):
        llm.complete(QUESTION, best_of=3)


@pytest.mark.parametrize(
    "earlier",
    [
        ChatMessage(role=MessageRole.DEVELOPER, content="Be brief."),
        ChatMessage(role=MessageRole.TOOL, content="x"),
        ChatMessage(blocks=[ImageBlock(url="http://127.0.0.1/x.png")]),
    ],
    ids=["developer", "tool", "picture"],
)
def test_messages_that_are_not_read_may_hold_anything(llm: KBLaMLLM, earlier: ChatMessage) -> None:
    with pytest.warns(KblamWarning, match="earlier messages are not read"):
        assert llm.chat([earlier, ChatMessage(content=QUESTION)]).message.content == ANSWER


def test_a_chat_engine_asks_it(llm: KBLaMLLM) -> None:
    assert str(SimpleChatEngine.from_defaults(llm=llm).chat(QUESTION)) == ANSWER


def test_evidence_comes_as_nodes(session: Session) -> None:
    first, *others = KBLaMEvidenceRetriever(session, similarity_top_k=3).retrieve(QUESTION)
    assert first.node.get_content() == "The currency of France is Euro."
    assert first.node.metadata["sources"] == [SOURCE.to_record()]
    assert first.score > max(one.score for one in others)
    assert KBLaMEvidenceRetriever(session, known_only=True).retrieve("who are you") == []
