"""What the vectors of a knowledge base tell: which keys lie too near, and whether questions find their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Rows of one matrix product: with a hundred thousand keys its result has 50 MB.
_ROWS = 128
_COLUMNS = 2**16


def nearest(queries: np.ndarray, keys: np.ndarray, own: np.ndarray) -> Iterator[tuple[int, float, int, float]]:
    """For each query (row, cosine with its own key, the best other key, cosine with that).

    Args:
        queries: (Q, P), of length 1.
        keys: (M, P) of length 1; M at least 2.
        own: (Q,) the row of each query's own key.
    """
    for start in range(0, len(queries), _ROWS):
        part = queries[start : start + _ROWS].astype(np.float32)
        rows = own[start : start + _ROWS]
        of_own = np.einsum("qp,qp->q", part, keys[rows].astype(np.float32))
        best, at = np.full(len(part), -2.0, np.float32), np.zeros(len(part), np.int64)
        for column in range(0, len(keys), _COLUMNS):
            scores = part @ keys[column : column + _COLUMNS].astype(np.float32).T
            here = (rows >= column) & (rows < column + scores.shape[1])
            scores[np.flatnonzero(here), rows[here] - column] = -2.0
            top = scores.argmax(axis=1)
            value = scores[np.arange(len(part)), top]
            better = value > best
            best[better], at[better] = value[better], top[better] + column
        for row in range(len(part)):
            yield start + row, float(of_own[row]), int(at[row]), float(best[row])
