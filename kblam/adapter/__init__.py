"""Adapters: what turns a frozen encoder's embeddings into knowledge tokens of one language model."""

from kblam.adapter.adapter import KnowledgeAdapter
from kblam.adapter.config import AdapterConfig
from kblam.adapter.projected import ProjectedKnowledge

__all__ = ["AdapterConfig", "KnowledgeAdapter", "ProjectedKnowledge"]
