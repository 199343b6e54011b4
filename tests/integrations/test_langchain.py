"""`ChatKBLaM` and `KBLaMRetriever` beyond LangChain's own suites: evidence, streams, refusals of what cannot be."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

pytest.importorskip("langchain_core")

from langchain_core.caches import InMemoryCache
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate

from kblam import Session, Triple
from kblam.errors import GenerationError, KblamWarning
from kblam.generation.speaking import Speaker
from kblam.integrations.langchain import ChatKBLaM, KBLaMRetriever
from tests.integrations.conftest import ANSWER, QUESTION, SOURCE, tiny_session


@pytest.fixture
def chat(session: Session) -> ChatKBLaM:
    return ChatKBLaM(session=session, max_tokens=40)


def test_an_answer_has_its_evidence_with_the_document(chat: ChatKBLaM) -> None:
    answer = chat.invoke(QUESTION)
    assert answer.text == ANSWER
    told = answer.response_metadata
    assert (told["model_name"], told["finish_reason"]) == ("tiny-model", "stop")
    assert told["kblam"]["evidence"][0].items() >= {"value": "Euro", "sources": [SOURCE.to_record()]}.items()
    assert told["kblam"]["refused"] is False
    assert chat.invoke(QUESTION, max_tokens=2).response_metadata["finish_reason"] == "length"
    assert chat.invoke("who are you").response_metadata["kblam"]["refused"] is True


def test_a_stream_says_the_same(chat: ChatKBLaM) -> None:
    parts = list(chat.stream(QUESTION))
    assert len(parts) > 3
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    at_once = chat.invoke(QUESTION)
    assert whole.text == at_once.text == ANSWER
    assert whole.response_metadata["kblam"] == at_once.response_metadata["kblam"]
    assert whole.usage_metadata == at_once.usage_metadata


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("is ", "The capital of Peru"),
        (" is ", "The capital of Peru"),
        ("is", "The capital of Peru"),
        ("Lima", "The capital of Peru is"),
        (" ", "The"),
        ("The ", ""),
    ],
)
def test_white_space_of_a_stop_string_counts(chat: ChatKBLaM, stop: str, said: str) -> None:
    """Where the space before a value is a token of its own, the part of the stop string before it was said."""
    question = "what is the capital of Peru"
    answer = chat.invoke(question, stop=[stop])
    assert (answer.text, answer.response_metadata["finish_reason"]) == (said, "stop")
    assert "".join(part.text for part in chat.stream(question, stop=[stop])) == said
    assert all(one["end"] <= len(said) for one in answer.response_metadata["kblam"]["copied"])


def test_a_stream_tells_the_answer_where_its_pieces_say_something_else(
    chat: ChatKBLaM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speaker, "finish", lambda self, answer: replace(answer, text="rock , paper"))
    assert list(chat.stream(QUESTION))[-1].response_metadata["kblam"]["text"] == "rock , paper"
    monkeypatch.undo()
    assert "text" not in list(chat.stream(QUESTION))[-1].response_metadata["kblam"]


def test_answers_that_are_kept_are_those_of_the_same_question_to_the_same_knowledge(chat: ChatKBLaM) -> None:
    """LangChain's cache knows a model by `_identifying_params` alone."""
    own, cache = tiny_session(), InMemoryCache()
    first, other = (ChatKBLaM(session=one, max_tokens=40, cache=cache) for one in (own, tiny_session()))
    assert first.invoke(QUESTION).text == ANSWER
    other.session.knowledge_base.add(Triple("France", "currency", "Franc"))
    assert other.invoke(QUESTION).text == "The currency of France is Franc."
    assert first.invoke(QUESTION).text == ANSWER
    own.knowledge_base.add(Triple("France", "currency", "Livre"))
    assert first.invoke(QUESTION).text == "The currency of France is Livre."
    assert first.model_copy(update={"max_tokens": 2}).invoke(QUESTION).text != "The currency of France is Livre."
    kept = len(cache._cache)
    assert first.invoke(QUESTION).text == "The currency of France is Livre."
    assert len(cache._cache) == kept
    unsure = Session(own.model, own.knowledge_base, tokenizer=own.tokenizer, unknown="base")
    parameters = [chat._identifying_params for chat in (first, ChatKBLaM(session=unsure, max_tokens=40))]
    assert parameters[0] != parameters[1]
    trained = tiny_session()
    with torch.no_grad():
        next(trained.attachment.adapter.parameters()).add_(1)
    adapters = [ChatKBLaM(session=one)._identifying_params["adapter"] for one in (own, tiny_session(), trained)]
    assert adapters[0] == adapters[1] != adapters[2]


def test_a_stream_that_is_left_stops_the_answer(chat: ChatKBLaM) -> None:
    said = chat.stream(QUESTION, stop=["no such words"])
    next(said)
    assert any(thread.name == "kblam answer" for thread in threading.enumerate())
    said.close()
    assert not any(thread.name == "kblam answer" for thread in threading.enumerate())


def test_the_last_message_is_asked(chat: ChatKBLaM) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage([{"type": "text", "text": QUESTION}])]
    with pytest.warns(KblamWarning, match="earlier messages are not read"):
        assert chat.invoke(messages).text == ANSWER
    with pytest.raises(GenerationError, match="1 messages before the question"):
        chat.model_copy(update={"earlier": "refuse"}).invoke(messages)


def test_a_message_is_whose_its_class_or_its_role_says(chat: ChatKBLaM) -> None:
    for asked in (HumanMessageChunk(QUESTION), ChatMessage(QUESTION, role="user")):
        assert chat.invoke([asked]).text == ANSWER
    parts = list(chat.stream(QUESTION))
    whole = sum(parts[1:], parts[0])
    with pytest.raises(GenerationError, match="the last message must be the user's"):
        chat.invoke([HumanMessage(QUESTION), whole])
    with pytest.warns(KblamWarning, match="earlier messages are not read"):
        assert chat.invoke([HumanMessage("x"), whole, HumanMessage(QUESTION)]).text == ANSWER


@pytest.mark.parametrize(
    "earlier",
    [
        ToolMessage("a", tool_call_id="1"),
        ChatMessage("a", role="moderator"),
        HumanMessage([{"type": "image", "url": "x"}]),
        AIMessage(""),
    ],
    ids=lambda message: message.type,
)
def test_messages_that_are_not_read_may_hold_anything(chat: ChatKBLaM, earlier: BaseMessage) -> None:
    with pytest.warns(KblamWarning, match="earlier messages are not read"):
        assert chat.invoke([earlier, HumanMessage(QUESTION)]).text == ANSWER
    with pytest.raises(GenerationError, match="1 messages before the question"):
        chat.model_copy(update={"earlier": "refuse"}).invoke([earlier, HumanMessage(QUESTION)])


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([HumanMessage("a"), SystemMessage("b")], {}, "the last message must be the user's"),
        ([ToolMessage("a", tool_call_id="1")], {}, "a message of the kind 'tool' cannot be read"),
        ([ChatMessage("a", role="moderator")], {}, "a message of the kind 'moderator' cannot be read"),
        ([HumanMessage([{"type": "image", "url": "x"}])], {}, "a message holds 'image'; this model reads text alone"),
        ([HumanMessage(" ")], {}, "the question is empty"),
        ([HumanMessage("a")], {"model": "gpt"}, "'model' is nothing that can be asked for; possible are max_tokens"),
        ([HumanMessage("a")], {"temperature": 3}, "temperature must be 0 or a number of 0.01 .. 2, got 3"),
        ([HumanMessage("a")], {"temperature": 1e-9}, "temperature must be 0 or a number of 0.01 .. 2, got 1e-09"),
        ([HumanMessage("a")], {"top_p": "most"}, "top_p must be a number of 0 .. 1, got 'most'"),
        ([HumanMessage("a")], {"max_tokens": 1.5}, "max_tokens must be a whole number of 1 .. 1,000,000, got 1.5"),
        ([HumanMessage("a")], {"seed": True}, "seed must be a whole number of 0 .. .*, got True"),
        ([HumanMessage("a")], {"stop": [""]}, "stop_strings must be texts that are not empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(chat: ChatKBLaM, messages: list, options: dict, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        chat.invoke(messages, **options)
    with pytest.raises(GenerationError, match=message):
        list(chat.stream(messages, **options))


def test_a_seed_makes_sampling_repeat_itself() -> None:
    chat = ChatKBLaM(session=tiny_session(unknown="base"), max_tokens=12, temperature=1.5)
    said = [chat.invoke("who are you", seed=seed).text for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_only_a_top_p_below_1_samples() -> None:
    session = tiny_session(unknown="base")
    greedy, all_of_it, most = (
        ChatKBLaM(session=session, max_tokens=12, seed=1, top_p=top_p).invoke("who are you").text
        for top_p in (None, 1.0, 0.9)
    )
    assert greedy == all_of_it != most


def test_a_misspelled_setting_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="max_token"):
        ChatKBLaM(session=session, max_token=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="top_k"):
        KBLaMRetriever(session=session, top_k=3)  # type: ignore[call-arg]


def test_a_retriever_finds_what_answers_first(session: Session, chat: ChatKBLaM) -> None:
    first, *others = KBLaMRetriever(session=session, k=3).invoke(QUESTION)
    assert first.page_content == "The currency of France is Euro."
    assert first.metadata["sources"] == [SOURCE.to_record()]
    assert first.metadata["known"] is True
    assert first.metadata["mass"] > max(one.metadata["mass"] for one in others)
    assert len(KBLaMRetriever(session=session).invoke("who are you")) == 4
    assert KBLaMRetriever(session=session, known_only=True).invoke("who are you") == []
    of_base = Session(session.model, session.knowledge_base, tokenizer=session.tokenizer, unknown="base")
    assert len(KBLaMRetriever(session=of_base).invoke("who are you")) == 4
    assert KBLaMRetriever(session=of_base, known_only=True).invoke("who are you") == []
    with pytest.raises(GenerationError, match=r"evidence is of 1 \.\. 16 triples, got 17"):
        KBLaMRetriever(session=session, k=17).invoke(QUESTION)


def test_it_is_a_part_of_a_chain(chat: ChatKBLaM) -> None:
    chain = ChatPromptTemplate.from_messages([("human", "what is the currency of {country}")]) | chat
    assert [one.text for one in chain.batch([{"country": "France"}] * 2)] == [ANSWER] * 2
