"""Facts: triples and their files, encoders, and the knowledge base that stores both.

Importing this loads neither torch nor an encoder's library.
"""

from __future__ import annotations

from kblam.knowledge.build import BuildReport
from kblam.knowledge.columns import Columns
from kblam.knowledge.embeddings import Changes, Embeddings
from kblam.knowledge.encoders import Encoder, OpenAIEncoder, SentenceTransformerEncoder, load_encoder
from kblam.knowledge.files import TripleFile, check_triples, read_triples, write_triples
from kblam.knowledge.knowledge_base import KnowledgeBase, build
from kblam.knowledge.records import triples_of
from kblam.knowledge.sources import Source
from kblam.knowledge.triples import Triple

__all__ = [
    "BuildReport",
    "Changes",
    "Columns",
    "Embeddings",
    "Encoder",
    "KnowledgeBase",
    "OpenAIEncoder",
    "SentenceTransformerEncoder",
    "Source",
    "Triple",
    "TripleFile",
    "build",
    "check_triples",
    "load_encoder",
    "read_triples",
    "triples_of",
    "write_triples",
]
