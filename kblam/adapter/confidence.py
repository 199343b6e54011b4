"""How sure an answer is: a probability for each triple that attention found, from its mass and the question's words."""

from __future__ import annotations

import builtins
import dataclasses
import math
import operator
from collections.abc import Sequence
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
        name: 1 if the question says its name word for word, and not as part of a longer name, else 0.
        property: 1 if it says its property.
        other: 1 if it says another property of the knowledge base, and not this one.
        share: log of what the property's share, by the question without the name, is of itself and the shares of what
            the name's entity lacks; 0 where that is not asked, because the question does not say the name.
        best: 1 if no other property of the knowledge base has a larger share; 0 where that is not asked.
        beaten: 1 if the property with the largest share is another one, and the question says that.
    """

    mass: float
    name: float
    property: float
    other: float
    share: float
    best: float = 0.0
    beaten: float = 0.0

    @builtins.property
    def numbers(self) -> list[float]:
        """What the weights are for, in their order; the 1 is the bias's."""
        mass = min(max(self.mass, _LEAST), 1 - _LEAST)
        odds = math.log(mass / (1 - mass))
        return [odds, self.name, self.property, self.other, self.share, 1.0, self.best, self.beaten]


@dataclass(frozen=True)
class Confidence:
    """Weights of a multinomial logistic regression: which of the triples found answers a question, or none of them.

    A triple's log odds against none are weights . signs. Alone it has the probability sigmoid(weights . signs).

    Args:
        mass: of the log odds of the attention mass.
        name, property, other, share, best, beaten: of those signs.
        bias: added.
    """

    mass: float
    name: float
    property: float
    other: float
    share: float
    bias: float
    best: float = 0.0
    beaten: float = 0.0

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
        """The probability, 0 .. 1, that a triple answers which is the only one found."""
        return self.among([signs])[0]

    def among(self, found: Sequence[Signs]) -> list[float]:
        """The probability of each triple that it is the one that answers; what is missing to 1 is that of none."""
        weights = self.weights
        odds = [sum(map(operator.mul, weights, signs.numbers)) for signs in found]
        most = max([0.0, *odds])
        parts = [math.exp(one - most) for one in odds]
        total = math.exp(-most) + math.fsum(parts)
        return [part / total for part in parts]
