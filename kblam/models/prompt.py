"""Questions and answers as token ids: one way for training and for answering, so that they agree to the last token."""

from __future__ import annotations

import re
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig
from kblam.models.chat_template import chat_template_of, filled
from kblam.models.families import Family

PLAIN = "{question}\n"
_SPECIAL = re.compile(r"<\|[^|]+\|>")


def prompt_ids(template: str, question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a template with its {question}; the tokenizer's own first token where the template has none."""
    return ids_of(question, template, tokenizer)


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of an answer, as they follow a prompt, and the characters [start, end) that each stands for."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A tokenizer's chat template around {question}, ready for the answer; None if it has none.

    Raises:
        GenerationError: it cannot be used, see `chat_template_of`.
    """
    text = chat_template_of(tokenizer)
    return None if text is None else filled(text, "{question}")


class Prompted(Protocol):
    """What says how a model is asked: an `Attachment`, or what stands for one elsewhere."""

    @property
    def config(self) -> AdapterConfig:
        """Of the adapter."""

    @property
    def family(self) -> Family:
        """Of the model."""


def question_ids(question: str, attachment: Prompted, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question to an attached model.

    The template is the adapter's own; else the family's if the tokenizer knows its special tokens; else the
    tokenizer's chat template; else the question and a line break.
    """
    template = attachment.config.prompt
    if template is None:
        template = family_template(attachment.family, tokenizer)
    return ids_of(question, template, tokenizer)


def family_template(family: Family, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template of a model family; None if it has none, or the tokenizer does not know its special tokens."""
    vocabulary = tokenizer.get_vocab()
    if family.prompt is None or any(token not in vocabulary for token in _SPECIAL.findall(family.prompt)):
        return None
    return family.prompt


def ids_of(question: str, template: str | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one question in a template, as `text_of` has it.

    Raises:
        GenerationError: the chat template cannot be used.
    """
    text, with_special_tokens = text_of(question, template, tokenizer)
    return list(tokenizer(text, add_special_tokens=with_special_tokens)["input_ids"])


def text_of(question: str, template: str | None, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """One question in a template, and whether the tokenizer adds its special tokens to that.

    None is the tokenizer's chat template, else `PLAIN`. A chat template has all special tokens that its model wants.
    White space around a question in one does not count: templates differ in what they do with it.

    Raises:
        GenerationError: the chat template cannot be used.
    """
    if template is None and (chat := chat_template_of(tokenizer)) is not None:
        return filled(chat, question.strip()), False
    text = (template or PLAIN).replace("{question}", question)
    return text, not (tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token))
