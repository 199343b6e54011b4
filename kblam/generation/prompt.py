"""From questions to batches of token ids."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kblam.errors import GenerationError
from kblam.knowledge.fields import can_be_seen
from kblam.models import Attachment
from kblam.models.chat_template import conversation_of
from kblam.models.prompt import Prompted, family_template, ids_of, question_ids

# A fast tokenizer changes its settings while it encodes, and refuses to in the middle of another thread's call.
TOKENIZING = threading.Lock()


def encode_question(question: str, attachment: Prompted, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question, ready for the model to answer, see `question_ids`.

    Raises:
        GenerationError: if the question is empty, or no text.
    """
    check_question(question)
    return question_ids(question, attachment, tokenizer)


def encode_for_base(question: str, attachment: Prompted, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question as the base model is asked it, whatever the adapter's prompt is.

    The template is the tokenizer's chat template; else the family's; else the question and a line break.

    Raises:
        GenerationError: if the question is empty.
    """
    check_question(question)
    template = family_template(attachment.family, tokenizer) if tokenizer.chat_template is None else None
    return ids_of(question, template, tokenizer)


def encode_conversation(
    turns: Sequence[tuple[str, str]], attachment: Attachment, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Token ids of a conversation as the base model is given it; of a single question, as `encode_for_base`.

    Args:
        turns: (role, text) of each message; the last is the user's.

    Raises:
        GenerationError: as `check_conversation`; there are several messages and the tokenizer has no chat template, or
            one that refuses their order.
    """
    check_conversation(turns)
    if len(turns) == 1:
        return encode_for_base(turns[0][1], attachment, tokenizer)
    whole = conversation_of(tokenizer, turns)
    if whole is None:
        raise GenerationError("this model has no chat template, so it can be asked one user message at a time only")
    return list(tokenizer(whole, add_special_tokens=False)["input_ids"])


def check_conversation(turns: Sequence[tuple[str, str]]) -> None:
    """Checks that there is a text to answer, and that the others are texts.

    Raises:
        GenerationError: a text is none, or the last message is empty or not the user's.
    """
    if not turns or turns[-1][0] != "user":
        raise GenerationError("the last message must be the user's; the answer to it comes next")
    for _, text in turns[:-1]:  # may be empty: an answer that ended at once is
        _check_encodable(text, "a message")
    check_question(turns[-1][1])


def check_question(question: str) -> None:
    """Checks that there is a text to answer.

    Raises:
        GenerationError: it is empty, or none that a tokenizer reads.
    """
    if not isinstance(question, str):
        raise GenerationError(f"a question is text; got {type(question).__name__}")
    if not can_be_seen(question):
        shown = f" ({question[:20]!a} shows nothing)" if question.strip() else ""
        raise GenerationError(f"the question is empty{shown}; ask something")
    _check_encodable(question, "the question")


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GenerationError(
            f"{what} holds half a character at place {error.start} ({text[error.start]!a}), which no tokenizer reads; "
            "decode its bytes with the right encoding"
        ) from error


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), int64 (B, N): shorter rows are padded on the left, as generation needs."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, device="cpu")
    mask = torch.zeros(len(rows), width, dtype=torch.long, device="cpu")
    for line, row in enumerate(rows):
        ids[line, width - len(row) :] = torch.tensor(row, device="cpu")
        mask[line, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
