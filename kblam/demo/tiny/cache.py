"""Sentence embeddings of the demo world, computed once and kept in `build/demo-cache`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

CACHE_FOLDER = Path("build/demo-cache")
_BATCH = 256


@torch.inference_mode()
def encode(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Unit-norm MiniLM sentence embeddings (len(texts), 384), float16.

    Computed in bfloat16, three times as fast as float32 on one core; every vector then keeps a cosine of more
    than 0.9999 with its float32 self. Only training uses these: the evaluation encodes in float32.
    """
    from kblam.knowledge.encoders import SentenceTransformerEncoder

    with torch.autocast("cpu", torch.bfloat16):
        vectors = SentenceTransformerEncoder(device="cpu", batch_size=_BATCH).encode(texts)
    return vectors.astype(np.float16)


class EmbeddingCache:
    """Embeddings by text. Texts are sorted and hashed, so the same world finds the same file."""

    def __init__(self, texts: Iterable[str], folder: Path = CACHE_FOLDER) -> None:
        self.texts = sorted(set(texts))
        digest = hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]
        path = folder / f"minilm-{digest}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".tmp.npy")
            np.save(unfinished, encode(self.texts))
            unfinished.replace(path)
        self.vectors = torch.from_numpy(np.load(path))  # (texts, 384) float16
        self._index = {text: row for row, text in enumerate(self.texts)}

    def rows(self, texts: Iterable[str]) -> torch.Tensor:
        """Row numbers (int64) of texts in `vectors`."""
        return torch.tensor([self._index[text] for text in texts], dtype=torch.int64)
