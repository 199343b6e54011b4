"""Which template a question goes through, and how rows are padded."""

from __future__ import annotations

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from kblam import Attachment, attach
from kblam.errors import GenerationError
from kblam.generation.prompt import encode_question, left_padded
from kblam.models.families import LLAMA_PROMPT
from tests.generation.tiny import tiny_adapter, tiny_model, tiny_tokenizer

LLAMA_SPECIALS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHAT = "{% for message in messages %}[BOS] pine {{ message['content'] }} sorry{% endfor %}"
QUESTION = "what is the capital ?"


def _attached(tokenizer: PreTrainedTokenizerFast, prompt: str | None) -> Attachment:
    model = tiny_model(tokenizer)
    return attach(model, tiny_adapter(model, prompt=prompt))


@pytest.mark.parametrize(
    ("prompt", "knows_family", "has_chat", "expected"),
    [
        ("motto {question} of", True, True, "motto what is the capital ? of"),
        (None, True, True, LLAMA_PROMPT.replace("{question}", QUESTION)),
        (None, False, True, "[BOS] pine what is the capital ? sorry"),
        (None, False, False, "what is the capital ?"),
    ],
    ids=["adapter's", "family's", "chat template", "plain"],
)
def test_the_order_of_templates(prompt: str | None, knows_family: bool, has_chat: bool, expected: str) -> None:
    tokenizer = tiny_tokenizer(LLAMA_SPECIALS if knows_family else ())
    tokenizer.chat_template = CHAT if has_chat else None
    ids = encode_question(QUESTION, _attached(tokenizer, prompt), tokenizer)
    assert ids == tokenizer(expected, add_special_tokens=False)["input_ids"]


def test_a_template_that_begins_with_bos_gets_no_second_one() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", tokenizer.bos_token_id)]
    )
    bos = tokenizer.bos_token_id
    for prompt in ("[BOS]{question}", "{question}"):
        ids = encode_question(QUESTION, _attached(tokenizer, prompt), tokenizer)
        assert ids[0] == bos
        assert bos not in ids[1:]


def test_other_braces_are_text() -> None:
    """In a template and in a question: neither is a format string."""
    tokenizer = tiny_tokenizer()
    attachment = _attached(tokenizer, "{motto} {question}")
    assert len(encode_question("{question} {0}", attachment, tokenizer)) == 3 + 6


@pytest.mark.parametrize("question", ["", "\t\n"])
def test_an_empty_question_is_refused(question: str) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(GenerationError, match="the question is empty"):
        encode_question(question, _attached(tokenizer, None), tokenizer)


def test_rows_are_padded_on_the_left() -> None:
    ids, mask = left_padded([[5, 6, 7], [8]], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64
