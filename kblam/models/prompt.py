"""Questions and answers as token ids: one way for training and for answering, so that they agree to the last token."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

_MARK = "\ue000question\ue000"


def prompt_ids(template: str, question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a template with its {question}; the tokenizer's own first token where the template has none."""
    text = template.replace("{question}", question)
    begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not begins)["input_ids"])


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of an answer, as they follow a prompt, and the characters [start, end) that each stands for."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A tokenizer's chat template around {question}, ready for the answer; None if it has none."""
    if tokenizer.chat_template is None:
        return None
    message = [{"role": "user", "content": _MARK}]
    text: Any = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return str(text).replace(_MARK, "{question}")
