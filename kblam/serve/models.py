"""The names that ask: the model alone, and with each base of whoever asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kblam.serve.bases import Base
from kblam.serve.failures import ApiError, Json
from kblam.serve.service import Service


def routes(service: Service) -> APIRouter:
    """GET /v1/models, GET /v1/models/{id}."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models(request: Request) -> Response:
        bases: list[Base | None] = [None, *service.bases.of(service.tenant_of(request))]
        return Json({"object": "list", "data": [_model(service, base) for base in bases]})

    @router.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        tenant = service.tenant_of(request)
        for base in [None, *service.bases.of(tenant)]:
            if service.model_of(base) == name:
                return Json(_model(service, base))
        raise _no_model(name)

    return router


def base_named(service: Service, request: Request, model: str, extra: str | None) -> Base | None:
    """The base that a request names; None asks the model alone.

    Args:
        model: its model's name, with a base or without.
        extra: `kblam_kb` of its `vllm_xargs`.

    Raises:
        ApiError: 404 for another model or an unknown base; 400 for two bases.
    """
    own, at, name = model.partition("@")
    if own != service.model:
        raise _no_model(model)
    if at and extra is not None and extra != name:
        raise ApiError(
            400, "the model's name and vllm_xargs name two knowledge bases; name one", "bad_parameter", param="model"
        )
    if not at and extra is None:
        return None
    return service.base_of(request, name if extra is None else extra)


def _model(service: Service, base: Base | None) -> dict[str, Any]:
    name = None if base is None else base.name
    return {
        "id": service.model_of(base),
        "object": "model",
        "created": 0,
        "owned_by": "kblam",
        "root": service.model,
        "kblam": {"knowledge_base": name},
    }


def _no_model(name: str) -> ApiError:
    return ApiError(
        404, f"there is no model {name[:100]!r}; GET /v1/models lists them", "model_not_found", param="model"
    )
