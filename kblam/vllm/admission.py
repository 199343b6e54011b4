"""Requests as they come in: what they ask for is checked, and their question encoded, before the engine sees them.

This runs in the front end (the process of `LLM`, or of the API server), so that a request that cannot be is refused
with an error of its own, and a sentence is encoded beside the model and not between its steps.
"""

from __future__ import annotations

import functools
import threading
import weakref
from dataclasses import dataclass
from typing import Any

from kblam.adapter import AdapterConfig
from kblam.errors import EngineRequestError
from kblam.knowledge import Encoder, KnowledgeBase
from kblam.vllm.registry import Registry
from kblam.vllm.settings import Settings

BASE, QUESTION, EVIDENCE = "kblam_kb", "kblam_question", "kblam_evidence"
# The question's sentence vector, as admission leaves it for the engine.
VECTOR = "kblam_vector"
# What the scheduler adds: see `scheduler.py`.
STAMP = "kblam"


@dataclass(frozen=True)
class Asked:
    """What a request's `extra_args` ask for.

    Args:
        base: name of the knowledge base; None attends to none.
        question: a text; None without.
        vector: its sentence vector, P numbers; None before it was encoded, or without a question.
        evidence: whether the response has evidence.
    """

    base: str | None
    question: str | None = None
    vector: tuple[float, ...] | None = None
    evidence: bool = True


def asked_of(sampling_params: Any) -> Asked:
    """What a request asks for.

    Raises:
        EngineRequestError: a value is of another kind, or there is a question without a base.
    """
    extra = (getattr(sampling_params, "extra_args", None) or {}) if sampling_params is not None else {}
    if unknown := [key for key in extra if key.startswith("kblam_") and key not in (BASE, QUESTION, EVIDENCE, VECTOR)]:
        raise EngineRequestError(f"{unknown[0]} is no argument; there are {BASE}, {QUESTION} and {EVIDENCE}")
    base, question, evidence = extra.get(BASE), extra.get(QUESTION), extra.get(EVIDENCE, True)
    vector = extra.get(VECTOR)
    if base is not None and (not isinstance(base, str) or not base):
        raise EngineRequestError(f"{BASE} must be the name of a knowledge base; got {base!r:.80}")
    if question is not None and (not isinstance(question, str) or not question.strip()):
        raise EngineRequestError(f"{QUESTION} must be a text; got {question!r:.80}")
    if evidence not in (True, False):
        raise EngineRequestError(f"{EVIDENCE} must be true or false; got {evidence!r:.80}")
    if base is None and question is not None:
        raise EngineRequestError(f"{QUESTION} is for a request with a knowledge base; name it in {BASE}")
    return Asked(base, question, None if vector is None else tuple(vector), bool(evidence))


class FrontEnd:
    """Admission to one engine.

    Args:
        vllm_config: of the engine.
        settings: its knowledge.
        adapter: of those.
    """

    def __init__(self, vllm_config: Any, settings: Settings, adapter: AdapterConfig) -> None:
        self.settings, self.adapter = settings, adapter
        self._registry = Registry(vllm_config)
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._encoded = functools.lru_cache(maxsize=4096)(self._encode)

    def knows(self, base: str) -> bool:
        """Whether the engine has that knowledge base now."""
        return base in self._registry.bases()

    def admit(self, params: Any) -> None:
        """Checks a request and encodes its question; `params.extra_args` may become another dict.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        asked = asked_of(params)
        if asked.base is None:
            return
        if not self.knows(asked.base):
            raise EngineRequestError(f"there is no knowledge base {asked.base!r:.80}")
        if self.adapter.question_head is None:
            if asked.question is not None:
                raise EngineRequestError(
                    f"this adapter has no question head, so it cannot use {QUESTION}; leave it out"
                )
            return
        if asked.question is None:
            raise EngineRequestError(
                f"this adapter's knowledge queries need the question: pass it as {QUESTION}, the last user turn alone"
            )
        params.extra_args = {**params.extra_args, VECTOR: list(self._encoded(asked.question))}

    def _encode(self, question: str) -> tuple[float, ...]:
        # One at a time: an encoder is a model of its own, which takes all cores.
        with self._lock:
            if self._encoder is None:
                # That of any base: all of them, and the adapter, have the same.
                path = next(iter(self._registry.bases().values())).path
                with KnowledgeBase.open(path, read_only=True) as base:
                    self._encoder = base.encoder
            vector = self._encoder.encode([question])[0]
        return tuple(float(number) for number in vector)


# The engines that were started in this process, the newest last.
_OPEN: list[tuple[weakref.ref[Any], FrontEnd]] = []


def opens(vllm_config: Any, settings: Settings, adapter: AdapterConfig) -> None:
    """An engine starts in this process."""
    _OPEN[:] = [(config, front) for config, front in _OPEN if config() is not None]
    _OPEN.append((weakref.ref(vllm_config), FrontEnd(vllm_config, settings, adapter)))


def admit(params: Any) -> None:
    """Admits a request to an engine of this process.

    vLLM does not say to which. Where several are open it is the newest that has the base; the scheduler checks again.
    Where none is (further API servers of one engine), only the scheduler checks.

    Raises:
        EngineRequestError: it cannot be answered.
    """
    asked = asked_of(params)
    fronts = [front for config, front in reversed(_OPEN) if config() is not None]
    if asked.base is not None and fronts:
        next((front for front in fronts if front.knows(asked.base)), fronts[0]).admit(params)
