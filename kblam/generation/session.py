"""A model and a knowledge base, ready to be asked by any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.errors import GenerationError, ModelFolderError, StoreError
from kblam.generation.answer import Answer, is_refusal
from kblam.generation.evidence import Evidence, EvidenceRecorder
from kblam.generation.prompt import encode_question, left_padded
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attachment_of
from kblam.models.copies import reading
from kblam.models.loading import load_tokenizer
from kblam.models.resident import ResidentKnowledge

# A fast tokenizer changes its settings while it encodes, and refuses to in the middle of another thread's call.
_TOKENIZING = threading.Lock()


class Session:
    """Asks one model about one knowledge base, greedily unless told otherwise.

    Threads may share a session, and sessions with different knowledge bases may share a model: each question is
    answered from its own. The knowledge base is copied to the device at the first question and kept there; later
    questions copy only what changed. `kblam.models.copies` says for how long, and which threads wait.

    Args:
        model: with an adapter attached (`kblam.attach`).
        knowledge_base: built with the adapter's encoder; not closed here.
        tokenizer: of the model; None loads it by the model's name.

    Raises:
        GenerationError: nothing is attached, or there is no tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        knowledge_base: KnowledgeBase,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.attachment = _attached(model)
        self.model = model
        self.knowledge_base = knowledge_base
        self.tokenizer = tokenizer_of(model) if tokenizer is None else tokenizer

    def ask(self, question: str, *, top: int = 5, max_new_tokens: int = 128, **generate_options: Any) -> Answer:
        """Answers one question.

        Args:
            question: in natural language.
            top: how many triples of evidence at most.
            max_new_tokens: length limit of the answer.
            generate_options: passed on to `model.generate` (`do_sample`, `temperature`, `streamer`, ...). transformers
                keeps a static cache on the model, so use the model from one thread at a time then.

        Raises:
            GenerationError: the question is empty or too long, or beams are asked for.
            EncoderMismatchError: the knowledge base was built with another encoder than the adapter's.
            KnowledgeError: the adapter has been detached since.
        """
        return self.ask_many([question], top=top, max_new_tokens=max_new_tokens, **generate_options)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        top: int = 5,
        max_new_tokens: int = 128,
        batch_size: int = 32,
        **generate_options: Any,
    ) -> list[Answer]:
        """`ask` for several questions, `batch_size` of them at a time; answers come in the order of the questions."""
        if generate_options.get("num_beams", 1) != 1 or generate_options.get("num_return_sequences", 1) != 1:
            raise GenerationError(
                "ask follows one sequence per question to name its evidence; for num_beams or num_return_sequences "
                "call model.generate inside attachment.using(...)"
            )
        with _TOKENIZING:
            encoded = [encode_question(question, self.attachment, self.tokenizer) for question in questions]
        _check_length(self.model, encoded, questions, max_new_tokens)
        answers: list[Answer] = []
        with reading(self.attachment, self.knowledge_base) as resident, self.attachment.using(resident):
            for start in range(0, len(encoded), batch_size):
                rows = encoded[start : start + batch_size]
                answers += self._answer_batch(resident, rows, top, max_new_tokens, generate_options)
        return answers

    @torch.inference_mode()
    def _answer_batch(
        self,
        resident: ResidentKnowledge,
        rows: Sequence[Sequence[int]],
        top: int,
        max_new_tokens: int,
        generate_options: dict[str, Any],
    ) -> list[Answer]:
        model: Any = self.model
        ends = _end_ids(model, self.tokenizer)
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            pad_id = ends[0] if ends else 0
        ids, mask = left_padded(rows, pad_id, model.device)
        recorder = EvidenceRecorder()
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens, "pad_token_id": pad_id}
        with self.attachment.observing(recorder):
            output = model.generate(ids, attention_mask=mask, **(options | generate_options))
        answers = []
        for row, tokens in enumerate(output[:, ids.shape[1] :].tolist()):
            length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
            with _TOKENIZING:
                text = str(self.tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
            found = _evidence(resident, recorder.best(row, length, top))
            answers.append(Answer(text, found, is_refusal(text, self.attachment.config.refusal), length))
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


def _evidence(resident: ResidentKnowledge, best: Sequence[tuple[int, float]]) -> tuple[Evidence, ...]:
    """The triples at places of the device copy, as of its last sync: what the answer was made from.

    Triples that another process removed meanwhile are left out, and so are places that got no attention at all, such
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
