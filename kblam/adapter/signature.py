"""What an adapter's config says of its base model's weights; `kblam.models.signature` makes and compares it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from kblam.errors import AdapterConfigError

_MOST_NUMBERS = 4096
_LONGEST = 2**16


@dataclass(frozen=True)
class Signature:
    """Numbers that recognise a model by its weights.

    Args:
        numbers: of the embeddings and of the middle layer. Older adapters record nothing else.
        layers: a text for every decoder layer, and one for the head if it has weights of its own: numbers of each of
            its matrices, one byte each, in base64.

    Raises:
        AdapterConfigError: they are no such numbers and texts.
    """

    numbers: tuple[float, ...]
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers, layers = (one if isinstance(one, (list, tuple)) else None for one in (self.numbers, self.layers))
        fits = numbers is not None and 0 < len(numbers) <= _MOST_NUMBERS
        if not fits or not all(type(number) in (int, float) for number in numbers or ()):
            raise AdapterConfigError(f"base_signature must have numbers; got {str(self.numbers)[:80]!r}")
        if layers is None or len(layers) > _MOST_NUMBERS or not all(map(_is_coded, layers)):
            raise AdapterConfigError(
                f"the layers of base_signature must be texts in base64; got {str(self.layers)[:80]!r}"
            )
        object.__setattr__(self, "numbers", tuple(map(float, numbers or ())))  # JSON has lists
        object.__setattr__(self, "layers", tuple(layers))

    @classmethod
    def read(cls, data: Any) -> Signature:
        """What a config holds: a list of `numbers`, or an object.

        Raises:
            AdapterConfigError: it is none.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            return cls(data)
        try:
            return cls(**data)
        except TypeError as error:
            raise AdapterConfigError(f"base_signature does not fit: {error}") from error

    def to_plain(self) -> Any:
        """The inverse of `read`, ready for JSON; without layers as older releases write and read it."""
        numbers = list(self.numbers)
        return {"numbers": numbers, "layers": list(self.layers)} if self.layers else numbers


def coded(numbers: bytes) -> str:
    """Bytes as a text of `Signature.layers`."""
    return base64.b64encode(numbers).decode()


def decoded(text: str) -> bytes:
    """The inverse of `coded`."""
    return base64.b64decode(text)


def _is_coded(text: object) -> bool:
    if not isinstance(text, str) or len(text) > _LONGEST:
        return False
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
