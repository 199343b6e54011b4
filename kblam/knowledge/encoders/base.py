"""The interface of encoders: frozen models, text in, one vector out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after each batch."""


class Encoder(Protocol):
    """A frozen sentence encoder.

    Vectors of encoders with different fingerprints are never mixed: a knowledge base and an adapter each
    belong to one fingerprint.
    """

    @property
    def spec(self) -> str:
        """How to ask `load_encoder` for this encoder again."""

    @property
    def fingerprint(self) -> str:
        """Equal for two encoders exactly when they give equal vectors, wherever their files are."""

    @property
    def dimension(self) -> int:
        """P, the length of a vector."""

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """Encode texts.

        Args:
            texts: any number of non-empty texts, in any language.
            progress: told how many texts are done.

        Returns:
            (len(texts), P) float32, in the order of `texts`, as the encoder gives them (not normalised here).

        Raises:
            EncoderUnavailableError: the encoder cannot be loaded or reached with what this machine has.
            EncoderError: encoding failed.
        """


@runtime_checkable
class LimitedEncoder(Protocol):
    """An encoder that knows how much of a text it reads. Two texts that differ only after that have one vector."""

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that are longer than it reads."""


def beyond_limit(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are longer than an encoder reads, as far as it tells."""
    return encoder.beyond_limit(texts) if isinstance(encoder, LimitedEncoder) else []


def reads_all(encoder: Encoder, text: str) -> bool:
    """Whether an encoder reads a text to its end, as far as it tells."""
    return not beyond_limit(encoder, [text])
