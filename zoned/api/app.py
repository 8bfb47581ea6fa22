"""The ASGI application of the public listener and of the admin socket. Any ASGI server that runs on trio can run it."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from structlog.contextvars import bound_contextvars

from store.images import is_uuid
from store.operations import Origin
from zoned import clock
from zoned.api import (
    adoption,
    aliases,
    audit,
    batch,
    conflicts,
    discovery,
    images_v1,
    images_v2,
    native,
    oldest,
    oldstyle,
    openapi,
    operating,
    overview,
    parts_v2,
    problems,
    records,
    registry_v1,
    request_id,
    risk,
    streams,
    ui,
    watching,
    zones,
)
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.caller import CALLER, caller_of, printable
from zoned.api.direct import Direct, Find, with_direct
from zoned.api.durability import with_durability
from zoned.api.freshness import READ_AT, with_freshness
from zoned.api.idempotency import OldStyle, with_idempotency
from zoned.api.lookup import moment, stamps
from zoned.api.witness import for_operators
from zoned.origin import ORIGIN
from zoned.zone import Zone

Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _native_http_error(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    code = {404: "no-route", 405: "method"}.get(error.status_code, "http")
    detail = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return problems.native(problems.Problem(error.status_code, code, detail, error.headers))


async def _images_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problems.images(problems.Problem(error.status_code, "http", error.detail, error.headers), request)


def _face(zone: Zone, routes: list[BaseRoute], on_problem: Handler, on_http_error: Handler) -> Starlette:
    """One API: its routes with its own spelling of errors."""
    handlers: dict[Any, Any] = dict.fromkeys(problems.EXPECTED, on_problem)
    app = Starlette(routes=routes, exception_handlers={**handlers, HTTPException: on_http_error})
    app.state.zone = zone
    app.router.redirect_slashes = False
    return app


def _otherwise(whole: Starlette) -> App:
    """Whatever begins with nothing known is answered with the versions, as Glance does; or `Accept` names one."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        version = discovery.accepted_version(Request(scope).headers.get("accept", ""))
        if version is not None and not scope["path"].startswith("/v"):
            await whole({**scope, "path": f"/{version}{scope['path']}"}, receive, send)
        else:
            await (await discovery.root(Request(scope)))(scope, receive, send)

    return answer


def _described(faces: list[tuple[str, list[BaseRoute]]]) -> list[BaseRoute]:
    """The document of all routes, for programs and for people."""
    document = openapi.document(faces)
    data, page = orjson.dumps(document), openapi.page(document)

    async def for_programs(request: Request) -> Response:
        return Response(data, media_type="application/json")

    async def for_people(request: Request) -> Response:
        return HTMLResponse(page)

    return [Route("/openapi.json", for_programs), Route("/docs", for_people)]


def _often(images: Starlette, native_face: Starlette) -> Find:
    """The writes that instances' backups and builds are made of."""
    told = dict.fromkeys(problems.EXPECTED, images_v2.on_problem)
    change = Direct(images_v2.change, images, told)
    creates = {
        "/v2/images": Direct(images_v2.create, images, told),
        "/zone/v1/images": Direct(native.register, native_face, dict.fromkeys(problems.EXPECTED, native.on_problem)),
    }

    def find(method: str, path: str) -> tuple[Direct, dict[str, str]] | None:
        if method == "POST" and path in creates:
            return creates[path], {}
        if method == "PATCH" and path.startswith("/v2/images/"):
            image_id = path.removeprefix("/v2/images/")
            return (change, {"image_id": image_id}) if is_uuid(image_id) else None
        return None

    return find


def make_app(zone: Zone, admin: Sequence[BaseRoute] = ()) -> App:
    """Everything on :9292 and on the admin socket, which has some routes more."""
    v2: list[BaseRoute] = [*images_v2.routes, *parts_v2.routes, *discovery.routes]
    images = _face(zone, v2, images_v2.on_problem, _images_http_error)
    v1 = _face(zone, list(images_v1.routes), images_v1.on_problem, _images_http_error)
    old = _face(zone, [*images_v1.routes, *oldest.routes], images_v1.on_problem, _images_http_error)
    own: list[BaseRoute] = [
        *batch.routes,
        *native.routes,
        *records.routes,
        *risk.routes,
        *conflicts.routes,
        *audit.routes,
        *aliases.routes,
        *watching.routes,
        *zones.routes,
        *operating.routes,
        *overview.overview_routes(zone),
    ]
    native_face = _face(zone, own, native.on_problem, _native_http_error)
    public = streams.routes(zone)
    described: list[tuple[str, list[BaseRoute]]] = [
        ("/v2", v2),
        ("/v1", [*images_v1.routes]),
        ("/v1.1", [*oldest.routes]),
        ("/zone/v1", own),
    ]
    described.append(("/streams/v1", public))
    routes: list[BaseRoute] = [  # asked in this order, so what is asked most stands first
        Mount("/zone/v1", native_face),
        *admin,
        *((*zones.admin_routes, *operating.admin_routes, *adoption.admin_routes) if admin else ()),
        *(Route(path, discovery.slash) for path in ("/v2", *discovery.ALIASES)),
        *(Mount(path, images) for path in ("/v2", *discovery.ALIASES)),
        Mount("/v1", v1),
        *(Mount(path, old) for path in ("/v1.0", "/v1.1")),
        *_described(described),
        Mount("/streams/v1", _face(zone, public, native.on_problem, _native_http_error)),
        Route("/livez", native.livez),
        Route("/readyz", native.readyz),
        *ui.routes,
        Route("/metrics", operating.metrics(zone)),
        Route("/healthcheck", discovery.healthcheck),
        Route("/versions", discovery.list_versions),
    ]
    whole = _face(zone, routes, native.on_problem, _native_http_error)
    whole.router.default = _otherwise(whole)
    once = with_idempotency(with_direct(whole, _often(images, native_face)), zone, OldStyle(images_v1.shown, 201))
    served = with_freshness(with_durability(once, zone), zone)
    return with_zone_headers(for_operators(served) if zone.is_witness else served, zone)


def make_registry_app(zone: Zone) -> App:
    """What a zone's own Glance API server speaks to, on a listener of its own."""
    face = _face(zone, list(registry_v1.routes), images_v1.on_problem, _images_http_error)
    whole = _face(zone, [Mount("/v1", face), Mount("/", face)], images_v1.on_problem, _images_http_error)
    once = with_idempotency(whole, zone, OldStyle(oldstyle.with_locations, 200))
    return with_zone_headers(with_durability(once, zone), zone)


def with_zone_headers(app: App, zone: Zone) -> App:
    """Adds to every answer where it comes from and as of when, and a request ID; writes are stamped with it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        told_id = scope.get("extensions", {}).get("zoned", {}).get("request_id", "").encode()
        told_id = told_id or request_id.request_id(scope.get("headers", ()))
        if scope["type"] == "http":
            # Each request is its own: nothing has to be put back.
            caller, at = caller_of(Request(scope)), int(clock.wall())
            told = told_id.decode("latin-1")
            ORIGIN.set(Origin(zone.name, caller.name, at, told, project=printable(caller.project or "")))

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                said = [(request_id.HEADER, told_id)]
                if CALLER in scope:  # strangers are not told where the catalogue is
                    said = stamps(zone, scope.get(READ_AT) or moment(zone), told_id)
                    if not zone.is_synced:  # a list holds what this node made itself
                        said.append((b"zone-complete", b"false"))
                message = {**message, "headers": [*message.get("headers", ()), *said]}
            await send(message)

        with bound_contextvars(request_id=told_id.decode("latin-1")):
            await app(scope, receive, send_with_headers)

    return wrapped
