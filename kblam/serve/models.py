"""The names that ask: the model alone, and with each base of whoever asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kblam.serve.bases import Base
from kblam.serve.failures import ApiError, Json
from kblam.serve.reading import check_query
from kblam.serve.service import Service


def routes(service: Service) -> APIRouter:
    """GET /v1/models, GET /v1/models/{id}."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models(request: Request) -> Response:
        mine = _models(service, request)
        check_query(request)
        return Json({"object": "list", "data": mine})

    @router.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        for one in _models(service, request):
            if one["id"] == name:
                check_query(request)
                return Json(one)
        raise _no_model(name)

    return router


def base_named(service: Service, request: Request, model: str, extra: str | None) -> Base | None:
    """The base that a request names; None asks the model alone.

    Args:
        model: its model's name, with a base or without.
        extra: `kblam_kb` of its `vllm_xargs`.

    Raises:
        ApiError: 404 for another model or an unknown base; 400 for two bases, and for RAG without one.
    """
    own, at, name = model.partition("@")
    if own not in (service.model, service.rag):
        raise _no_model(model)
    if at and extra is not None and extra != name:
        raise ApiError(
            400, "the model's name and vllm_xargs name two knowledge bases; name one", "bad_parameter", param="model"
        )
    if at or extra is not None:
        return service.base_of(request, name if extra is None else extra)
    if is_by_rag(service, model):
        raise ApiError(400, f"RAG needs a base; the model's name is {own}@BASE", "bad_parameter", param="model")
    return None


def is_by_rag(service: Service, model: str) -> bool:
    """Whether a model's name in a request asks for RAG."""
    return model.partition("@")[0] == service.rag


def _models(service: Service, request: Request) -> list[dict[str, Any]]:
    bases = service.bases.of(service.tenant_of(request))
    found = [_model(service, None), *[_model(service, base) for base in bases]]
    return found + ([_model(service, base, in_prompt=True) for base in bases] if service.with_rag else [])


def _model(service: Service, base: Base | None, *, in_prompt: bool = False) -> dict[str, Any]:
    name = None if base is None else base.name
    return {
        "id": service.model_of(base, in_prompt=in_prompt),
        "object": "model",
        "created": 0,
        "owned_by": "kblam",
        "root": service.model,
        "kblam": {"knowledge_base": name, "rag": in_prompt},
    }


def _no_model(name: str) -> ApiError:
    return ApiError(
        404, f"there is no model {name[:100]!r}; GET /v1/models lists them", "model_not_found", param="model"
    )
