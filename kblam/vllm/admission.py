"""Requests as they come in: what they ask for is checked, and their question encoded, before the engine sees them.

This runs in the front end (the process of `LLM`, or of the API server), so that a request that cannot be is refused
with an error of its own, and a sentence is encoded beside the model and not between its steps.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from kblam.adapter import AdapterConfig
from kblam.errors import EngineError, EngineRequestError, GenerationError, KblamError, StoreReplacedError
from kblam.generation.decision import Rules
from kblam.generation.parts import as_meant
from kblam.generation.prompt import check_question
from kblam.knowledge import Encoder
from kblam.knowledge.encoders import layered
from kblam.knowledge.encoders.checked import encoded
from kblam.vllm.deciding import foreseen
from kblam.vllm.files import AllNames, BaseNames, opened
from kblam.vllm.registry import Loaded, Registry
from kblam.vllm.response import said_of
from kblam.vllm.settings import UNKNOWN as CHOICES
from kblam.vllm.settings import Settings

BASE, QUESTION, EVIDENCE = "kblam_kb", "kblam_question", "kblam_evidence"
VERBATIM, UNKNOWN, BASE_PROMPT = "kblam_verbatim", "kblam_unknown", "kblam_base_prompt"
ARGUMENTS = (BASE, QUESTION, EVIDENCE, VERBATIM, UNKNOWN, BASE_PROMPT)
# The question's sentence vector, as the front end leaves it for the engine.
VECTOR = "kblam_vector"
# Those of the texts that its decision needs, by text.
VECTORS = "kblam_vectors"
# How many answers a request has, if several: the scheduler sees each of them alone.
SAMPLES = "kblam_samples"
# By which encoder, and which of its layers, these vectors were made.
ENCODER = "kblam_encoder"
# Why the front end could not read what these are made of: the scheduler tells it as it tells its own failures.
FAILED = "kblam_failed"
ADDED = (VECTOR, VECTORS, SAMPLES, ENCODER, FAILED)
_KEPT = 4096
# Characters that a token of a prompt has at most, by a wide margin.
_LONGEST_TOKEN = 16
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
        verbatim: whether the answer is decided and copied from the knowledge base; None where the adapter can.
        unknown: what becomes of an unknown question, in place of the engine's setting.
        base_prompt: token ids that the base model is asked with, where it answers; None makes them from the question.
        vectors: what the judge reads of each text that its decision needs: (L + 1) P numbers.
        encoder: by which the vectors were made, as `FrontEnd` says it.
        failed: why they were not made, as `said_of` says it; None where nothing failed.
    """

    base: str | None
    question: str | None = None
    vector: tuple[float, ...] | None = None
    evidence: bool = True
    verbatim: bool | None = None
    unknown: str | None = None
    base_prompt: tuple[int, ...] | None = None
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    encoder: str | None = None
    failed: Mapping[str, Any] | None = None


def asked_of(sampling_params: Any) -> Asked:
    """What a request asks for.

    Raises:
        EngineRequestError: a value is of another kind, or there is an argument without a base.
    """
    extra = (getattr(sampling_params, "extra_args", None) or {}) if sampling_params is not None else {}
    if unknown := [key for key in extra if key.startswith("kblam_") and key not in (*ARGUMENTS, *ADDED)]:
        raise EngineRequestError(f"{unknown[0]} is no argument; there are {', '.join(ARGUMENTS)}")
    base, question, evidence = extra.get(BASE), extra.get(QUESTION), extra.get(EVIDENCE, True)
    vector = extra.get(VECTOR)
    if base is not None and (not isinstance(base, str) or not base):
        raise EngineRequestError(f"{BASE} must be the name of a knowledge base; got {base!r:.80}")
    if question is not None:
        try:
            check_question(question)
        except GenerationError as error:
            raise EngineRequestError(f"{QUESTION} must be a text; got {question!a:.80}: {error}") from error
    for name, choice in ((EVIDENCE, evidence), (VERBATIM, extra.get(VERBATIM, True))):
        if choice not in (True, False):
            raise EngineRequestError(f"{name} must be true or false; got {choice!r:.80}")
    if base is None and (idle := [name for name in ARGUMENTS if extra.get(name) is not None]):
        raise EngineRequestError(f"{idle[0]} is for a request with a knowledge base; name it in {BASE}")
    if vector is not None and not _are_numbers(vector):
        raise EngineRequestError(f"{VECTOR} must be a list of numbers; got {vector!r:.80}")
    vectors = extra.get(VECTORS, {})
    if not isinstance(vectors, dict) or not all(_are_numbers(one) for one in vectors.values()):
        raise EngineRequestError(f"{VECTORS} must be lists of numbers, by text; got {vectors!r:.80}")
    prompt = extra.get(BASE_PROMPT)
    if prompt is not None and not (
        isinstance(prompt, list | tuple) and prompt and all(type(one) is int for one in prompt)
    ):
        raise EngineRequestError(f"{BASE_PROMPT} must be a list of token ids; got {prompt!r:.80}")
    failed = extra.get(FAILED)
    if failed is not None and not (isinstance(failed, dict) and isinstance(failed.get("error"), str)):
        raise EngineRequestError(f"{FAILED} is the front end's own; leave it out")
    return Asked(
        base,
        question,
        None if vector is None else tuple(vector),
        bool(evidence),
        None if VERBATIM not in extra else bool(extra[VERBATIM]),
        extra.get(UNKNOWN),
        None if prompt is None else tuple(prompt),
        vectors,
        extra.get(ENCODER),
        failed,
    )


def _are_numbers(given: object) -> bool:
    return isinstance(given, list | tuple) and all(type(one) in (int, float) for one in given)


def bending(params: Any) -> list[str]:
    """Sampling parameters that would change the scores of a decided answer after its words were mixed in."""
    asked = {
        "structured_outputs (response_format)": getattr(params, "structured_outputs", None),
        "bad_words": getattr(params, "bad_words", None),
        "logit_bias": getattr(params, "logit_bias", None),
        "allowed_token_ids": getattr(params, "allowed_token_ids", None),
        "min_tokens": getattr(params, "min_tokens", 0),
        "presence_penalty": getattr(params, "presence_penalty", 0),
        "frequency_penalty": getattr(params, "frequency_penalty", 0),
    }
    forced = ("thinking_token_budget", "trace_decode_token_ids")  # 0 says something too
    return [
        *(name for name, value in asked.items() if value),
        *(name for name in forced if getattr(params, name, None) is not None),
    ]


class FrontEnd:
    """Admission to one engine.

    Args:
        vllm_config: of the engine.
        adapter: its config.
    """

    def __init__(self, vllm_config: Any, adapter: AdapterConfig) -> None:
        self.adapter = adapter
        self._settings = Settings.of(vllm_config)
        self._registry = Registry(vllm_config)
        self._model = vllm_config.model_config
        # Of what is known here, held for moments; and of the encoder, one text list at a time: it is a model of its
        # own, which takes all cores, and whoever finds its vectors kept does not wait for it.
        self._lock, self._encoding = threading.RLock(), threading.Lock()
        # With the fingerprint by which it was asked for.
        self._encoder: tuple[str, Encoder] | None = None
        rules = self._settings.rules(adapter)
        self._decides = rules.config.pointer or rules.unknown is not None
        self._names = AllNames(self._registry.bases)
        # By encoder and text, the oldest first; as arrays, since a list of numbers is eight times as large.
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def version_of(self, base: str) -> Loaded | None:
        """What the engine has of a knowledge base now; None if nothing."""
        return self._registry.bases().get(base)

    def rules(self, asked: Asked) -> Rules | None:
        """How the answer to a request is decided; None where the model speaks by itself.

        Raises:
            EngineRequestError: the adapter has nothing to decide so by.
        """
        if asked.unknown is not None and (asked.verbatim is False or asked.unknown not in CHOICES):
            raise EngineRequestError(
                f"{UNKNOWN} must be one of {', '.join(CHOICES)}, and is for answers that are decided; got "
                f"{asked.unknown!r:.80}" + (f" with {VERBATIM}=false" if asked.verbatim is False else "")
            )
        if asked.base is None or asked.verbatim is False:
            return None
        try:
            rules = self._settings.rules(self.adapter, asked.unknown)
        except EngineError as error:
            raise EngineRequestError(str(error)) from error
        if rules.config.pointer or rules.unknown is not None:
            return rules
        if asked.verbatim:
            raise EngineRequestError(f"this adapter has no pointer and no known_above, so {VERBATIM} cannot be had")
        return None

    def check(self, asked: Asked, params: Any) -> Loaded | None:
        """Checks what a request asks for; returns what it gets now, None if it asks for no knowledge.

        Args:
            asked: as the request says it.
            params: its sampling parameters.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        if asked.base is None:
            return None
        loaded = self.version_of(asked.base)
        if loaded is None:
            raise EngineRequestError(f"there is no knowledge base {asked.base!r:.80}")
        rules = self.rules(asked)
        self._check_lengths(asked)
        reads_question = self.adapter.question_head is not None
        if not reads_question and asked.vector is not None:
            raise EngineRequestError(f"this adapter has no question head, so it cannot use {VECTOR}; leave it out")
        if not (reads_question or self._decides) and asked.question is not None:
            raise EngineRequestError(f"this adapter has no question head, so it cannot use {QUESTION}; leave it out")
        if reads_question and asked.question is None:
            raise EngineRequestError(
                f"this adapter's knowledge queries need the question: pass it as {QUESTION}, the last user turn alone"
            )
        if rules is not None and asked.question is None:
            raise EngineRequestError(
                f"an answer is decided by the question's words: pass it as {QUESTION}, the last user turn alone, or "
                f"{VERBATIM}=false to let the model speak by itself"
            )
        if rules is not None and (names := bending(params)):
            raise EngineRequestError(
                f"{', '.join(names)} would change words that are copied from the knowledge base; leave that out, or "
                f"pass {VERBATIM}=false to let the model speak by itself"
            )
        if rules is not None and rules.unknown == "base" and getattr(params, "prompt_logprobs", None) is not None:
            raise EngineRequestError(
                "prompt_logprobs are of the prompt that is read, and the base model may read another one: leave that "
                f'out, or pass another {UNKNOWN} than "base"'
            )
        return loaded

    def _check_lengths(self, asked: Asked) -> None:
        """Of what vLLM does not look at. Token ids that the model does not have would end the engine."""
        longest, vocabulary = self._model.max_model_len, self._model.get_vocab_size()
        if len(asked.question or "") > _LONGEST_TOKEN * longest:  # cutting and encoding it would hold up all others
            raise EngineRequestError(
                f"{QUESTION} has {len(asked.question or ''):,} characters, more than a prompt of {longest:,} tokens "
                "can say; pass the last user turn alone"
            )
        prompt = asked.base_prompt or ()
        if wrong := [one for one in prompt if not 0 <= one < vocabulary]:
            raise EngineRequestError(f"{BASE_PROMPT} has token {wrong[0]}, and the model's are 0 to {vocabulary - 1:,}")
        if len(prompt) >= longest:
            raise EngineRequestError(
                f"{BASE_PROMPT} takes {len(prompt):,} tokens, and with its answer there is room for {longest:,}"
            )

    def check_encoded(self, asked: Asked, params: Any) -> Loaded | None:
        """As `check`, of a request whose question was encoded.

        Raises:
            EngineRequestError: it cannot be answered.
            StoreReplacedError, EngineError: the front end could not read what it needed for that.
        """
        loaded = self.check(asked, params)
        if loaded is not None and asked.failed is not None:
            raise _as_it_was(asked.failed)
        width = self.adapter.embedding_dim
        wide = width * (len(self.adapter.property_layers) + 1)
        is_encoded = self.adapter.question_head is None or asked.question is None or len(asked.vector or ()) == width
        if not is_encoded or any(len(vector) != wide for vector in asked.vectors.values()):
            raise EngineRequestError(
                f"{QUESTION} was not encoded to {width} numbers: this front end did not start the engine"
            )
        if loaded is not None and (asked.vector or asked.vectors) and asked.encoder != self._encoded_by(loaded):
            raise EngineRequestError(
                f"{QUESTION} was encoded for another engine of this process, which has a base {asked.base!r:.80} of "
                "another encoder; give the bases of the engines different names"
            )
        return loaded

    def admit(self, params: Any) -> None:
        """Checks a request and encodes its question; `params.extra_args` may become another dict.

        What is no fault of the request's (a file that was replaced, an encoder that fails) is told in its answer, as
        the scheduler's failures are: raised here, it would end a whole `LLM.generate`.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        asked = asked_of(params)
        if asked.base is None:
            return
        extra = {key: value for key, value in params.extra_args.items() if key not in ADDED}
        if params.n > 1:
            extra[SAMPLES] = params.n
        params.extra_args = extra
        try:
            extra |= self._read_for(asked, params)
        except EngineRequestError:
            raise
        except KblamError as error:
            extra[FAILED] = said_of(error)

    def _read_for(self, asked: Asked, params: Any) -> dict[str, Any]:
        """What a request brings to the scheduler beside what it says itself."""
        loaded = self.check(asked, params)
        if loaded is None or asked.question is None:
            return {}
        rules = self.rules(asked)
        question, vectors = self._read(asked.question, loaded, rules)
        found: dict[str, Any] = {ENCODER: self._encoded_by(loaded)}
        if self.adapter.question_head is not None:
            found[VECTOR] = vectors[question][-self.adapter.embedding_dim :].tolist()
        if rules is not None:
            found[VECTORS] = {text: vector.tolist() for text, vector in vectors.items()}
        return found

    def encode_ahead(self, asked: Asked) -> None:
        """Keeps what `admit` will need of a question, from any thread. What cannot be answered is `admit`'s to refuse.

        Raises:
            EncoderError, StoreError: as `admit`.
        """
        loaded = None if asked.base is None else self.version_of(asked.base)
        if loaded is None or asked.question is None:
            return
        try:
            self._check_lengths(asked)
            rules = self.rules(asked)
        except EngineRequestError:
            return
        self._read(asked.question, loaded, rules)

    def _read(self, question: str, loaded: Loaded, rules: Rules | None) -> tuple[str, dict[str, np.ndarray]]:
        """A question as it is meant, and the vectors of all texts that answering it needs."""
        is_judged = rules is not None or self.adapter.confidence is not None
        names = self._names_of(loaded) if is_judged else None
        encoder = self._its_encoder(loaded)
        question = as_meant(self.adapter, question, names, encoder)
        texts = [question] if rules is None or names is None else foreseen(question, names, rules)
        return question, self._encoded(texts, encoder)

    def _names_of(self, loaded: Loaded) -> BaseNames:
        with self._lock:
            return self._names.of(loaded)

    def _encoded_by(self, loaded: Loaded) -> str:
        return " ".join([loaded.encoder, *map(str, self.adapter.property_layers)])

    def _its_encoder(self, loaded: Loaded) -> Encoder:
        """That of a base, and of all others that the engine has now.

        Raises:
            StoreError: the base's file cannot be read, or is another one by now, which may be of another encoder.
        """
        held = self._encoder
        if held is None or held[0] != loaded.encoder:
            with self._encoding:
                held = loaded.encoder, layered(opened(loaded).encoder, self.adapter.property_layers)
                self._encoder = held
        return held[1]

    def _encoded(self, texts: list[str], encoder: Encoder) -> dict[str, np.ndarray]:
        """The sentence vectors of texts, with the layers before them that the judge reads, each encoded once."""
        found = self._kept_of(texts, encoder)
        if len(found) < len(set(texts)):
            with self._encoding:
                found |= self._kept_of(texts, encoder)  # another thread may have had the same
                if new := [text for text in dict.fromkeys(texts) if text not in found]:
                    # Copies and not views, which would keep all of them.
                    made = [vector.copy() for vector in encoded(encoder, new)]
                    found |= zip(new, made, strict=True)
                    self._keep(encoder, dict(zip(new, made, strict=True)))
        return {text: found[text] for text in texts}

    def _keep(self, encoder: Encoder, made: Mapping[str, np.ndarray]) -> None:
        with self._lock:
            self._kept |= {(encoder.fingerprint, text): vector for text, vector in made.items()}
            for oldest in list(itertools.islice(self._kept, max(0, len(self._kept) - _KEPT))):
                del self._kept[oldest]

    def _kept_of(self, texts: list[str], encoder: Encoder) -> dict[str, np.ndarray]:
        with self._lock:
            return {text: self._kept[key] for text in texts if (key := (encoder.fingerprint, text)) in self._kept}


def _as_it_was(failed: Mapping[str, Any]) -> KblamError:
    """An error of which `said_of` says the same."""
    if failed.get("of_request"):
        return EngineRequestError(failed["error"])
    return (StoreReplacedError if failed.get("replaced") else EngineError)(failed["error"])


# The engines that were started in this process, the newest last.
_OPEN: list[tuple[weakref.ref[Any], FrontEnd]] = []


def opens(vllm_config: Any, adapter: AdapterConfig) -> None:
    """An engine starts in this process."""
    _OPEN[:] = [(config, front) for config, front in _OPEN if config() is not None]
    _OPEN.append((weakref.ref(vllm_config), FrontEnd(vllm_config, adapter)))


def admit(params: Any) -> None:
    """Admits a request to an engine of this process.

    vLLM does not say to which. Where several are open it is the newest that has the base; the scheduler checks again.
    Where none is (a front end that has not started the engine), only the scheduler checks.

    Raises:
        EngineRequestError: it cannot be answered.
    """
    asked = asked_of(params)
    if (front := _front_of(asked)) is not None:
        front.admit(params)


def encode_ahead(extra_args: Mapping[str, Any]) -> None:
    """Encodes a request's question before it is admitted, from any thread; vLLM admits in the loop that serves all.

    Args:
        extra_args: of the request's sampling parameters.

    Raises:
        EncoderError, StoreError: the question cannot be encoded.
    """
    try:
        asked = asked_of(SimpleNamespace(extra_args=extra_args))
    except EngineRequestError:
        return  # `admit` says so
    if (front := _front_of(asked)) is not None:
        front.encode_ahead(asked)


def _front_of(asked: Asked) -> FrontEnd | None:
    fronts = [front for config, front in reversed(_OPEN) if config() is not None]
    if asked.base is None or not fronts:
        return None
    if len(fronts) == 1:  # nothing is read to choose it
        return fronts[0]
    return next((front for front in fronts if front.version_of(asked.base) is not None), fronts[0])
