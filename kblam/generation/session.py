"""A model and a knowledge base, ready to be asked by any number of threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from kblam.errors import GenerationError, ModelFolderError, TooLongError, argument
from kblam.generation.answer import Answer
from kblam.generation.at_once import write_at_once
from kblam.generation.base import ask_base, generated
from kblam.generation.clauses import MOST_SPLITS
from kblam.generation.decision import AskedSplit, Decision, Rules, Unknown, decide, rules_of
from kblam.generation.evidence import EvidenceRecorder, Follower
from kblam.generation.options import Generating, check_decided, generating
from kblam.generation.parts import as_meant, ask_parts, cuts_of, found_by, part_texts
from kblam.generation.pointer import Pointer
from kblam.generation.prompt import TOKENIZING, check_question, encode_for_base, encode_question, left_padded
from kblam.generation.reading import Reader
from kblam.generation.streaming import Gate
from kblam.generation.words import Words, judged, named_places
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attachment_of
from kblam.models.checks import a_model
from kblam.models.copies import reading
from kblam.models.judging import Judge, judge_of
from kblam.models.loading import load_tokenizer
from kblam.models.question import encoded
from kblam.models.resident import ResidentKnowledge

Rows = Sequence[Sequence[int]]
# Parts of questions about two facts that one prefill asks, for a single question too.
PARTS_AT_ONCE = 2 * MOST_SPLITS


class Session:
    """Asks one model about one knowledge base, greedily unless told otherwise.

    Threads may share a session, and sessions with different knowledge bases may share a model: each question is
    answered from its own. The knowledge base is copied to the device at the first question and kept there; later
    questions copy only what changed. An answer is of the knowledge base as it was when it was begun.
    `kblam.models.copies` says for how long copies are kept.

    docs/answers.md says how an answer is made.

    Args:
        model: with an adapter attached (`kblam.attach`).
        knowledge_base: built with the adapter's encoder; not closed here.
        tokenizer: of the model; None loads it by the model's name.
        unknown: what happens to a question that no triple answers with a confidence of `known_above`: "refuse" says the
            adapter's refusal sentence; "base" asks the base model, without any knowledge, exactly as if nothing were
            attached; None leaves it to what the model has learned. "auto" is "refuse" for an adapter with a calibrated
            `known_above`, else None.
        known_above: replaces the adapter's, 0 .. 1.

    Raises:
        GenerationError: nothing is attached, it is no knowledge base, there is no tokenizer, the model has a soft
            prompt of PEFT, or `unknown` or `known_above` cannot be.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        knowledge_base: KnowledgeBase,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        unknown: Unknown | Literal["auto"] | None = "auto",
        known_above: float | None = None,
    ) -> None:
        self.attachment = _attached(model)
        if not isinstance(knowledge_base, KnowledgeBase):
            raise GenerationError(
                f"a Session asks a KnowledgeBase, got {type(knowledge_base).__name__}: open a file with "
                "KnowledgeBase.open(path), or make one with KnowledgeBase.from_triples(triples, encoder)"
            )
        _check_no_soft_prompt(model)
        self.model = a_model(model)
        self.knowledge_base = knowledge_base
        self.tokenizer = tokenizer_of(model) if tokenizer is None else _a_tokenizer(tokenizer)
        self.unknown = unknown
        self.known_above = known_above
        self._rules()  # what cannot be is told here, not at the first question

    def ask(
        self,
        question: str,
        *,
        top: int = 5,
        max_new_tokens: int = 128,
        resident: ResidentKnowledge | None = None,
        **generate_options: Any,
    ) -> Answer:
        """Answers one question.

        Args:
            question: in natural language. The whole text is the question whose sentence vector an adapter with a
                question head sees, or what asks in a text that is too long for the encoder (docs/answers.md); of a
                conversation pass the last user turn alone.
            top: how many triples of evidence at most.
            max_new_tokens: length limit of the answer.
            resident: what to answer from, of a `kblam.models.copies.reading` around this call, for who has to know
                its revision; None takes the knowledge base as it is now.
            generate_options: passed on to `model.generate` (`do_sample`, `temperature`, `stop_strings`, `streamer`,
                ...). transformers keeps a static cache on the model, so use the model from one thread at a time then.

        Raises:
            GenerationError: the question is empty or too long, or the options, merged with the model's own generation
                config, ask for several sequences or for more than one token of one forward pass (beams, guessing), or
                would change the words of an answer that is decided (`options.check_decided`).
            EncoderMismatchError: the knowledge base was built with another encoder than the adapter's.
            EncoderError: the adapter has a question head, and the question cannot be encoded.
            KnowledgeError: the adapter has been detached since.
        """
        return self.ask_many([question], top=top, max_new_tokens=max_new_tokens, resident=resident, **generate_options)[
            0
        ]

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        top: int = 5,
        max_new_tokens: int = 128,
        batch_size: int = 32,
        resident: ResidentKnowledge | None = None,
        **generate_options: Any,
    ) -> list[Answer]:
        """`ask` for several questions, `batch_size` of them at a time; answers come in the order of the questions."""
        if isinstance(questions, str):
            raise GenerationError(f"ask_many takes a list of questions, got one: {questions[:40]!r}; use ask")
        questions = _texts(questions)
        _check_batch_size(batch_size)
        if not isinstance(top, int) or top < 0:
            raise GenerationError(f"top must be a whole number of at least 0; got {top!r}")
        if len(questions) > 1 and generate_options.get("streamer") is not None:
            raise GenerationError(f"a streamer shows one answer; ask the {len(questions)} questions one by one")
        how = generating(self.model, self.tokenizer, max_new_tokens, generate_options, questions=len(questions))
        rules = self._rules()
        if rules.leaves_nothing and rules.unknown == "refuse":  # else the base model's answers follow them
            check_decided(generate_options)
        with TOKENIZING:
            encoded = [encode_question(question, self.attachment, self.tokenizer) for question in questions]
            for_base = [
                encode_for_base(question, self.attachment, self.tokenizer)
                for question in (questions if rules.unknown == "base" else [])
            ]
        check_length(self.model, encoded, questions, max_new_tokens)
        check_length(self.model, for_base, questions[: len(for_base)], max_new_tokens)
        batches = [range(start, min(start + batch_size, len(encoded))) for start in range(0, len(encoded), batch_size)]
        answers: list[Answer] = []
        given = None if resident is None else nullcontext(resident)
        with given or reading(self.attachment, self.knowledge_base) as knowledge:
            for batch in batches:
                asked, rows = [questions[row] for row in batch], [encoded[row] for row in batch]
                answers += self._answer_batch(knowledge, asked, rows, rules, top, how.of_questions(batch))
        del knowledge  # an older version is freed with its last reader
        unknown = [row for row, answer in enumerate(answers) if answer.from_base]
        for start in range(0, len(unknown), batch_size):
            batch_of_base = unknown[start : start + batch_size]
            rows = [for_base[row] for row in batch_of_base]
            said = ask_base(self.model, self.attachment, self.tokenizer, rows, how.of_questions(batch_of_base))
            for row, answer in zip(batch_of_base, said, strict=True):
                answers[row] = answer.judged_as(answers[row])
        return answers

    def prompt(self, questions: str | Sequence[str]) -> dict[str, Tensor]:
        """Questions as `ask` puts them to the model: the `input_ids` and `attention_mask` of a `generate` of your own.

        Both are int64 (B, N), padded on the left, where the model reads tokens.

        Raises:
            GenerationError: a question is empty, or no text.
        """
        texts = _texts(questions)
        if not texts:
            raise GenerationError("there is no question; give one for each row")
        with TOKENIZING:
            rows = [encode_question(text, self.attachment, self.tokenizer) for text in texts]
        pad = self.tokenizer.pad_token_id
        ids, mask = left_padded(rows, pad if isinstance(pad, int) else 0, self.attachment.input_device)
        return {"input_ids": ids, "attention_mask": mask}

    @contextmanager
    def answering(self, questions: str | Sequence[str], *, end: int | None = None) -> Iterator[Pointer]:
        """Knowledge in force for one `generate` of your own, and the logits processor that answers as `ask` does.

            with session.answering(question) as pointer:
                output = model.generate(**session.prompt(question), logits_processor=[pointer])

        `pointer.decision(row)` says afterwards what was decided. The knowledge base is read as `Attachment.using` does.

        Args:
            questions: one, or one for each row of the prompt.
            end: the end token; None takes the model's.

        Raises:
            As `ask`.
        """
        texts = self._as_meant(_texts(questions))
        vectors = self._asking(texts)
        with reading(self.attachment, self.knowledge_base) as resident:
            rules = self._rules()
            pointer = self._pointer(resident, texts, rules, end, Words(resident, copied=rules.config.pointer))
            with self.attachment.using(resident, question=vectors), self.attachment.observing(pointer.recorder):
                yield pointer

    def question_vectors(self, questions: str | Sequence[str]) -> Tensor:
        """Sentence vectors of questions from the knowledge base's encoder, float32 (B, P) on the model's device.

        For `attachment.using(..., question=...)`, which takes the texts too, where the same are needed twice. Each
        question is one text as `ask` takes it: the last user turn, without a chat template.

        Raises:
            EncoderError: the encoder cannot be loaded, or fails.
        """
        return encoded(self.knowledge_base, self._as_meant(_texts(questions)), self.attachment.device)

    def _as_meant(self, questions: Sequence[str]) -> list[str]:
        """As they are judged."""
        config, judge = self.attachment.config, self._judge()
        if config.question_head is None and judge is None:
            return list(questions)  # nothing is encoded, and there may be no encoder here
        return [as_meant(config, question, judge, self.knowledge_base.encoder) for question in questions]

    def _judge(self) -> Judge | None:
        return judge_of(self.attachment.adapter, self.knowledge_base)

    def _asking(self, questions: Sequence[str]) -> Tensor | None:
        """The vectors of questions as they are meant; None without a question head, or where nothing is asked."""
        if self.attachment.config.question_head is None or not questions:
            return None
        return encoded(self.knowledge_base, questions, self.attachment.device)

    def pointer(
        self, resident: ResidentKnowledge, questions: str | Sequence[str], *, end: int | None = None
    ) -> Pointer:
        """A logits processor that decides and copies as `ask` does, for one `generate` of your own.

        With `unknown="base"` it ends the answers that the base model should give (`Pointer.decision`).

        Args:
            resident: the knowledge in force, from `kblam.models.copies.reading`.
            questions: one, or one for each row of the prompt.
            end: the end token; None takes the model's.

        Raises:
            EncoderError, KnowledgeError: as `ask`, if a question may be about two facts.
        """
        rules = self._rules()
        words = Words(resident, copied=rules.config.pointer)
        return self._pointer(resident, self._as_meant(_texts(questions)), rules, end, words)

    def _pointer(
        self, resident: ResidentKnowledge, questions: Sequence[str], rules: Rules, end: int | None, words: Words
    ) -> Pointer:
        judge = self._judge()
        asked = self._asked_splits(questions, rules, words, judge)
        return Pointer(
            self.attachment,
            resident,
            self.tokenizer,
            questions=list(questions),
            cuts=asked,
            rules=rules,
            judge=judge,
            end=end,
            words=words,
        )

    def decisions(
        self, questions: Sequence[str], *, prompts: Rows | None = None, batch_size: int = 32
    ) -> list[Decision]:
        """What `ask_many` would decide about questions, without an answer: one prefill for each, and for its parts.

        Args:
            questions: as `ask` takes them.
            prompts: token ids of each question, where it is not to be read in the adapter's own prompt.
            batch_size: so many at a time.

        Raises:
            As `ask`.
        """
        questions = _texts(questions)
        _check_batch_size(batch_size)
        if prompts is not None and len(prompts) != len(questions):
            raise GenerationError(f"prompts holds {len(prompts)} rows of tokens for {len(questions)} questions")
        rules, decided = self._rules(), list[Decision]()
        if prompts is None:
            with TOKENIZING:
                prompts = [encode_question(question, self.attachment, self.tokenizer) for question in questions]
        with reading(self.attachment, self.knowledge_base) as resident:
            words, judge = Words(resident), self._judge()
            for start in range(0, len(questions), batch_size):
                batch = self._as_meant(questions[start : start + batch_size])
                vectors = self._asking(batch)
                rows = prompts[start : start + batch_size]
                named = named_places(judge, batch, resident)
                found = judged(judge, batch, found_by(self.attachment, rows, vectors, batch_size, words, named))
                cuts = self._asked_splits(batch, rules, words, judge)
                decided += [decide(rules, *each) for each in zip(batch, found, cuts, strict=True)]
        return decided

    def _asked_splits(
        self, questions: Sequence[str], rules: Rules, words: Words, judge: Judge | None
    ) -> list[list[AskedSplit]]:
        """For each question the ways to cut it, with what their parts find."""
        cuts = [cuts_of(rules, question, judge) for question in questions]
        texts = part_texts(cuts)
        vectors = self._asking(texts)
        at_once = max(len(questions), PARTS_AT_ONCE)
        return ask_parts(self.attachment, self.tokenizer, cuts, vectors, judge, at_once, words)

    @torch.inference_mode()
    def _answer_batch(
        self,
        resident: ResidentKnowledge,
        questions: Sequence[str],
        rows: Rows,
        rules: Rules,
        top: int,
        how: Generating,
    ) -> list[Answer]:
        """Answers with knowledge in force; those that the base model has to give are marked `from_base` and empty."""
        given, words = dict(how.arguments), Words(resident, copied=rules.config.pointer)
        questions = self._as_meant(questions)
        vectors, reader = self._asking(questions), Reader(self.tokenizer, rules.config.refusal, how)
        if rules.leaves_nothing and how.is_plain:
            sure = self._pointer(resident, questions, rules, next(iter(how.ends), None), words)
            written = write_at_once(sure, resident, vectors, rows, how, with_evidence=top > 0)
            if written is not None:
                return [reader.answer(row, said, sure.recorder, words, top, sure) for row, said in enumerate(written)]
        pointer, recorder = None, EvidenceRecorder()
        follower: LogitsProcessor = Follower(recorder, words)
        if rules.config.pointer or rules.unknown is not None:
            follower = pointer = self._pointer(resident, questions, rules, next(iter(how.ends), None), words)
            recorder = pointer.recorder
            if given.get("streamer") is not None and rules.unknown == "base":
                given["streamer"] = Gate(given["streamer"], lambda: pointer.decision(0).is_base)
        given["logits_processor"] = LogitsProcessorList([*(given.get("logits_processor") or ()), follower])
        with self.attachment.using(resident, question=vectors), self.attachment.observing(recorder):
            said = generated(self.model, self.attachment, self.tokenizer, rows, replace(how, arguments=given))
        return [reader.answer(row, tokens, recorder, words, top, pointer) for row, tokens in enumerate(said)]

    def _rules(self) -> Rules:
        return rules_of(self.attachment.config, self.unknown, self.known_above)


def _attached(model: PreTrainedModel) -> Attachment:
    attachment = attachment_of(model)
    if attachment is None:
        raise GenerationError("no adapter is attached to this model; call kblam.attach(model, adapter) first")
    return attachment


def _check_no_soft_prompt(model: Any) -> None:
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise GenerationError(
            f"a Session asks the model inside this {type(model).__name__}, whose soft prompt would be left out: load "
            "the model without it, or call its own generate with knowledge in force (attachment.using)"
        )


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


def _texts(questions: str | Sequence[str]) -> list[str]:
    if not isinstance(questions, Iterable):
        raise GenerationError(f"questions are texts, or a list of them; got {type(questions).__name__}")
    texts = [questions] if isinstance(questions, str) else list(questions)
    for text in texts:
        check_question(text)
    return texts


def _check_batch_size(given: Any) -> None:
    if not isinstance(given, int) or given < 1:
        raise GenerationError(f"batch_size must be a whole number of at least 1; got {given!r}")


def _a_tokenizer(given: Any) -> PreTrainedTokenizerBase:
    if not callable(given) or not callable(getattr(given, "decode", None)):
        raise GenerationError(
            f"tokenizer must be the model's, as AutoTokenizer.from_pretrained loads it; got {given!r}"[:200]
        )
    tokenizer: PreTrainedTokenizerBase = given
    return tokenizer


def check_length(model: PreTrainedModel, encoded: Rows, questions: Sequence[str], max_new_tokens: int) -> None:
    """Checks that questions and their answers fit the model's context.

    Raises:
        TooLongError: one does not.
    """
    room = room_of(model)
    for ids, question in zip(encoded, questions, strict=True):
        if room is not None and len(ids) + max_new_tokens > room:
            raise TooLongError(
                f"the question {question[:40]!r}... takes {len(ids)} tokens and the answer up to {max_new_tokens}; "
                f"the model has room for {room}: shorten the question or lower "
                + argument("max_new_tokens", "--max-new-tokens", ("ask", "chat"), "the longest answer"),
                prompt_tokens=len(ids),
                max_new_tokens=max_new_tokens,
                room=room,
            )


def room_of(model: PreTrainedModel) -> int | None:
    """Tokens of a model's context; None if it does not say."""
    room: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return room
