"""A session with the tiny model; and what langchain-tests takes from plugins of pytest that its tests here never need.

langchain-tests is installed without its requirements: they bring five plugins, of which one replaces pytest-benchmark's
fixture in the whole suite. Its asynchronous tests run on anyio's plugin, which is there.
"""

from __future__ import annotations

import pytest

from kblam import KnowledgeBase, Session, Triple
from kblam.knowledge import Source
from tests.generation.asking import EMBEDDING_DIM, FACTS, QuestionEncoder, attached, byte_bpe

QUESTION, ANSWER = "what is the currency of France", "The currency of France is Euro."
SOURCE = Source("money.pdf", "France pays in euro.", 2, 40)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vcr: of pytest-recording")


@pytest.fixture(scope="session")
def session() -> Session:
    return tiny_session()


def tiny_session(**options: object) -> Session:
    """A model that answers from the tests' facts, of which the first has a source."""
    tokenizer = byte_bpe()
    model, _ = attached(tokenizer)
    model.config._name_or_path = "tiny-model"
    first = Triple(FACTS[0].name, FACTS[0].property, FACTS[0].value, sources=(SOURCE,))
    base = KnowledgeBase.from_triples([first, *FACTS[1:]], QuestionEncoder(EMBEDDING_DIM))
    return Session(model, base, tokenizer=tokenizer, **options)  # type: ignore[arg-type]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def snapshot() -> None:
    """Of syrupy: for models that LangChain can serialise, which a session in memory is not."""


@pytest.fixture
def vcr() -> None:
    """Of pytest-recording: for models behind a network."""
