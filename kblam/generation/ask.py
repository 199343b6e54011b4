"""Questions to a model with a knowledge base: the answer, and the triples it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.errors import GenerationError, ModelFolderError, StoreError
from kblam.generation.evidence import Evidence, EvidenceRecorder
from kblam.generation.loading import load_tokenizer
from kblam.generation.prompt import encode_question, left_padded
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attachment_of
from kblam.models.resident import ResidentKnowledge, resident_for


@dataclass(frozen=True)
class Answer:
    """What the model said, and why.

    Args:
        text: the generated text, without special tokens.
        evidence: triples by attention mass, largest first; empty for an empty knowledge base.
        refused: whether the text is the adapter's refusal sentence.
        num_tokens: generated tokens, the end token included.
    """

    text: str
    evidence: tuple[Evidence, ...]
    refused: bool
    num_tokens: int


def ask(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    question: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    top: int = 5,
    max_new_tokens: int = 128,
    **generate_options: Any,
) -> Answer:
    """Answers one question from a knowledge base; greedy unless `generate_options` say otherwise.

    The knowledge base goes to the device at the first question and is kept; later questions take in only what
    changed in it.

    Args:
        model: with an adapter attached (`kblam.attach`).
        knowledge_base: built with the adapter's encoder.
        question: one question in natural language.
        tokenizer: of the model; None loads it by the model's name.
        top: how many triples of evidence at most.
        max_new_tokens: length limit of the answer.
        generate_options: passed on to `model.generate` (`do_sample`, `temperature`, `streamer`, ...).

    Returns:
        An `Answer`.

    Raises:
        GenerationError: nothing is attached, the question is empty or too long, or beams are asked for.
        EncoderMismatchError: the knowledge base was built with another encoder than the adapter's.
    """
    return ask_many(
        model,
        knowledge_base,
        [question],
        tokenizer=tokenizer,
        top=top,
        max_new_tokens=max_new_tokens,
        **generate_options,
    )[0]


def ask_many(
    model: PreTrainedModel,
    knowledge_base: KnowledgeBase,
    questions: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    top: int = 5,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    **generate_options: Any,
) -> list[Answer]:
    """`ask` for several questions, `batch_size` of them at a time; answers come in the order of the questions."""
    attachment = _attached(model)
    if generate_options.get("num_beams", 1) != 1 or generate_options.get("num_return_sequences", 1) != 1:
        raise GenerationError(
            "ask follows one sequence per question to name its evidence; for num_beams or num_return_sequences call "
            "model.generate inside attachment.using(...)"
        )
    if tokenizer is None:
        tokenizer = tokenizer_of(model)
    encoded = [encode_question(question, attachment, tokenizer) for question in questions]
    _check_length(model, encoded, questions, max_new_tokens)
    resident = resident_for(attachment, knowledge_base)
    answers: list[Answer] = []
    with attachment.using(resident):
        for start in range(0, len(encoded), batch_size):
            rows = encoded[start : start + batch_size]
            answers += _answer_batch(attachment, resident, rows, tokenizer, top, max_new_tokens, generate_options)
    return answers


def _attached(model: PreTrainedModel) -> Attachment:
    attachment = attachment_of(model)
    if attachment is None:
        raise GenerationError("no adapter is attached to this model; call kblam.attach(model, adapter) first")
    return attachment


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model, loaded by the name or folder the model was loaded from.

    Raises:
        GenerationError: if the model has no name, or no tokenizer that can be used is found there.
    """
    name = model.config._name_or_path
    if not name:
        raise GenerationError("this model was not loaded from a name or folder that has its tokenizer; pass tokenizer=")
    try:
        return load_tokenizer(name)
    except ModelFolderError as error:
        raise GenerationError(f"{error}; pass tokenizer=") from error


def _check_length(
    model: PreTrainedModel, encoded: Sequence[Sequence[int]], questions: Sequence[str], max_new_tokens: int
) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for ids, question in zip(encoded, questions, strict=True):
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise GenerationError(
                f"the question {question[:40]!r}... takes {len(ids)} tokens and the answer up to {max_new_tokens}; "
                f"the model has room for {limit}: shorten the question or lower max_new_tokens"
            )


@torch.inference_mode()
def _answer_batch(
    attachment: Attachment,
    resident: ResidentKnowledge,
    rows: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    top: int,
    max_new_tokens: int,
    generate_options: dict[str, Any],
) -> list[Answer]:
    model: Any = attachment.model
    ends = _end_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if ends else 0
    ids, mask = left_padded(rows, pad_id, model.device)
    recorder = EvidenceRecorder()
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens, "pad_token_id": pad_id}
    with attachment.observing(recorder):
        output = model.generate(ids, attention_mask=mask, **(options | generate_options))
    answers = []
    for row, tokens in enumerate(output[:, ids.shape[1] :].tolist()):
        length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
        text = str(tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
        found = _evidence(resident, recorder.best(row, length, top))
        answers.append(Answer(text, found, is_refusal(text, attachment.config.refusal), length))
    return answers


def _evidence(resident: ResidentKnowledge, best: Sequence[tuple[int, float]]) -> tuple[Evidence, ...]:
    """The triples at places of the device copy, as of its last sync: what the answer was made from.

    What another process removed while the answer was made is left out, and so is what got no attention at all, such
    as the unused rows of an over-allocated copy.
    """
    found = []
    for place, mass in best:
        if not mass > 0:
            continue
        try:
            found.append(Evidence(resident.triples_at([place])[0], mass))
        except StoreError as error:
            if type(error) is not StoreError:  # damaged or locked, not removed
                raise
    return tuple(found)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return []
    return list(ends) if isinstance(ends, (list, tuple)) else [int(ends)]


def is_refusal(text: str, refusal: str) -> bool:
    """Whether a text begins with the refusal sentence, whatever its case and final stop."""
    sentence = refusal.strip().rstrip(".").strip().lower()
    return bool(sentence) and text.strip().lower().startswith(sentence)
