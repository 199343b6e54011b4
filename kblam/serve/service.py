"""One server: what its routes share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request

from kblam.serve.bases import Base, Bases
from kblam.serve.engine import Engine
from kblam.serve.failures import ApiError
from kblam.serve.keys import Keys
from kblam.serve.line import Calls
from kblam.serve.metrics import Metrics

RAG = "+rag"  # behind the model's name, and behind a base's in metrics; no base has a plus in its name
_SHOWN = 100
# Changes and look-ups of a tenant that wait: a change may take seconds of encoding.
_UPDATES, _LOOKS = 16, 64


@dataclass
class Service:
    """What is served, and to whom.

    Args:
        model: the model's name in requests; `model@base` asks it with a base.
        engine: answers.
        bases: by name.
        keys: of the tenants.
        read_only: whether changes are refused.
        with_rag: whether each base may be asked by RAG too.
    """

    model: str
    engine: Engine
    bases: Bases
    keys: Keys
    read_only: bool = False
    with_rag: bool = False
    metrics: Metrics = field(init=False)
    updates: Calls = field(init=False)
    looks: Calls = field(init=False)
    ending: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine, self.bases)
        self.updates = Calls("kblam updates", _UPDATES)
        self.looks = Calls("kblam look-ups", _LOOKS)

    def tenant_of(self, request: Request) -> str | None:
        """Whose request it is.

        Raises:
            ApiError: 401.
        """
        return self.keys.tenant_of(request.headers.get("authorization"))

    def base_of(self, request: Request, name: str) -> Base:
        """A base of the tenant that asks; the request's metrics count for it.

        Raises:
            ApiError: 401; 404, the same for a base of another tenant as for none.
        """
        base = self.bases.find(self.tenant_of(request), name)
        if base is None:
            message = f"there is no knowledge base {name[:_SHOWN]!r}; GET /v1/knowledge lists yours"
            raise ApiError(404, message, "knowledge_base_not_found")
        request.scope["state"]["base_label"] = base.place.label
        return base

    @property
    def rag(self) -> str | None:
        """The model's name where it answers by RAG; None if it does not."""
        return f"{self.model}{RAG}" if self.with_rag else None

    def model_of(self, base: Base | None, *, in_prompt: bool = False) -> str:
        """The name that asks the model with a base, by RAG (`in_prompt`) or not, or alone."""
        return self.model if base is None else f"{self.model}{RAG if in_prompt else ''}@{base.name}"

    def close(self) -> None:
        """Stops the engine and ends the threads."""
        self.engine.close()
        self.updates.close(seconds=5)
        self.looks.close(seconds=1)
