"""Bodies of requests: strict JSON, and every field a known one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette.requests import ClientDisconnect, Request

from kblam.serve.failures import ApiError
from kblam.strict_json import loads, problem

_SHOWN = 3


class Strict(BaseModel):
    """A body, or a part of one: no field is unknown, and no value of another type.

    What asks for nothing is as good as left out, whether the field is known or not: null, as at OpenAI, and `NOTHING`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    NOTHING: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: one for name, one in value.items() if one not in (None, cls.NOTHING.get(name))}


Body = TypeVar("Body", bound=Strict)


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The JSON body of a request.

    Raises:
        ApiError: 415 for another content type; 400 for what is not JSON, or not such a body.
    """
    found = await _read(request)
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise refused(error) from None


async def object_of(request: Request) -> dict[str, Any]:
    """The JSON object that is the body of a request, whose fields somebody else knows.

    Raises:
        ApiError: as `body_of`; 400 too for a number or a text that JSON in UTF-8 cannot say.
    """
    found = await _read(request)
    if not isinstance(found, dict):
        raise ApiError(400, "the body: a JSON object", "bad_parameter")
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        half = f"{error.object[error.start]!a}"
        raise ApiError(
            400, f"the request's body holds half a character ({half}), which no UTF-8 has", "bad_json"
        ) from None
    except ValueError:
        raise ApiError(400, "the request's body is not JSON: NaN or infinity is no number of it", "bad_json") from None
    if not _fits(found):
        raise ApiError(400, "the request's body holds a whole number that does not fit in 64 bits", "bad_parameter")
    return found


def _fits(value: Any) -> bool:
    """Whether every whole number can be told to another process."""
    if isinstance(value, dict | list):
        return all(map(_fits, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**64


async def sent(request: Request) -> bytes:
    """The body of a request.

    Raises:
        ApiError: the client hung up; nobody reads the answer, but without one the log would hold a traceback.
    """
    try:
        return await request.body()
    except ClientDisconnect:
        raise ApiError(400, "the client hung up before its request was whole", "bad_json") from None


async def _read(request: Request) -> Any:
    check_type(request, "application/json")
    text = await sent(request)
    try:
        return loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the request's body is {_problem(error)}", "bad_json") from None


def check_type(request: Request, *allowed: str) -> str:
    """The content type of a request. A browser asks before it sends one of these from another site's page.

    Raises:
        ApiError: 415.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in allowed:
        raise ApiError(415, f"send the body as Content-Type: {' or '.join(allowed)}", "bad_content_type")
    return given


def check_query(request: Request, *known: str) -> None:
    """Refuses a parameter of a query that is not known or stands twice, as a field of a body is.

    Raises:
        ApiError: 400.
    """
    there_are = f"there are {', '.join(known)}" if known else "there are none"
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            message = f"{name[:60]}: no parameter of this path; {there_are}"
            raise ApiError(400, message, "unsupported_parameter", param=name[:60])
        if name in seen:
            raise ApiError(400, f"{name} stands twice in the query; keep one of them", "bad_parameter", param=name)
        seen.add(name)


def _problem(error: BaseException) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else problem(error)


def refused(error: ValidationError) -> ApiError:
    """All fields at fault, by name; values are not repeated."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    said = []
    for one in found[:_SHOWN]:
        name = ".".join(map(str, one["loc"])) or "the body"
        if one["type"] == "extra_forbidden":
            said.append(f"{name[:100]}: this server does not support it; leave it out")
        else:
            said.append(f"{name[:100]}: {one['msg'].removeprefix('Value error, ')}")
    if len(found) > _SHOWN:
        said.append(f"and {len(found) - _SHOWN} more")
    param = ".".join(map(str, found[0]["loc"]))[:100] or None
    kind = "unsupported_parameter" if found[0]["type"] == "extra_forbidden" else "bad_parameter"
    return ApiError(400, "; ".join(said), kind, param=param)
