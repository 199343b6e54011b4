"""Knowledge in force for a forward pass that is not a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment
from kblam.models.copies import reading
from kblam.models.resident import ResidentKnowledge


@contextmanager
def in_force(
    attachment: Attachment, knowledge_base: KnowledgeBase | None, texts: Sequence[str]
) -> Iterator[ResidentKnowledge | None]:
    """A knowledge base for the forward passes of the block, one batch row a text; None for the model alone.

    An adapter with a question head takes each text as the question of its row.
    """
    if knowledge_base is None:
        with attachment.using(None):
            yield None
        return
    question = None
    if attachment.config.question_head is not None:
        question = torch.from_numpy(knowledge_base.encode(texts)).to(attachment.model.device)
    with reading(attachment, knowledge_base) as resident, attachment.using(resident, question=question):
        yield resident
