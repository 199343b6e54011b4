"""Which knowledge tokens an answer used: exact attention mass."""

from kblam_kernels.evidence.interface import evidence, knowledge_lse, top_evidence

__all__ = ["evidence", "knowledge_lse", "top_evidence"]
