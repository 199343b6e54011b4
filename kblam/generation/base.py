"""What the model says by itself, without any knowledge: exactly as if nothing were attached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.generation.answer import Answer
from kblam.generation.options import Generating
from kblam.generation.prompt import left_padded
from kblam.generation.reading import Reader
from kblam.models import Attachment


@torch.inference_mode()
def ask_base(
    model: PreTrainedModel,
    attachment: Attachment,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    how: Generating,
) -> list[Answer]:
    """The model's own answers to prompts.

    Args:
        model: with `attachment`.
        tokenizer: of the model.
        rows: token ids of each prompt.
        how: checked options of `generate`.
    """
    with attachment.using(None):
        said = generated(model, attachment, tokenizer, rows, how)
    reader = Reader(tokenizer, "", how)
    return [reader.of_base(tokens) for tokens in said]


def generated(
    model: Any,
    attachment: Attachment,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    how: Generating,
) -> list[list[int]]:
    """The tokens that follow each prompt, with whatever knowledge is in force."""
    ids, mask = left_padded(rows, how.pad, attachment.input_device)
    output = model.generate(ids, attention_mask=mask, **how.after(ids.shape[1], tokenizer))
    # A config may ask for more than the tokens (return_dict_in_generate).
    sequences: Tensor = getattr(output, "sequences", output)
    said: list[list[int]] = sequences[:, ids.shape[1] :].tolist()
    return said
