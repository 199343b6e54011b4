"""LangChain's own standard suites, with the tiny model."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests", reason="pip install --no-deps langchain-tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from kblam.integrations.langchain import ChatKBLaM, KBLaMRetriever
from tests.integrations.conftest import QUESTION, tiny_session

pytestmark = pytest.mark.filterwarnings("ignore:a question to a knowledge base stands alone")
SESSION = tiny_session()


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatKBLaM]:
        return ChatKBLaM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"session": SESSION}

    @property
    def supports_model_override(self) -> bool:
        return False


@pytest.mark.anyio
class TestIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatKBLaM]:
        return ChatKBLaM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"session": SESSION, "max_tokens": 40}

    @property
    def supports_model_override(self) -> bool:
        return False


@pytest.mark.anyio
class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[KBLaMRetriever]:
        return KBLaMRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"session": SESSION}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION
