"""`/v1.0/{project}/images` and `/v1.1/...`: what clients of the first clouds list, by integer, read-only.

An image without an integer (none was left when it was made) is not shown: these clients know no other ID.
"""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store.images import Image
from zoned.api import oldstyle
from zoned.api.answers import by_method, reply, zone_of
from zoned.api.caller import caller_of
from zoned.api.oldstyle import Document
from zoned.api.problems import not_found

_STATUSES = {"queued": "QUEUED", "saving": "SAVING", "active": "ACTIVE"}


def _document(image: Image) -> Document:
    fields = image.fields
    status = _STATUSES.get(str(fields["status"]), "UNKNOWN")
    found: dict[str, Any] = {
        "id": image.integer,
        "name": fields["name"],
        "status": status,
        "created": fields["created_at"],
        "updated": fields["updated_at"],
    }
    if status == "SAVING":
        found["progress"] = 0
    return found


async def _page(request: Request) -> list[Image]:
    caller = caller_of(request)
    query = replace(oldstyle.query(request, caller), properties=())
    query = oldstyle.behind_marker(request, caller, query)
    found = (await zone_of(request).page(query)).found
    return [one.image for one in found if one.image.integer is not None]


async def index(request: Request) -> Response:
    return reply({"images": [{"id": one.integer, "name": one.fields["name"]} for one in await _page(request)]})


async def detail(request: Request) -> Response:
    return reply({"images": [_document(image) for image in await _page(request)]})


async def show(request: Request) -> Response:
    image = oldstyle.find(request, caller_of(request))
    if image.integer is None:
        raise not_found(request.path_params["image_id"], zone_of(request).position)
    return reply({"image": _document(image)})


routes = [
    by_method("/{project}/images", GET=index),
    by_method("/{project}/images/detail", GET=detail),
    by_method("/{project}/images/{image_id}", GET=show),
]
