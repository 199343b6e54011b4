"""vLLM's responses on their way to a client: the name it asked by, evidence, and errors as all of this server's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kblam.generation.answer import is_refusal
from kblam.serve.failures import REPLACED, SERVER_FAILED, ApiError, dumped
from kblam.serve.vllm.watch import Said, Watch
from kblam.strict_json import loads

_CODES = {400: "bad_parameter", 404: "not_found", 429: "queue_full", 503: "unavailable"}
_TOO_LONG = ("input_tokens", "input_text")  # what vLLM calls a prompt that its context has no room for
_UNREADABLE = "the file of this knowledge base cannot be read; the server's log says why"
_DATA = b"data: "
Basis = Callable[[Said], dict[str, Any]]


def knowledge_of(base: str, answer: Said, refusal: str) -> dict[str, Any]:
    """The field `kblam`: what an answer rests on, as `Answer.basis` has it.

    Where the engine has decided the answer it says its text, to the letter, which a tokenizer may not be able to write.

    Args:
        base: what the client calls the knowledge base.
        answer: as it was seen.
        refusal: the adapter's refusal sentence.
    """
    said = dict(answer.knowledge or {})
    said.pop("knowledge_base", None)  # what the engine calls it
    if "error" in said:  # of the evidence's words; it may name files
        said["error"] = REPLACED.message if said.pop("replaced", False) else _UNREADABLE
    evidence = [
        {**one, "mass": round(one["mass"], 6), "changed": one.get("changed", False)} for one in said.pop("evidence", [])
    ]
    return {
        "knowledge_base": base,
        "revision": None,
        "refused": is_refusal(answer.text, refusal),
        "known": None,
        "confidence": None,
        "evidence": evidence,
        "copied": [],
        **said,
    }


class Telling:
    """One response.

    Args:
        model: as the client named it.
        watch: over its answers.
        count: of these. Of several each choice says what it rests on, of one the response does.
        knowledge: makes the field `kblam` of an answer that is whole; None for the model alone.

    Attributes:
        failure: the error that a stream has told in the middle; None if it has not.
    """

    def __init__(
        self, model: str, watch: Watch, count: int, knowledge: Callable[[Said], dict[str, Any]] | None
    ) -> None:
        self._model, self._watch, self._is_one, self._knowledge = model, watch, count == 1, knowledge
        self.failure: ApiError | None = None
        self._rest = b""

    def whole(self, body: bytes) -> bytes:
        """A response that is not a stream."""
        said = self._named(loads(body))
        if self._knowledge is not None:
            said.pop("kv_transfer_params", None)
            for choice in said["choices"]:
                basis = self._basis(choice)
                text = basis.pop("text", None)
                if text is not None:
                    (choice if "text" in choice else choice["message"])["text" if "text" in choice else "content"] = (
                        text
                    )
                self._put(said, choice, basis)
        return dumped(said).encode("ascii")

    def events(self, part: bytes) -> bytes:
        """What of a stream can be sent on after one more part of it."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        return b"".join(self._line(line) + b"\n" for line in lines)

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(_DATA + b"{"):
            return line
        said = loads(line[len(_DATA) :])
        if "error" in said:
            self.failure = self.error(said, int(said["error"].get("code") or 500))
            return _DATA + dumped(self.failure.body).encode("ascii")
        said = self._named(said)
        if self._knowledge is not None:
            for choice in said.get("choices", ()):
                if choice.get("finish_reason"):
                    basis = self._basis(choice)
                    if basis.get("text") == self._watch.answers[choice["index"]].text:
                        del basis["text"]
                    self._put(said, choice, basis)
        return _DATA + dumped(said).encode("ascii")

    def _basis(self, choice: dict[str, Any]) -> dict[str, Any]:
        """What a choice rests on. The engine knows of no stop string: what it says ends where the string has cut it."""
        assert self._knowledge is not None
        answer = self._watch.answers[choice["index"]]
        basis, end = self._knowledge(answer), len(answer.text)
        if isinstance(choice.get("stop_reason"), str):
            basis.pop("text", None)
            basis["copied"] = [{**one, "end": min(one["end"], end)} for one in basis["copied"] if one["start"] < end]
        return basis

    def error(self, said: Any, status: int) -> ApiError:
        """What vLLM says where it does not answer, if the engine has not said why."""
        return self._watch.failure or _told(said, status)

    def first_error(self, events: bytes) -> ApiError | None:
        """The error that a stream begins with; None if it begins with an answer."""
        line = events.partition(b"\n")[0]
        if not line.startswith(_DATA + b"{"):
            return None
        said = loads(line[len(_DATA) :])
        return self.error(said, int(said["error"].get("code") or 500)) if "error" in said else None

    def _named(self, said: dict[str, Any]) -> dict[str, Any]:
        return {**said, "model": self._model} if "model" in said else said

    def _put(self, said: dict[str, Any], choice: dict[str, Any], basis: dict[str, Any]) -> None:
        (said if self._is_one else choice)["kblam"] = basis


def _told(said: Any, status: int) -> ApiError:
    """An error of vLLM. What only the server can mend is not told."""
    if status >= 500 and status != 503:
        return ApiError(status, SERVER_FAILED.message, SERVER_FAILED.code)
    error = said.get("error") if isinstance(said, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "vLLM refused the request")
    if error.get("param") in _TOO_LONG:
        return ApiError(status, message, "context_length_exceeded")
    return ApiError(status, message, _CODES.get(status, "bad_request"), param=error.get("param"))
