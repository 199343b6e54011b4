"""The web application: all routes, with what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from kblam import __version__
from kblam.errors import KblamError
from kblam.serve import knowledge, models
from kblam.serve.crowd import Crowd
from kblam.serve.failures import ApiError, BehindError, Json, NoRoomError, QueueFullError, response_of, told
from kblam.serve.guards import BodyLimit, Contained, Ended, KnownHosts, Measured, SafeHeaders
from kblam.serve.metrics import CONTENT_TYPE
from kblam.serve.service import Service

_PAGE = Path(__file__).parent / "page"
_FILES = (
    ("/", "index.html", "text/html"),
    ("/page.js", "page.js", "text/javascript"),
    ("/page.css", "page.css", "text/css"),
)
MIB = 2**20


def make_app(
    service: Service,
    answers: APIRouter,
    *,
    hosts: Collection[str] | None = None,
    most: int = MIB,
    most_of_uploads: int = 16 * MIB,
) -> FastAPI:
    """The application of a server.

    Args:
        answers: the routes that the engine has.
        hosts: names that a request may call this server by; None for any. Without keys, another site's page could
            reach it under a name of its own.
        most, most_of_uploads: bytes of a body, and of one with triples.
    """

    @asynccontextmanager
    async def whole_life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # FastAPI's pages about an API load scripts from elsewhere; docs/serving.md describes it.
    app = FastAPI(title="kblam", version=__version__, openapi_url=None, lifespan=whole_life, redirect_slashes=False)
    for router in (answers, models.routes(service), knowledge.routes(service)):
        app.include_router(router)
    for path, name, kind in _FILES:
        app.add_route(path, _file(name, kind), methods=["GET"])

    @app.api_route("/health", methods=["GET", "HEAD"])  # balancers may ask for the head alone
    async def health() -> Response:
        is_alive = service.engine.is_alive()
        said = {"version": __version__, "engine": service.engine.name, "model": service.model}
        return Json({"status": "ok" if is_alive else "dead", **said}, status_code=200 if is_alive else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        service.keys.check_metrics(request.headers.get("authorization"))
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    _add_errors(app)
    # The last one stands first.
    app.add_middleware(BodyLimit, most=most, most_of_uploads=most_of_uploads)
    if hosts is not None:
        app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(Crowd)
    app.add_middleware(Ended, ending=service.ending)
    app.add_middleware(Contained)
    app.add_middleware(Measured, metrics=service.metrics)
    app.add_middleware(SafeHeaders)
    return app


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_PAGE / name).read_bytes()

    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=kind)

    return endpoint


def _bare(app: FastAPI, request: Request) -> str | None:
    """The path that one with a slash at its end means. It is not redirected: clients lose body or key on the way."""
    bare = request.url.path.rstrip("/")
    if not bare or bare == request.url.path:
        return None
    meant = {**request.scope, "path": bare}
    return bare if any(route.matches(meant)[0] is not Match.NONE for route in app.routes) else None


def _add_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        return response_of(told(error))

    async def bad_query(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return response_of(ApiError(400, f"{name}: {first['msg']}", "bad_parameter", param=name))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        bare = _bare(app, request)
        hint = "docs/serving.md has the paths" if bare is None else f"write {bare}, without the slash at its end"
        message = f"{request.method} {request.url.path[:100]}: {error.detail}; {hint}"
        code = {404: "no_such_path", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return response_of(ApiError(error.status_code, message, code, headers=error.headers))

    app.add_exception_handler(RequestValidationError, bad_query)
    app.add_exception_handler(HTTPException, of_http)
    for kind in (ApiError, KblamError, QueueFullError, NoRoomError, BehindError, MemoryError):
        app.add_exception_handler(kind, known)
