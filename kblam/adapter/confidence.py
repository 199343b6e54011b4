"""How sure an answer is: a probability from the attention mass and what the question says of the triple."""

from __future__ import annotations

import builtins
import dataclasses
import math
from dataclasses import dataclass

from kblam.errors import AdapterConfigError

# Log odds beyond these say no more: bfloat16 has no masses between.
_LEAST = 1e-4
# No weight is this large, and sums of such numbers are finite.
_MOST = 1e6


@dataclass(frozen=True)
class Signs:
    """What speaks for and against a triple as the answer to a question.

    Args:
        mass: its attention mass at the prompt's end, 0 .. 1.
        name: 1 if the question says its name word for word, else 0.
        property: 1 if it says its property.
        other: 1 if it says another property of the knowledge base, and not this one.
        share: log of the property's share among all properties, by the question without the name; 0 where that is not
            asked, because the question does not say the name.
    """

    mass: float
    name: float
    property: float
    other: float
    share: float

    @builtins.property
    def numbers(self) -> list[float]:
        """What the weights are for, in their order; the last is the bias's."""
        mass = min(max(self.mass, _LEAST), 1 - _LEAST)
        return [math.log(mass / (1 - mass)), self.name, self.property, self.other, self.share, 1.0]


@dataclass(frozen=True)
class Confidence:
    """Weights of a logistic regression: the probability that a triple answers is sigmoid(weights . signs).

    Args:
        mass: of the log odds of the attention mass.
        name, property, other, share: of those signs.
        bias: added.
    """

    mass: float
    name: float
    property: float
    other: float
    share: float
    bias: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) <= _MOST:
                raise AdapterConfigError(
                    f"confidence.{field.name} must be a finite number of at most a million; got {value!r}"
                )

    @builtins.property
    def weights(self) -> list[float]:
        """In the order of `Signs.numbers`."""
        return list(dataclasses.astuple(self))

    def of(self, signs: Signs) -> float:
        """The probability, 0 .. 1."""
        total = sum(weight * number for weight, number in zip(self.weights, signs.numbers, strict=True))
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0
