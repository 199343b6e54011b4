"""Things with facts, as training and evaluation draw them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entity:
    """One name and its facts, property to value.

    Args:
        keys: property to the text of its key, where it is not made from name and property.
    """

    name: str
    facts: dict[str, str] = field(hash=False)
    keys: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def words(self) -> frozenset[str]:
        """The lower-case words of the name: two entities that share one are near-misses."""
        return frozenset(self.name.lower().split())
