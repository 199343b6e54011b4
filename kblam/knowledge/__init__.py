"""Facts: triples and their files, encoders, and the knowledge base that stores both.

Importing this loads neither torch nor an encoder's library; `DeviceEmbeddings` brings torch when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kblam.knowledge.build import BuildReport
from kblam.knowledge.embeddings import Changes, Embeddings
from kblam.knowledge.encoders import Encoder, OpenAIEncoder, SentenceTransformerEncoder, load_encoder
from kblam.knowledge.files import check_triples, read_triples, write_triples
from kblam.knowledge.knowledge_base import KnowledgeBase, build
from kblam.knowledge.triples import Triple

if TYPE_CHECKING:
    from kblam.knowledge.device import DeviceEmbeddings

__all__ = [
    "BuildReport",
    "Changes",
    "DeviceEmbeddings",
    "Embeddings",
    "Encoder",
    "KnowledgeBase",
    "OpenAIEncoder",
    "SentenceTransformerEncoder",
    "Triple",
    "build",
    "check_triples",
    "load_encoder",
    "read_triples",
    "write_triples",
]


def __getattr__(name: str) -> object:
    if name == "DeviceEmbeddings":
        from kblam.knowledge.device import DeviceEmbeddings

        return DeviceEmbeddings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
