"""Facts: triples and their files, encoders, and the knowledge base that stores both.

Importing this loads neither torch nor an encoder's library.
"""

from __future__ import annotations

from kblam.knowledge.build import BuildReport
from kblam.knowledge.embeddings import Changes, Embeddings
from kblam.knowledge.encoders import Encoder, OpenAIEncoder, SentenceTransformerEncoder, load_encoder
from kblam.knowledge.files import check_triples, read_triples, write_triples
from kblam.knowledge.knowledge_base import KnowledgeBase, build
from kblam.knowledge.triples import Triple, triples_of

__all__ = [
    "BuildReport",
    "Changes",
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
    "triples_of",
    "write_triples",
]
