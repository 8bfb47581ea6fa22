"""Images API v2: what belongs to an image: its tags, image members, locations, status actions, bytes.

Each route here is one write of one part, so that concurrent writes of different parts all survive.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store.images import MEMBER_STATUSES, MEMBERS_MAX, NAME_CHARS_MAX, TAGS_MAX, Image, Scalar, text_problem
from store.operations import Change, MemberChange, Update
from zoned import clock
from zoned.api import documents, locations
from zoned.api.answers import by_method, check_no_body, reply, write, write_headers, zone_of
from zoned.api.caller import caller_of
from zoned.api.images_v2 import visible
from zoned.api.nearest import nearest
from zoned.api.problems import Problem, bad
from zoned.masking import masked_url
from zoned.proxy import Submitted


async def _update(request: Request, image: Image, **changes: Any) -> Submitted:
    return await write(zone_of(request), Update(image.uuid, clock.text(clock.wall()), **changes))


# Tags.


async def put_tag(request: Request) -> Response:
    check_no_body(request)
    image, tag = visible(request).image, request.path_params["tag"]
    caller_of(request).check("images.change", image, "modify this image")
    problem = text_problem(tag, NAME_CHARS_MAX)
    if problem:
        raise bad(f"Invalid value for tag {tag[:40]!r}: {problem}", "bad-tag")
    if tag in image.tags:
        return Response(None, 204)
    if len(image.tags) >= TAGS_MAX:
        raise Problem(413, "too-many-tags", f"an image has at most {TAGS_MAX} tags")
    return Response(None, 204, write_headers(zone_of(request), await _update(request, image, tags_added=(tag,))))


async def delete_tag(request: Request) -> Response:
    check_no_body(request)
    image, tag = visible(request).image, request.path_params["tag"]
    caller_of(request).check("images.change", image, "modify this image")
    if tag not in image.tags:
        raise Problem(404, "not-found", f"Image {image.uuid} has no tag {tag[:80]!r}.")
    return Response(None, 204, write_headers(zone_of(request), await _update(request, image, tags_removed=(tag,))))


# Image members.


async def members(request: Request) -> Response:
    """Owners and administrators see all; an image member sees itself."""
    image, caller = visible(request).image, caller_of(request)
    if image.fields["visibility"] != "shared":
        raise Problem(403, "not-shared", "Only shared images have members.")
    shown = [one for one in sorted(image.members) if caller.may("images.see_members", image) or one == caller.project]
    return reply({"members": [documents.member_document(image, one) for one in shown], "schema": "/v2/schemas/members"})


def _member(request: Request) -> tuple[Image, str]:
    """The image and the image member of the path. Raises Problem."""
    image, caller, project = visible(request).image, caller_of(request), request.path_params["member"]
    if project not in image.members or not (caller.may("images.see_members", image) or project == caller.project):
        raise Problem(404, "not-found", f"{project[:80]!r} is no member of image {image.uuid}.")
    return image, project


async def add_member(request: Request) -> Response:
    document = documents.parse_object(await request.body())
    project = document.get("member")
    if not isinstance(project, str) or not project or text_problem(project, NAME_CHARS_MAX):
        raise bad('Member to be added not specified: {"member": PROJECT} is expected', "bad-member")
    image = visible(request).image
    caller_of(request).check("images.share", image, "create image members for the image")
    if image.fields["visibility"] != "shared":
        raise Problem(403, "not-shared", "Only shared images have members.")
    if project in image.members:
        raise Problem(409, "exists", f"{project[:80]!r} is already associated with image {image.uuid}.")
    if len(image.members) >= MEMBERS_MAX:
        raise Problem(413, "too-many-members", f"an image has at most {MEMBERS_MAX} members")
    return await _write_member(request, image, project, (None, ("pending", False)))


async def _write_member(request: Request, image: Image, project: str, change: MemberChange) -> Response:
    submitted = await _update(request, image, members={project: change})
    headers = write_headers(zone_of(request), submitted)
    if submitted.image is None or project not in submitted.image.members:
        return Response(None, 204, headers)
    return reply(documents.member_document(submitted.image, project), headers=headers)


async def show_member(request: Request) -> Response:
    return reply(documents.member_document(*_member(request)))


async def answer_member(request: Request) -> Response:
    """Only the image member itself, or an administrator, says whether it takes the image."""
    document = documents.parse_object(await request.body())
    status = document.get("status")
    if status not in MEMBER_STATUSES:
        raise bad(f"status must be one of {', '.join(MEMBER_STATUSES)}, is {documents.shown(status)}", "bad-member")
    image, project = _member(request)
    caller = caller_of(request)
    what = "modify this image member"
    caller.check("images.answer_share", image, what)
    if not caller.is_admin and caller.project != project:
        raise Problem(403, "forbidden", f"You are not permitted to {what}.")
    known = image.members[project]
    seen = (known.status, known.can_share)
    return await _write_member(request, image, project, (seen, (status, known.can_share)))


async def delete_member(request: Request) -> Response:
    check_no_body(request)
    image, project = _member(request)
    caller_of(request).check("images.share", image, "delete image members of the image")
    known = image.members[project]
    return await _write_member(request, image, project, ((known.status, known.can_share), None))


# Status.


async def deactivate(request: Request) -> Response:
    return await _move(request, "active", "deactivated", "deactivate")


async def reactivate(request: Request) -> Response:
    return await _move(request, "deactivated", "active", "reactivate")


async def _move(request: Request, before: str, after: str, what: str) -> Response:
    image = visible(request).image
    caller_of(request).check(f"images.{what}", image, f"{what} this image")
    status = image.fields["status"]
    if status == after:
        return Response(None, 204)
    if status != before:
        raise Problem(403, "bad-status", f"Not allowed to {what} image in status '{status}'.")
    submitted = await _update(request, image, fields={"status": (before, after)})
    return Response(None, 204, write_headers(zone_of(request), submitted))


# Locations and bytes.


async def list_locations(request: Request) -> Response:
    image, caller = visible(request).image, caller_of(request)
    caller.check("images.list_locations", image, "see image locations")
    tells = caller.may("images.see_location_secrets", image)
    listed = [(one.url if tells else masked_url(one.url), dict(one.metadata)) for one in image.locations]
    return reply([{"url": url, "metadata": metadata} for url, metadata in listed])


async def add_location(request: Request) -> Response:
    """Version 2.17. The image is active at once: nothing is read from the URL."""
    document = documents.parse_object(await request.body())
    if not set(document) <= {"url", "metadata", "validation_data"}:
        raise bad("a location is an object with url and validation_data", "bad-location")
    image = visible(request).image
    caller_of(request).check("images.add_location", image, "add image locations")
    if image.fields["status"] not in ("queued", "active"):
        raise Problem(409, "bad-status", f"A location cannot be added to an image in status {image.fields['status']}.")
    fields: dict[str, Scalar] = dict(image.fields)
    validation = document.pop("validation_data", None) or {}
    after = locations.added(fields, list(image.locations), "-", document)
    locations.take_hashes(fields, validation)
    if fields["status"] == "queued":
        locations.check_formats(fields)
        fields["status"] = "active"
    caller_of(request).check_locations(image, after[-1:])
    changed = _differences(image.fields, fields)
    submitted = await _update(request, image, fields=changed, locations_added=(after[-1],))
    return Response(None, 202, write_headers(zone_of(request), submitted))


def _differences(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> dict[str, Change]:
    return {name: (before[name], value) for name, value in after.items() if before[name] != value}


async def download(request: Request) -> Response:
    """Redirects to the bytes: this zone's first, then the nearest zone's. 204 when the image has none, as Glance."""
    image, zone = visible(request).image, zone_of(request)
    if image.fields["status"] == "deactivated" and not caller_of(request).may("images.read_deactivated", image):
        raise Problem(403, "deactivated", "The requested image has been deactivated. Image data download is forbidden.")
    told = caller_of(request).told_locations(image)
    if image.locations and not told.locations:
        raise Problem(403, "forbidden", "Where the image's data is carries credentials, which are not handed on.")
    url = nearest(told, zone.round_trips_ms(zone.name))
    return Response(None, 204) if url is None else Response(None, 302, {"Location": url})


async def tasks(request: Request) -> Response:
    visible(request)
    return reply({"tasks": []})


# What Glance has and zoned does not: refused as Glance refuses what its policy forbids.

_NO_BYTES = "zoned keeps no image data; store it in the zone's object store and register its location instead"


async def no_bytes(request: Request) -> Response:
    visible(request)
    raise Problem(403, "forbidden", _NO_BYTES)


async def forbidden(request: Request) -> Response:
    raise Problem(403, "forbidden", "You are not authorized to complete this action: zoned does not have it.")


async def no_cache(request: Request) -> Response:
    raise Problem(404, "no-route", "Caching via API is not supported at this site.")


_EVERY = dict.fromkeys(("GET", "POST", "PUT", "DELETE"), forbidden)

routes = [
    by_method("/images/{image_id}/tags/{tag}", PUT=put_tag, DELETE=delete_tag),
    by_method("/images/{image_id}/members", GET=members, POST=add_member),
    by_method("/images/{image_id}/members/{member}", GET=show_member, PUT=answer_member, DELETE=delete_member),
    by_method("/images/{image_id}/actions/deactivate", POST=deactivate),
    by_method("/images/{image_id}/actions/reactivate", POST=reactivate),
    by_method("/images/{image_id}/locations", GET=list_locations, POST=add_location),
    by_method("/images/{image_id}/file", GET=download, PUT=no_bytes),
    by_method("/images/{image_id}/stage", PUT=no_bytes),
    by_method("/images/{image_id}/import", POST=no_bytes),
    by_method("/images/{image_id}/tasks", GET=tasks),
    by_method("/stores/{store}/{image_id}", DELETE=forbidden),
    by_method("/tasks", GET=forbidden, POST=forbidden),
    by_method("/tasks/{task}", GET=forbidden),
    by_method("/metadefs/{rest:path}", **_EVERY),
    by_method("/cache", GET=no_cache, DELETE=no_cache),
    by_method("/cache/{rest:path}", GET=no_cache, PUT=no_cache, DELETE=no_cache, POST=no_cache),
]
