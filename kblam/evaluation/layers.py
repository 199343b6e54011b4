"""Where each knowledge layer looks at the end of a prompt, not only the evidence layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from kblam.adapter.sentences import Fact
from kblam.evaluation.force import attached, in_force
from kblam.evaluation.loop import TOP, Subject
from kblam.generation.evidence import EvidenceRecorder, find
from kblam.generation.prompt import encode_question, left_padded
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment


@torch.inference_mode()
def evidence_by_layer(
    subject: Subject, knowledge_base: KnowledgeBase, questions: Sequence[str]
) -> list[dict[int, tuple[Fact, ...]]]:
    """For each question, layer to its strongest triples; one forward pass of all prompts for each layer.

    Nobody else may ask the model meanwhile.
    """
    attachment = attached(subject.model)
    pad = subject.tokenizer.pad_token_id or 0
    rows = [encode_question(question, attachment, subject.tokenizer) for question in questions]
    ids, mask = left_padded(rows, pad, attachment.input_device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found: list[dict[int, tuple[Fact, ...]]] = [{} for _ in questions]
    for layer in attachment.config.knowledge_layers:
        recorder = EvidenceRecorder()
        with (
            _evidence_from(attachment, layer),
            in_force(attachment, knowledge_base, questions) as resident,
            attachment.observing(recorder),
        ):
            subject.model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
            assert resident is not None
            for row in range(len(questions)):
                triples = [one.triple for one in find(resident, recorder.best(row, 1, TOP))]
                found[row][layer] = tuple((triple.name, triple.property, triple.value) for triple in triples)
    return found


@contextmanager
def _evidence_from(attachment: Attachment, layer: int) -> Iterator[None]:
    """Makes another layer the evidence layer, which alone is observed."""
    adapter = attachment.adapter
    before = adapter.config
    adapter.config = dataclasses.replace(before, evidence_layer=layer)
    try:
        yield
    finally:
        adapter.config = before
