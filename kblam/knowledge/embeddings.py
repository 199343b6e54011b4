"""Batches of key and value vectors: checked as given, and converted for storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kblam.errors import EmbeddingError

FLOAT16_MAX = 65504.0
_STORED = np.dtype("<f2")  # what a blob holds, on any machine


@dataclass(frozen=True)
class Embeddings:
    """The vectors of some triples, in the order of their ids.

    Attributes:
        ids: (M,) int64, ascending. An id belongs to one triple for ever and is never used again.
        key, value: (M, P), float16 as stored.
        revision: the state of the knowledge base these were read from.
    """

    ids: np.ndarray
    key: np.ndarray
    value: np.ndarray
    revision: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Changes:
    """What happened to a knowledge base after some revision.

    Attributes:
        upserted: triples that are new or were written since, as they are now.
        removed: (R,) int64 ids that are no longer there; some may never have been seen.
        revision: ask from here next time.
    """

    upserted: Embeddings
    removed: np.ndarray
    revision: int


def to_blobs(vectors: np.ndarray, names: Sequence[object], dimension: int, kind: str) -> list[bytes]:
    """One float16 blob for each row.

    Args:
        vectors: (len(names), dimension), any floating dtype.
        names: what each row belongs to, for the message.
        kind: "key" or "value", for the message.

    Raises:
        EmbeddingError: the shape is wrong, a number is NaN, infinite or beyond float16, or a row is nothing but zeros.
    """
    given = np.asarray(vectors)
    if given.shape != (len(names), dimension):
        raise EmbeddingError(
            f"{kind} embeddings have shape {given.shape}, expected {(len(names), dimension)}: one row for each "
            f"triple, {dimension} numbers as in the rest of the knowledge base"
        )
    if not np.issubdtype(given.dtype, np.floating):
        raise EmbeddingError(f"{kind} embeddings are {given.dtype}, expected floating point numbers")
    # NaN compares false, so one comparison finds NaN, infinity and what float16 cannot hold.
    bad = np.argwhere(~(np.abs(given) <= FLOAT16_MAX))
    if len(bad):
        row, column = bad[0]
        raise EmbeddingError(
            f"the {kind} embedding of {names[row]} has {given[row, column]} at position {column}; "
            f"numbers must be finite and at most {FLOAT16_MAX:.0f} in size: check the encoder"
        )
    stored = given.astype(_STORED)
    empty = np.flatnonzero(~stored.any(axis=1))
    if len(empty):
        raise EmbeddingError(
            f"the {kind} embedding of {names[empty[0]]} is nothing but zeros in float16, which says nothing about its "
            "text; check the encoder"
        )
    return [row.tobytes() for row in stored]


def from_blobs(blobs: Sequence[bytes], out: np.ndarray) -> bool:
    """Fill `out`, (len(blobs), P) float16, from stored blobs; False if one is not a blob of that length."""
    size = out.shape[1] * _STORED.itemsize
    if not set(map(type, blobs)) <= {bytes} or not set(map(len, blobs)) <= {size}:
        return False
    out[:] = np.frombuffer(b"".join(blobs), _STORED).reshape(out.shape)
    return True
