"""The registry API: what a zone's own Glance API server asks of its registry, in JSON both ways.

Releases up to 20.x keep their heavy bytes themselves and their records here. Answers under `/` and under `/v1`.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store.operations import Delete
from zoned import clock
from zoned.api import documents, images_v1, oldstyle
from zoned.api.answers import by_method, reply, write, write_headers, zone_of
from zoned.api.caller import caller_of
from zoned.api.oldstyle import SHORT, Document, with_locations
from zoned.api.problems import Problem, bad
from zoned.origin import new_uuid

_GOING = ("deleted", "pending_delete")  # an API server says so before it deletes: the delete follows


async def index(request: Request) -> Response:
    images = map(oldstyle.document, await oldstyle.page(request))
    return reply({"images": [{name: one[name] for name in SHORT} for one in images]})


async def detail(request: Request) -> Response:
    return reply({"images": [with_locations(image) for image in await oldstyle.page(request)]})


async def show(request: Request) -> Response:
    return reply({"image": with_locations(oldstyle.find(request, caller_of(request)))})


async def _body(request: Request) -> tuple[Document, Document]:
    """(the image, the whole body). Raises Problem."""
    whole = documents.parse_object(await request.body())
    image = whole.get("image")
    if not isinstance(image, dict):
        raise bad('{"image": {...}} is expected', "bad-json")
    return image, whole


async def create(request: Request) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    meta, _ = await _body(request)
    status = meta.get("status", "active")
    locations = oldstyle.location_values(meta)
    operation = oldstyle.create(meta, meta.get("properties") or {}, locations, status, caller, new_uuid())
    if zone.find(operation.uuid) is not None:
        raise Problem(409, "exists", f"Image with identifier {operation.uuid} already exists!")
    submitted = await write(zone, operation)
    assert submitted.image is not None
    return reply({"image": with_locations(submitted.image)}, headers=write_headers(zone, submitted))


async def change(request: Request) -> Response:
    """Properties that are not sent are kept, unless `X-Glance-Registry-Purge-Props: true`."""
    zone, caller = zone_of(request), caller_of(request)
    image = oldstyle.find(request, caller)
    meta, whole = await _body(request)
    expected = whole.get("from_state")
    if expected is not None and expected != image.fields["status"]:
        raise Problem(409, "bad-status", f"Image is in status {image.fields['status']}, not in {str(expected)[:40]}.")
    fields = oldstyle.fields_of(meta)
    status: Any = meta.get("status")
    if status is not None and status not in _GOING:
        documents.check_field("status", status)
        fields["status"] = status
    purge = request.headers.get("x-glance-registry-purge-props", "false").lower() == "true"
    properties = oldstyle.properties_of(meta.get("properties") or {})
    update = oldstyle.update(image, fields, properties, purge, oldstyle.location_values(meta), caller)
    if update is None:
        return reply({"image": with_locations(image)})
    submitted = await write(zone, update)
    assert submitted.image is not None
    return reply({"image": with_locations(submitted.image)}, headers=write_headers(zone, submitted))


async def delete(request: Request) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    image = oldstyle.find(request, caller)
    caller.check("images.delete", image, "delete this image")
    submitted = await write(zone, Delete(image.uuid, clock.text(clock.wall())))
    gone = submitted.image or image
    return reply({"image": {**with_locations(gone), "deleted": True}}, headers=write_headers(zone, submitted))


routes = [
    by_method("/", GET=index),
    by_method("/images", GET=index, POST=create),
    by_method("/images/detail", GET=detail),
    by_method("/images/{image_id}", GET=show, PUT=change, DELETE=delete),
    *images_v1.member_routes,
]
