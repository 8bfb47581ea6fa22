"""Images API v2: create, show, list, change, delete. Metadata only; the bytes stay in the zones' object stores.

Statuses and bodies are Glance's; where Glance is known to be wrong (lost updates, a `next` link to an empty page) this
is right.
"""

from starlette.requests import Request
from starlette.responses import Response

from store.catalogue import Found
from store.operations import Delete
from zoned import clock
from zoned.api import discovery, documents, pages, patches, prepared, problems
from zoned.api.answers import (
    JSON,
    by_method,
    check_no_body,
    check_rule,
    if_match,
    is_not_modified,
    record_headers,
    reply,
    runway_header,
    seen,
    write,
    write_headers,
    zone_of,
)
from zoned.api.caller import caller_of
from zoned.api.prepared import Sight
from zoned.api.problems import Problem
from zoned.origin import is_repeatable, new_uuid


def _as_glance(error: Problem) -> Problem:
    """Deleted is 404 here, as in Glance."""
    if error.code == "gone":
        error.status = 404
    return error


def visible(request: Request) -> Found:
    """The image of the path. Raises Problem: one that the caller may not see is not found, as in Glance."""
    zone, image_id = zone_of(request), request.path_params["image_id"]
    found = seen(zone, caller_of(request), image_id, integers=False)
    check_rule(zone, found.image)
    return found


async def create(request: Request) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    caller.check_creates()
    document = documents.parse_object(await request.body())
    fresh = new_uuid()
    operation = documents.images_create(document, fresh, caller)
    if (operation.uuid != fresh or is_repeatable()) and zone.find(operation.uuid) is not None:
        raise Problem(409, "exists", f"Image ID {operation.uuid} already exists!")
    try:
        submitted = await write(zone, operation)
    except Problem as problem:
        # Somebody else used the ID meanwhile, perhaps for an image deleted since: never again, says Glance too.
        raise Problem(409, problem.code, problem.detail) if problem.code == "gone" else problem from None
    assert submitted.image is not None
    location = f"{discovery.base_url(request)}/v2/images/{operation.uuid}"
    headers = {"Location": location, **write_headers(zone, submitted), **runway_header(zone)}
    return reply(documents.images_document(caller.view(submitted.image)), 201, headers)


async def show(request: Request) -> Response:
    check_no_body(request)
    found = visible(request)
    if is_not_modified(request, found):
        return Response(None, 304, record_headers(found))
    body = Sight(caller_of(request)).body(found, prepared.images)
    return Response(body, headers=record_headers(found), media_type=JSON)


async def change(request: Request) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    supported = (patches.V21, patches.V20, patches.STANDARD)
    if media_type not in supported:
        listed = ", ".join(supported)
        raise Problem(415, "media-type", f"Content-Type must be one of {listed}", {"Accept-Patch": listed})
    steps = patches.parse(documents.parse_json(await request.body()), media_type)
    found = visible(request)
    caller.check("images.change", found.image, "modify this image")
    update = patches.changes(found.image, steps, clock.text(clock.wall()), if_match(request), caller)
    if update is None:
        return reply(documents.images_document(caller.view(found.image)), headers=record_headers(found))
    submitted = await write(zone, update)
    assert submitted.image is not None
    headers = {"ETag": f'"{submitted.image.write}"', **write_headers(zone, submitted)}
    return reply(documents.images_document(caller.view(submitted.image)), headers=headers)


async def delete(request: Request) -> Response:
    check_no_body(request)
    zone, found = zone_of(request), visible(request)
    caller_of(request).check("images.delete", found.image, "delete this image")
    submitted = await write(zone, Delete(found.image.uuid, clock.text(clock.wall()), if_match(request)))
    return Response(None, 204, write_headers(zone, submitted))


async def index(request: Request) -> Response:
    check_no_body(request)
    zone, caller = zone_of(request), caller_of(request)
    query = pages.question(request.query_params, caller, zone.find)
    body = pages.answer(request.query_params, caller, await zone.page(query))
    return Response(body, media_type=JSON)


async def on_problem(request: Request, error: Exception) -> Response:
    """Expected errors of these routes, as Glance spells them."""
    return problems.images(_as_glance(problems.from_error(error)), request)


routes = [
    by_method("/images", POST=create, GET=index),
    by_method("/images/{image_id}", GET=show, PATCH=change, DELETE=delete),
]
