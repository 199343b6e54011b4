"""The innermost `with` block now: a context variable, read as an attribute of this module.

A context variable belongs to a thread or an asyncio task, and `asyncio.to_thread` passes it on. `torch.compile` cannot
trace one. But it reads `current.scope` like any attribute while it traces, and guards it: before each call of the
compiled code it reads the attribute again, in the thread and context of that call, and traces anew where other code is
needed. So a compiled model has the knowledge that it would have uncompiled.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kblam.models.calls import Scope

SCOPES: ContextVar[Scope | None] = ContextVar("kblam_scopes", default=None)


# PEP 562: called for what the module does not hold. A variable of this name would be the same in every thread.
def __getattr__(name: str) -> Any:
    if name == "scope":
        return SCOPES.get()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
