"""From questions to token ids: the adapter's template, the family's, or the tokenizer's chat template."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kblam.errors import GenerationError
from kblam.models import Attachment
from kblam.models.prompt import prompt_ids

_SPECIAL = re.compile(r"<\|[^|]+\|>")
PLAIN = "{question}\n"
# A fast tokenizer changes its settings while it encodes, and refuses to in the middle of another thread's call.
TOKENIZING = threading.Lock()


def _knows_specials(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    vocabulary = tokenizer.get_vocab()
    return all(token in vocabulary for token in _SPECIAL.findall(template))


def encode_question(question: str, attachment: Attachment, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question, ready for the model to answer.

    The template is the adapter's own; else the family's if the tokenizer knows its special tokens; else the
    tokenizer's chat template; else the question and a line break.

    Raises:
        GenerationError: if the question is empty.
    """
    template = attachment.config.prompt
    family = attachment.family.prompt
    if template is None and family is not None and _knows_specials(family, tokenizer):
        template = family
    return _encode(question, template, tokenizer)


def encode_for_base(question: str, attachment: Attachment, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question as the base model is asked it, whatever the adapter's prompt is.

    The template is the tokenizer's chat template; else the family's; else the question and a line break.

    Raises:
        GenerationError: if the question is empty.
    """
    family = attachment.family.prompt
    has_family = tokenizer.chat_template is None and family is not None and _knows_specials(family, tokenizer)
    return _encode(question, family if has_family else None, tokenizer)


def _encode(question: str, template: str | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not question.strip():
        raise GenerationError("the question is empty; ask something")
    if template is None and tokenizer.chat_template is not None:
        message = [{"role": "user", "content": question}]
        encoded: Any = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])
    return prompt_ids(template or PLAIN, question, tokenizer)


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), int64 (B, N): shorter rows are padded on the left, as generation needs."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for line, row in enumerate(rows):
        ids[line, width - len(row) :] = torch.tensor(row)
        mask[line, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
