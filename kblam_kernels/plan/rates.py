"""How fast a device reads and multiplies."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """The rates of one device for one dtype.

    Args:
        bytes_per_second: read from memory.
        latent, dense, projection: operations a second of attention to latents, of attention to dense keys and values,
            and of the matrix product that makes these from latents.
        latent_bytes, dense_bytes: bytes a second that the two kernels read with one query; never more than
            `bytes_per_second`.
    """

    bytes_per_second: float
    latent: float
    dense: float
    projection: float
    latent_bytes: float = math.inf
    dense_bytes: float = math.inf

    def __post_init__(self) -> None:
        for name in ("latent_bytes", "dense_bytes"):
            object.__setattr__(self, name, min(getattr(self, name), self.bytes_per_second))
