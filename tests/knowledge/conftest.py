from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kblam.knowledge import KnowledgeBase, Triple
from tests.fakes import HashingEncoder

FACTS = [
    Triple("Amber Falcon", "capital", "Zirconia"),
    Triple("Amber Falcon", "description", "a land of glass"),
    Triple("Zürich", "Fluss", "Limmat"),
    Triple("東京タワー", "高さ", "333 m"),
]


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a knowledge base may go; the name has what a careless URI would trip over."""
    return tmp_path / "facts #1 100%?.kb"


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests with hundreds of transactions, each a flush to disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="kblam-test-", dir=where) as folder:
        yield Path(folder)


@pytest.fixture
def kb(path: Path, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    """A knowledge base with `FACTS`."""
    with KnowledgeBase.create(path, encoder) as made:
        made.add(FACTS)
        encoder.calls.clear()
        yield made
