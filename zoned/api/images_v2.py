"""Images API v2: create, show, list, change, delete. Metadata only; the bytes stay in the zones' object stores.

Statuses and bodies are Glance's; where Glance is known to be wrong (lost updates, a `next` link to an empty page) this
is right.
"""

import uuid
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from store.images import VISIBILITIES
from store.listing import NEWEST, Query, place
from store.operations import Delete
from zoned import clock
from zoned.api import documents, patches, problems
from zoned.api.answers import (
    by_method,
    if_match,
    is_not_modified,
    look_up,
    query_integer,
    record_headers,
    reply,
    runway_header,
    write,
    write_headers,
    zone_of,
)
from zoned.api.problems import Problem, bad

LIMIT_DEFAULT = 25
LIMIT_MAX = 1_000
_COLUMNS = {"id": "uuid", **{name: name for name in ("name", "owner", "status", "visibility")}}


def _as_glance(error: Problem) -> Problem:
    """Deleted is 404 here, as in Glance."""
    if error.code == "gone":
        error.status = 404
    return error


async def create(request: Request) -> Response:
    zone = zone_of(request)
    operation = documents.images_create(documents.parse_object(await request.body()), str(uuid.uuid4()))
    if zone.find(operation.uuid) is not None:
        raise Problem(409, "exists", f"Image ID {operation.uuid} already exists!")
    try:
        submitted = await write(zone, operation)
    except Problem as problem:
        # Somebody else used the ID meanwhile, perhaps for an image deleted since: never again, says Glance too.
        raise Problem(409, problem.code, problem.detail) if problem.code == "gone" else problem from None
    assert submitted.image is not None
    location = f"{request.url.scheme}://{request.url.netloc}/v2/images/{operation.uuid}"
    headers = {"Location": location, **write_headers(zone, submitted), **runway_header(zone)}
    return reply(documents.images_document(submitted.image), 201, headers)


async def show(request: Request) -> Response:
    found = look_up(zone_of(request), request.path_params["image_id"], integers=False)
    if is_not_modified(request, found):
        return Response(None, 304, record_headers(found))
    return reply(documents.images_document(found.image), headers=record_headers(found))


async def change(request: Request) -> Response:
    zone, image_id = zone_of(request), request.path_params["image_id"]
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    supported = (patches.V21, patches.V20, patches.STANDARD)
    if media_type not in supported:
        listed = ", ".join(supported)
        raise Problem(415, "media-type", f"Content-Type must be one of {listed}", {"Accept-Patch": listed})
    steps = patches.parse(documents.parse_json(await request.body()), media_type)
    found = look_up(zone, image_id, integers=False)
    update = patches.changes(found.image, steps, clock.text(clock.wall()), if_match(request))
    if update is None:
        return reply(documents.images_document(found.image), headers=record_headers(found))
    submitted = await write(zone, update)
    assert submitted.image is not None
    headers = {"ETag": f'"{submitted.image.write}"', **write_headers(zone, submitted)}
    return reply(documents.images_document(submitted.image), headers=headers)


async def delete(request: Request) -> Response:
    zone, image_id = zone_of(request), request.path_params["image_id"]
    look_up(zone, image_id, integers=False)
    submitted = await write(zone, Delete(image_id.lower(), clock.text(clock.wall()), if_match(request)))
    return Response(None, 204, write_headers(zone, submitted))


async def index(request: Request) -> Response:
    zone = zone_of(request)
    limit = query_integer(request, "limit", LIMIT_DEFAULT, 0, LIMIT_MAX)
    after = None
    marker = request.query_params.get("marker")
    if marker is not None:
        found = zone.find(marker.lower())
        if found is None or found.image.deleted_at is not None:
            raise bad(f"Image {marker[:80]} could not be found: the marker must be the ID of an image.", "bad-marker")
        after = place(found.image, NEWEST)
    tests = tuple((column, "=", value) for column, value in _equals(request))
    page = await zone.page(Query(limit, after=after, hidden=_hidden(request), tests=tests))
    body = {
        "images": [documents.images_document(found.image) for found in page.found],
        "first": _link(request, None),
        "schema": "/v2/schemas/images",
    }
    if page.more and page.found:
        body["next"] = _link(request, page.found[-1].image.uuid)
    return reply(body)


def _hidden(request: Request) -> bool:
    text = request.query_params.get("os_hidden", "false").lower()
    if text not in ("true", "false"):
        raise bad(f"os_hidden must be true or false, is {text[:40]!r}", "bad-query")
    return text == "true"


def _equals(request: Request) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        if name in ("limit", "marker", "os_hidden") or (name == "visibility" and value == "all"):
            continue
        if name not in _COLUMNS:
            known = ", ".join(("limit", "marker", "os_hidden", *_COLUMNS))
            raise bad(f"{name[:80]} cannot be asked for yet; known are {known}", "bad-query")
        if _COLUMNS[name] in dict(found):
            raise bad(f"{name} is given twice", "bad-query")
        if name == "visibility" and value not in VISIBILITIES:
            raise bad(f"Invalid visibility value: {value[:40]}", "bad-query")
        found.append((_COLUMNS[name], value.lower() if name == "id" else value))
    return tuple(found)


def _link(request: Request, marker: str | None) -> str:
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "marker"]
    if marker is not None:
        query.append(("marker", marker))
    return "/v2/images" + (f"?{urlencode(query)}" if query else "")


async def on_problem(request: Request, error: Exception) -> Response:
    """Expected errors of these routes, as Glance spells them."""
    return problems.images(_as_glance(problems.from_error(error)), request)


routes = [
    by_method("/images", POST=create, GET=index),
    by_method("/images/{image_id}", GET=show, PATCH=change, DELETE=delete),
]
