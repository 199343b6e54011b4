"""Checks of what the operations on knowledge scores alone take: evidence and pruning."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from kblam_kernels.latent.interface import check_latent
from kblam_kernels.rectangular.arguments import check_alike, check_knowledge, check_masks, refuse


def check_scores(
    knowledge_query: Tensor, knowledge: DenseKnowledge | LatentKnowledge, knowledge_range: Tensor | None
) -> None:
    """Shapes, dtypes and devices of the knowledge query, the knowledge and the range."""
    if knowledge_query.dim() != 4:
        refuse(f"knowledge_query must be (batch, heads, tokens, head_dim); got {tuple(knowledge_query.shape)}")
    if isinstance(knowledge, LatentKnowledge):
        check_latent(knowledge_query, knowledge, knowledge_query)
        check_alike({"the latents' projection": knowledge.projection.key_weight}, knowledge_query)
    else:
        check_knowledge(knowledge_query, knowledge, knowledge_query)
        check_alike({"knowledge": knowledge.key}, knowledge_query)
    check_masks(None, knowledge_range, knowledge_query, 0)
