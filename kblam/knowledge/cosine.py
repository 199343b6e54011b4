"""Vectors of one length, whose products are cosines."""

from __future__ import annotations

from typing import Any

import numpy as np

_ROWS = 2**16


def normalised(vectors: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """(M, P) of any floating dtype with rows of length 1, in pieces, so that no float32 copy of all is made besides.

    Zeros stay zeros.
    """
    found = np.empty(vectors.shape, dtype)
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS].astype(np.float32)
        found[start : start + _ROWS] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9)
    return found
