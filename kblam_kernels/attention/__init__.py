"""The public calls: attention to knowledge of either layout, once or in a loop, and in parts for engines."""

from kblam_kernels.attention.decoding import RectangularAttention
from kblam_kernels.attention.engine import KnowledgePlan
from kblam_kernels.attention.interface import explain, rectangular_attention
from kblam_kernels.attention.packed import merge_states, partial_knowledge_attention
from kblam_kernels.attention.paged import paged_prompt_attention

__all__ = [
    "KnowledgePlan",
    "RectangularAttention",
    "explain",
    "merge_states",
    "paged_prompt_attention",
    "partial_knowledge_attention",
    "rectangular_attention",
]
