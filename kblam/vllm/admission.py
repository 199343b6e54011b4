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
from kblam.vllm.registry import Loaded, Registry

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
    numbers = vector is None or (isinstance(vector, list | tuple) and all(type(one) in (int, float) for one in vector))
    if not numbers:
        raise EngineRequestError(f"{VECTOR} must be a list of numbers; got {vector!r:.80}")
    return Asked(base, question, None if vector is None else tuple(vector), bool(evidence))


class FrontEnd:
    """Admission to one engine.

    Args:
        vllm_config: of the engine.
        adapter: its config.
    """

    def __init__(self, vllm_config: Any, adapter: AdapterConfig) -> None:
        self.adapter = adapter
        self._registry = Registry(vllm_config)
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._encoded = functools.lru_cache(maxsize=4096)(self._encode)

    def version_of(self, base: str) -> Loaded | None:
        """What the engine has of a knowledge base now; None if nothing."""
        return self._registry.bases().get(base)

    def check(self, asked: Asked) -> Loaded | None:
        """Checks what a request asks for; returns what it gets now, None if it asks for no knowledge.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        if asked.base is None:
            return None
        loaded = self.version_of(asked.base)
        if loaded is None:
            raise EngineRequestError(f"there is no knowledge base {asked.base!r:.80}")
        if self.adapter.question_head is None and (asked.question is not None or asked.vector is not None):
            raise EngineRequestError(f"this adapter has no question head, so it cannot use {QUESTION}; leave it out")
        if self.adapter.question_head is not None and asked.question is None:
            raise EngineRequestError(
                f"this adapter's knowledge queries need the question: pass it as {QUESTION}, the last user turn alone"
            )
        return loaded

    def check_encoded(self, asked: Asked) -> Loaded | None:
        """As `check`, of a request whose question was encoded.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        loaded = self.check(asked)
        if asked.question is not None and len(asked.vector or ()) != self.adapter.embedding_dim:
            raise EngineRequestError(
                f"{QUESTION} was not encoded to {self.adapter.embedding_dim} numbers: this front end did not start the "
                "engine"
            )
        return loaded

    def admit(self, params: Any) -> None:
        """Checks a request and encodes its question; `params.extra_args` may become another dict.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        asked = asked_of(params)
        self.check(asked)
        if asked.question is not None:
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


def opens(vllm_config: Any, adapter: AdapterConfig) -> None:
    """An engine starts in this process."""
    _OPEN[:] = [(config, front) for config, front in _OPEN if config() is not None]
    _OPEN.append((weakref.ref(vllm_config), FrontEnd(vllm_config, adapter)))


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
        next((front for front in fronts if front.version_of(asked.base) is not None), fronts[0]).admit(params)
