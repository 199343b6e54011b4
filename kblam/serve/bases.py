"""Knowledge bases by name, each of one tenant."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kblam.errors import ServingError
from kblam.knowledge import KnowledgeBase

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Place:
    """Where a knowledge base is, and what it is called.

    Args:
        tenant: whose it is; None where the server has no keys.
        name: what its tenant calls it.
        file: of the knowledge base; None is the model folder's own.
    """

    tenant: str | None
    name: str
    file: Path | None

    @property
    def label(self) -> str:
        """Of metrics and messages of the server; tenants may have bases of one name."""
        return self.name if self.tenant is None else f"{self.tenant}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """`NAME=FILE`, `TENANT/NAME=FILE`, or `FILE`, whose name without its ending is then the name.

        Raises:
            ServingError: a name that cannot be part of a model's name.
        """
        head, equals, file = text.partition("=")
        if not equals:
            head, file = Path(text).stem, text
        tenant, slash, name = head.rpartition("/")
        if not file.strip():
            raise ServingError(f"--kb {text} names no file; write NAME=FILE, such as --kb facts=facts.kb")
        for part in [name, *([tenant] if slash else [])]:
            if not is_name(part):
                raise ServingError(
                    f"--kb {text}: {part!r} cannot be a name; it takes up to 64 letters of a-z, digits, '.', '_' and "
                    "'-': write NAME=FILE, or TENANT/NAME=FILE"
                )
        return cls(tenant if slash else None, name, Path(file))


def is_name(text: str) -> bool:
    """Whether a knowledge base or a tenant may be called so."""
    return _NAME.fullmatch(text) is not None


class Turns:
    """Answers from a knowledge base, and changes to it, in turn: a change comes before an answer or after it.

    Who wants to change it goes first, since answers may follow each other without a pause.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_taken = False
        self._writers = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """For one answer."""
        with self._condition:
            self._condition.wait_for(lambda: not self._is_taken and not self._writers)
            self._is_taken = True
        with self._held():
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For one transaction."""
        with self._condition:
            self._writers += 1
            self._condition.wait_for(lambda: not self._is_taken)
            self._writers -= 1
            self._is_taken = True
        with self._held():
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()


@dataclass(frozen=True)
class Base:
    """A knowledge base that is served.

    Args:
        place: its names.
        knowledge_base: open; tenants may share one.
        turns: of whoever uses this knowledge base.
    """

    place: Place
    knowledge_base: KnowledgeBase
    turns: Turns = field(default_factory=Turns)

    @property
    def name(self) -> str:
        """What its tenant calls it."""
        return self.place.name


class Bases:
    """All that are served; a tenant finds its own only.

    Raises:
        ServingError: two of one tenant have one name.
    """

    def __init__(self, bases: Iterable[Base]) -> None:
        self._of: dict[tuple[str | None, str], Base] = {}
        for base in bases:
            key = (base.place.tenant, base.name)
            if key in self._of:
                raise ServingError(f"two knowledge bases are called {base.place.label!r}; give them other names")
            self._of[key] = base

    def __iter__(self) -> Iterator[Base]:
        return iter(self._of.values())

    def find(self, tenant: str | None, name: str) -> Base | None:
        """The base that a tenant calls so; None for one of another tenant as for one that nobody has."""
        return self._of.get((tenant, name))

    def of(self, tenant: str | None) -> list[Base]:
        """A tenant's bases, in the order they were given."""
        return [base for base in self if base.place.tenant == tenant]
