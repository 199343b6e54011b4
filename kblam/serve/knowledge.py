"""Routes that look into knowledge bases and change them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from kblam.errors import StoreError, TripleFormatError
from kblam.knowledge import Triple
from kblam.knowledge.triples import identity_of
from kblam.serve.bases import Base
from kblam.serve.engine import Engine
from kblam.serve.failures import ApiError, Json, told
from kblam.serve.reading import check_query, check_type, sent
from kblam.serve.service import Service
from kblam.serve.triples import JSON, LINES, one_triple, triples_in

MOST_LISTED, LONGEST_SEARCH, LAST_OFFSET = 1000, 100_000, 10**9
Change = Generator[None, None, dict[str, Any]]
Text = Annotated[str, Query(max_length=LONGEST_SEARCH)]


def routes(service: Service) -> APIRouter:
    """Everything under /v1/knowledge."""

    async def with_key(request: Request) -> None:
        service.tenant_of(request)

    # FastAPI reads a query before it calls what a path does, but after this: nothing is told without a key.
    router = APIRouter(prefix="/v1/knowledge", dependencies=[Depends(with_key)])

    async def change(base: Base, work: Any, *arguments: Any) -> dict[str, Any]:
        began = time.monotonic()
        done: dict[str, Any] = await service.updates(base.place.tenant, work, base, *arguments)
        await service.engine.follow(base)
        service.metrics.update(base.place.label, time.monotonic() - began)
        return done

    def to_change(request: Request, name: str) -> Base:
        base = service.base_of(request, name)
        if service.read_only:
            raise ApiError(403, "this server was started with --read-only: knowledge is not changed here", "read_only")
        return base

    @router.get("")
    async def bases(request: Request) -> Response:
        tenant = service.tenant_of(request)
        check_query(request)
        data = [await service.looks(tenant, _in_list, service, base) for base in service.bases.of(tenant)]
        return Json({"object": "list", "data": data})

    @router.get("/{name}")
    async def stats(request: Request, name: str) -> Response:
        base = service.base_of(request, name)
        check_query(request)
        return Json(await service.looks(base.place.tenant, _stats, service, base))

    @router.get("/{name}/triples")
    async def triples(
        request: Request,
        name: str,
        search: Text = "",
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
        offset: Annotated[int, Query(ge=0, le=LAST_OFFSET)] = 0,
    ) -> Response:
        base = service.base_of(request, name)
        check_query(request, "search", "limit", "offset")
        return Json(await service.looks(base.place.tenant, _listed, base, search, limit, offset))

    @router.post("/{name}/triples")
    async def upload(request: Request, name: str) -> Response:
        base = to_change(request, name)
        check_query(request)
        kind = check_type(request, JSON, *LINES)
        return Json(await change(base, _upload, service.engine, await sent(request), kind))

    @router.put("/{name}/triples")
    async def upsert(request: Request, name: str) -> Response:
        base = to_change(request, name)
        check_query(request)
        check_type(request, JSON)
        return Json(await change(base, _add, service.engine, [one_triple(await sent(request))]))

    @router.delete("/{name}/triples")
    async def delete(
        request: Request, name: str, of: Annotated[str, Query(alias="name")], property: Annotated[str, Query()]
    ) -> Response:
        base = to_change(request, name)
        check_query(request, "name", "property")
        return Json(await change(base, _remove, service.engine, of, property))

    return router


def _named(service: Service, base: Base) -> dict[str, Any]:
    return {"id": base.name, "object": "knowledge_base", "model": service.model_of(base)}


def _summary(service: Service, base: Base) -> dict[str, Any]:
    knowledge_base = base.knowledge_base
    return _named(service, base) | {"triples": len(knowledge_base), "revision": knowledge_base.revision}


def _in_list(service: Service, base: Base) -> dict[str, Any]:
    """As `_summary`. One whose file cannot be read says so, and takes no other out of the list."""
    try:
        return _summary(service, base)
    except StoreError as error:
        return _named(service, base) | {"triples": None, "revision": None, **told(error).body}


def _stats(service: Service, base: Base) -> dict[str, Any]:
    knowledge_base = base.knowledge_base
    names, properties = knowledge_base.distinct()
    return _summary(service, base) | {
        "names": names,
        "properties": properties,
        "common_properties": knowledge_base.properties(most=10),
        "encoder": knowledge_base.encoder_spec,
        "read_only": service.read_only,
        "bytes_on_device": service.engine.knowledge_bytes(base),
    }


def _listed(base: Base, search: str, limit: int, offset: int) -> dict[str, Any]:
    knowledge_base = base.knowledge_base
    wanted = offset + limit + 1
    found = knowledge_base.search(search, limit=wanted, everywhere=True) if search.strip() else knowledge_base.triples()
    part = list(islice(found, offset, wanted))
    return {
        "object": "list",
        "data": [triple.to_record() for triple in part[:limit]],
        "has_more": len(part) > limit,
        "triples": len(knowledge_base),
        "revision": knowledge_base.revision,
    }


def _upload(base: Base, engine: Engine, body: bytes, kind: str) -> Change:
    return (yield from _add(base, engine, triples_in(body, kind)))


def _add(base: Base, engine: Engine, triples: list[Triple]) -> Change:
    engine.check_room(base, triples)
    vectors = yield from base.knowledge_base.encode_ahead(triples)  # other tenants' may go first after each piece
    engine.check_room(base, triples)
    writing = _writing(base, engine, [one.identity for one in triples])
    done = base.knowledge_base.add(triples, writing=writing, remembered=vectors)
    return {
        "added": done.added,
        "updated": done.updated,
        "unchanged": done.unchanged,
        "longer_than_encoder": done.cut,
        **_now(base),
    }


@contextmanager
def _writing(base: Base, engine: Engine, identities: list[tuple[str, str]]) -> Iterator[None]:
    """Around a change of triples. Answers go on while another program holds the file."""
    base.knowledge_base.wait_to_write()
    with base.turns.writing():
        engine.keep(base, identities)
        yield


def _remove(base: Base, engine: Engine, name: str, property: str) -> dict[str, Any]:
    engine.check_room(base, ())
    try:
        with _writing(base, engine, [identity_of(name, property)]):
            count = base.knowledge_base.remove(name, property)
    except TripleFormatError as error:
        raise ApiError(400, error.reason, "bad_triple") from None
    if not count:
        raise ApiError(404, "there is no such triple; GET .../triples?search=WORDS finds triples", "triple_not_found")
    return {"removed": count, **_now(base)}


def _now(base: Base) -> dict[str, Any]:
    return {"triples": len(base.knowledge_base), "revision": base.knowledge_base.revision}
