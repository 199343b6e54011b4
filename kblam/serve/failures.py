"""Errors as OpenAI's clients read them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from kblam.errors import (
    DeviceFullError,
    EncoderError,
    GenerationError,
    GenerationFailedError,
    KblamError,
    RenderingError,
    StoreBusyError,
    StoreReplacedError,
    StoreWriteError,
    TooLongError,
    TripleFormatError,
)

logger = logging.getLogger("kblam")

_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: for the client; it names the value and the fix.
        code: one word for programs.
        param: the parameter at fault.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What the client gets."""
        kind = _TYPE_OF_STATUS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


GONE = 499  # the client has left, and nobody reads the status
SERVER_FAILED = ApiError(500, "the server failed; its log says why", "server_failed")
REPLACED = ApiError(
    503,
    "the file of this knowledge base was removed or replaced while the server ran; what is there now is served after a "
    "restart of the server, other knowledge bases meanwhile",
    "knowledge_base_replaced",
)


class QueueFullError(Exception):
    """So many requests wait already that another one is not taken."""


class NoRoomError(Exception):
    """A knowledge base would become larger than the engine has room for; nothing was changed."""


class BehindError(Exception):
    """A change is in a knowledge base's file, and the engine answers from what it said before.

    Args:
        revision: of the file.
        served: that answers come from.
        reason: what the engine said.
    """

    def __init__(self, revision: int, served: int, reason: str) -> None:
        super().__init__(
            f"the change is in the file, as revision {revision}, and not served yet: answers come from revision "
            f"{served}, since {reason}. The next question or change tries again"
        )


class Json(JSONResponse):
    """JSON in ASCII: any text can be said in it, half a surrogate pair too."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumped(content).encode("ascii")


def dumped(content: Any) -> str:
    """JSON in ASCII, in one line."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def response_of(error: ApiError) -> Json:
    """The response that says an error."""
    return Json(error.body, status_code=error.status, headers=error.headers)


def told(error: BaseException) -> ApiError:
    """What a client is told of an error. What only the server can mend is logged, and told without its paths."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(
            429, "too many requests wait already; try again later", "queue_full", headers={"Retry-After": "1"}
        )
    if isinstance(error, NoRoomError):
        return ApiError(507, str(error), "no_room")
    if isinstance(error, BehindError):
        return ApiError(503, str(error), "not_served_yet", headers={"Retry-After": "1"})
    if isinstance(error, TooLongError):
        return ApiError(400, _too_long(error), "context_length_exceeded", param="messages")
    if isinstance(error, RenderingError):
        logger.warning("%s", error)
        message = "the process that renders the model's chat template failed; try again"
        return ApiError(503, message, "template_failed", headers={"Retry-After": "5"})
    if isinstance(error, GenerationError) and not isinstance(error, GenerationFailedError):
        return ApiError(400, str(error), "cannot_answer")
    if isinstance(error, TripleFormatError):
        return ApiError(400, error.reason, "bad_triple")
    if isinstance(error, StoreBusyError):
        logger.warning("%s", error)
        message = "another process is writing to this knowledge base; nothing was changed, try again"
        return ApiError(503, message, "knowledge_base_busy", headers={"Retry-After": "1"})
    if isinstance(error, StoreWriteError):
        logger.warning("%s", error)
        return ApiError(500, "the knowledge base cannot be written; it is as it was", "write_failed")
    if isinstance(error, StoreReplacedError):
        logger.warning("%s", error)
        return REPLACED
    if isinstance(error, EncoderError):
        logger.warning("%s", error)
        return ApiError(500, "the sentence encoder failed; nothing was changed", "encoder_failed")
    if isinstance(error, MemoryError | DeviceFullError) or type(error).__name__ == "OutOfMemoryError":
        logger.warning("out of memory: %s", error)
        return ApiError(503, "out of memory; try again with less", "out_of_memory", headers={"Retry-After": "5"})
    if isinstance(error, KblamError):
        logger.warning("%s", error)
    else:
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
    return SERVER_FAILED


def _too_long(error: TooLongError) -> str:
    lower = " or lower max_tokens" if error.max_new_tokens > 1 else ""
    return (
        f"the messages take {error.prompt_tokens} tokens and the answer up to {error.max_new_tokens}; the model has "
        f"room for {error.room}: shorten the messages{lower}"
    )
