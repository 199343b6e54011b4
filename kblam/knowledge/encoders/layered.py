"""Sentence vectors with the means of hidden states before them: what a question's words say before they are one vector.

A sentence vector is made for the likeness of whole sentences. The layers below still hold what it leaves out, and what
a property is called is found by both together better than by it alone (docs/log/adapter.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from kblam.errors import EncoderError
from kblam.knowledge.encoders.base import Encoder, Progress, beyond_limit


@runtime_checkable
class DeepEncoder(Protocol):
    """What an encoder has besides that shows its hidden states."""

    @property
    def depth(self) -> int:
        """How many layers it has; 0 if they cannot be read."""

    def encode_layers(
        self, texts: Sequence[str], layers: Sequence[int], *, progress: Progress | None = None
    ) -> np.ndarray:
        """Means of hidden states over a text's tokens, and its sentence vector.

        Args:
            texts: as `Encoder.encode` takes them.
            layers: of 1 .. `depth`.
            progress: told how many texts are done.

        Returns:
            (len(texts), (len(layers) + 1) * P) float32: the mean after each layer, of length 1, then what `encode`
            gives.

        Raises:
            EncoderUnavailableError, EncoderError: as `Encoder.encode`.
        """


class LayeredEncoder:
    """An encoder whose vectors are those of another with the means of some of its layers before them.

    Args:
        encoder: the other one.
        layers: of 1 .. its depth, ascending.

    Raises:
        EncoderError: the encoder does not show these layers.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int]) -> None:
        if not isinstance(encoder, DeepEncoder) or not encoder.depth:
            raise EncoderError(
                f"the adapter reads hidden states of its encoder, and {encoder.spec} gives sentence vectors alone; "
                "take the sentence-transformers model that it was trained with, or learn a property head without them "
                "(kblam calibrate)"
            )
        if beyond := [layer for layer in layers if not 1 <= layer <= encoder.depth]:
            raise EncoderError(f"the encoder {encoder.spec} has layers 1 to {encoder.depth}, and no {beyond[0]}")
        self._encoder: Encoder = encoder
        self._deep: DeepEncoder = encoder
        self.layers = tuple(layers)

    @property
    def spec(self) -> str:
        return self._encoder.spec

    @property
    def fingerprint(self) -> str:
        return f"{self._encoder.fingerprint} layers {' '.join(map(str, self.layers))}"

    @property
    def dimension(self) -> int:
        return self._encoder.dimension * (len(self.layers) + 1)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        return self._deep.encode_layers(texts, self.layers, progress=progress)

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        """As `LimitedEncoder.beyond_limit`."""
        return beyond_limit(self._encoder, texts)


def layered(encoder: Encoder, layers: Sequence[int]) -> Encoder:
    """The encoder with these layers before its vectors; itself without any.

    Raises:
        EncoderError: the encoder does not show these layers.
    """
    return LayeredEncoder(encoder, layers) if layers else encoder


def usual_layers(encoder: Encoder) -> tuple[int, ...]:
    """Those at a third and two thirds of its depth; none of an encoder that does not show them."""
    depth = encoder.depth if isinstance(encoder, DeepEncoder) else 0
    return tuple(sorted({depth // 3, 2 * depth // 3} - {0}))
