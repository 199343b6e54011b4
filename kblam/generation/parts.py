"""The parts of questions about two facts, each asked alone: a prefill for what it finds, without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kblam.generation.clauses import Split
from kblam.generation.decision import AskedSplit
from kblam.generation.evidence import EvidenceRecorder
from kblam.generation.prompt import TOKENIZING, encode_question, left_padded
from kblam.generation.words import Found, Words
from kblam.models import Attachment
from kblam.models.resident import ResidentKnowledge


def part_texts(cuts: Sequence[Sequence[Split]]) -> list[str]:
    """Every part of every split once, in order."""
    return list(dict.fromkeys(part for of_question in cuts for split in of_question for part in split.parts))


@torch.inference_mode()
def ask_parts(
    attachment: Attachment,
    resident: ResidentKnowledge,
    tokenizer: PreTrainedTokenizerBase,
    cuts: Sequence[Sequence[Split]],
    vectors: Tensor | None,
    batch_size: int,
    words: Words,
) -> list[list[AskedSplit]]:
    """The splits of each question with what their parts find.

    Args:
        attachment, resident, tokenizer: as `Session` has them.
        cuts: for each question its splits.
        vectors: float32 (number of `part_texts`, P), of the parts; None without a question head.
        batch_size: so many parts at a time.
        words: of the same copy.
    """
    texts, decoder = part_texts(cuts), attachment.model.get_decoder()
    found: dict[str, tuple[Found, ...]] = {}
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        with TOKENIZING:
            rows = [encode_question(text, attachment, tokenizer) for text in batch]
        ids, mask = left_padded(rows, 0, attachment.device)
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        recorder = EvidenceRecorder()
        question = None if vectors is None else vectors[start : start + batch_size]
        with attachment.using(resident, question=question), attachment.observing(recorder):
            decoder(input_ids=ids, use_cache=False, **given)
        found |= {text: tuple(words.found(best)) for text, best in zip(batch, recorder.newest(), strict=True)}
    return [
        [AskedSplit(split, tuple(found[part] for part in split.parts)) for split in of_question] for of_question in cuts
    ]
