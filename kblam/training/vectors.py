"""Sentence vectors of everything that a training run mentions, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kblam.knowledge import Encoder
from kblam.knowledge.encoders import Progress


class Vectors:
    """Vectors by text. Texts are sorted and hashed with the encoder's fingerprint, so the same run finds its file.

    Args:
        texts: all that will be asked for.
        encoder: of the knowledge bases that the adapter is for.
        folder: where files are kept.
        progress: told how many texts are encoded.

    Attributes:
        table: (texts, P) float16.
        scale: what makes the vectors' numbers of unit mean square, e.g. sqrt(P) for vectors of unit norm.
    """

    def __init__(self, texts: Iterable[str], encoder: Encoder, folder: Path, progress: Progress | None = None) -> None:
        # By length: encoders pad a batch to its longest text.
        known = sorted(set(texts), key=lambda text: (len(text), text))
        digest = hashlib.sha256("\n".join([encoder.fingerprint, *known]).encode()).hexdigest()[:16]
        path = folder / f"vectors-{digest}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, _encoded(known, encoder, progress))
            unfinished.replace(path)
        self.table = torch.from_numpy(np.load(path))
        self.scale = float(self.table.float().pow(2).mean()) ** -0.5
        self._row = {text: row for row, text in enumerate(known)}

    def rows(self, texts: Iterable[str]) -> Tensor:
        """Rows of `table`, int64."""
        return torch.tensor([self._row[text] for text in texts], dtype=torch.int64)

    def of(self, texts: Iterable[str]) -> Tensor:
        """(n, P) float32, of unit mean square."""
        return self.at(self.rows(texts))

    def at(self, rows: Tensor) -> Tensor:
        """The vectors of `rows`, (n, P) float32, of unit mean square."""
        return self.table[rows].float() * self.scale


def _encoded(texts: list[str], encoder: Encoder, progress: Progress | None) -> np.ndarray:
    # In bfloat16, which takes a third of the time; vectors keep a cosine above 0.9999 with their float32 selves.
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bf16()):
        return encoder.encode(texts, progress=progress).astype(np.float16)


def _has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())
