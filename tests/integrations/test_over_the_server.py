"""Over `kblam serve` the frameworks' own classes for OpenAI's API are enough: nothing of ours on the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kblam.serve.bases import Bases
from tests.serve.served import ANSWER, MODEL, QUESTION, Served, base_of, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(Bases([base_of()])) as served:
        yield served


def test_chat_openai_of_langchain(server: Served) -> None:
    ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI
    chat = ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        model=f"{MODEL}@facts",
        max_retries=0,
        include_response_headers=False,
    )
    answer = chat.invoke(QUESTION)
    assert answer.text == ANSWER
    assert answer.usage_metadata["output_tokens"] > 3
    assert "".join(part.text for part in chat.stream(QUESTION)) == ANSWER


def test_openai_like_of_llama_index(server: Served) -> None:
    OpenAILike = pytest.importorskip("llama_index.llms.openai_like").OpenAILike
    llm = OpenAILike(
        api_base=f"{server.url}/v1", api_key="none", model=f"{MODEL}@facts", is_chat_model=True, max_retries=0
    )
    answer = llm.complete(QUESTION)
    assert answer.text == ANSWER
    assert answer.raw.model_extra["kblam"]["evidence"][0]["value"] == "Euro"
    assert [part.text for part in llm.stream_complete(QUESTION)][-1] == ANSWER
