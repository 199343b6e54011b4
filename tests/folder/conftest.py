"""The parts of a model folder, and one that is written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kblam import KnowledgeAdapter, KnowledgeBase
from kblam.folder import integrate
from tests.folder.folders import ENCODER
from tests.generation.tiny import FACTS, save_base, tiny_adapter, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter() -> KnowledgeAdapter:
    return tiny_adapter(tiny_model(tiny_tokenizer()), ENCODER)


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(tmp_path / "facts.kb", ENCODER) as made:
        made.add(FACTS)
        yield made


@pytest.fixture
def write(base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase) -> Callable[..., Path]:
    """Writes a folder of these parts: `integrate` from its fourth argument on."""
    return functools.partial(integrate, base, adapter, kb)


@pytest.fixture
def written(write: Callable[..., Path], tmp_path: Path) -> Path:
    return write(tmp_path / "folder")
