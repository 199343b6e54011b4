"""What a response says of the knowledge that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kblam.errors import EngineRequestError, GenerationError, GenerationFailedError, KblamError, StoreReplacedError
from kblam.generation.answer import Answer, is_refusal
from kblam.generation.evidence import evidence_record
from kblam.generation.plan import Plan
from kblam.generation.reading import planned_text, rests_on
from kblam.vllm.deciding import Decider
from kblam.vllm.files import VersionWords
from kblam.vllm.registry import Loaded


def said_of(error: KblamError) -> dict[str, Any]:
    """What the response of a request that cannot be answered says: why, and whether another request could be."""
    is_ours = isinstance(error, GenerationFailedError)
    return {**_why(error), "of_request": isinstance(error, EngineRequestError | GenerationError) and not is_ours}


def _why(error: KblamError) -> dict[str, Any]:
    """The message, and whether the base's file is another one by now."""
    return {"error": str(error)} | ({"replaced": True} if isinstance(error, StoreReplacedError) else {})


class Samples:
    """What the answers to one request with n > 1 say, each of which is a request to the scheduler.

    vLLM's front end returns what one of them says, that of whichever ended last. So each says what all do.

    Args:
        count: n.

    Attributes:
        said: by index, None of an answer that has not said anything yet.
        left: how many have not ended.
    """

    def __init__(self, count: int) -> None:
        self.said: list[dict[str, Any] | None] = [None] * count
        self.left = count

    def told(self, index: int, said: dict[str, Any]) -> dict[str, Any]:
        """What the output of one answer says, which says so much itself."""
        self.said[index] = said
        return self.of_all()

    def of_all(self) -> dict[str, Any]:
        """What all of them say by now."""
        return {"samples": list(self.said)}


class Response:
    """Of one request, collected over its tokens.

    Args:
        base: name of the knowledge base.
        loaded: the version that the request attends to.
        words: of its triples.
        most: how many triples the response has at most; 0 has none.
        may_end_early: whether the front end may end the request by itself, at a stop string: then every piece of the
            output says what it rests on so far, since none is known to be the last.

    Attributes:
        plan: what was decided to say; None where the model speaks alone.
        decides: whether a `known_above` told known questions from others.
        sample: of several answers to one request, all of them and which one this is; None of one alone.
    """

    def __init__(self, base: str, loaded: Loaded, words: VersionWords, most: int, may_end_early: bool) -> None:
        self.base, self.loaded, self.may_end_early = base, loaded, may_end_early
        self.plan: Plan | None = None
        self.decides = False
        self.sample: tuple[Samples, int] | None = None
        self._most, self._words = most, words
        self._peak: dict[int, float] = {}

    def add(self, found: Sequence[tuple[int, float]]) -> None:
        """Ids of triples and masses at one token: the largest of each is kept, as `Evidence.mass` is."""
        for triple, mass in found:
            self._peak[triple] = max(mass, self._peak.get(triple, 0.0))

    def told(self, said: dict[str, Any]) -> dict[str, Any]:
        """What the output says where this response says so much: that, or of several answers what all say."""
        if self.sample is None:
            return said
        samples, index = self.sample
        return samples.told(index, said)

    def said(self, tokens: Sequence[int], decider: Decider | None) -> dict[str, Any]:
        """Plain values for JSON. Where the file of the base is gone, an "error" in place of words.

        Args:
            tokens: of the answer so far.
            decider: that planned it.
        """
        said: dict[str, Any] = {"knowledge_base": self.base, "revision": self.loaded.revision}
        if self.plan is not None and decider is not None:
            said |= self._decided(self.plan, tokens, decider)
            del said["evidence"]
        if self._most:
            try:
                said["evidence"] = self._evidence()
            except KblamError as error:  # raised, it would end the engine
                said |= _why(error)
        return said

    def _decided(self, plan: Plan, tokens: Sequence[int], decider: Decider) -> dict[str, Any]:
        decision, refusal = plan.decision, decider.asked.config.refusal
        if decision.is_base:
            answer = Answer("", (), False, len(tokens), confidence=decision.confidence, known=False)
            return answer.basis() | {"from_base": True}
        text, length = planned_text(decider.tokenizer, plan, tokens)
        return Answer(
            text,
            (),
            decision.is_refusal or is_refusal(text, refusal),
            len(tokens),
            copied=plan.copied(length) if plan.has_settled(tokens) else (),
            confidence=decision.confidence,
            known=decision.is_known if self.decides else None,
        ).basis() | {"text": text}

    def _evidence(self) -> list[dict[str, Any]]:
        if self.plan is None:
            best = sorted(self._peak.items(), key=lambda item: -item[1])[: self._most]
        else:
            best = [] if self.plan.decision.is_base else rests_on(self.plan.decision, self._peak, self._most)
        words = self._words.of(triple for triple, _ in best)
        changed = self._words.changed()
        return [evidence_record(words[triple], mass, changed=triple in changed) for triple, mass in best]
