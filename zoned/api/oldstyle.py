"""What the Images API v1 and the registry API share: one spelling of records, queries and changes. No I/O.

Older than visibilities and tags: an image is public or not, its properties are apart, its location is one URL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from store.images import FIELDS, Image, Scalar, is_uuid
from store.listing import Query, Viewer, place
from store.operations import Change, Create, MemberChange, Membership, Update
from zoned import clock
from zoned.api import filters
from zoned.api.answers import check_rule, look_up, query_integer, seen, zone_of
from zoned.api.caller import Asked, Caller, caller_of
from zoned.api.documents import check_field, check_properties, is_free, parse_location
from zoned.api.problems import Problem, bad

Document = dict[str, Any]
SHORT = ("id", "name", "size", "disk_format", "container_format", "checksum")
_PLAIN = ("name", "disk_format", "container_format", "checksum", "size", "min_ram", "min_disk", "owner", "protected")
_HASHED_WITH_DATA = ("size", "checksum")
# Image members that never answered count too: who speaks only v1 has no way to answer.
STATUSES = ("pending", "accepted")
_TEXT_FILTERS = ("name", "status", "container_format", "disk_format", "owner", "checksum")
_NOT_PUBLIC: tuple[str, str, Scalar] = ("visibility", "!=", "public")


def when(stamp: object) -> str | None:
    """A record's time as these APIs write it: ISO 8601 without zone."""
    return f"{str(stamp).removesuffix('Z')}.000000" if stamp else None


def document(image: Image, *, size: int | None = None) -> Document:
    """Everything but the location; `size` stands in for an unknown one."""
    fields = image.fields
    return {
        "id": image.uuid,
        **{name: fields[name] for name in _PLAIN if name != "size"},
        "size": size if fields["size"] is None else fields["size"],
        "virtual_size": fields["virtual_size"],
        "status": fields["status"] if image.deleted_at is None else "deleted",
        "is_public": fields["visibility"] == "public",
        "created_at": when(fields["created_at"]),
        "updated_at": when(fields["updated_at"]),
        "deleted_at": when(image.deleted_at),
        "deleted": image.deleted_at is not None,
        "properties": dict(image.properties),
    }


def with_locations(image: Image) -> Document:
    """As a registry tells its API server."""
    data = [{"url": one.url, "metadata": dict(one.metadata), "status": "active"} for one in image.locations]
    return {
        **document(image),
        "location": data[0]["url"] if data else None,
        "location_data": data,
    }


def find(request: Request, caller: Caller, name: str = "image_id") -> Image:
    """The image that the path names by UUID or integer. Raises Problem when it is not there for the caller."""
    zone, reference = zone_of(request), request.path_params[name]
    image = seen(zone, caller, reference, integers=True).image
    check_rule(zone, image)
    return image


# Lists.


def query(request: Request, caller: Caller) -> Query:
    """Raises Problem for what cannot be answered. What is no filter is ignored, as ever in these APIs."""
    asked = request.query_params
    filters.check_count(asked)
    tests: list[tuple[str, str, Scalar]] = [("status", "!=", "killed")]
    tests += [(name, "=", asked[name]) for name in _TEXT_FILTERS if name in asked]
    for name, column, operator in (
        *(("min_ram", "min_ram", "="), ("min_disk", "min_disk", "=")),
        *(("size_min", "size", ">="), ("size_max", "size", "<=")),
    ):
        if name in asked:
            tests.append((column, operator, filters.number(name, asked[name])))
    if "protected" in asked:
        tests.append(("protected", "=", filters.boolean("protected", asked["protected"].lower())))
    deleted: bool | None = False
    if "changes-since" in asked:
        tests.append(("updated_at", ">=", filters.time("changes-since", asked["changes-since"])))
        deleted = None
    if caller.is_admin and "deleted" in asked:
        deleted = filters.boolean("deleted", asked["deleted"].lower())
    public = _is_public(asked.get("is_public"), caller)
    if public is False:
        tests.append(_NOT_PUBLIC)
    properties = [(n.removeprefix("property-"), v) for n, v in asked.multi_items() if n.startswith("property-")]
    return Query(
        limit=query_integer(request, "limit", filters.LIMIT_DEFAULT, 0, filters.LIMIT_MAX),
        order=filters.order(None, [asked.get("sort_key", "created_at")], [asked.get("sort_dir", "desc")]),
        hidden=None,
        deleted=deleted,
        visibility="public" if public else None,
        viewer=_viewer(asked.get("is_public"), caller),
        tests=tuple(tests),
        properties=tuple(sorted(set(properties))),
    )


def _is_public(asked: str | None, caller: Caller) -> bool | None:
    """What an administrator asked for; everybody else always sees public, own and shared images."""
    if not caller.is_admin or asked is None or asked.lower() == "none":
        return None
    return filters.boolean("is_public", asked.lower())


def _viewer(asked: str | None, caller: Caller) -> Viewer | None:
    if caller.is_admin and (asked is not None or caller.project is None):
        return None
    return Viewer(caller.project, STATUSES)


def behind_marker(request: Request, caller: Caller, asked: Query) -> Query:
    """The query, from behind the marker's image on. Raises Problem when that is none."""
    marker = request.query_params.get("marker")
    if marker is None:
        return asked
    try:
        image = look_up(zone_of(request), marker, integers=True, tombstones=asked.deleted is not False).image
    except Problem as problem:
        raise bad(f"Invalid marker {marker[:80]!r}", "bad-marker") if problem.status != 503 else problem from None
    if not caller.may_see(image):
        raise bad(f"Invalid marker {marker[:80]!r}", "bad-marker")
    return replace(asked, after=place(image, asked.order))


async def page(request: Request) -> list[Image]:
    """The images of the list that a request asks for. Raises Problem."""
    caller = caller_of(request)
    asked = behind_marker(request, caller, query(request, caller))
    return [found.image for found in (await zone_of(request).page(asked)).found]


# Changes.


def fields_of(meta: Mapping[str, Any]) -> dict[str, Scalar]:
    """The base attributes among what was sent, checked. Raises Problem."""
    found: dict[str, Scalar] = {name: meta[name] for name in _PLAIN if name in meta}
    for name in ("min_ram", "min_disk", "protected"):
        if name in found and found[name] is None:
            found[name] = FIELDS[name].default
    if meta.get("visibility") is not None:
        found["visibility"] = meta["visibility"]
    elif "is_public" in meta:
        found["visibility"] = "public" if meta["is_public"] else "shared"
    for name, value in found.items():
        check_field(name, value)
    return found


def check_formats(fields: Mapping[str, Scalar]) -> None:
    """If one format is an Amazon one, both are the same. Raises Problem."""
    pair = {fields.get("disk_format"), fields.get("container_format")}
    if pair & {"ami", "ari", "aki"} and len(pair - {None}) > 1:
        raise bad("Invalid mix of disk and container formats: both must be the same of ami, ari, aki.", "bad-attribute")


def properties_of(raw: Any) -> dict[str, str]:
    """Raises Problem."""
    if not isinstance(raw, Mapping):
        raise bad("properties must be an object of texts", "bad-property")
    found = {str(name): str(value) for name, value in raw.items() if value is not None and is_free(str(name))}
    check_properties(found)
    return found


def create(
    meta: Mapping[str, Any], properties: Any, locations: Iterable[Any], status: str, caller: Caller, new_uuid: str
) -> Create:
    """A new record. Raises Problem."""
    caller.check_creates()
    chosen = meta.get("id") or new_uuid
    if not isinstance(chosen, str) or not is_uuid(chosen):
        raise bad(f"Invalid image id format: {str(chosen)[:80]!r} is no UUID", "bad-uuid")
    fields = fields_of(meta)
    caller.check_visibility(fields.get("visibility"))
    if not caller.is_admin or fields.get("owner") is None:
        fields["owner"] = caller.project
    check_formats(fields)
    check_field("status", status)
    fields["status"] = status
    kept = tuple(parse_location(one) for one in locations)
    if kept:
        caller.check("images.add_location", Asked(fields), "add image locations")
    at = clock.text(clock.wall())
    return Create(chosen.lower(), None, at, fields, properties_of(properties), (), kept)


def update(
    image: Image,
    fields: Mapping[str, Scalar],
    properties: Mapping[str, str],
    purge: bool,
    locations: Iterable[Any],
    caller: Caller,
) -> Update | None:
    """What a PUT asks for; None when nothing would change. Raises Problem."""
    caller.check("images.change", image, "modify this image")
    fields = dict(fields)
    if not caller.is_admin:
        fields.pop("owner", None)
    if "visibility" in fields and image.fields["visibility"] != "public" and fields["visibility"] == "shared":
        del fields["visibility"]  # not public already: private and community stay what they are
    if fields.get("visibility") != image.fields["visibility"]:
        caller.check_visibility(fields.get("visibility"))
    check_formats({**image.fields, **fields})
    if image.fields["status"] == "active" and not caller.is_admin:
        for name in _HASHED_WITH_DATA:
            if name in fields and fields[name] != image.fields[name]:
                raise Problem(403, "read-only", f"Attribute '{name}' is read-only.")
    known = {one.url: one for one in image.locations}
    kept = [parse_location(one) for one in locations]
    renewed = {one.url for one in kept if one.url in known and known[one.url] != one}
    changed = Update(
        image.uuid,
        clock.text(clock.wall()),
        fields={n: (image.fields[n], v) for n, v in fields.items() if image.fields[n] != v},
        properties=_property_changes(image, properties, purge),
        locations_added=tuple(one for one in kept if known.get(one.url) != one),
        locations_removed=tuple(sorted(renewed)),
    )
    _check_named(image, changed, caller)
    return None if changed == Update(image.uuid, changed.at) else changed


def _check_named(image: Image, changed: Update, caller: Caller) -> None:
    """A PUT may do what has an action of its own elsewhere: a policy that keeps that back keeps it back here too.

    Any way into or out of "deactivated" counts, or "saving" would be a way around. Raises Problem.
    """
    if changed.locations_added:
        caller.check("images.add_location", image, "add image locations")
    before, after = changed.fields.get("status", (None, None))
    if after == "deactivated":
        caller.check("images.deactivate", image, "deactivate this image")
    if before == "deactivated":
        caller.check("images.reactivate", image, "reactivate this image")


def _property_changes(image: Image, properties: Mapping[str, str], purge: bool) -> dict[str, Change]:
    changes: dict[str, Change] = {
        name: (image.properties.get(name), value)
        for name, value in properties.items()
        if image.properties.get(name) != value
    }
    if purge:
        changes |= {name: (value, None) for name, value in image.properties.items() if name not in properties}
    return changes


# Image members.


def members_document(image: Image) -> Document:
    listed = [{"member_id": name, "can_share": one.can_share} for name, one in sorted(image.members.items())]
    return {"members": listed}


def memberships(raw: Any) -> dict[str, bool]:
    """The body of a replacement of all image members. Raises Problem."""
    listed = raw.get("memberships") if isinstance(raw, Mapping) else None
    if not isinstance(listed, list):
        raise bad('{"memberships": [{"member_id": PROJECT, "can_share": true or false}]} is expected', "bad-member")
    found = {}
    for one in listed:
        project = one.get("member_id") if isinstance(one, Mapping) else None
        if not isinstance(project, str) or not project:
            raise bad("a membership needs a member_id", "bad-member")
        found[project] = one.get("can_share") is True
    return found


def member_changes(image: Image, wanted: Mapping[str, bool | None], only_these: bool) -> dict[str, MemberChange]:
    """From who is an image member to who should be; None removes. With `only_these` all others are removed."""
    changes: dict[str, MemberChange] = {}
    for project in sorted({*wanted, *(image.members if only_these else ())}):
        member = image.members.get(project)
        seen: Membership | None = (member.status, member.can_share) if member is not None else None
        share = wanted.get(project)
        asked: Membership | None = None
        if share is not None:
            asked = (member.status if member is not None else "pending", share)
        if seen != asked:
            changes[project] = (seen, asked)
    return changes


def location_values(meta: Mapping[str, Any]) -> list[Any]:
    """Locations as `parse_location` takes them, from `location_data` or else `location`. Raises Problem."""
    data = meta.get("location_data")
    if isinstance(data, list) and data:
        if not all(isinstance(one, Mapping) for one in data):
            raise bad("location_data must be a list of objects", "bad-location")
        return [{"url": one.get("url"), "metadata": one.get("metadata") or {}} for one in data]
    location = meta.get("location")
    return [{"url": location, "metadata": {}}] if location else []
