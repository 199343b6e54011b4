"""Fused kernels for rectangular attention: a causal prompt and a block of knowledge tokens in one softmax.

Needs torch only; triton is imported when a CUDA tensor first asks for it.
"""

from kblam_kernels.attention.decoding import RectangularAttention
from kblam_kernels.attention.engine import KnowledgePlan
from kblam_kernels.attention.interface import explain, rectangular_attention
from kblam_kernels.attention.packed import merge_states, partial_knowledge_attention
from kblam_kernels.attention.paged import paged_prompt_attention
from kblam_kernels.common.dispatch import Explanation
from kblam_kernels.errors import BackendUnavailableError, KernelError, UnsupportedInputError
from kblam_kernels.evidence.interface import evidence, evidence_at, top_evidence
from kblam_kernels.evidence.lse import knowledge_lse
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge, LatentProjection
from kblam_kernels.plan import Plan, plan
from kblam_kernels.pruning import prune

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "DenseKnowledge",
    "Explanation",
    "KernelError",
    "KnowledgePlan",
    "LatentKnowledge",
    "LatentProjection",
    "Plan",
    "RectangularAttention",
    "UnsupportedInputError",
    "evidence",
    "evidence_at",
    "explain",
    "knowledge_lse",
    "merge_states",
    "paged_prompt_attention",
    "partial_knowledge_attention",
    "plan",
    "prune",
    "rectangular_attention",
    "top_evidence",
]
