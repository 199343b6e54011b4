"""Stand-ins that need no model and no network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np


class HashingEncoder:
    """A deterministic encoder: unit vectors seeded by the text, so equal texts and only they coincide.

    `seed` gives another encoder of the same dimension. `calls` holds every text that was encoded, in order.
    """

    def __init__(self, dimension: int = 16, seed: int = 0) -> None:
        self.dimension = dimension
        self.seed = seed
        self.calls: list[str] = []

    @property
    def fingerprint(self) -> str:
        return f"hashing:{self.seed}:{self.dimension}"

    @property
    def spec(self) -> str:
        return f"hashing:{self.seed}"

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.calls.extend(texts)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = _hashed(text, self.seed, self.dimension)
            if progress is not None:
                progress(row + 1, len(texts))
        return vectors


@lru_cache(100_000)
def _hashed(text: str, seed: int, dimension: int) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}|{text}".encode()).digest()
    vector = np.random.default_rng(list(digest)).standard_normal(dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


def clock(now: Callable[[], float]) -> Any:
    """In place of a module's `time`: clocks that tell what a test wants.

    Never patch the clock of Python's own `time`: servers that other tests share run in threads of this process, and an
    event loop that reads such a clock once sleeps for hours.
    """
    return SimpleNamespace(monotonic=now, perf_counter=now)


class DeepEncoder(HashingEncoder):
    """One that shows hidden states: of each layer what another seed gives."""

    depth = 6

    def encode_layers(
        self, texts: Sequence[str], layers: Sequence[int], *, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        before = [HashingEncoder(self.dimension, 1000 * layer + self.seed).encode(texts) for layer in layers]
        return np.concatenate([*before, self.encode(texts, progress=progress)], axis=1)
