"""The adapter that is evaluated, and knowledge in force for a forward pass that is not a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from kblam.errors import EvaluationError
from kblam.generation.parts import as_meant
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attachment_of
from kblam.models.copies import reading
from kblam.models.judging import judge_of
from kblam.models.resident import ResidentKnowledge


def attached(model: PreTrainedModel) -> Attachment:
    """The attachment of a model.

    Raises:
        EvaluationError: nothing is attached.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise EvaluationError("no adapter is attached to this model; call kblam.attach(model, adapter) first")
    return attachment


@contextmanager
def in_force(
    attachment: Attachment, knowledge_base: KnowledgeBase | None, texts: Sequence[str]
) -> Iterator[ResidentKnowledge | None]:
    """A knowledge base for the forward passes of the block, one batch row a text; None for the model alone.

    An adapter with a question head takes each text as the question of its row, as a session does.
    """
    if knowledge_base is None:
        with attachment.using(None):
            yield None
        return
    question = None
    if attachment.config.question_head is not None:
        judge = judge_of(attachment.adapter, knowledge_base)
        meant = [as_meant(attachment.config, text, judge, knowledge_base.encoder) for text in texts]
        question = torch.from_numpy(knowledge_base.encode(meant)).to(attachment.device)
    with reading(attachment, knowledge_base) as resident, attachment.using(resident, question=question):
        yield resident
