"""vLLM's responses on their way to a client: the name it asked by, evidence, and errors as all of this server's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kblam.generation.answer import is_refusal
from kblam.serve.failures import SERVER_FAILED, ApiError, dumped
from kblam.serve.vllm.watch import Watch
from kblam.strict_json import loads

_CODES = {400: "bad_parameter", 404: "not_found", 429: "queue_full", 503: "unavailable"}
_DATA = b"data: "


def knowledge_of(base: str, watch: Watch, refusal: str) -> dict[str, Any]:
    """The field `kblam` of a response: what an answer rests on, as `Answer.basis` has it.

    Where the engine has decided the answer it says its text, to the letter, which a tokenizer may not be able to write.

    Args:
        base: what the client calls the knowledge base.
        watch: over the answer.
        refusal: the adapter's refusal sentence.
    """
    said = dict(watch.knowledge or {})
    said.pop("knowledge_base", None)  # what the engine calls it
    evidence = [
        {**one, "mass": round(one["mass"], 6), "changed": one.get("changed", False)} for one in said.pop("evidence", [])
    ]
    return {
        "knowledge_base": base,
        "revision": None,
        "refused": is_refusal(watch.text, refusal),
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
        watch: over the answer.
        knowledge: makes the field `kblam` when the answer is whole; None for the model alone.
    """

    def __init__(self, model: str, watch: Watch, knowledge: Callable[[], dict[str, Any]] | None) -> None:
        self._model, self._watch, self._knowledge = model, watch, knowledge
        self._rest = b""

    def whole(self, body: bytes) -> bytes:
        """A response that is not a stream."""
        return dumped(self._exact(self._told(loads(body), is_last=True))).encode("ascii")

    def events(self, part: bytes) -> bytes:
        """What of a stream can be sent on after one more part of it."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        return b"".join(self._line(line) + b"\n" for line in lines)

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(_DATA + b"{"):
            return line
        said = loads(line[len(_DATA) :])
        if "error" in said:
            return _DATA + dumped(error_of(said, int(said["error"].get("code") or 500)).body).encode("ascii")
        is_last = any(choice.get("finish_reason") for choice in said.get("choices", ()))
        said = self._told(said, is_last=is_last)
        if said.get("kblam", {}).get("text") == self._watch.text:
            del said["kblam"]["text"]
        return _DATA + dumped(said).encode("ascii")

    def _told(self, said: dict[str, Any], *, is_last: bool) -> dict[str, Any]:
        if "model" in said:
            said = {**said, "model": self._model}
        if self._knowledge is not None and is_last:
            said = {**said, "kblam": self._knowledge()}
            said.pop("kv_transfer_params", None)
        return said

    def _exact(self, said: dict[str, Any]) -> dict[str, Any]:
        """A whole answer with the text that was decided, where no stop string has cut it."""
        text = said.get("kblam", {}).pop("text", None)
        if text is None or isinstance(said["choices"][0].get("stop_reason"), str):
            return said
        (choice,) = said["choices"]
        exact = {"text": text} if "text" in choice else {"message": {**choice["message"], "content": text}}
        return {**said, "choices": [{**choice, **exact}]}


def error_of(said: Any, status: int) -> ApiError:
    """An error of vLLM. What only the server can mend is not told."""
    if status >= 500 and status != 503:
        return ApiError(status, SERVER_FAILED.message, SERVER_FAILED.code)
    error = said.get("error") if isinstance(said, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "vLLM refused the request")
    return ApiError(status, message, _CODES.get(status, "bad_request"), param=error.get("param"))


def first_error(events: bytes) -> ApiError | None:
    """The error that a stream begins with; None if it begins with an answer."""
    line = events.partition(b"\n")[0]
    if not line.startswith(_DATA + b"{"):
        return None
    said = loads(line[len(_DATA) :])
    return error_of(said, int(said["error"].get("code") or 500)) if "error" in said else None
