"""Model folders for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kblam import ask
from kblam.folder import load_folder
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM

ENCODER = HashingEncoder(EMBEDDING_DIM)
QUESTION = "what is the capital of amber falcon ?"


def answer_of(folder: Path) -> Any:
    loaded = load_folder(folder, device="cpu")
    with loaded.knowledge_base as kb:
        return ask(loaded.model, kb, QUESTION, tokenizer=loaded.tokenizer, max_new_tokens=4)


def left_behind(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.name.startswith(".")]
