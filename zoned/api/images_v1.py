"""Images API v1: metadata in headers, an image by its UUID or its integer. No bytes: a location is registered instead.

Names of fields keep their underscores in answers (`X-Image-Meta-Disk_format`), as Glance's did; in requests `-` and `_`
are the same.
"""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store.images import MEMBERS_MAX, Image
from store.listing import Query, Viewer
from store.operations import Delete, Update
from zoned import clock
from zoned.api import discovery, documents, images_v2, oldstyle
from zoned.api.answers import by_method, reply, write, write_headers, zone_of
from zoned.api.caller import Asked, caller_of
from zoned.api.nearest import nearest
from zoned.api.oldstyle import SHORT, Document
from zoned.api.problems import Problem, bad
from zoned.origin import new_uuid

_META, _PROPERTY = "x-image-meta-", "x-image-meta-property-"
SHARED_MAX = 1_000  # images in one list of what is shared with a project
_NUMBERS = ("size", "min_ram", "min_disk")
_BOOLEANS = ("is_public", "protected")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2: what a header may be called
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_BYTES = "zoned keeps no image data; store it in the object store of the zone and give x-image-meta-location instead"


# Requests.


def _sent(request: Request) -> tuple[Document, dict[str, str]]:
    """(base attributes, properties) from the headers of a request. Raises Problem."""
    meta: Document = {}
    properties: dict[str, str] = {}
    for raw_name, raw_value in request.headers.raw:
        name = raw_name.decode("latin-1").lower().replace("_", "-")
        try:
            value = raw_value.decode()
        except UnicodeDecodeError:
            raise bad(f"the value of {name[:80]} is no UTF-8", "bad-header") from None
        if name.startswith(_PROPERTY):
            properties[name.removeprefix(_PROPERTY).replace("-", "_")] = value
        elif name.startswith(_META):
            field = name.removeprefix(_META).replace("-", "_")
            meta[field] = _typed(field, value)
    return meta, {name: value for name, value in properties.items() if value}


def _typed(field: str, value: str) -> Any:
    """An empty value is null; of booleans only "true" is true."""
    if field in _BOOLEANS:
        return value.lower() == "true"
    if value and field in _NUMBERS:
        if not value.isascii() or not value.isdigit() or len(value) > 19:
            raise bad(f"Cannot convert image {field} '{value[:40]}' to an integer.", "bad-attribute")
        return int(value)
    return value or None


async def _check_no_bytes(request: Request) -> None:
    if "x-glance-api-copy-from" in request.headers or await request.body():
        raise Problem(403, "forbidden", _NO_BYTES)


def _locations(meta: Document) -> list[Document]:
    return [{"url": meta["location"], "metadata": {}}] if meta.get("location") else []


# Answers.


def shown(image: Image) -> Document:
    return oldstyle.document(image, size=0)


def _as_headers(image: Image) -> Response:
    """The record as headers, which is all that HEAD gives. Property names that no header can have are left out."""
    answer = Response(None, 200, media_type="text/html")
    found = shown(image)
    properties = {f"{_PROPERTY}{name}": value for name, value in found.pop("properties").items()}
    for name, value in {**{f"{_META}{name}": value for name, value in found.items()}, **properties}.items():
        if _TOKEN.fullmatch(name):
            text = "" if value is None else str(value)
            answer.raw_headers.append((name.encode(), _CONTROL.sub(" ", text).strip().encode()))
    if image.fields["checksum"]:
        answer.headers["ETag"] = str(image.fields["checksum"])
    if image.integer is not None:
        answer.headers["x-image-meta-zoned_id"] = str(image.integer)
    return answer


def _answer(request: Request, image: Image, status: int, headers: dict[str, str]) -> Response:
    headers = {"Location": f"{discovery.base_url(request)}/v1/images/{image.uuid}", **headers}
    if image.fields["checksum"]:
        headers["ETag"] = str(image.fields["checksum"])
    return reply({"image": shown(image)}, status, headers)


# Routes.


async def index(request: Request) -> Response:
    images = await oldstyle.page(request)
    return reply({"images": [{name: one[name] for name in SHORT} for one in map(shown, images)]})


async def detail(request: Request) -> Response:
    return reply({"images": [shown(image) for image in await oldstyle.page(request)]})


async def head(request: Request) -> Response:
    return _as_headers(oldstyle.find(request, caller_of(request)))


async def download(request: Request) -> Response:
    """Redirects to the bytes."""
    image, zone = oldstyle.find(request, caller_of(request)), zone_of(request)
    url = nearest(caller_of(request).told_locations(image), zone.round_trips_ms(zone.name))
    if image.fields["status"] != "active" or url is None:
        raise Problem(404, "not-active", f"Image {image.uuid} is not active.")
    answer = _as_headers(image)
    answer.status_code = 302
    answer.headers["Location"] = url
    return answer


async def create(request: Request) -> Response:
    await _check_no_bytes(request)
    zone, caller = zone_of(request), caller_of(request)
    meta, properties = _sent(request)
    locations = _locations(meta)
    if locations and (meta.get("disk_format") is None or meta.get("container_format") is None):
        raise bad("Invalid disk or container format for image: both must be given with a location.", "formats-missing")
    status = "active" if locations else "queued"
    operation = oldstyle.create(meta, properties, locations, status, caller, new_uuid())
    caller.check_locations(Asked(operation.fields), operation.locations)
    if zone.find(operation.uuid) is not None:
        raise Problem(409, "exists", f"Image with identifier {operation.uuid} already exists!")
    submitted = await write(zone, operation)
    assert submitted.image is not None
    return _answer(request, submitted.image, 201, write_headers(zone, submitted))


async def change(request: Request) -> Response:
    """Properties that are not sent are removed, unless `x-glance-registry-purge-props: false`."""
    await _check_no_bytes(request)
    zone, caller = zone_of(request), caller_of(request)
    image = oldstyle.find(request, caller)
    meta, sent = _sent(request)
    for name, now in (("id", image.uuid), ("status", image.fields["status"])):
        if meta.get(name, now) != now:
            raise Problem(403, "read-only", f"Forbidden to modify '{name}' of image.")
    fields = oldstyle.fields_of(meta)
    locations = _locations(meta)
    if locations and image.fields["status"] != "queued":
        raise bad("Attempted to update Location field for an image not in queued status.", "bad-location")
    if locations:
        fields["status"] = "active"
    purge = request.headers.get("x-glance-registry-purge-props", "true").lower() == "true"
    update = oldstyle.update(image, fields, oldstyle.properties_of(sent), purge, locations, caller)
    if update is None:
        return _answer(request, image, 200, {})
    caller.check_locations(image, update.locations_added)
    submitted = await write(zone, update)
    assert submitted.image is not None
    return _answer(request, submitted.image, 200, write_headers(zone, submitted))


async def delete(request: Request) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    image = oldstyle.find(request, caller)
    caller.check("images.delete", image, "delete this image")
    submitted = await write(zone, Delete(image.uuid, clock.text(clock.wall())))
    return Response(None, 200, write_headers(zone, submitted))


async def members(request: Request) -> Response:
    caller = caller_of(request)
    return reply(oldstyle.members_document(caller.view(oldstyle.find(request, caller))))


async def replace_members(request: Request) -> Response:
    wanted = oldstyle.memberships(documents.parse_json(await request.body()))
    return await _write_members(request, dict(wanted), only_these=True)


async def put_member(request: Request) -> Response:
    body = await request.body()
    raw = documents.parse_object(body) if body else {}
    member = raw.get("member", {})
    share = isinstance(member, dict) and member.get("can_share") is True
    return await _write_members(request, {request.path_params["member"]: share}, only_these=False)


async def delete_member(request: Request) -> Response:
    return await _write_members(request, {request.path_params["member"]: None}, only_these=False)


async def _write_members(request: Request, wanted: dict[str, bool | None], only_these: bool) -> Response:
    zone, caller = zone_of(request), caller_of(request)
    image = oldstyle.find(request, caller)
    caller.check("images.share", image, "change who the image is shared with")
    changes = oldstyle.member_changes(image, wanted, only_these)
    if len({*image.members, *(name for name, value in wanted.items() if value is not None)}) > MEMBERS_MAX:
        raise Problem(413, "too-many-members", f"an image has at most {MEMBERS_MAX} members")
    if not changes:
        return Response(None, 204)
    submitted = await write(zone, Update(image.uuid, clock.text(clock.wall()), members=changes))
    return Response(None, 204, write_headers(zone, submitted))


async def shared_images(request: Request) -> Response:
    """Images shared with a project, which only it and administrators may ask for."""
    caller, member = caller_of(request), request.path_params["member"]
    if not caller.is_admin and caller.project != member:
        raise Problem(404, "not-found", "No such project for you.")
    asked = Query(SHARED_MAX, hidden=None, visibility="shared", viewer=Viewer(member, oldstyle.STATUSES))
    found = [one.image for one in (await zone_of(request).page(asked)).found if member in one.image.members]
    listed = [{"image_id": image.uuid, "can_share": image.members[member].can_share} for image in found]
    return reply({"shared_images": listed})


on_problem = images_v2.on_problem

member_routes = [
    by_method("/images/{image_id}/members", GET=members, PUT=replace_members),
    by_method("/images/{image_id}/members/{member}", PUT=put_member, DELETE=delete_member),
    by_method("/shared-images/{member}", GET=shared_images),
]
routes = [
    by_method("/", GET=index),
    by_method("/images", GET=index, POST=create),
    by_method("/images/detail", GET=detail),
    by_method("/images/{image_id}", HEAD=head, GET=download, PUT=change, DELETE=delete),
    *member_routes,
]
