"""A knowledge base of triples for any Hugging Face language model: attach it, ask it, change it.

Names are imported on first use, so that `import kblam` and the command line's `--help` stay quick.

A guide that a docstring names, such as docs/answers.md, is in the installed package too: kblam/docs/answers.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kblam.adapter import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge
    from kblam.errors import KblamError
    from kblam.generation import Answer, Evidence, Session, ask, ask_many
    from kblam.knowledge import KnowledgeBase, Triple
    from kblam.models import Attachment, attach, attachment_of, detach

__version__ = "0.1.0"

_HOMES = {
    "AdapterConfig": "kblam.adapter",
    "Answer": "kblam.generation",
    "Attachment": "kblam.models",
    "Evidence": "kblam.generation",
    "KblamError": "kblam.errors",
    "KnowledgeAdapter": "kblam.adapter",
    "KnowledgeBase": "kblam.knowledge",
    "ProjectedKnowledge": "kblam.adapter",
    "Session": "kblam.generation",
    "Triple": "kblam.knowledge",
    "ask": "kblam.generation",
    "ask_many": "kblam.generation",
    "attach": "kblam.models",
    "attachment_of": "kblam.models",
    "detach": "kblam.models",
}

__all__ = [
    "AdapterConfig",
    "Answer",
    "Attachment",
    "Evidence",
    "KblamError",
    "KnowledgeAdapter",
    "KnowledgeBase",
    "ProjectedKnowledge",
    "Session",
    "Triple",
    "ask",
    "ask_many",
    "attach",
    "attachment_of",
    "detach",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kblam' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from kblam.errors import MissingPackageError
        from kblam.extras import missing

        if (reason := missing(error)) is None:
            raise
        raise MissingPackageError(f"kblam.{name}: {reason}", name=error.name) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
