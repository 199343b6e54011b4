"""Which knowledge tokens an answer used: exact attention mass, and the top-k of it."""

from kblam_kernels.evidence.interface import evidence, knowledge_lse, top_knowledge

__all__ = ["evidence", "knowledge_lse", "top_knowledge"]
