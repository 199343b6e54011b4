"""What the same model answers without knowledge tokens: alone, with all triples in its prompt, with the nearest five.

The model runs its own attention: nothing is in force while it answers. A batch's facts that all questions share are
read once and kept (the keys and values of the common beginning of the prompts), as any server does.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from kblam.adapter.sentences import Fact
from kblam.counts import count_of, many
from kblam.data.quiz import Quiz
from kblam.evaluation.figures import Figures, Outcome, score
from kblam.evaluation.loop import BATCH, TIMED_TOKENS, Asked, Subject, answer_limits, batches, timed, triples_of
from kblam.evaluation.machine import PeakMemory, Stopwatch, Times, wait_for
from kblam.evaluation.texts import declines, holds
from kblam.generation.answer import is_refusal
from kblam.generation.prompt import left_padded
from kblam.generation.rag import NEAREST, Index, instruction_of, prompt_ids
from kblam.knowledge import Encoder
from kblam.models import attachment_of, cache_name
from kblam.models.devices import input_device

NAMES = ("rag", "in-context", "zero-shot")
# Tokens that the prompts of one batch may hold together: more rows of a long prompt would not be faster.
TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True)
class BaselineRow:
    """What one baseline did with one quiz.

    Args:
        figures: None where it could not be run; `reason` says why.
        times: of questions asked one at a time, as ours are; the shared facts are read already.
        reading_seconds: to read the facts that all questions share, once for a knowledge base; None without any.
        peak_mib: the most memory of the process while it answered; None where the machine does not tell.
        prompt_tokens: of the longest prompt.
        reason: why there are no figures, in words.
    """

    figures: Figures | None
    times: Times | None = None
    reading_seconds: float | None = None
    peak_mib: float | None = None
    prompt_tokens: int = 0
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        record: dict[str, Any] = {} if self.figures is None else self.figures.to_dict()
        record |= {} if self.times is None else self.times.to_dict()
        more = {
            "reading_seconds": self.reading_seconds and round(self.reading_seconds, 2),
            "peak_mib": self.peak_mib and round(self.peak_mib),
            "prompt_tokens": self.prompt_tokens or None,
            "reason": self.reason,
        }
        return record | {name: value for name, value in more.items() if value is not None}


class Chooser(Protocol):
    """Which facts stand in the prompt of a question."""

    def __call__(self, question: str) -> Sequence[Fact]: ...


def nearest(quiz: Quiz, encoder: Encoder, count: int = NEAREST, instruction: str | None = None) -> Chooser:
    """The facts whose key text is nearest to the question by cosine.

    Args:
        instruction: put before a question, and not before the facts; None is what the encoder is known to take.
    """
    before = instruction_of(encoder.spec) if instruction is None else instruction
    index = Index(encoder.encode([triple.key_text for triple in triples_of(quiz)]))

    def choose(question: str) -> list[Fact]:
        return [quiz.facts[place] for place, _ in index(encoder.encode([before + question])[0], count)]

    return choose


def run_baseline(
    name: str,
    subject: Subject,
    encoder: Encoder,
    quizzes: Sequence[Quiz],
    *,
    refusal: str,
    instruction: str | None = None,
    asked: Asked | None = None,
) -> BaselineRow:
    """Puts the quizzes of a row to the model under an attached (or no) adapter, without knowledge.

    Args:
        name: one of NAMES.
        subject: whose model is asked.
        encoder: of the retrieval; not necessarily the adapter's.
        quizzes: the same as the adapter's, each over its own facts.
        refusal: what it is told to say where the facts do not answer.
        instruction: of the retrieval, see `nearest`.
        asked: told of progress.

    Returns:
        The figures of all; times and `reading_seconds` are of the first. None of them where one does not fit.
    """
    memory = PeakMemory(subject.model.device)
    parts: list[_Part] = []
    for quiz in quizzes:
        if name == "rag":
            choose = nearest(quiz, encoder, instruction=instruction)
        else:
            choose = _always(quiz.facts if name == "in-context" else ())
        try:
            parts.append(_run_part(Reader(subject), encoder, quiz, choose, refusal, asked, is_timed=not parts))
        except _NoRoomError as error:
            return BaselineRow(None, prompt_tokens=error.tokens, reason=str(error))
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    if name != "rag":
        outcomes = [replace(outcome, evidence=()) for outcome in outcomes]
    figures = score([question for quiz in quizzes for question in quiz.questions], outcomes)
    if name != "rag":
        figures = replace(figures, top1=math.nan, top5=math.nan)
    longest = max(part.longest for part in parts)
    return BaselineRow(figures, parts[0].times, parts[0].reading_seconds, memory.mib(), longest)


def _always(facts: Sequence[Fact]) -> Chooser:
    return lambda question: facts


@dataclass(frozen=True)
class _Part:
    """What was answered to one quiz, with the facts in its prompt as evidence; the longest prompt in tokens."""

    outcomes: list[Outcome]
    longest: int
    times: Times | None
    reading_seconds: float | None


class _NoRoomError(Exception):
    """Prompts of so many tokens do not fit."""

    def __init__(self, reason: str, tokens: int) -> None:
        super().__init__(reason)
        self.tokens = tokens


def _run_part(
    reader: Reader,
    encoder: Encoder,
    quiz: Quiz,
    choose: Chooser,
    refusal: str,
    asked: Asked | None,
    *,
    is_timed: bool,
) -> _Part:
    """All questions of a quiz; raises `_NoRoomError`."""
    room = getattr(reader.model.config.get_text_config(), "max_position_embeddings", None)
    limits = answer_limits(quiz.questions, reader.tokenizer)
    chosen: list[Sequence[Fact]] = []
    prompts: list[list[int]] = []
    for question in quiz.questions:
        facts = choose(question.text)
        prompt = reader.encode(question.text, facts, refusal)
        chosen.append(facts)
        prompts.append(prompt)
        if room is not None and len(prompt) + max(limits) > room:
            fitting = int(len(facts) * (room - max(limits)) / len(prompt))
            raise _NoRoomError(
                f"{many(len(facts), 'triple takes', 'triples take')} {len(prompt):,} tokens and the model has room for "
                f"{room:,}: about {many(fitting, 'triple fits', 'triples fit')}",
                len(prompt),
            )
    longest = max(map(len, prompts))

    def ask(text: str, watch: Stopwatch) -> None:
        reader.answer([reader.encode(text, choose(text), refusal)], TIMED_TOKENS, streamer=watch)

    try:
        reading = reader.share(prompts)
        texts = _answers(reader, prompts, limits, max(1, min(BATCH, TOKENS_AT_ONCE // longest)), asked)
        times = timed(quiz.questions, encoder, ask) if is_timed else None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{count_of(len(quiz.facts))} ({longest:,} tokens) do not fit into memory"
        raise _NoRoomError(reason, longest) from error
    outcomes = []
    for question, facts, text in zip(quiz.questions, chosen, texts, strict=True):
        says_value = question.facts and all(holds(text, value) for _, _, value in question.facts)
        refused = is_refusal(text, refusal) or (declines(text) and not says_value)
        outcomes.append(Outcome(text, tuple(facts), refused, learned=refused))
    return _Part(outcomes, longest, times, reading)


def _answers(
    reader: Reader, prompts: Sequence[Sequence[int]], limits: Sequence[int], at_once: int, asked: Asked | None
) -> list[str]:
    """The answers in the order of the prompts."""
    found: dict[int, str] = {}
    for places, limit in batches(limits, at_once):
        texts = reader.answer([prompts[place] for place in places], limit)
        found.update(zip(places, texts, strict=True))
        if asked is not None:
            asked(len(places))
    return [found[place] for place in range(len(prompts))]


class Reader:
    """A model that answers from what stands in its prompt.

    Args:
        subject: its model and tokenizer; an attached adapter stays attached, and without knowledge changes nothing.
    """

    def __init__(self, subject: Subject) -> None:
        self.model: Any = subject.model
        self.tokenizer: Any = subject.tokenizer
        self._shared: list[int] = []
        self._cache: DynamicCache | None = None

    def encode(self, question: str, facts: Sequence[Fact], refusal: str) -> list[int]:
        """Token ids of a prompt, see `prompt_ids`."""
        return prompt_ids(self.tokenizer, question, facts or None, refusal)

    @torch.inference_mode()
    def share(self, prompts: Sequence[Sequence[int]]) -> float | None:
        """Reads what all prompts begin with; the seconds that took, or None if it is not worth keeping."""
        first, last = min(map(list, prompts)), max(map(list, prompts))
        common = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first) - 1)
        self._shared, self._cache = list(first[:common]), None
        if common < 64:
            self._shared = []
            return None
        wait_for(self.model.device)
        began = time.perf_counter()
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([self._shared], device=input_device(self.model))
        with self._alone():
            self.model(ids, use_cache=True, logits_to_keep=1, **cache_name.as_argument(self.model, cache))
        wait_for(self.model.device)
        self._cache = cache
        return time.perf_counter() - began

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> list[str]:
        """Greedy answers to one batch of prompts."""
        shared, pad = len(self._shared), self.tokenizer.pad_token_id
        if pad is None:
            pad = self.tokenizer.eos_token_id or 0
        # Padding stands between what is shared and what is not.
        ids, mask = left_padded([prompt[shared:] for prompt in prompts], pad, input_device(self.model))
        if self._cache is not None:
            head = torch.tensor(self._shared, device=ids.device).expand(len(prompts), -1)
            ids, mask = torch.cat((head, ids), 1), torch.cat((torch.ones_like(head), mask), 1)
            cache = copy.deepcopy(self._cache)
            cache.batch_repeat_interleave(len(prompts))
            options |= cache_name.as_argument(self.model, cache)
        with self._alone():
            output = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                **options,
            )
        texts = self.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _alone(self) -> Any:
        """No knowledge, also where the attachment has a default."""
        attachment = attachment_of(self.model)
        return contextlib.nullcontext() if attachment is None else attachment.using(None)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
