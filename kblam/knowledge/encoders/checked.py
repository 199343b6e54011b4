"""What an encoder gives for questions, checked before anything is decided by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kblam.errors import EncoderError
from kblam.knowledge.encoders.base import Encoder, Progress
from kblam.knowledge.fields import shortened


def encoded(encoder: Encoder, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
    """(len(texts), P) float32 vectors of an encoder.

    A vector of NaN or zeros has no cosine: every question would be refused, and nobody told why.

    Raises:
        EncoderError: the encoder fails, or gives another shape, no numbers, NaN, infinity, or nothing but zeros.
    """
    vectors = np.asarray(encoder.encode(texts, progress=progress))
    if vectors.shape != (len(texts), encoder.dimension) or not np.issubdtype(vectors.dtype, np.floating):
        raise EncoderError(
            f"the encoder {encoder.spec} returned {vectors.dtype} numbers of shape {vectors.shape} for {len(texts)} "
            f"texts, expected float32 of shape {(len(texts), encoder.dimension)}"
        )
    vectors = vectors.astype(np.float32, copy=False)
    for what, is_bad in (("NaN or infinity", ~np.isfinite(vectors).all(axis=1)), ("zeros", ~vectors.any(axis=1))):
        if is_bad.any():
            held = "holds" if what != "zeros" else "is nothing but"
            text = shortened(texts[int(np.flatnonzero(is_bad)[0])])
            raise EncoderError(
                f"the vector that the encoder {encoder.spec} gives for {text} {held} {what}; check the encoder"
            )
    return vectors
