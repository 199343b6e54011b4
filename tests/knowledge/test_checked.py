"""Vectors of questions are looked at before anything is decided by them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kblam import KnowledgeBase, Triple
from kblam.errors import EncoderError
from kblam.knowledge.encoders.checked import encoded
from tests.fakes import HashingEncoder

BROKEN: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda vectors: vectors * np.nan, r"gives for 'why\?' holds NaN or infinity; check the encoder"),
    (lambda vectors: vectors * np.inf, r"gives for 'why\?' holds NaN or infinity; check the encoder"),
    (lambda vectors: vectors * [[1.0], [0.0]], r"gives for 'who\?' is nothing but zeros; check the encoder"),
    (lambda vectors: vectors[:1], r"returned float32 numbers of shape \(1, 16\) for 2 texts, expected .*\(2, 16\)"),
    (lambda vectors: vectors[:, :8], r"returned float32 numbers of shape \(2, 8\) for 2 texts"),
    (lambda vectors: vectors[0], r"returned float32 numbers of shape \(16,\) for 2 texts"),
    (lambda vectors: vectors.astype(np.int64), r"returned int64 numbers of shape \(2, 16\)"),
]


class Broken(HashingEncoder):
    def __init__(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.change = change

    def encode(self, texts: object, *, progress: object = None) -> np.ndarray:
        return self.change(super().encode(texts))  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_vectors_that_nothing_can_be_decided_by_are_refused(
    change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    encoder = HashingEncoder()
    with KnowledgeBase.from_triples([Triple("a", "p", "v")], encoder) as base:
        base._encoder = Broken(change)
        with pytest.raises(EncoderError, match=message):
            base.encode(["why?", "who?"])


def test_what_an_encoder_gives_in_other_dtypes_is_float32() -> None:
    texts = ["why?", "who?"]
    exact = HashingEncoder().encode(texts)
    for dtype in (np.float64, np.float16):
        found = encoded(Broken(lambda vectors, dtype=dtype: vectors.astype(dtype)), texts)  # type: ignore[misc]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, exact.astype(dtype).astype(np.float32))
    assert encoded(HashingEncoder(), []).shape == (0, 16)
